//! Cards of the real program for a Teams workflow.
use std::process::Command;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde_json::Value;

use crate::hook::{Program, Webhook};
use crate::node::{beside, node};
use crate::python::run;

const TABLE: &str = "kind = \"teams\"\nurl_file = \"URL_FILE\"";

fn card(message: &Value) -> &Value {
    assert_eq!(message["type"], "message");
    let card = &message["attachments"][0];
    assert_eq!(
        card["contentType"],
        "application/vnd.microsoft.card.adaptive"
    );
    assert_eq!(
        (&card["content"]["type"], &card["content"]["version"]),
        (&"AdaptiveCard".into(), &"1.4".into())
    );
    &card["content"]
}

/// Every text that a card would read as Markdown.
fn markdown(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            assert_ne!(
                map.get("type"),
                Some(&"TextBlock".into()),
                "Markdown where a run of text does"
            );
            if let Some(facts) = map.get("facts") {
                for fact in facts.as_array().unwrap() {
                    out.extend(
                        ["title", "value"].map(|key| fact[key].as_str().unwrap().to_owned()),
                    );
                }
            }
            map.values().for_each(|value| markdown(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| markdown(value, out)),
        _ => {}
    }
}

/// Microsoft's own library takes every element for what it says it is, and a Markdown parser finds
/// nothing but text in the facts.
fn read_by_others(cards: &[&Value]) {
    let packages = ["adaptivecards@3.0.6", "markdown-it@15.0.3"];
    let program = beside("cards", include_str!("cards.mjs"), &packages);
    let told = run(
        Command::new(node()).arg(program),
        &serde_json::to_string(cards).unwrap(),
    );
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(told.len(), cards.len());
    let mut facts = 0;
    for (card, told) in cards.iter().zip(&told) {
        assert_eq!(told["wrong"], serde_json::json!([]), "{card}");
        // The width in Teams is an extension that the library does not know.
        let mut card = (*card).clone();
        card.as_object_mut().unwrap().remove("msteams").unwrap();
        assert_eq!(told["read"], card);
        for fact in told["facts"].as_array().unwrap() {
            let (text, shown) = (
                fact["text"].as_str().unwrap(),
                fact["shown"].as_str().unwrap(),
            );
            assert!(!shown.contains('<'), "{text} became {shown}");
            let entities = [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
                ("&amp;", "&"),
            ];
            let plain = entities
                .iter()
                .fold(shown.to_owned(), |text, (name, c)| text.replace(name, c));
            let meant = text
                .replace("\\\\", "\0")
                .replace('\\', "")
                .replace('\0', "\\");
            assert_eq!(plain, meant);
            facts += 1;
        }
    }
    assert!(facts > 20, "{facts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_has_the_facts_one_link_and_a_second_card_the_end() {
    let hook = Webhook::default();
    let mut program = Program::start(&hook, TABLE).await;
    let id = program.host.ask().await.request_id;
    let mut nasty = program.host.request();
    nasty.agent.name =
        "**bold** [x](https://evil.example) {{DATE(2024-01-01T00:00:00Z, SHORT)}}".to_owned();
    nasty.policy.title = "<at>everyone</at> [x](https://evil.example)".repeat(20);
    nasty.action.object.requested = "a".repeat(20_000);
    nasty.process.argv = vec!["[x](https://evil.example)\u{202e}".repeat(100)];
    nasty.data.classes = vec!["c".repeat(300); 20];
    nasty.data.classes[0] =
        "**b** _i_ `c` ~~s~~ ![i](https://e.example) [x][y] <https://e.example>".to_owned();
    assert_eq!(program.host.put(&nasty).await.status(), StatusCode::CREATED);
    let got = hook.wait_for(2).await;
    let first = card(&got[0].1);
    for fact in [
        "example.com (192.0.2.7:443)",
        "support-bot",
        "web-1",
        "python3 /srv/bot/export.py",
        "alice@example.com",
    ] {
        let text = first.to_string().replace('\\', "");
        assert!(text.contains(fact), "{fact} is missing in {text}");
    }
    let link = format!("https://gw.example.com/approvals/{id}");
    assert_eq!(
        first["actions"],
        serde_json::json!([{"type": "Action.OpenUrl", "title": "Review and answer in the inbox", "url": link}])
    );
    let second = card(&got[1].1);
    let text = second.to_string();
    assert!(got[1].1.to_string().len() <= 28 * 1024 && text.contains("Not everything fits here"));
    assert!(!text.contains('\u{202e}') && !text.contains("{{"));
    let mut read = vec![];
    markdown(second, &mut read);
    for text in read {
        let bare = text.replace("\\<", "");
        assert!(!text.contains("[x](") && !bare.contains("<at"), "{text}");
    }
    program.host.withdraw(id).await;
    let got = hook.wait_for(3).await;
    let cards: Vec<_> = got.iter().map(|(_, message)| card(message)).collect();
    read_by_others(&cards);
    let third = cards[2].to_string();
    assert!(
        third.contains("Withdrawn") && third.contains(&link),
        "{third}"
    );
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(hook.got.lock().unwrap().len(), 3, "said once");
    program.child.kill().await.unwrap();
    assert!(
        !program.log().contains("T0/B0/secret"),
        "the URL is a secret"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_card_is_not_sent_again_and_again() {
    let hook = Webhook::default();
    *hook.answers.lock().unwrap() = vec![(StatusCode::BAD_REQUEST, "no").into_response()];
    let program = Program::start(&hook, TABLE).await;
    program.host.ask().await;
    hook.wait_for(1).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(hook.got.lock().unwrap().len(), 1);
    let log = program.log();
    assert!(
        log.contains("the request is in the inbox only") && log.contains("HTTP 400"),
        "{log}"
    );
}
