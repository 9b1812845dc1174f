//! A provider that is down, hangs or says nonsense: one clear error, and people sign in otherwise.
use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::oidc::{Browser, Stage};

impl Stage {
    async fn start_only(&self) -> Response {
        let url = format!("{}/login/oidc", self.alice.url);
        Browser::default().get(&self.alice.http, &url).await
    }

    /// No redirect: the error, and the other ways to sign in.
    async fn is_told(&self, answer: Response) {
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let page = answer.text().await.unwrap();
        assert_eq!(page.matches("cannot be asked").count(), 1, "{page}");
        for other in ["Sign in with the token", "Sign in with a passkey"] {
            assert!(page.contains(other), "{other} in {page}");
        }
    }

    /// By token, and the first half of a passkey's way.
    async fn signs_in_otherwise(&self) {
        let at = Instant::now();
        let form = [("token", self.alice.token.as_str())];
        let url = format!("{}/login", self.alice.url);
        let answer = self.alice.http.post(url).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let url = format!("{}/login/passkey", self.alice.url);
        let answer = self.alice.http.post(url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.json::<Value>().await.unwrap().is_object());
        assert!(at.elapsed() < Duration::from_secs(3), "at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_provider_people_are_told_and_sign_in_otherwise() {
    let stage = Stage::start("").await;
    stage.link("sub-alice", "alice");

    // A crowd while it hangs: one question to it, everybody hears of it in time, none is in the way.
    stage.control(&json!({"meta": "hang"})).await;
    let at = Instant::now();
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let get = stage
            .alice
            .http
            .get(format!("{}/login/oidc", stage.alice.url));
        crowd.spawn(async move { get.send().await.unwrap() });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.signs_in_otherwise().await;
    let answers = crowd.join_all().await;
    assert!(at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
    let (mut told, mut turned_away) = (0, 0);
    for answer in answers {
        match answer.status() {
            StatusCode::SERVICE_UNAVAILABLE => turned_away += 1,
            _ => {
                stage.is_told(answer).await;
                told += 1;
            }
        }
    }
    assert!(
        told >= 64 && turned_away > 0,
        "{told} told, {turned_away} turned away"
    );

    // Nobody asks it again at once; then what it says is refused for what is wrong with it.
    for (meta, why) in [
        (json!("error"), "500"),
        (json!("huge"), "1 MiB"),
        (json!({"issuer": "https://evil.example"}), "issuer"),
        (
            json!({"authorization_endpoint": "http://localhost/auth"}),
            "not https",
        ),
    ] {
        tokio::time::sleep(Duration::from_millis(2100)).await;
        stage.control(&json!({"meta": meta})).await;
        let answer = stage.start_only().await;
        stage.is_told(answer).await;
        let reason = stage.last_reason();
        assert!(reason.contains(why), "{why} in {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_goes_away_on_the_way_signs_nobody_in() {
    let mut stage = Stage::start("").await;
    stage.link("sub-alice", "alice");
    let mut browser = Browser::default();
    let url = stage.begin(&mut browser).await;
    let back = stage.at_provider(&url).await;
    stage.provider.child.kill().await.unwrap();
    let answer = stage.back(&mut browser, &back).await;
    stage.is_told(answer).await;
    assert!(!browser.0.contains_key("__Host-syshold"));
    stage.signs_in_otherwise().await;
}
