//! The first call, before anything is known but the digest in the token.
use std::path::Path;

use axum::http::Method;
use syshold_agent::approver::Gateway;
use syshold_agent::approver::enrol::{Error, enrol};
use syshold_protocol::{EnrolRequest, EnrolToken, HostId, SigningKey};

use super::scripted::{Ca, Say, Scripted, problem, say};

fn enrolment(ca_pem: &str) -> Say {
    let keys = [SigningKey::generate().public()];
    let body = serde_json::json!({"host_id": "web-1", "ca_pem": ca_pem, "gateway_keys": keys, "witness": "w"});
    say(201, body.to_string())
}

async fn try_enrol(server: &Scripted, token: &EnrolToken, state: &Path) -> Result<HostId, Error> {
    let url = server.url().parse().unwrap();
    enrol(url, None, token.clone(), "web".to_owned(), state).await
}

fn is_empty(state: &Path) -> bool {
    std::fs::read_dir(state).unwrap().next().is_none()
}

#[tokio::test]
async fn the_ca_of_the_token_is_believed_and_kept() {
    let ca = Ca::new();
    let pem = ca.pem.clone();
    let server = Scripted::start(ca.tls("localhost", &ca), move |_, _| enrolment(&pem));
    let state = tempfile::tempdir().unwrap();
    let token = EnrolToken::generate(ca.sha256());
    let host_id = try_enrol(&server, &token, state.path()).await.unwrap();
    let (gateway, key) = Gateway::load(state.path()).unwrap();
    assert_eq!((gateway.host_id, gateway.ca_pem), (host_id, ca.pem.clone()));
    let sent: EnrolRequest = serde_json::from_slice(&server.seen(&Method::POST)[0].body).unwrap();
    assert_eq!(sent.token.lookup(), token.lookup());
    assert_eq!(sent.public_key, key.public());
}

#[tokio::test]
async fn a_server_that_is_not_the_tokens_never_sees_it() {
    let (ours, other) = (Ca::new(), Ca::new());
    let state = tempfile::tempdir().unwrap();
    for tls in [
        other.tls("localhost", &other),
        // Anyone can append our CA's certificate to a chain.
        other.tls("localhost", &ours),
        ours.tls("elsewhere.example", &ours),
        // The right CA, not shown: there is nothing to compare with the token.
        ours.tls("localhost", &other),
    ] {
        let pem = ours.pem.clone();
        let server = Scripted::start(tls, move |_, _| enrolment(&pem));
        let token = EnrolToken::generate(ours.sha256());
        let error = try_enrol(&server, &token, state.path()).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error}");
        assert!(server.seen.lock().unwrap().is_empty(), "the token was sent");
        assert!(is_empty(state.path()));
    }
}

#[tokio::test]
async fn answers_that_are_no_enrolment_store_nothing() {
    let (ca, other) = (Ca::new(), Ca::new());
    let state = tempfile::tempdir().unwrap();
    let keyless = serde_json::json!({"host_id": "web-1", "ca_pem": ca.pem, "gateway_keys": [], "witness": "w"});
    let long_witness = serde_json::json!({"host_id": "web-1", "ca_pem": ca.pem, "witness": "w".repeat(600),
        "gateway_keys": [SigningKey::generate().public()]});
    for wrong in [
        enrolment(&other.pem),
        // Another CA beside the right one would be trusted too.
        enrolment(&format!("{}{}", ca.pem, other.pem)),
        enrolment(""),
        say(201, keyless.to_string()),
        say(201, keyless.to_string().replace("[]", "[1]")),
        say(201, long_witness.to_string()),
        say(201, "null"),
        say(201, ""),
        say(200, "<html>"),
        say(302, "").header("location", "https://localhost/"),
        problem(401, "bad-token"),
    ] {
        let said = wrong.clone();
        let server = Scripted::start(ca.tls("localhost", &ca), move |_, _| said.clone());
        let token = EnrolToken::generate(ca.sha256());
        let error = try_enrol(&server, &token, state.path()).await.unwrap_err();
        assert!(
            matches!(error, Error::Answer(_) | Error::Refused(_)),
            "{wrong:?} → {error}"
        );
        assert!(is_empty(state.path()));
    }
}

#[tokio::test]
async fn a_failed_enrolment_leaves_the_one_before_it() {
    let ca = Ca::new();
    let pem = ca.pem.clone();
    let server = Scripted::start(ca.tls("localhost", &ca), move |_, times| match times {
        0 => enrolment(&pem),
        _ => problem(401, "bad-token"),
    });
    let state = tempfile::tempdir().unwrap();
    let token = EnrolToken::generate(ca.sha256());
    try_enrol(&server, &token, state.path()).await.unwrap();
    let before = Gateway::load(state.path()).unwrap().1.public();
    try_enrol(&server, &token, state.path()).await.unwrap_err();
    assert_eq!(Gateway::load(state.path()).unwrap().1.public(), before);
}
