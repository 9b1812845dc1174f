//! Clicks in Slack by whoever may not, again and again, forged, or where a tap is too little.
use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use syshold_protocol::Risk;

use crate::fake_slack::FakeSlack;
use crate::slack_app::{actions, asked, csrf, link, start, ts};
use crate::world::problem;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_changes_nothing() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let (alice, bob) = (
        world.person("alice", &["privacy"]),
        world.person("bob", &[]),
    );
    let eve = world.person("eve", &["privacy"]);
    slack.connected(1).await;
    let mut request = host.request();
    request.policy.approvers = Some("privacy".to_owned());
    host.put(&request).await;
    let at = ts(&slack, 1).await;
    let id = request.request_id;
    for (user, person) in [("UA", &alice), ("UB", &bob), ("UE", &eve)] {
        world.link(&slack, &at, user, person).await;
    }
    let before = 3;
    // The owner, somebody of another group; every button.
    let mut told = before;
    for (user, action, why) in [
        ("UA", "approve", "the agent is yours"),
        ("UA", "narrow", "the agent is yours"),
        ("UB", "approve", "only members of the group privacy"),
        ("UB", "narrow", "only members of the group privacy"),
        ("UB", "deny", "only members of the group privacy"),
    ] {
        assert!(slack.click(&at, action, user).await);
        told += 1;
        let whisper = slack.whisper(told).await;
        assert!(whisper.contains(why) && whisper.contains(user), "{whisper}");
    }
    // Another workspace's user in a shared channel; the wrong message; a made-up handle.
    for change in [
        json!({"/user/team_id": "T2"}),
        json!({"/container/message_ts": "1.1"}),
        json!({"/container/channel_id": "C2"}),
        json!({"/actions/0/value": "AAAAAAAAAAAAAAAAAAAAAA"}),
    ] {
        slack
            .click_with(&at, "approve", "UE", json!({"change": change}))
            .await;
        told += 1;
        let whisper = slack.whisper(told).await;
        assert!(
            whisper.contains("old") || whisper.contains("another workspace"),
            "{whisper}"
        );
    }
    // Another app, another workspace: not even an answer. What does not read neither.
    for change in [
        json!({"/api_app_id": "A2"}),
        json!({"/team/id": "T2"}),
        json!({"/actions": []}),
        json!({"/actions/0": null}),
        json!({"/user/id": {"x": 1}}),
        json!({"/type": "shortcut"}),
        json!({"/trigger_id": "x".repeat(10_000)}),
    ] {
        let sent = slack
            .click_with(&at, "approve", "UE", json!({"change": change}))
            .await;
        assert_eq!(sent["acknowledged"], json!([true]), "or it comes for ever");
    }
    // A disabled account, still linked.
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
        .args([
            "--dir",
            &world.dir.path().display().to_string(),
            "accounts",
            "disable",
            "eve",
        ])
        .output()
        .unwrap();
    assert!(done.status.success());
    slack.click(&at, "approve", "UE").await;
    told += 1;
    assert!(slack.whisper(told).await.contains("/link/"));
    assert_eq!(slack.calls("chat.postEphemeral").await.len(), told);
    assert!(slack.calls("views.open").await.is_empty());
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_counts_once_however_often_it_comes() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let (bob, dan) = (world.person("bob", &[]), world.person("dan", &[]));
    slack.connected(1).await;
    let mut request = host.request();
    request.quorum = 2;
    host.put(&request).await;
    let at = ts(&slack, 1).await;
    world.link(&slack, &at, "U1", &bob).await;
    world.link(&slack, &at, "U2", &dan).await;
    // The same envelope three times, then a second click: one vote.
    let sent = slack
        .click_with(&at, "approve", "U1", json!({"deliver": 3}))
        .await;
    assert_eq!(sent["acknowledged"], json!([true, true, true]));
    let update = slack.call("chat.update", 1).await;
    assert!(
        update
            .to_string()
            .contains("1 of 2 approvals: bob@example.com"),
        "{update}"
    );
    assert_eq!(actions(&update), ["approve", "narrow", "deny", "details"]);
    slack.click(&at, "approve", "U1").await;
    assert!(
        slack
            .whisper(3)
            .await
            .contains("you have approved this already")
    );
    assert_eq!(
        host.poll(request.request_id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    // Two at once: the second vote decides, once.
    let (one, two) = tokio::join!(
        slack.click(&at, "approve", "U2"),
        slack.click(&at, "approve", "U2")
    );
    assert!(one && two);
    let decision = host.decision(request.request_id, "?wait=10").await;
    let people: BTreeSet<_> = decision
        .approvers
        .iter()
        .map(|a| a.user_id.clone().unwrap())
        .collect();
    assert_eq!(people, BTreeSet::from(["U1".to_owned(), "U2".to_owned()]));
    assert!(slack.whisper(4).await.contains("That did nothing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_takes_only_what_slack_signed_just_now() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, false).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    let (id, at) = asked(&slack, &host, 1).await;
    let url = world.people_url("/slack/ops/interactive");
    let payload = async |user: &str| {
        slack
            .click_with(&at, "approve", user, json!({"deliver": 0}))
            .await["payload"]
            .clone()
    };
    let sign = async |payload: &Value, age: i64| {
        slack
            .control("sign", &json!({"payload": payload, "age": age}))
            .await
    };
    let post =
        async |signed: &Value,
               change: &dyn Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder| {
            let call = world
                .http
                .post(&url)
                .header("content-type", "application/x-www-form-urlencoded")
                .header(
                    "x-slack-request-timestamp",
                    signed["stamp"].as_str().unwrap(),
                )
                .header("x-slack-signature", signed["signature"].as_str().unwrap())
                .body(signed["body"].as_str().unwrap().to_owned());
            change(call).send().await.unwrap()
        };
    let as_is = |call: reqwest::RequestBuilder| call;

    // Linked by the same road.
    let first = sign(&payload("U1").await, 0).await;
    assert_eq!(post(&first, &as_is).await.status(), StatusCode::OK);
    let path = link(&slack.whisper(1).await);
    let cookie = world.cookie(&bob).await;
    let page = world.page(&path, &cookie).await.1;
    let forged = world.form(&path, &cookie, "csrf=0".to_owned()).await;
    assert_eq!(
        forged.status(),
        StatusCode::FORBIDDEN,
        "a form of another session"
    );
    world
        .form(&path, &cookie, format!("csrf={}", csrf(&page)))
        .await;

    let good = payload("U1").await;
    let refused = (401, "bad-signature".to_owned());
    for age in [-301, 302, -86_400] {
        let signed = sign(&good, age).await;
        assert_eq!(
            problem(post(&signed, &as_is).await).await,
            refused,
            "{age} s"
        );
    }
    let signed = sign(&good, 0).await;
    let mut forged = signed.clone();
    forged["body"] = forged["body"].as_str().unwrap().replace("U1", "U2").into();
    assert_eq!(
        problem(post(&forged, &as_is).await).await,
        refused,
        "another body"
    );
    let mut forged = signed.clone();
    forged["signature"] = format!("v0={}", "0".repeat(64)).into();
    assert_eq!(problem(post(&forged, &as_is).await).await, refused);
    let unsigned = world
        .http
        .post(&url)
        .body(signed["body"].as_str().unwrap().to_owned());
    assert_eq!(problem(unsigned.send().await.unwrap()).await, refused);
    let huge = post(&signed, &|call| {
        call.body("payload=".to_owned() + &"x".repeat(300_000))
    })
    .await;
    assert_eq!(problem(huge).await, (413, "too-large".to_owned()));
    let twice = slack
        .control("sign", &json!({"payload": good, "more": "&payload=%7B%7D"}))
        .await;
    assert_eq!(
        problem(post(&twice, &as_is).await).await,
        (400, "malformed".to_owned())
    );
    for (other, status) in [
        ("/slack/other/interactive", 404),
        ("/slack/ops/interactive/x", 404),
    ] {
        let answer = world
            .http
            .post(world.people_url(other))
            .body("")
            .send()
            .await
            .unwrap();
        assert_eq!(problem(answer).await.0, status);
    }
    assert_eq!(
        problem(world.http.get(&url).send().await.unwrap()).await.0,
        405
    );
    assert_eq!(
        problem(
            host.http
                .post(host.url.clone() + "/slack/ops/interactive")
                .send()
                .await
                .unwrap()
        )
        .await
        .0,
        404,
        "not where hosts ask"
    );
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );

    // And the true one, three times: decided once.
    for _ in 0..3 {
        assert_eq!(post(&signed, &as_is).await.status(), StatusCode::OK);
    }
    assert_eq!(host.decision(id, "?wait=10").await.approvers.len(), 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        slack.calls("chat.postEphemeral").await.len(),
        1,
        "a replay is not even answered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_approval_where_something_is_hidden_or_risky() {
    let slack = FakeSlack::start().await;
    let world = start(&slack, true).await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    slack.connected(1).await;
    let mut long = host.request();
    long.process.argv.push("x".repeat(2000));
    host.put(&long).await;
    let message = slack.call("chat.postMessage", 1).await;
    assert_eq!(actions(&message), ["details"]);
    let text = message.to_string();
    assert!(
        text.contains(" more characters, not shown …xxx") && text.contains("not everything fits"),
        "{text}"
    );
    let mut risky = host.request();
    risky.risk = Risk::High;
    host.put(&risky).await;
    let message = slack.call("chat.postMessage", 2).await;
    assert_eq!(actions(&message), ["details", "deny"]);
    let at = ts(&slack, 2).await;
    // With the handle of the deny button, as if there had been an Approve.
    let approve = json!({"change": {"/actions/0/action_id": "syshold_approve"}});
    slack.click_with(&at, "deny", "U1", approve.clone()).await;
    let cookie = world.cookie(&bob).await;
    let path = link(&slack.whisper(1).await);
    let page = world.page(&path, &cookie).await.1;
    world
        .form(&path, &cookie, format!("csrf={}", csrf(&page)))
        .await;
    slack.click_with(&at, "deny", "U1", approve).await;
    assert!(slack.whisper(2).await.contains("the risk is high"));
    assert_eq!(
        host.poll(risky.request_id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    // Denying is never too easy.
    slack.click(&at, "deny", "U1").await;
    slack.call("views.open", 1).await;
}
