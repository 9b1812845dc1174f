//! What is kept of answers and orders, read back from a real ledger.
use syshold_ledger::{Ledger, Reader};
use syshold_protocol::ids::DecisionId;
use syshold_protocol::{SigningKey, dsse};
use uuid::Uuid;

use super::*;
use crate::gate::Now;

#[test]
fn what_people_signed_is_kept_with_what_they_signed_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let granted = Granted {
        lifespan: Lifespan::Process,
        uses: None,
        ends: Now(0),
    };
    for request in [None, Some(br#"{"nonce":"00"}"#.to_vec())] {
        let approval = Approval {
            decision_id: DecisionId(Uuid::nil()),
            approvers: Vec::new(),
            envelope: b"{\"payload\":\"\"}".to_vec(),
            request,
        };
        let leaf = grant_leaf(RequestId(Uuid::nil()), &granted, &approval);
        ledger.append(leaf).wait().unwrap();
    }
    drop(ledger);
    let leaves = Reader::open(&path).unwrap().tail(10).unwrap();
    let bodies: Vec<Value> = leaves
        .iter()
        .map(|leaf| serde_json::from_str(&leaf.body).unwrap())
        .filter(|body: &Value| body.get("envelope").is_some())
        .collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0].get("request_payload"), None);
    assert_eq!(bodies[1]["request_payload"], r#"{"nonce":"00"}"#);
    assert_eq!(bodies[1]["envelope"], "{\"payload\":\"\"}");
}

#[test]
fn every_grant_that_is_revoked_is_named_however_many_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let place =
        crate::gate::Place::Address(crate::request::Transport::Tcp, ([192, 0, 2, 1], 443).into());
    let rule = "r".repeat(200);
    let grant = |n: u128| GrantView {
        subject: crate::gate::Subject::Agent(crate::request::AgentId(0)),
        rule: &rule,
        object: &place,
        request: Some(RequestId(Uuid::from_u128(n))),
        decision: DecisionId(Uuid::from_u128(n)),
        uses_left: Some(1),
        ends: Now(0),
    };
    assert!(revoke_leaves([].into_iter(), "policy_changed").is_empty());
    for leaf in revoke_leaves((0..450).map(grant), "policy_changed") {
        ledger.append(leaf).wait().unwrap();
    }
    drop(ledger);
    let leaves = Reader::open(&path).unwrap().tail(10).unwrap();
    let leaves = leaves.iter().map(syshold_ledger::Leaf::value);
    let revoked: Vec<_> = leaves.filter(|leaf| leaf["kind"] == "revoke").collect();
    let mut named: Vec<_> = revoked
        .iter()
        .flat_map(|leaf| leaf["revoke"]["grants"].as_array().unwrap())
        .map(|grant| grant["decision_id"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!((revoked.len(), named.len()), (5, 450));
    assert_eq!(revoked[0]["revoke"]["cause"], "policy_changed");
}

#[test]
fn an_approval_that_was_taken_back_is_named_with_who_and_why_and_proves_itself() {
    use syshold_protocol::{Assurance, Channel, Revocations};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let key = SigningKey::generate();
    let entry = Revocation {
        n: 4,
        decision_id: DecisionId(Uuid::from_u128(1)),
        request_id: RequestId(Uuid::from_u128(2)),
        by: Approver {
            subject: "bob@example.com".parse().unwrap(),
            channel: Channel::Web,
            team_id: None,
            user_id: None,
            assurance: Assurance::Session,
            at: UnixMs::new(1_700_000_000_000),
            reason: Some("the wrong bucket".to_owned()),
            standing: None,
            proof: None,
        },
    };
    let list = Revocations {
        v: VERSION,
        host_id: "host-1".parse().unwrap(),
        since: 3,
        entries: vec![entry.clone()],
        latest: 4,
        issued_at: entry.by.at,
    };
    let envelope = dsse::seal(&list, &key).unwrap().envelope;
    let place =
        crate::gate::Place::Address(crate::request::Transport::Tcp, ([192, 0, 2, 1], 443).into());
    let grant = GrantView {
        subject: crate::gate::Subject::Agent(crate::request::AgentId(0)),
        rule: "egress",
        object: &place,
        request: Some(entry.request_id),
        decision: entry.decision_id,
        uses_left: None,
        ends: Now(0),
    };
    let gateway = json!({"host_id": "host-1", "keys": [key.public()]});
    // The leaf of an approval that was used up names no grant.
    for grants in [&[grant][..], &[]] {
        let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
        for leaf in [
            Draft::new(Kind::Start).field("gateway", &gateway),
            revoked_leaf(&entry, grants.iter(), &envelope),
        ] {
            ledger.append(leaf).wait().unwrap();
        }
        drop(ledger);
        let proof = syshold_ledger::verify(&path, |_, _| ()).unwrap();
        assert_eq!(proof.errors, [], "nothing speaks against it");
        let leaf = Reader::open(&path).unwrap().tail(1).unwrap().remove(0);
        let record = syshold_ledger::record::Record::of(&leaf);
        assert_eq!(record.who(), "bob@example.com");
        assert_eq!(record.detail, format!("{} grants: revoked", grants.len()));
        let leaf = leaf.value();
        assert_eq!(
            leaf["revoke"]["grants"].as_array().unwrap().len(),
            grants.len()
        );
        assert_eq!(leaf["request"], entry.request_id.to_string());
        assert_eq!(leaf["decision_id"], entry.decision_id.to_string());
        assert_eq!(leaf["approvers"][0]["comment"], "the wrong bucket");
    }
}

fn connect(agent: &str) -> Fact {
    Fact {
        tid: 7,
        tgid: 7,
        process: crate::gate::Process {
            tgid: 7,
            start_ns: 1,
        },
        held_at: Now(0),
        comm: "bot".to_owned(),
        syscall: 42,
        argv: 0,
        hook: 0,
        class_names: vec![],
        host: None,
        agent: agent.to_owned(),
        request: crate::request::Request {
            agent: crate::request::AgentId(0),
            actions: crate::request::Actions::from(crate::request::Action::Connect),
            object: Object::Socket {
                cookie: 1,
                transport: crate::request::Transport::Tcp,
                to: ([192, 0, 2, 1], 443).into(),
            },
            classes: crate::request::Classes::default(),
            taint: crate::request::Classes::default(),
            exec: None,
        },
        looking: false,
        leave: None,
        released: None,
        continued: false,
    }
}

#[test]
fn a_broken_glass_is_in_the_ledger_proves_itself_and_is_first_in_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let keys = ["dora", "erik"].map(|who| (who, SigningKey::generate()));
    let mut text = "[[govern]]\nname = \"bot\"\nowner = \"carol@example.com\"\n".to_owned();
    for (who, key) in &keys {
        let public = key.public();
        text +=
            &format!("[[break_glass]]\nsubject = \"{who}@example.com\"\nkeys = [\"{public}\"]\n");
    }
    let policy = crate::policy::testing::parsed(&text);
    let now = UnixMs::from(std::time::SystemTime::now());
    let order = break_glass::Order {
        v: VERSION,
        order_id: DecisionId(Uuid::from_u128(5)),
        host_id: "host-1".parse().unwrap(),
        agent: "bot".to_owned(),
        rules: vec![],
        reason: "INC-7".to_owned(),
        from: now,
        until: now.plus(600_000),
    };
    let sealed = dsse::seal(&order, &keys[0].1).unwrap().envelope;
    let sealed = dsse::countersign::<break_glass::Order>(&sealed, &keys[1].1).unwrap();
    let envelope = String::from_utf8(sealed).unwrap();
    let signers: Vec<_> = ["dora@example.com", "erik@example.com"]
        .map(|who| who.parse().unwrap())
        .into();
    let approvers = signers
        .iter()
        .map(|who: &syshold_protocol::Subject| Approver {
            subject: who.clone(),
            channel: syshold_protocol::Channel::Cli,
            team_id: None,
            user_id: None,
            assurance: syshold_protocol::Assurance::Token,
            at: order.from,
            reason: Some(order.reason.clone()),
            standing: None,
            proof: None,
        });
    let approval = std::sync::Arc::new(Approval {
        decision_id: order.order_id,
        approvers: approvers.collect(),
        envelope: envelope.clone().into_bytes(),
        request: None,
    });
    let accepted = break_glass::Accepted {
        order,
        signers,
        ttl_ms: 600_000,
    };
    let decision = |verdict, by, cause| Decision {
        verdict,
        by,
        cause,
        reason: crate::rules::Reason {
            rule: "egress".to_owned(),
            why: String::new(),
            taint: crate::request::Classes::default(),
        },
        request: None,
        granted: None,
        approval: (by == By::BreakGlass).then(|| std::sync::Arc::clone(&approval)),
    };
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let fact = connect("bot");
    let denied = decision(Verdict::Deny, By::Timeout, crate::gate::Cause::Expired);
    let let_through = decision(Verdict::Allow, By::BreakGlass, crate::gate::Cause::Ordered);
    let gateway = json!({"host_id": "host-1", "keys": []});
    for leaf in [
        Draft::new(Kind::Start).field("gateway", &gateway),
        policy_leaf(&policy, Path::new("/etc/syshold/agent.toml")),
        decision_leaf(HoldId(1), &fact, &denied, &policy),
        break_glass_leaf(&accepted, &envelope, &approval, &policy),
        decision_leaf(HoldId(2), &fact, &let_through, &policy),
    ] {
        ledger.append(leaf).wait().unwrap();
    }
    drop(ledger);
    let proof = syshold_ledger::verify(&path, |_, _| ()).unwrap();
    assert_eq!(proof.errors, [], "nothing speaks against it");
    let reader = Reader::open(&path).unwrap();
    let leaf = reader.tail(1).unwrap().remove(0).value();
    assert_eq!(leaf["decision"]["by"], "break_glass");
    assert_eq!(leaf["decision"]["id"], accepted.order.order_id.to_string());
    assert_eq!(leaf["approvers"][1]["subject"], "erik@example.com");
    assert_eq!(leaf["approvers"][1]["method"], "offline_key");
    let query = syshold_ledger::query::Query::default();
    let now = jiff::Timestamp::now();
    let page = syshold_ledger::report::html(&reader, &query, &proof, now).unwrap();
    let of = |text: &str| {
        page.find(text)
            .unwrap_or_else(|| panic!("{text} in {page}"))
    };
    assert!(page.contains("<b>1</b>let through by break-glass: review due"));
    assert!(of("<span class=\"mark\">break-glass</span>") < of("\u{2718} denied"));
}
