//! Standard Webhooks of the real program, verified by the standard's own library.
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use syshold_protocol::{Decision, dsse};

use crate::hook::{Program, Webhook};
use crate::python;

const TABLE: &str = "kind = \"webhook\"\nurl = \"URL\"\nsecret_file = \"DIR/secret\"";

fn secret() -> String {
    format!("whsec_{}", BASE64.encode([7; 32]))
}

async fn start(hook: &Webhook, more: &str) -> Program {
    Program::start_with(hook, &format!("{TABLE}\n{more}"), |dir| {
        std::fs::write(dir.join("secret"), secret() + "\n").unwrap();
    })
    .await
}

/// The bodies that the library gives back, which it does only when each signature is good.
fn verified(hook: &Webhook, secret: &str) -> Vec<Value> {
    const VERIFY: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
hook = Webhook(sys.argv[1])
try:
    print(json.dumps([hook.verify(body, headers) for headers, body in json.load(sys.stdin)]))
except WebhookVerificationError:
    print("[]")
"#;
    let raw = hook.raw.lock().unwrap();
    let calls: Vec<_> = raw
        .iter()
        .map(|(headers, body)| {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|name| (name, header(name)));
            json!([
                headers
                    .into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>(),
                body
            ])
        })
        .collect();
    serde_json::from_str(&python::tell(VERIFY, &[secret], &json!(calls).to_string())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_decisions_and_outcomes_are_signed() {
    let hook = Webhook::default();
    // Taken from the end: the first two tries fail.
    *hook.answers.lock().unwrap() = vec![
        (StatusCode::BAD_REQUEST, "deploying").into_response(),
        (StatusCode::BAD_GATEWAY, "oops").into_response(),
    ];
    let mut program = start(&hook, "allow_private = true").await;
    let id = program.host.ask().await.request_id;
    hook.wait_for(3).await;
    let people = program.person("bob").await;
    assert!(people.approve(id, "once").await.status().is_success());
    hook.wait_for(4).await;
    let decision = program.host.decision(id, "?wait=0").await;
    let mut outcome = program.host.outcome(id);
    outcome.decision_id = Some(decision.decision_id);
    program.host.post_outcome(&outcome).await;
    hook.wait_for(5).await;
    let body = json!({"reason": "the wrong bucket"});
    assert!(people.post(id, "revoke", &body).await.status().is_success());
    hook.wait_for(6).await;
    let got = verified(&hook, &secret());
    let types: Vec<_> = got
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "approval.requested",
            "approval.requested",
            "approval.requested",
            "approval.decided",
            "approval.outcome",
            "approval.revoked"
        ]
    );
    let ids: Vec<_> = hook
        .raw
        .lock()
        .unwrap()
        .iter()
        .map(|(h, _)| h["webhook-id"].to_str().unwrap().to_owned())
        .collect();
    assert!(
        ids[0] == ids[1] && ids[1] == ids[2],
        "the same at every try: {ids:?}"
    );
    assert!(ids[2] != ids[3] && ids[3] != ids[4] && ids[4] != ids[5]);
    assert_eq!(
        (&got[0]["data"]["id"], &got[0]["data"]["host"]),
        (&json!(id), &"web-1".into())
    );
    // As the host checks it.
    let envelope = got[3]["data"]["decision"].to_string();
    let opened = dsse::open::<Decision>(envelope.as_bytes(), &program.host.gateway).unwrap();
    assert_eq!(opened.value, decision);
    assert_eq!(got[4]["data"]["outcome"]["result"], "resumed");
    assert_eq!(got[4]["data"]["revoked"], json!(null));
    let revoked = &got[5]["data"]["revoked"];
    assert_eq!(
        (&revoked["subject"], &revoked["reason"]),
        (&json!("bob@example.com"), &json!("the wrong bucket"))
    );
    assert!(
        verified(&hook, &format!("whsec_{}", BASE64.encode([8; 32]))).is_empty(),
        "another secret"
    );
    program.child.kill().await.unwrap();
    let log = program.log();
    assert!(!log.contains(&secret()[6..]), "the secret is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_is_the_end() {
    let hook = Webhook::default();
    *hook.answers.lock().unwrap() = vec![StatusCode::GONE.into_response()];
    let program = start(&hook, "allow_private = true").await;
    program.host.ask().await;
    hook.wait_for(1).await;
    program.host.ask().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(hook.got.lock().unwrap().len(), 1, "not called again");
    assert!(program.log().contains("410"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inside_is_not_called() {
    let hook = Webhook::default();
    // `localhost` is a name: it is what it resolves to that counts.
    let program = start(&hook, "").await;
    program.host.ask().await;
    for _ in 0..50 {
        if program.log().contains("private or local") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = program.log();
    assert!(
        log.contains("private or local, and allow_private is not set"),
        "{log}"
    );
    assert!(hook.got.lock().unwrap().is_empty());
}
