//! A Slack app: messages, clicks over Socket Mode and HTTP, and people who may not.
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use syshold_approver::config::Config;
use syshold_approver::store::{Store, notices};
use syshold_protocol::{Assurance, Channel, DecisionVerdict, Lifespan, RequestId};
use tempfile::TempDir;

use crate::fake_slack::{FakeSlack, SIGNING};
use crate::world::{Host, Person, World, now};

/// A gateway with a Slack channel `ops` and a link-only one behind it that nobody answers.
pub(crate) async fn start(slack: &FakeSlack, socket: bool) -> World {
    start_in(tempfile::tempdir().unwrap(), slack, socket).await
}

pub(crate) async fn start_in(dir: TempDir, slack: &FakeSlack, socket: bool) -> World {
    let text = settings(dir.path(), slack, socket);
    World::start_in(dir, |config| {
        config.channels = Config::parse(Path::new("x"), &text).unwrap().channels;
        config.inbox_url = Some("https://gw.example.com".to_owned());
    })
    .await
}

pub(crate) fn settings(dir: &Path, slack: &FakeSlack, socket: bool) -> String {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    };
    let more = if socket {
        format!("app_token_file = \"{}\"", file("app", "xapp-1-secret"))
    } else {
        format!("signing_secret_file = \"{}\"", file("signing", SIGNING))
    };
    format!(
        "[channel.ops]\nkind = \"slack\"\nchannel = \"C1\"\nteam = \"T1\"\napp = \"A1\"\nbot_token_file = \"{}\"\napi_url = \"{}/api\"\n{more}\n",
        file("bot", "xoxb-1-secret"),
        slack.url
    )
}

/// The request, and where its message is.
pub(crate) async fn asked(slack: &FakeSlack, host: &Host, count: usize) -> (RequestId, String) {
    let id = host.ask().await.request_id;
    (id, ts(slack, count).await)
}

/// Where the `count`th message is: the fake numbers them.
pub(crate) async fn ts(slack: &FakeSlack, count: usize) -> String {
    slack.call("chat.postMessage", count).await;
    for _ in 0..50 {
        let all = slack.control("messages", &Value::Null).await;
        if let Some(ts) = all.as_array().unwrap().get(count - 1) {
            return ts.as_str().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no message {count}");
}

impl World {
    /// A session of the holder of `token`.
    pub(crate) async fn cookie(&self, person: &Person) -> String {
        let form = format!("token={}", person.token);
        let answer = self.form("/login", "", form).await;
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    pub(crate) async fn form(&self, path: &str, cookie: &str, body: String) -> reqwest::Response {
        self.http
            .post(self.people_url(path))
            .header("cookie", cookie)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn page(&self, path: &str, cookie: &str) -> (StatusCode, String) {
        let answer = self
            .http
            .get(self.people_url(path))
            .header("cookie", cookie);
        let answer = answer.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Makes `user` of Slack that person, as a browser does it.
    pub(crate) async fn link(&self, slack: &FakeSlack, ts: &str, user: &str, person: &Person) {
        let before = slack.calls("chat.postEphemeral").await.len();
        assert!(slack.click(ts, "approve", user).await);
        let path = link(&slack.whisper(before + 1).await);
        let cookie = self.cookie(person).await;
        let (status, page) = self.page(&path, &cookie).await;
        assert!(status == StatusCode::OK && page.contains(user), "{page}");
        let done = self
            .form(&path, &cookie, format!("csrf={}", csrf(&page)))
            .await;
        assert_eq!(done.status(), StatusCode::OK);
    }
}

/// The path of the link in a whisper.
pub(crate) fn link(whisper: &str) -> String {
    let at = whisper.find("https://gw.example.com/link/").unwrap();
    let url = whisper[at..].split('"').next().unwrap();
    url.strip_prefix("https://gw.example.com")
        .unwrap()
        .to_owned()
}

pub(crate) fn csrf(page: &str) -> &str {
    let at = page.find("name=\"csrf\" value=\"").unwrap() + 19;
    page[at..].split('"').next().unwrap()
}

pub(crate) fn actions(message: &Value) -> Vec<String> {
    let blocks = message["blocks"].as_array().unwrap();
    let elements = blocks.iter().filter(|block| block["type"] == "actions");
    let elements = elements.flat_map(|block| block["elements"].as_array().unwrap());
    elements
        .map(|e| e["action_id"].as_str().unwrap().replace("syshold_", ""))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_sdk_takes_the_stand_in_for_slack() {
    FakeSlack::start().await.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_message_to_the_kernel() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;

    let (id, ts) = asked(&slack, &host, 1).await;
    let message = slack.call("chat.postMessage", 1).await;
    assert_eq!(actions(&message), ["approve", "narrow", "deny", "details"]);
    for fact in [
        "example.com (192.0.2.7:443)",
        "support-bot",
        "web-1",
        "/srv/bot/export.py",
        "pii",
        "alice@example.com",
    ] {
        assert!(message.to_string().contains(fact), "{fact}: {message}");
    }
    // Nobody the gateway knows: a link, and nothing decided.
    assert!(slack.click(&ts, "approve", "U1").await);
    let whisper = slack.call("chat.postEphemeral", 1).await;
    assert_eq!(
        (&whisper["user"], &whisper["channel"]),
        (&"U1".into(), &"C1".into())
    );
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    let stranger = world.page(&link(&whisper.to_string()), "").await;
    assert_eq!(stranger.0, StatusCode::SEE_OTHER, "sign in first");
    world.link(&slack, &ts, "U1", &bob).await;
    let (status, _) = world
        .page(&link(&whisper.to_string()), &world.cookie(&bob).await)
        .await;
    assert_eq!(
        status,
        StatusCode::NOT_FOUND,
        "a newer link ends the older, and it was used"
    );

    assert!(slack.click(&ts, "approve", "U1").await);
    let decision = host.decision(id, "?wait=10").await;
    assert_eq!(decision.verdict, DecisionVerdict::Approve);
    let approver = &decision.approvers[0];
    assert_eq!(approver.subject.as_str(), "bob@example.com");
    assert_eq!(
        (approver.channel, approver.assurance),
        (Channel::Slack, Assurance::Chat)
    );
    assert_eq!(
        (approver.team_id.as_deref(), approver.user_id.as_deref()),
        (Some("T1"), Some("U1"))
    );
    let updated = slack.call("chat.update", 1).await;
    assert_eq!(updated["ts"], ts.as_str());
    assert_eq!(
        actions(&updated),
        ["details"],
        "no button that decides is left"
    );
    assert!(
        updated
            .to_string()
            .contains("Approved once by bob@example.com")
    );
    let mut outcome = host.outcome(id);
    outcome.decision_id = Some(decision.decision_id);
    assert!(host.post_outcome(&outcome).await.status().is_success());
    let last = slack.call("chat.update", 2).await;
    assert!(last.to_string().contains("the call went on"), "{last}");

    let body = json!({"reason": "the wrong bucket"});
    assert!(bob.post(id, "revoke", &body).await.status().is_success());
    let back = slack.call("chat.update", 3).await.to_string();
    assert!(
        back.contains("Taken back by bob@example.com: “the wrong bucket”")
            && back.contains("Approved once by bob@example.com"),
        "{back}"
    );

    // A late click on what was replaced.
    let late = slack.click_with(&ts, "details", "U1", json!({"change": {
        "/actions/0/action_id": "syshold_approve", "/actions/0/value": "AAAAAAAAAAAAAAAAAAAAAA",
    }})).await;
    assert_eq!(late["acknowledged"], json!([true]));
    assert!(slack.whisper(3).await.contains("this message is old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_narrow_and_deny() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;
    let (id, at) = asked(&slack, &host, 1).await;
    world.link(&slack, &at, "U1", &bob).await;
    slack.click(&at, "narrow", "U1").await;
    let view = slack.call("views.open", 1).await;
    let offered = view["view"]["blocks"][1]["element"]["options"]
        .as_array()
        .unwrap();
    assert_eq!(
        offered.iter().map(|o| &o["value"]).collect::<Vec<_>>(),
        ["once", "process", "10m"]
    );
    let given = json!({"view": "V1", "user": "U1", "values": {"scope": "10m", "reason": " the nightly export "}});
    assert_eq!(
        slack.control("submit", &given).await["acknowledged"],
        json!([true])
    );
    let decision = host.decision(id, "?wait=10").await;
    assert_eq!(decision.grant.unwrap().lifespan, Lifespan::Until);
    assert_eq!(
        decision.approvers[0].reason.as_deref(),
        Some("the nightly export")
    );

    let (id, at) = asked(&slack, &host, 2).await;
    slack.click(&at, "deny", "U1").await;
    slack.call("views.open", 2).await;
    let given = json!({"view": "V2", "user": "U1", "values": {"reason": "not from this job"}});
    slack.control("submit", &given).await;
    let decision = host.decision(id, "?wait=10").await;
    assert_eq!(decision.verdict, DecisionVerdict::Deny);
    assert_eq!(
        decision.approvers[0].reason.as_deref(),
        Some("not from this job")
    );
    for count in 1..10 {
        let update = slack.call("chat.update", count).await.to_string();
        if update.contains("Denied by bob@example.com: “not from this job”") {
            return;
        }
    }
    panic!("the message says nothing of the denial");
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_mode_survives_refreshes_losses_and_restarts() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;
    slack
        .control(
            "send",
            &json!({"type": "disconnect", "reason": "refresh_requested", "debug_info": {}}),
        )
        .await;
    slack.connected(2).await;
    let (id, at) = asked(&slack, &host, 1).await;
    world.link(&slack, &at, "U1", &bob).await;
    slack.control("drop", &json!({})).await;
    slack.connected(0).await;
    slack.connected(1).await;
    // One-use tickets: each connection had its own.
    assert!(slack.calls("apps.connections.open").await.len() >= 3);
    // The gateway goes away; the request and its message stay, and it picks both up.
    let dir = world.stop().await;
    let world = start_in(dir, &slack, true).await;
    slack.connected(1).await;
    assert_eq!(slack.calls("chat.postMessage").await.len(), 1, "told once");
    assert!(slack.click(&at, "approve", "U1").await);
    let host = Host {
        url: world.host_url(""),
        ..host
    };
    assert_eq!(
        host.decision(id, "?wait=10").await.verdict,
        DecisionVerdict::Approve
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_that_was_acknowledged_survives_a_restart() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;
    let (id, at) = asked(&slack, &host, 1).await;
    world.link(&slack, &at, "U1", &bob).await;
    let sent = slack
        .click_with(&at, "approve", "U1", json!({"deliver": 0}))
        .await;
    let body = sent["payload"].to_string();
    let dir = world.stop().await;
    // Kept, acknowledged, and then the lights went out.
    let store = Store::open(dir.path()).unwrap();
    let kept = store.write(|tx| notices::add_click(tx, "1.2.3", "ops", body.as_bytes(), now()));
    assert!(kept.unwrap());
    drop(store);
    let world = start_in(dir, &slack, true).await;
    let host = Host {
        url: world.host_url(""),
        ..host
    };
    let decision = host.decision(id, "?wait=10").await;
    assert_eq!(decision.approvers[0].user_id.as_deref(), Some("U1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_before_a_restart_is_told_of() {
    let slack = FakeSlack::start().await;
    let world = World::start().await;
    let host = world.host().await;
    host.ask().await;
    let dir = world.stop().await;
    let world = start_in(dir, &slack, true).await;
    assert_eq!(actions(&slack.call("chat.postMessage", 1).await).len(), 4);
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_fails_is_followed_by_the_next_and_everybody_is_told() {
    let (slack, other) = (FakeSlack::start().await, FakeSlack::start().await);
    let dir = tempfile::tempdir().unwrap();
    let second = dir.path().join("two");
    std::fs::create_dir(&second).unwrap();
    let text = settings(dir.path(), &slack, true)
        + &settings(&second, &other, true).replace("channel.ops", "channel.spare")
        + "[notify]\ndefault = [\"ops\", \"spare\"]\n";
    let world = World::start_in(dir, |config| {
        config.channels = Config::parse(Path::new("x"), &text).unwrap().channels;
    })
    .await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    let wait = json!({"status": 429, "headers": {"Retry-After": "2"}, "body": {"ok": false, "error": "ratelimited"}});
    let refusal = json!({"body": {"ok": false, "error": "not_in_channel"}});
    slack
        .control(
            "script",
            &json!({"chat.postMessage": [wait, {"status": 500, "body": {}}]}),
        )
        .await;
    let id = host.ask().await.request_id;
    slack.call("chat.postMessage", 3).await;
    let Value::Array(calls) = slack.control("calls", &Value::Null).await else {
        panic!()
    };
    let at: Vec<f64> = calls
        .iter()
        .filter(|c| c["method"] == "chat.postMessage")
        .map(|c| c["at"].as_f64().unwrap())
        .collect();
    assert!(at[1] - at[0] >= 2.0, "Retry-After is obeyed: {at:?}");
    assert!(other.calls("chat.postMessage").await.is_empty());
    let told = bob.show(id).await["notices"].clone();
    assert_eq!(told[0]["channel"], "ops");

    slack
        .control("script", &json!({"chat.postMessage": [refusal]}))
        .await;
    let id = host.ask().await.request_id;
    let message = other.call("chat.postMessage", 1).await.to_string();
    assert!(
        message.contains("ops did not take this: Slack says not_in_channel"),
        "{message}"
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = bob.show(id).await["notices"].clone();
    assert_eq!(
        (&told[0]["channel"], &told[1]["channel"]),
        (&"ops".into(), &"spare".into())
    );
    assert_eq!(told[0]["error"], "Slack says not_in_channel");
    assert_eq!(told[1].get("error"), None);
    let page = world
        .page(&format!("/approvals/{id}"), &world.cookie(&bob).await)
        .await
        .1;
    assert!(
        page.contains("not delivered: Slack says not_in_channel"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_says_when_it_is_over() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;
    let (id, at) = asked(&slack, &host, 1).await;
    world.link(&slack, &at, "U1", &bob).await;
    assert!(host.withdraw(id).await.status().is_success());
    let update = slack.call("chat.update", 1).await;
    assert!(update.to_string().contains("Withdrawn") && actions(&update) == ["details"]);

    let mut short = host.request();
    short.hold_until = now().plus(3000);
    host.put(&short).await;
    let at = ts(&slack, 2).await;
    let early = slack
        .click_with(&at, "approve", "U1", json!({"deliver": 0}))
        .await;
    let update = slack.call("chat.update", 2).await;
    assert!(update.to_string().contains("The hold is over"), "{update}");
    assert_eq!(
        actions(&update),
        ["approve", "deny", "details"],
        "for one retry"
    );
    // The button of before was for something else.
    let old = early["payload"]["actions"][0]["value"].clone();
    let whispers = slack.calls("chat.postEphemeral").await.len();
    slack
        .click_with(
            &at,
            "approve",
            "U1",
            json!({"change": {"/actions/0/value": old}}),
        )
        .await;
    assert!(
        slack
            .whisper(whispers + 1)
            .await
            .contains("this message is old")
    );
    let expired = host.decision(short.request_id, "?wait=10").await;
    assert_eq!(expired.verdict, DecisionVerdict::Expired);
    slack.click(&at, "approve", "U1").await;
    let after = format!("?wait=10&after={}", expired.decision_id);
    let late = host.decision(short.request_id, &after).await;
    assert_eq!(late.verdict, DecisionVerdict::Approve);
}

#[test]
fn the_shipped_manifest_asks_for_what_is_used_and_no_more() {
    let manifest: Value =
        serde_json::from_str(include_str!("../../../config/slack-app.json")).unwrap();
    assert_eq!(
        manifest["oauth_config"]["scopes"],
        json!({"bot": ["chat:write"]})
    );
    let settings = &manifest["settings"];
    assert_eq!(settings["socket_mode_enabled"], true);
    assert_eq!(settings["interactivity"], json!({"is_enabled": true}));
    // Slack's limits.
    let about = &manifest["display_information"];
    assert!(about["name"].as_str().unwrap().len() <= 35);
    assert!(about["description"].as_str().unwrap().len() <= 140);
}
