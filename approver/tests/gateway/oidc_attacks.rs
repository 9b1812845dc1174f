//! Attacks on sign-in at an identity provider: its own genuine answers, in the wrong place or time.
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::Sha256;
use syshold_approver::oidc::CALLBACK;

use crate::oidc::{Browser, INBOX, SECRET, Stage, query, with};

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_to_this_sign_in_of_this_browser_is_refused() {
    let stage = Stage::start("").await;
    stage.link("sub-alice", "alice");

    // Another state; and the flow is over then, also for the right one.
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = stage.at_provider(&url).await;
    let answer = stage
        .back(&mut browser, &with(&back, "state", "forged"))
        .await;
    stage.refused(&browser, answer, "does not belong").await;
    let answer = stage.back(&mut browser, &back).await;
    stage
        .refused(&browser, answer, "not begun in this browser")
        .await;

    // Another provider's answer (RFC 9207).
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = stage.at_provider(&url).await;
    let answer = stage
        .back(&mut browser, &with(&back, "iss", "https://evil.example"))
        .await;
    stage.refused(&browser, answer, "does not belong").await;

    // Somebody else's browser: their own flow, this one's address.
    let (mut mine, mut theirs) = (Browser::default(), Browser::default());
    let url = stage.begin(&mut mine).await;
    stage.begin(&mut theirs).await;
    let back = stage.at_provider(&url).await;
    let answer = stage.back(&mut theirs, &back).await;
    stage.refused(&theirs, answer, "does not belong").await;
    let answer = stage.back(&mut Browser::default(), &back).await;
    stage
        .refused(&Browser::default(), answer, "not begun")
        .await;

    // A code that was used: the provider refuses it under another flow of this gateway.
    let answer = stage.back(&mut mine, &back).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let fresh = stage.at_provider(&url).await;
    let replayed = with(&fresh, "code", &query(&back, "code"));
    let answer = stage.back(&mut browser, &replayed).await;
    stage.refused(&browser, answer, "does not count").await;
    assert!(stage.last_reason().contains("invalid_grant"));

    // Somebody else's code that nobody used: it is bound to their PKCE verifier.
    let (mut mine, mut theirs) = (Browser::default(), Browser::default());
    let url = stage.begin(&mut theirs).await;
    let stolen = query(&stage.at_provider(&url).await, "code");
    let url = stage.begin(&mut mine).await;
    let back = format!(
        "{INBOX}{CALLBACK}?code={stolen}&state={}",
        query(&url, "state")
    );
    let answer = stage.back(&mut mine, &back).await;
    stage.refused(&mine, answer, "does not count").await;
    assert!(stage.last_reason().contains("invalid_grant"));

    // A nonce that is not this flow's.
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = stage.at_provider(&with(&url, "nonce", "another")).await;
    let answer = stage.back(&mut browser, &back).await;
    stage.refused(&browser, answer, "does not count").await;
    assert!(stage.last_reason().contains("nonce"));

    // Somebody who says no at the provider.
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = format!(
        "{INBOX}{CALLBACK}?error=access_denied&state={}",
        query(&url, "state")
    );
    let answer = stage.back(&mut browser, &back).await;
    stage.refused(&browser, answer, "access_denied").await;

    // Begun from another site.
    let answer = stage
        .alice
        .http
        .get(format!("{}/login/oidc", stage.alice.url));
    let answer = answer
        .header("sec-fetch-site", "cross-site")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

/// The same claims under no signature, or one that whoever has the client's secret can make.
fn forged(token: &str, algorithm: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "typ": "JWT"}).to_string());
    let signed = format!("{header}.{claims}");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let signature = match algorithm {
        "none" => String::new(),
        _ => URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()),
    };
    format!("{signed}.{signature}")
}

/// Another person's name under the signature.
fn with_subject(token: &str, subject: &str) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"] = subject.into();
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("{}.{claims}.{}", parts[0], parts[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_token_in_the_wrong_place_or_time_signs_nobody_in() {
    let stage = Stage::start("").await;
    stage.link("sub-alice", "alice");
    let stranger = stage.another().await;
    let own = stage.provider.issuer.as_str();
    // Who refuses, and the word for why.
    for (issuer, client_id, life_s, why) in [
        (own, "other", 300, "audience"),
        (own, "syshold", 1, "expired"),
        (own, "syshold", 300, "no signature"),
        (own, "syshold", 300, "`hs256`"),
        (own, "syshold", 300, "signature"),
        (&stranger.issuer, "syshold", 300, "issuer"),
    ] {
        stage.control(&json!({"life": life_s})).await;
        let mut browser = Browser::default();
        let url = stage.begin(&mut browser).await;
        let back = stage.at_provider(&url).await;
        let nonce = query(&url, "nonce");
        let mut token = stage.token_of(issuer, client_id, &nonce).await;
        match why {
            "expired" => tokio::time::sleep(Duration::from_millis(2100)).await,
            "no signature" => token = forged(&token, "none"),
            "`hs256`" => token = forged(&token, "HS256"),
            "signature" => token = with_subject(&token, "sub-bob"),
            _ => {}
        }
        stage.control(&json!({"token": token})).await;
        let answer = stage.back(&mut browser, &back).await;
        stage.refused(&browser, answer, "does not count").await;
        let last = stage.last_reason();
        assert!(last.to_lowercase().contains(why), "{why} in {last}");
        stage.control(&json!({"token": null, "life": 300})).await;
    }
    // The same road, with the token that belongs there.
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = stage.at_provider(&url).await;
    let nonce = query(&url, "nonce");
    let token = stage.token_of(own, "syshold", &nonce).await;
    stage.control(&json!({"token": token})).await;
    let answer = stage.back(&mut browser, &back).await;
    assert_eq!(
        answer.status(),
        StatusCode::SEE_OTHER,
        "{}",
        stage.program.log()
    );
}
