//! Floods, fatigue, and what is counted and reported of them.
use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use syshold_approver::config::Config;
use syshold_approver::store::report;
use syshold_ledger::{Exit, verify};
use syshold_protocol::{DecisionVerdict, Request};

use crate::fake_slack::FakeSlack;
use crate::python;
use crate::slack_app::settings;
use crate::world::{Host, World, clear_client, now, problem};

#[tokio::test]
async fn one_agent_cannot_take_the_room_of_others() {
    let world = World::start_with(|config| {
        config.limits.pending_per_host = 4;
        config.limits.pending_per_agent = 2;
    })
    .await;
    let host = world.host().await;
    let of = |agent: &str| {
        let mut request = host.request();
        request.agent.name = agent.to_owned();
        request
    };
    let full = (429, "too-many-pending".to_owned());
    let first = of("a");
    assert_eq!(host.put(&first).await.status(), StatusCode::CREATED);
    assert_eq!(host.put(&of("a")).await.status(), StatusCode::CREATED);
    let answer = host.put(&of("a")).await;
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(problem(answer).await, full, "the agent's third");
    assert_eq!(host.put(&of("b")).await.status(), StatusCode::CREATED);
    assert_eq!(host.put(&of("c")).await.status(), StatusCode::CREATED);
    assert_eq!(
        problem(host.put(&of("d")).await).await,
        full,
        "the host's fifth"
    );
    assert_eq!(
        host.put(&first).await.status(),
        StatusCode::OK,
        "the same bytes again"
    );
    let other = world.host().await;
    assert_eq!(
        other.put(&other.request()).await.status(),
        StatusCode::CREATED
    );
    host.withdraw(first.request_id).await;
    assert_eq!(
        host.put(&of("a")).await.status(),
        StatusCode::CREATED,
        "one place is free"
    );
}

#[tokio::test]
async fn after_three_denials_of_the_same_nobody_is_asked_for_a_while() {
    let world = World::start().await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    for _ in 0..2 {
        let id = host.ask().await.request_id;
        assert!(bob.deny(id).await.status().is_success());
    }
    // An approval between them: people still want to be asked.
    let id = host.ask().await.request_id;
    assert!(bob.approve(id, "once").await.status().is_success());
    for _ in 0..3 {
        let id = host.ask().await.request_id;
        assert_eq!(
            host.poll(id, "?wait=0").await.status(),
            StatusCode::ACCEPTED,
            "still asked"
        );
        assert!(bob.deny(id).await.status().is_success());
    }
    let id = host.ask().await.request_id;
    let decision = host.decision(id, "?wait=0").await;
    assert_eq!(decision.verdict, DecisionVerdict::Deny);
    assert!(decision.approvers.is_empty(), "no person did: {decision:?}");
    assert_eq!(bob.show(id).await["state"], "denied");
    // Its own denials do not prolong it, and other questions are asked.
    for change in [
        (|request| request.coalesce_key.push('x')) as fn(&mut Request),
        |request| request.agent.name.push('x'),
    ] {
        let mut other = host.request();
        change(&mut other);
        host.put(&other).await;
        assert_eq!(
            host.poll(other.request_id, "?wait=0").await.status(),
            StatusCode::ACCEPTED
        );
    }
    let dir = world.stop().await;
    let ledger = verify(&dir.path().join("ledger.db"), |_, _| {}).unwrap();
    assert_eq!(ledger.exit(), Exit::Clean, "{ledger:?}");

    let world = World::start_in(dir, |config| config.limits.auto_deny_after = 0).await;
    let host = Host {
        url: world.host_url(""),
        ..host
    };
    let id = host.ask().await.request_id;
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED,
        "turned off"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_too_often_is_announced_once_and_then_is_quiet() {
    let slack = FakeSlack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let text = settings(dir.path(), &slack, true);
    let world = World::start_in(dir, |config| {
        config.channels = Config::parse(Path::new("x"), &text).unwrap().channels;
        config.limits.pending_per_host = 50;
        config.limits.pending_per_agent = 50;
        config.limits.prompts_per_agent = 2;
        config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    for count in 1..=2 {
        host.ask().await;
        slack.call("chat.postMessage", count).await;
    }
    let mut quiet = vec![];
    for _ in 0..5 {
        quiet.push(host.ask().await.request_id);
    }
    let alert = slack.call("chat.postMessage", 3).await;
    assert!(
        alert
            .to_string()
            .contains("support-bot on web-1 asks too often"),
        "{alert}"
    );
    let mut other = host.request();
    other.agent.name = "other-bot".to_owned();
    host.put(&other).await;
    assert!(
        slack
            .call("chat.postMessage", 4)
            .await
            .to_string()
            .contains("other-bot asks")
    );
    assert_eq!(slack.calls("chat.postMessage").await.len(), 4);
    for id in quiet {
        let shown = bob.show(id).await;
        assert_eq!(
            (&shown["state"], &shown["notices"][0]["error"]),
            (&"waiting".into(), &"this agent asks too often".into())
        );
    }
    let counted = scrape(&world).await;
    assert_eq!(counted["syshold_approver_quiet_total"], 5.0);
    assert_eq!(
        counted["syshold_approver_notices_total{channel=ops,result=sent}"],
        4.0
    );
}

/// What prometheus_client's own parser of OpenMetrics reads: `name{label=value,…}` → value.
async fn scrape(world: &World) -> Value {
    const READ: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
out = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    for s in family.samples:
        labels = ",".join(f"{k}={v}" for k, v in sorted(s.labels.items()))
        out[s.name + ("{" + labels + "}" if labels else "")] = s.value
print(json.dumps(out))
"#;
    let url = format!("http://{}/metrics", world.metrics.unwrap());
    let answer = clear_client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        answer.headers()["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = answer.text().await.unwrap();
    for word in [
        "support-bot",
        "web-1",
        "example.com",
        "bob",
        "xoxb",
        "xapp",
        "T1",
    ] {
        assert!(!text.contains(word), "{word} is nobody's business: {text}");
    }
    let read = tokio::task::spawn_blocking(move || python::tell(READ, &[], &text));
    serde_json::from_str(&read.await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted() {
    let world = World::start_with(|config| {
        config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let host = world.host().await;
    let bob = world.person("bob", &[]);
    let id = host.ask().await.request_id;
    assert!(bob.approve(id, "once").await.status().is_success());
    let made = host.decision(id, "?wait=0").await;
    let mut outcome = host.outcome(id);
    outcome.decision_id = Some(made.decision_id);
    host.post_outcome(&outcome).await;
    let id = host.ask().await.request_id;
    bob.deny(id).await;
    let open = host.ask().await;
    host.put(&open).await;
    let counted = scrape(&world).await;
    for (name, value) in [
        ("requests_total{result=new}", 3.0),
        ("requests_total{result=known}", 1.0),
        ("decisions_total{channel=api,verdict=approve}", 1.0),
        ("decisions_total{channel=api,verdict=deny}", 1.0),
        ("answer_time_seconds_count", 2.0),
        ("answer_time_seconds_bucket{le=+Inf}", 2.0),
        ("outcomes_total{result=resumed}", 1.0),
        ("undecided_requests{state=waiting}", 1.0),
        ("undecided_requests{state=late}", 0.0),
        ("unrecorded_entries", 0.0),
    ] {
        assert_eq!(
            counted[format!("syshold_approver_{name}")],
            value,
            "{name} in {counted}"
        );
    }
    // Where people and hosts are, it is not.
    for url in [world.people_url("/metrics"), world.host_url("/metrics")] {
        assert_eq!(
            problem(world.http.get(url).send().await.unwrap()).await.0,
            404
        );
    }
    let url = format!("http://{}/", world.metrics.unwrap());
    assert_eq!(
        problem(clear_client().get(url).send().await.unwrap())
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn rubber_stamps_show() {
    let world = World::start().await;
    let host = world.host().await;
    let (bob, carl) = (world.person("bob", &[]), world.person("carl", &[]));
    for _ in 0..3 {
        let id = host.ask().await.request_id;
        // Shown an instant before: nobody reads so fast.
        assert!(bob.approve(id, "once").await.status().is_success());
    }
    let id = host.ask().await.request_id;
    let before = syshold_protocol::UnixMs::new(now().ms() - 60_000);
    world
        .store()
        .write(|tx| report::seen(tx, id, "carl", before))
        .unwrap();
    assert!(carl.approve(id, "once").await.status().is_success());
    assert!(
        carl.deny(host.ask().await.request_id)
            .await
            .status()
            .is_success()
    );
    let dir = world.dir.path().display().to_string();
    let run = |more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
            .args(["--dir", &dir, "report", "approvers"])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let habits: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let about = |who: usize, key: &str| habits[who][key].clone();
    assert_eq!(
        (about(0, "subject"), about(0, "approvals")),
        ("bob@example.com".into(), 3.into())
    );
    assert_eq!(
        (about(0, "approved_unread"), about(0, "share_unread")),
        (3.into(), json!(1.0))
    );
    assert_eq!(about(0, "most_approvals_in_an_hour"), 3);
    assert!(about(0, "median_seconds_to_approve").as_f64().unwrap() < 30.0);
    assert_eq!(
        (about(1, "subject"), about(1, "denials")),
        ("carl@example.com".into(), 1.into())
    );
    assert_eq!(about(1, "share_unread"), json!(0.0), "opened a minute ago");
    assert!(run(&[]).contains("100 %"));
}
