//! The gateway's ledger: complete, provable, and before everything else.
use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use rusqlite::{Connection, TransactionBehavior};
use serde_json::Value;
use syshold_ledger::{Exit, verify};
use syshold_protocol::{DecisionVerdict, OutcomeResult};

use crate::world::{World, problem};

fn ledger(dir: &Path) -> PathBuf {
    dir.join("ledger.db")
}

/// Every leaf, as it was hashed.
pub(crate) fn leaves(dir: &Path) -> Vec<Value> {
    let file = Connection::open(ledger(dir)).unwrap();
    let mut all = file.prepare("SELECT body FROM leaf ORDER BY idx").unwrap();
    let rows = all.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|body| serde_json::from_str(&body.unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn every_way_a_request_can_end_is_in_it_and_it_proves_itself() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let [approved, denied, withdrawn] =
        [host.ask().await, host.ask().await, host.ask().await].map(|r| r.request_id);
    bob.approve(approved, "10m").await;
    bob.deny(denied).await;
    host.withdraw(withdrawn).await;
    let mut brief = host.request();
    brief.hold_until = crate::world::now().plus(800);
    host.put(&brief).await;
    let expired = host.decision(brief.request_id, "?wait=10").await;
    bob.approve(brief.request_id, "once").await;
    let mut outcome = host.outcome(approved);
    outcome.decision_id = Some(host.decision(approved, "").await.decision_id);
    host.post_outcome(&outcome).await;
    let mut gone = host.outcome(host.ask().await.request_id);
    gone.result = OutcomeResult::ProcessGone;
    assert_eq!(
        host.post_outcome(&gone).await.status(),
        StatusCode::NO_CONTENT,
        "nobody decided that one"
    );
    let mut huge = host.request();
    huge.process.argv = vec!["x".repeat(200); 200];
    huge.agent_reason = Some("y".repeat(4000));
    assert_eq!(host.put(&huge).await.status(), StatusCode::CREATED);

    let dir = world.stop().await;
    let kinds: Vec<_> = leaves(dir.path())
        .iter()
        .map(|leaf| leaf["kind"].as_str().unwrap().to_owned())
        .collect();
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!(
        (
            count("request"),
            count("decision"),
            count("outcome"),
            count("policy")
        ),
        (6, 5, 1, 1),
        "{kinds:?}"
    );
    assert_eq!(
        (kinds[1].as_str(), kinds.last().unwrap().as_str()),
        ("start", "stop")
    );
    let decision = |id: &str| {
        leaves(dir.path())
            .into_iter()
            .find(|leaf| leaf["kind"] == "decision" && leaf["request"] == *id)
            .unwrap()
    };
    let leaf = decision(&approved.to_string());
    assert_eq!(
        (&leaf["decision"]["verdict"], &leaf["decision"]["by"]),
        (&"allow".into(), &"human".into())
    );
    assert_eq!(leaf["approvers"][0]["subject"], "bob@example.com");
    assert_eq!(leaf["asker"]["host_id"], host.id.as_str());
    assert_eq!(
        decision(&denied.to_string())["approvers"][0]["comment"],
        "not this one"
    );
    assert_eq!(
        decision(&brief.request_id.to_string())["decision"]["by"],
        "timeout"
    );
    assert_eq!(expired.verdict, DecisionVerdict::Expired);
    let dir_text = dir.path().display().to_string();
    let shown = std::process::Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
        .args(["--dir", &dir_text, "ledger", "verify"])
        .output()
        .unwrap();
    assert!(
        shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("clean"),
        "{shown:?}"
    );
    let report = verify(&ledger(dir.path()), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_does_not_have_is_not_handed_out() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let request = host.ask().await;
    let id = request.request_id;
    let digest = bob.show(id).await["rendered_sha256"].clone();

    let mut blocker = Connection::open(ledger(world.dir.path())).unwrap();
    let lock = blocker
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let body = serde_json::json!({"scope": "once", "rendered_sha256": digest});
    assert_eq!(
        problem(bob.post(id, "approve", &body).await).await,
        (503, "ledger".to_owned())
    );
    assert_eq!(
        problem(host.poll(id, "?wait=1").await).await,
        (503, "ledger".to_owned()),
        "decided, and kept back"
    );
    let unheard = host.request();
    assert_eq!(
        problem(host.put(&unheard).await).await,
        (503, "ledger".to_owned()),
        "nor is a request taken"
    );

    drop(lock);
    drop(blocker);
    let decision = host.decision(id, "?wait=20").await;
    assert_eq!(
        decision.verdict,
        DecisionVerdict::Approve,
        "what was decided stays decided"
    );
    assert_eq!(
        host.put(&unheard).await.status(),
        StatusCode::OK,
        "it was kept; the host asks again"
    );
    let dir = world.stop().await;
    let of_it = |kind: &str| {
        leaves(dir.path())
            .into_iter()
            .filter(|l| l["kind"] == kind && l["request"] == *id.to_string())
            .count()
    };
    assert_eq!((of_it("request"), of_it("decision")), (1, 1));
    assert_eq!(
        verify(&ledger(dir.path()), |_, _| {}).unwrap().exit(),
        Exit::Clean
    );
}

#[tokio::test]
async fn one_gateway_a_folder() {
    let world = World::start().await;
    let second =
        syshold_approver::serve::Gateway::start(&crate::world::config(world.dir.path())).await;
    let error = second.err().expect("must not start").to_string();
    assert!(error.contains("ledger.db"), "{error}");
}
