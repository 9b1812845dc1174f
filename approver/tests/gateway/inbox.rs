//! The inbox as a browser meets it.
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, StatusCode};
use syshold_protocol::{Assurance, Channel, DecisionVerdict, RequestId};

use crate::world::{Host, Person, World};

/// A browser with one cookie.
pub(crate) struct Browser {
    http: Client,
    url: String,
    cookie: String,
}

impl Browser {
    pub(crate) async fn sign_in(person: &Person) -> Self {
        let answer = person
            .http
            .post(format!("{}/login", person.url))
            .form(&[("token", &person.token)])
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()[LOCATION]),
            (StatusCode::SEE_OTHER, &"/".parse().unwrap())
        );
        let set = answer.headers()[SET_COOKIE].to_str().unwrap();
        for needed in [
            "__Host-syshold=",
            "; Secure",
            "; HttpOnly",
            "; SameSite=Strict",
            "; Path=/",
        ] {
            assert!(set.contains(needed), "{needed} in {set}");
        }
        Self {
            http: person.http.clone(),
            url: person.url.clone(),
            cookie: set.split(';').next().unwrap().to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .header(COOKIE, &self.cookie)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.http
            .post(format!("{}{path}", self.url))
            .header(COOKIE, &self.cookie)
            .form(form)
            .send()
            .await
            .unwrap()
    }

    async fn form_of(&self, id: RequestId) -> Form {
        let page = self.text(&format!("/approvals/{id}")).await;
        Form {
            csrf: field(&page, "csrf"),
            rendered: field(&page, "rendered_sha256"),
            page,
        }
    }
}

struct Form {
    page: String,
    csrf: String,
    rendered: String,
}

pub(crate) fn field(page: &str, name: &str) -> String {
    let at = format!("name=\"{name}\" value=\"");
    page.split(&at)
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default()
        .to_owned()
}

async fn is_open(host: &Host, id: RequestId) -> bool {
    host.poll(id, "?wait=0").await.status() == StatusCode::ACCEPTED
}

#[tokio::test]
async fn sign_in_look_approve_see_it_applied() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let browser = Browser::sign_in(&bob).await;
    assert!(
        browser
            .text("/")
            .await
            .contains("Nobody is waiting for you")
    );
    let request = host.ask().await;
    let id = request.request_id;
    let list = browser.text("/").await;
    assert!(
        list.contains(&format!("href=\"/approvals/{id}\""))
            && list.contains("example.com (192.0.2.7:443)")
    );

    let form = browser.form_of(id).await;
    assert!(
        form.page.contains("Approve once") && form.page.contains("Approve for 10 minutes"),
        "the exact scope is on the button"
    );
    let fields = [
        ("csrf", form.csrf.as_str()),
        ("rendered_sha256", &form.rendered),
        ("scope", "10m"),
        ("reason", "asked sales"),
    ];
    let answer = browser
        .post(&format!("/approvals/{id}/approve"), &fields)
        .await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let decision = host.decision(id, "").await;
    assert_eq!(decision.verdict, DecisionVerdict::Approve);
    assert_eq!(
        (
            decision.approvers[0].channel,
            decision.approvers[0].assurance
        ),
        (Channel::Web, Assurance::Session)
    );
    assert!(
        browser
            .text(&format!("/approvals/{id}"))
            .await
            .contains("The host has not applied it yet")
    );
    let mut outcome = host.outcome(id);
    outcome.decision_id = Some(decision.decision_id);
    host.post_outcome(&outcome).await;
    let done = browser.text(&format!("/approvals/{id}")).await;
    assert!(
        done.contains("Applied: the call went on")
            && done.contains("asked sales")
            && !done.contains("/approve\"")
            && !done.contains("/deny\"")
    );
    assert!(browser.text("/?show=all").await.contains("approved"));

    // It can be taken back, with a reason, by a form of this session's.
    let path = format!("/approvals/{id}/revoke");
    assert!(done.contains(&format!("action=\"{path}\"")), "{done}");
    for (csrf, reason, status) in [
        ("x", "the wrong bucket", StatusCode::FORBIDDEN),
        (&form.csrf, " ", StatusCode::UNPROCESSABLE_ENTITY),
        (&form.csrf, "the <wrong> bucket", StatusCode::SEE_OTHER),
    ] {
        let answer = browser
            .post(&path, &[("csrf", csrf), ("reason", reason)])
            .await;
        assert_eq!(answer.status(), status, "{reason}");
    }
    let back = browser.text(&format!("/approvals/{id}")).await;
    assert!(
        back.contains("Taken back")
            && back.contains("the &lt;wrong&gt; bucket")
            && back.contains("stays done")
            && !back.contains(&path),
        "{back}"
    );
    assert!(browser.text("/?show=all").await.contains("taken back"));

    let again = browser
        .post(&format!("/approvals/{id}/approve"), &fields)
        .await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    assert!(
        again
            .text()
            .await
            .unwrap()
            .contains("Your answer did nothing")
    );
}

#[tokio::test]
async fn a_denial_has_a_reason() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let browser = Browser::sign_in(&bob).await;
    let id = host.ask().await.request_id;
    let form = browser.form_of(id).await;
    let path = format!("/approvals/{id}/deny");
    let empty = browser
        .post(&path, &[("csrf", &form.csrf), ("reason", " ")])
        .await;
    assert_eq!(empty.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(is_open(&host, id).await);
    assert_eq!(
        browser
            .post(&path, &[("csrf", &form.csrf), ("reason", "no")])
            .await
            .status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(host.decision(id, "").await.verdict, DecisionVerdict::Deny);
}

#[tokio::test]
async fn forms_that_are_not_ours() {
    let world = World::start().await;
    let (host, bob, eve) = (
        world.host().await,
        world.person("bob", &[]),
        world.person("eve", &[]),
    );
    let (browser, other) = (Browser::sign_in(&bob).await, Browser::sign_in(&eve).await);
    let id = host.ask().await.request_id;
    let (form, foreign) = (browser.form_of(id).await, other.form_of(id).await);
    let path = format!("/approvals/{id}/approve");
    for csrf in ["", "x", &foreign.csrf] {
        let fields = [
            ("csrf", csrf),
            ("rendered_sha256", &form.rendered),
            ("scope", "once"),
        ];
        assert_eq!(
            browser.post(&path, &fields).await.status(),
            StatusCode::FORBIDDEN,
            "{csrf}"
        );
    }
    let zeros = "0".repeat(64);
    let stale = [
        ("csrf", form.csrf.as_str()),
        ("rendered_sha256", &zeros),
        ("scope", "once"),
    ];
    assert_eq!(
        browser.post(&path, &stale).await.status(),
        StatusCode::PRECONDITION_FAILED
    );
    let wider = [
        ("csrf", form.csrf.as_str()),
        ("rendered_sha256", &form.rendered),
        ("scope", "session"),
    ];
    assert_eq!(
        browser.post(&path, &wider).await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
    let unread = browser
        .post(&path, &[("csrf", &form.csrf), ("scope", "forever")])
        .await;
    assert_eq!(unread.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let good = [
        ("csrf", form.csrf.as_str()),
        ("rendered_sha256", &form.rendered),
        ("scope", "once"),
    ];
    let url = format!("{}{path}", browser.url);
    let bare = browser.http.post(&url).form(&good).send().await.unwrap();
    assert_eq!(
        bare.status(),
        StatusCode::SEE_OTHER,
        "no cookie: to the sign-in page"
    );
    let bearer = browser
        .http
        .post(&url)
        .bearer_auth(&bob.token)
        .form(&good)
        .send()
        .await
        .unwrap();
    assert_eq!(
        bearer.status(),
        StatusCode::SEE_OTHER,
        "a token is not a session"
    );
    assert!(is_open(&host, id).await);

    browser.post("/logout", &[("csrf", &form.csrf)]).await;
    assert_eq!(
        browser.post(&path, &good).await.status(),
        StatusCode::SEE_OTHER,
        "signed out"
    );
    world
        .store()
        .disable_account("eve", crate::world::now())
        .unwrap();
    assert_eq!(
        other.get("/").await.status(),
        StatusCode::SEE_OTHER,
        "disabled"
    );
    assert!(is_open(&host, id).await);
}

#[tokio::test]
async fn signing_in() {
    let world = World::start().await;
    let bob = world.person("bob", &[]);
    let url = world.people_url("/login");
    let id = world.host().await.ask().await.request_id;
    let wrong = world
        .http
        .post(&url)
        .form(&[("token", "sypat_wrong")])
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key(SET_COOKIE));
    let foreign = world
        .http
        .post(&url)
        .header("sec-fetch-site", "cross-site")
        .form(&[("token", &bob.token)])
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let target = format!("/approvals/{id}");
    for (next, to) in [
        (target.as_str(), target.as_str()),
        ("//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/approvals/../x", "/"),
    ] {
        let answer = world
            .http
            .post(&url)
            .form(&[("token", bob.token.as_str()), ("next", next)])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.headers()[LOCATION], to, "{next}");
    }
    let stranger = world
        .http
        .get(world.people_url(&target))
        .send()
        .await
        .unwrap();
    assert_eq!(
        stranger.headers()[LOCATION],
        format!("/login?next={target}")
    );
    let link = world
        .http
        .get(world.people_url(&target))
        .header("sec-fetch-site", "cross-site")
        .send()
        .await
        .unwrap();
    assert_eq!(
        link.status(),
        StatusCode::OK,
        "a link from a chat: the browser keeps the cookie back once"
    );
    assert!(
        link.text()
            .await
            .unwrap()
            .contains("http-equiv=\"refresh\" content=\"0\"")
    );
}

#[tokio::test]
async fn pages_run_our_script_alone_and_hide_nothing() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let browser = Browser::sign_in(&bob).await;
    let mut request = host.request();
    let nasty = "<script>alert(1)</script>\u{202e}\"><img src=x onerror=alert(1)>";
    request.agent.name = nasty.to_owned();
    request.policy.title = nasty.to_owned();
    request.process.argv = vec![nasty.to_owned()];
    request.action.object.requested = nasty.to_owned();
    request.agent_reason = Some(nasty.to_owned());
    assert_eq!(host.put(&request).await.status(), StatusCode::CREATED);
    for path in [
        "/",
        "/?show=all",
        &format!("/approvals/{}", request.request_id),
    ] {
        let answer = browser.get(path).await;
        let csp = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(
            csp.starts_with("default-src 'none'")
                && csp.contains("script-src 'self';")
                && !csp.contains("unsafe"),
            "{csp}"
        );
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let page = answer.text().await.unwrap();
        let page = page.replacen("<script src=\"/app.js\" defer></script>", "", 1);
        assert!(
            !page.contains("<script") && !page.contains("<img") && !page.contains('\u{202e}'),
            "{path}"
        );
        assert!(page.contains("\\u{202e}"), "{path}: shown, not dropped");
    }
    let detail = browser
        .text(&format!("/approvals/{}", request.request_id))
        .await;
    let unverified = detail.find("Unverified").unwrap();
    assert!(
        detail.find("Facts, from the kernel").unwrap() < unverified,
        "what the agent says comes last"
    );
}

/// Follows every link a page has, with the session, and asks for every form's address by GET.
#[tokio::test]
async fn a_crawler_with_a_session_decides_nothing() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let browser = Browser::sign_in(&bob).await;
    let id = host.ask().await.request_id;
    let mut seen = std::collections::HashSet::new();
    let mut open = vec!["/".to_owned()];
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let page = browser.get(&path).await.text().await.unwrap();
        for attribute in ["href=\"", "action=\"", "src=\""] {
            for found in page.split(attribute).skip(1) {
                open.push(found.split('"').next().unwrap().to_owned());
            }
        }
    }
    assert!(
        seen.contains(&format!("/approvals/{id}/approve")) && seen.contains("/style.css"),
        "{seen:?}"
    );
    assert!(is_open(&host, id).await);
}
