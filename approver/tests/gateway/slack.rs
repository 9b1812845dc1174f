//! Notifications of the real program, caught by an HTTPS server that plays the webhook, and checked
//! by Slack's own library.
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use futures_util::future::join_all;
use serde_json::Value;

use crate::hook::{Program, Webhook};
use crate::python;

const TABLE: &str = "kind = \"slack-webhook\"\nurl_file = \"URL_FILE\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_has_the_facts_and_a_link_and_no_button() {
    let hook = Webhook::default();
    let mut program = Program::start(&hook, TABLE).await;
    let plain = program.host.ask().await;
    let mut nasty = program.host.request();
    nasty.agent.name = "<!channel> *x* \u{202e}".repeat(40);
    nasty.agent.owner = None;
    nasty.policy.title = "<https://evil.example|click>".repeat(100);
    nasty.policy.why.clear();
    nasty.action.object.requested = "a".repeat(30_000);
    nasty.data.classes = vec!["c".repeat(300); 20];
    nasty.waiting = 7;
    assert_eq!(program.host.put(&nasty).await.status(), StatusCode::CREATED);
    let got = hook.wait_for(2).await;
    assert_eq!(got.len(), 2);

    let (first, second) = (got[0].1.to_string(), got[1].1.to_string());
    for fact in [
        "example.com (192.0.2.7:443)",
        "support-bot",
        "web-1",
        "pii",
        "alice@example.com",
        "medium",
    ] {
        assert!(first.contains(fact), "{fact} is missing in {first}");
    }
    assert!(first.contains(&format!(
        "<https://gw.example.com/approvals/{}|",
        plain.request_id
    )));
    assert!(second.contains("7 identical holds") && second.contains("not everything fits here"));
    for message in got.iter().map(|(_, message)| message) {
        let text = message.to_string();
        assert!(
            !text.contains("\"button\"")
                && !text.contains("\"actions\"")
                && !text.contains('\u{202e}')
        );
        assert!(text.chars().count() <= 8000, "{}", text.len());
        assert_eq!(
            (&message["unfurl_links"], &message["unfurl_media"]),
            (&false.into(), &false.into())
        );
    }
    let texts = markup(&got[1].1);
    assert!(
        texts
            .iter()
            .all(|text| !text.contains("evil.example") && !text.contains("<!channel")),
        "{texts:?}"
    );
    slack_sdk_accepts(
        &got.iter()
            .map(|(_, message)| message.clone())
            .collect::<Vec<_>>(),
    );

    program.child.kill().await.unwrap();
    assert!(
        !program.log().contains("T0/B0/secret"),
        "the URL is a secret"
    );
}

/// Every text that Slack would read as markup.
fn markup(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) if map.get("type") == Some(&"mrkdwn".into()) => {
            vec![map["text"].as_str().unwrap().to_owned()]
        }
        Value::Object(map) => {
            let fallback = map.get("text").filter(|_| map.contains_key("blocks"));
            let fallback = fallback.and_then(Value::as_str).map(str::to_owned);
            map.values().flat_map(markup).chain(fallback).collect()
        }
        Value::Array(list) => list.iter().flat_map(markup).collect(),
        _ => vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_floods() {
    let hook = Webhook::default();
    let wait = (
        StatusCode::TOO_MANY_REQUESTS,
        [("retry-after", "3")],
        "slow down",
    )
        .into_response();
    let broken = (StatusCode::BAD_GATEWAY, "oops").into_response();
    // Taken from the end.
    *hook.answers.lock().unwrap() = vec![broken, wait];
    let program = Program::start(&hook, TABLE).await;
    program.host.ask().await;
    hook.wait_for(1).await;
    // At once: filed one by one, they can outlast the retries on a slow machine.
    join_all((0..30).map(|_| program.host.ask())).await;
    let got = hook.wait_for(4).await;
    let gaps: Vec<_> = got.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(
        gaps[0] >= Duration::from_secs(3),
        "Retry-After is obeyed: {gaps:?}"
    );
    assert!(
        gaps[1] >= Duration::from_secs(2),
        "then it backs off: {gaps:?}"
    );
    assert!(
        gaps[2] >= Duration::from_secs(1),
        "one message a second: {gaps:?}"
    );
    assert_eq!(got[0].1, got[2].1, "the same message again");
    // How many are filed meanwhile depends on the machine; not one each.
    let flood = got[3].1["text"].as_str().unwrap();
    assert!(flood.ends_with("requests are waiting at once"), "{flood}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        hook.got.lock().unwrap().len() <= 8,
        "a flood is an alert, not thirty messages"
    );
    assert!(
        !program.log().contains("T0/B0/secret"),
        "the URL is a secret, also in errors"
    );
}

/// Slack's own Block Kit classes read every block and run their validators.
fn slack_sdk_accepts(messages: &[Value]) {
    const CHECK: &str = r#"
import json, sys
from slack_sdk.models.blocks import Block, PlainTextObject
for message in json.load(sys.stdin):
    blocks = Block.parse_all(message["blocks"])
    assert len(blocks) == len(message["blocks"]) <= 50
    for block, raw in zip(blocks, message["blocks"]):
        assert type(block) is not Block, raw["type"]
        block.validate_json()
        assert block.to_dict()["type"] == raw["type"]
        for text in [raw.get("text")] + raw.get("fields", []):
            if text and text["type"] == "plain_text":
                PlainTextObject(**{k: text[k] for k in ("text", "emoji")}).validate_json()
                assert 1 <= len(text["text"]) <= (150 if raw["type"] == "header" else 2000 if text in raw.get("fields", []) else 3000)
print("accepted")
"#;
    let said = python::tell(CHECK, &[], &serde_json::to_string(messages).unwrap());
    assert_eq!(said, "accepted\n");
}
