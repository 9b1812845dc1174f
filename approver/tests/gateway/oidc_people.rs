//! Who somebody at the identity provider is here: whoever an administrator said, and nobody else,
//! whatever the provider lets people call themselves. By this road, too, nobody approves their own agent.
use reqwest::header::COOKIE;
use reqwest::{Response, StatusCode};
use serde_json::json;
use syshold_protocol::{Assurance, Channel, DecisionVerdict, RequestId};

use crate::inbox::field;
use crate::oidc::{Browser, Stage, location};

impl Stage {
    /// Signs in as that subject at the provider.
    async fn enter(&self, subject: &str) -> Browser {
        self.control(&json!({"account": subject})).await;
        let mut browser = Browser::default();
        let answer = self.sign_in(&mut browser).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{subject}");
        browser
    }

    async fn page(&self, browser: &mut Browser, path: &str) -> Response {
        let url = format!("{}{path}", self.alice.url);
        browser.get(&self.alice.http, &url).await
    }

    async fn post(&self, browser: &Browser, path: &str, form: &[(&str, &str)]) -> Response {
        let url = format!("{}{path}", self.alice.url);
        let post = self.alice.http.post(url).header(COOKIE, browser.cookies());
        post.form(form).send().await.unwrap()
    }

    async fn answer(&self, browser: &mut Browser, id: RequestId, verb: &str) -> Response {
        let path = format!("/approvals/{id}");
        let page = self.page(browser, &path).await.text().await.unwrap();
        let csrf = field(&page, "csrf");
        // Whoever may not approve has no form for it: an attacker makes one.
        let shown = self.alice.show(id).await["rendered_sha256"].clone();
        let shown = shown.as_str().unwrap();
        let mut form = vec![("csrf", csrf.as_str()), ("reason", "looked at it")];
        if verb == "approve" {
            form.extend([("scope", "once"), ("rendered_sha256", shown)]);
        }
        self.post(browser, &format!("{path}/{verb}"), &form).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_stays_the_owner_whatever_the_provider_calls_them() {
    let stage = Stage::start("").await;
    let bob = stage.program.person("bob").await;
    stage.link("sub-alice", "alice");
    stage.link("sub-bob", "bob");
    let host = &stage.program.host;
    let id = host.ask().await.request_id;

    // Alice, who owns the agent, calls herself Bob at the provider.
    let names = json!({"email": "bob@example.com", "email_verified": true, "name": "bob", "preferred_username": "bob"});
    stage.control(&json!({"claims": names})).await;
    let mut alice = stage.enter("sub-alice").await;
    let answer = stage.answer(&mut alice, id, "approve").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let page = answer.text().await.unwrap();
    assert!(page.contains("Your answer did nothing"), "{page}");
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED,
        "nothing is decided"
    );

    // Nobody is somebody by their name or mail address, or by nearly the same subject.
    for subject in [
        "bob",
        "bob@example.com",
        "SUB-BOB",
        "sub-bob ",
        "sub-mallory",
    ] {
        stage.control(&json!({"account": subject})).await;
        let mut browser = Browser::default();
        let answer = stage.sign_in(&mut browser).await;
        stage.refused(&browser, answer, "nobody here yet").await;
    }

    // Bob approves, by a session and no more; it is one vote, however often he signs in.
    let mut twice = host.request();
    twice.quorum = 2;
    host.put(&twice).await;
    let mut browser = stage.enter("sub-bob").await;
    let answer = stage
        .answer(&mut browser, twice.request_id, "approve")
        .await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let again = bob.approve(twice.request_id, "once").await;
    assert_eq!(again.status(), StatusCode::CONFLICT, "already_approved");
    assert_eq!(
        host.poll(twice.request_id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    let answer = stage.answer(&mut browser, id, "approve").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let decision = host.decision(id, "").await;
    assert_eq!(decision.verdict, DecisionVerdict::Approve);
    let approver = &decision.approvers[0];
    assert_eq!(
        (
            approver.subject.as_str(),
            approver.channel,
            approver.assurance
        ),
        ("bob@example.com", Channel::Web, Assurance::Session)
    );

    // The owner may deny.
    let id = twice.request_id;
    let answer = stage.answer(&mut alice, id, "deny").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(host.decision(id, "").await.verdict, DecisionVerdict::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_and_unlinking_end_it() {
    let stage = Stage::start("").await;
    stage.program.person("bob").await;
    stage.link("sub-alice", "alice");
    let (done, text) = stage.oidc(&["link", "bob", "sub-alice"]);
    assert!(!done && text.contains("signs in as alice"), "{text}");
    let (done, text) = stage.oidc(&["link", "dave", "sub-dave"]);
    assert!(!done && text.contains("dave"), "{text}");
    let (done, text) = stage.oidc(&["link", "bob", ""]);
    assert!(!done && text.contains("1 to 255"), "{text}");

    let mut browser = stage.enter("sub-alice").await;
    let page = stage.page(&mut browser, "/").await.text().await.unwrap();
    let csrf = field(&page, "csrf");
    let old = browser.cookies();
    let answer = stage.post(&browser, "/logout", &[("csrf", "x")]).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "not their form");
    let answer = stage.post(&browser, "/logout", &[("csrf", &csrf)]).await;
    assert_eq!(
        (answer.status(), location(&answer).as_str()),
        (StatusCode::SEE_OTHER, "/login")
    );
    assert_eq!(browser.cookies(), old, "a browser that kept it");
    let answer = stage.page(&mut browser, "/").await;
    assert_eq!(location(&answer), "/login");

    let mut browser = stage.enter("sub-alice").await;
    let (done, list) = stage.oidc(&["list"]);
    assert!(done && list.contains("sub-alice") && list.contains(&stage.provider.issuer));
    let (done, text) = stage.oidc(&["unlink", "sub-alice"]);
    assert!(done, "{text}");
    let answer = stage.page(&mut browser, "/").await;
    assert_eq!(
        location(&answer),
        "/login",
        "the session ended with the link"
    );
    let mut browser = Browser::default();
    let answer = stage.sign_in(&mut browser).await;
    stage.refused(&browser, answer, "nobody here yet").await;
    let (done, text) = stage.oidc(&["unlink", "sub-alice"]);
    assert!(!done && text.contains("nobody is linked"), "{text}");
}
