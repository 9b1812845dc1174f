//! Who may answer, beyond members: on call, a fallback, in somebody's place. Each over the real API.
use std::path::Path;
use std::time::{Duration, Instant};

use syshold_approver::config::Config;
use syshold_approver::roster::{Escalation, Group, Roster, Rotation};
use syshold_protocol::Request;
use tempfile::TempDir;

use crate::fake_slack::FakeSlack;
use crate::slack_app::{settings, ts};
use crate::world::{Host, World, clear_client, now, problem};

async fn world(escalate_ms: u64) -> World {
    World::start_with(|config| {
        config.roster = Roster {
            groups: vec![Group {
                name: "privacy".to_owned(),
                on_call: Some(Rotation {
                    people: vec!["dan".to_owned()],
                    turn_ms: 3_600_000,
                    from: syshold_protocol::UnixMs::new(0),
                }),
                escalate: Some(Escalation {
                    after_ms: escalate_ms,
                    to: vec!["sre".to_owned()],
                }),
            }],
        };
    })
    .await
}

async fn ask(host: &Host) -> Request {
    let mut request = host.request();
    request.policy.approvers = Some("privacy".to_owned());
    assert_eq!(host.put(&request).await.status(), 201);
    request
}

async fn standing(host: &Host, request: &Request) -> Option<String> {
    let decision = host.decision(request.request_id, "").await;
    assert!(decision.verdict.approves());
    decision.approvers[0].standing.clone()
}

#[tokio::test]
async fn whoever_is_on_call_answers_and_the_decision_says_so() {
    let world = world(3_600_000).await;
    let host = world.host().await;
    let (dan, member) = (world.person("dan", &[]), world.person("fay", &["privacy"]));
    let request = ask(&host).await;
    let shown = dan.show(request.request_id).await;
    assert_eq!(shown["standing"], "on_call");
    assert!(
        shown["asked"]
            .as_str()
            .unwrap()
            .starts_with("privacy (on call: dan), from ")
    );
    assert_eq!(dan.approve(request.request_id, "once").await.status(), 200);
    assert_eq!(standing(&host, &request).await.as_deref(), Some("on call"));

    let request = ask(&host).await;
    assert_eq!(
        member.approve(request.request_id, "once").await.status(),
        200
    );
    assert_eq!(standing(&host, &request).await, None);
}

#[tokio::test]
async fn a_fallback_may_answer_only_once_nobody_has() {
    let world = world(1500).await;
    let (host, eve) = (world.host().await, world.person("eve", &["sre"]));
    let request = ask(&host).await;
    let refused = eve.approve(request.request_id, "once").await;
    assert_eq!(problem(refused).await, (403, "not_in_group".to_owned()));
    let denied = eve.deny(request.request_id).await;
    assert_eq!(problem(denied).await, (403, "not_in_group".to_owned()));
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(eve.approve(request.request_id, "once").await.status(), 200);
    let said = standing(&host, &request).await.unwrap();
    assert!(said.starts_with("of sre"), "{said}");
}

#[tokio::test]
async fn a_delegate_answers_until_the_end_and_never_for_an_owner() {
    let world = world(3_600_000).await;
    let host = world.host().await;
    let (_fay, gus) = (world.person("fay", &["privacy"]), world.person("gus", &[]));
    let store = world.store();
    let id = store
        .delegate("fay", "gus", now().plus(60_000), now())
        .unwrap()
        .unwrap();
    let request = ask(&host).await;
    assert_eq!(gus.approve(request.request_id, "once").await.status(), 200);
    let said = standing(&host, &request).await.unwrap();
    assert!(said.starts_with("in place of fay, until "), "{said}");

    let request = ask(&host).await;
    assert!(store.end_delegation(id, now()).unwrap());
    let refused = gus.approve(request.request_id, "once").await;
    assert_eq!(problem(refused).await, (403, "not_in_group".to_owned()));

    // The owner of the agent is a member, may not approve, and cannot have it done either.
    let owner = request.agent.owner.clone().unwrap();
    let name = owner.as_str().split('@').next().unwrap().to_owned();
    let _owner = world.person(&name, &["privacy"]);
    store
        .delegate(&name, "gus", now().plus(60_000), now())
        .unwrap()
        .unwrap();
    let refused = gus.approve(request.request_id, "once").await;
    assert_eq!(problem(refused).await, (403, "not_in_group".to_owned()));
    // One that has run out is worth nothing.
    store.delegate("fay", "gus", now(), now()).unwrap().unwrap();
    let refused = gus.approve(request.request_id, "once").await;
    assert_eq!(problem(refused).await, (403, "not_in_group".to_owned()));
    assert!(
        store
            .delegate("fay", "nobody", now().plus(1000), now())
            .unwrap()
            .is_none()
    );
}

/// A gateway where `privacy` has one channel and `sre`, asked after a while, another: or the same.
async fn told_of(ops: &FakeSlack, sre: Option<&FakeSlack>, after_ms: u64, dir: TempDir) -> World {
    let mut text = settings(dir.path(), ops, true);
    if let Some(sre) = sre {
        let more = settings(dir.path(), sre, true);
        text.push_str(&more.replace("[channel.ops]", "[channel.night]"));
        text.push_str("[notify]\nprivacy = [\"ops\"]\nsre = [\"night\"]\n");
    }
    World::start_in(dir, |config| {
        config.channels = Config::parse(Path::new("x"), &text).unwrap().channels;
        config.inbox_url = Some("https://gw.example.com".to_owned());
        config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
        config.roster = Roster {
            groups: vec![Group {
                name: "privacy".to_owned(),
                on_call: None,
                escalate: Some(Escalation {
                    after_ms,
                    to: vec!["sre".to_owned()],
                }),
            }],
        };
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_group_is_told_by_its_own_channel_once_nobody_has_answered() {
    let (ops, night) = (FakeSlack::start().await, FakeSlack::start().await);
    let dir = tempfile::tempdir().unwrap();
    let world = told_of(&ops, Some(&night), 2500, dir).await;
    let host = world.host().await;
    let fay = world.person("fay", &["privacy"]);
    let eve = world.person("eve", &["sre"]);
    night.connected(1).await;
    // Answered in time: nobody else is told.
    let quick = ask(&host).await;
    ops.call("chat.postMessage", 1).await;
    assert_eq!(fay.approve(quick.request_id, "once").await.status(), 200);

    let request = ask(&host).await;
    let began = Instant::now();
    let message = night.call("chat.postMessage", 1).await;
    assert!(began.elapsed() > Duration::from_millis(2000), "too early");
    let text = message.to_string();
    assert!(
        text.contains("nobody of privacy had answered") && text.contains("Approve once"),
        "{text}"
    );
    assert!(text.contains(&request.request_id.to_string()));
    // The first channel's message says so too, and has not come a second time.
    let mut said = String::new();
    for _ in 0..100 {
        said = ops
            .calls("chat.update")
            .await
            .last()
            .map_or(String::new(), ToString::to_string);
        if said.contains("Asked of sre too") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(said.contains("Asked of sre too"), "{said}");
    assert_eq!(ops.calls("chat.postMessage").await.len(), 2);
    // One click of somebody of the fallback group, in the fallback's channel.
    let at = ts(&night, 1).await;
    world.link(&night, &at, "U9", &eve).await;
    assert!(night.click(&at, "approve", "U9").await);
    let said = standing(&host, &request).await.unwrap();
    assert!(said.starts_with("of sre"), "{said}");
    assert_eq!(night.calls("chat.postMessage").await.len(), 1);
    let url = format!("http://{}/metrics", world.metrics.unwrap());
    let metrics = clear_client().get(url).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("syshold_approver_escalations_total 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_of_both_groups_gets_a_message_of_its_own_and_a_restart_loses_none() {
    let slack = FakeSlack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let world = told_of(&slack, None, 4000, dir).await;
    let host = world.host().await;
    let request = ask(&host).await;
    slack.call("chat.postMessage", 1).await;
    let dir = world.stop().await;
    let world = told_of(&slack, None, 4000, dir).await;
    let text = slack.call("chat.postMessage", 2).await.to_string();
    let code = &request.request_id.to_string()[30..].to_uppercase();
    assert!(
        text.contains(&format!("{code}: nobody has answered, sre is asked now")),
        "{text}"
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(slack.calls("chat.postMessage").await.len(), 2);
    drop(world);
}
