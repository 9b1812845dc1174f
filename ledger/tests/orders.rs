//! Break-glass orders in a ledger are what two people signed with the keys that the policy pins.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]
mod common;

use std::path::Path;

use common::{POLICY, place, policy};
use serde_json::{Value, json};
use syshold_ledger::leaf::{Agent, Approver, DecidedBy, Policy, Verdict};
use syshold_ledger::note::{NoteSigner, Role};
use syshold_ledger::{
    Code, Draft, Exit, Kind, Ledger, Options, Report, Trust, verify, verify_with,
};
use syshold_protocol::break_glass::Order;
use syshold_protocol::{DecisionId, SigningKey, UnixMs, dsse};
use uuid::Uuid;

const AGENT: &str = "support-bot";
const OTHER: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// Dora and Erik keep a key each; Mallory has one that no policy names.
struct Keys {
    dora: SigningKey,
    erik: SigningKey,
    mallory: SigningKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            dora: SigningKey::generate(),
            erik: SigningKey::generate(),
            mallory: SigningKey::generate(),
        }
    }

    /// What `[[break_glass]]` becomes in the leaf of a policy.
    fn listed(&self) -> Value {
        json!([
            {"subject": "dora@example.com", "key": self.dora.public()},
            {"subject": "erik@example.com", "key": self.erik.public()},
        ])
    }

    fn beginning(&self) -> [Draft; 2] {
        let gateway = json!({"host_id": "web-1", "keys": []});
        [
            Draft::new(Kind::Start).field("gateway", &gateway),
            policy().field("break_glass", &self.listed()),
        ]
    }

    fn sealed(&self, order: &Order) -> String {
        signed(order, &[&self.dora, &self.erik])
    }
}

fn signed(order: &Order, keys: &[&SigningKey]) -> String {
    let mut envelope = dsse::seal(order, keys[0]).unwrap().envelope;
    for key in &keys[1..] {
        envelope = dsse::countersign::<Order>(&envelope, key).unwrap();
    }
    String::from_utf8(envelope).unwrap()
}

fn order() -> Order {
    let now = UnixMs::from(std::time::SystemTime::now());
    Order {
        v: 1,
        order_id: DecisionId(Uuid::now_v7()),
        host_id: "web-1".parse().unwrap(),
        agent: AGENT.to_owned(),
        rules: vec!["egress".to_owned()],
        reason: "INC-7: the gateway is down".to_owned(),
        from: now,
        until: now.plus(600_000),
    }
}

fn people(names: &[&str]) -> Vec<Approver> {
    let person = |name: &&str| Approver {
        subject: format!("{name}@example.com"),
        channel: "break_glass".to_owned(),
        method: "offline_key".to_owned(),
        ..Approver::default()
    };
    names.iter().map(person).collect()
}

/// The leaf of an order, as a host writes it.
fn recorded(order: &Order, envelope: &str) -> Draft {
    Draft::new(Kind::BreakGlass)
        .agent(&Agent {
            name: order.agent.clone(),
            ..Agent::default()
        })
        .policy(&Policy {
            sha256: POLICY.into(),
            rule: None,
            why: Some(order.reason.clone()),
        })
        .approvers(&people(&["dora", "erik"]))
        .field("decision_id", &order.order_id)
        .field("rules", &order.rules)
        .field("until", &order.until.to_string())
        .field("order", envelope)
}

fn decided(order: &Order) -> Draft {
    let said = json!({"verdict": "allow", "by": "break_glass", "id": order.order_id});
    common::decision(Uuid::now_v7(), Verdict::Allow, DecidedBy::BreakGlass)
        .field("decision", &said)
        .approvers(&people(&["dora", "erik"]))
}

fn write(path: &Path, leaves: impl IntoIterator<Item = Draft>) {
    let options = Options {
        epoch_leaves: 8,
        ..Options::default()
    };
    let ledger = Ledger::open_with(path, "web-1".parse().unwrap(), options).unwrap();
    for leaf in leaves {
        ledger.append(leaf).wait().unwrap();
    }
}

fn of(keys: &Keys, leaves: impl IntoIterator<Item = Draft>) -> Report {
    let (_dir, path) = place();
    write(&path, keys.beginning().into_iter().chain(leaves));
    verify(&path, |_, _| {}).unwrap()
}

/// What was found: the code, and at which leaf. Genesis, start and policy are before the first.
fn found(report: &Report) -> Vec<(Code, Option<u64>)> {
    let place = |found: &syshold_ledger::Finding| (found.code, found.idx);
    report.errors.iter().map(place).collect()
}

#[test]
fn orders_that_two_people_signed_are_believed_and_what_they_let_through() {
    let (keys, order) = (Keys::new(), order());
    let ended = Draft::new(Kind::BreakGlass).field("ended", &[order.order_id]);
    let refused = Draft::new(Kind::BreakGlass).field("refused", "1 of 2 people signed it");
    // The gateway's own note of it, in the gateway's ledger.
    let noted = Draft::new(Kind::BreakGlass)
        .field("asker", &json!({"host_id": "web-2"}))
        .field("decision_id", &order.order_id)
        .field("order", &order);
    let leaves = [
        refused,
        recorded(&order, &keys.sealed(&order)),
        decided(&order),
        decided(&order),
        ended,
        noted,
    ];
    let report = of(&keys, leaves);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.errors);
}

#[test]
fn orders_that_were_made_up_changed_or_taken_from_elsewhere_are_found() {
    let keys = Keys::new();
    type Forged<'a> = Box<dyn Fn(Order) -> Draft + 'a>;
    let old = |mut order: Order| {
        order.from = UnixMs::new(1_700_000_000_000);
        order.until = order.from.plus(600_000);
        recorded(&order, &keys.sealed(&order))
    };
    let changed = |order: &Order, change: fn(&mut Order)| {
        let mut named = order.clone();
        change(&mut named);
        recorded(&named, &keys.sealed(order))
    };
    let forgeries: Vec<(&str, Forged<'_>)> = vec![
        (
            "no order",
            Box::new(|order| recorded(&order, &keys.sealed(&order)).field("order", &Value::Null)),
        ),
        ("not signed", Box::new(|order| recorded(&order, "{}"))),
        (
            "one person",
            Box::new(|order| recorded(&order, &signed(&order, &[&keys.dora]))),
        ),
        (
            "one person and a stranger",
            Box::new(|order| recorded(&order, &signed(&order, &[&keys.dora, &keys.mallory]))),
        ),
        (
            "one person twice",
            Box::new(|order| recorded(&order, &signed(&order, &[&keys.dora, &keys.dora]))),
        ),
        (
            "strangers",
            Box::new(|order| recorded(&order, &signed(&order, &[&keys.mallory]))),
        ),
        (
            "another host's",
            Box::new(|mut order| {
                order.host_id = "web-2".parse().unwrap();
                recorded(&order, &keys.sealed(&order))
            }),
        ),
        (
            "for an hour",
            Box::new(|mut order| {
                order.until = order.from.plus(3_600_000);
                recorded(&order, &keys.sealed(&order))
            }),
        ),
        ("long over", Box::new(old)),
        (
            "another id",
            Box::new(|order| changed(&order, |named| named.order_id = DecisionId(Uuid::nil()))),
        ),
        (
            "another agent",
            Box::new(|order| changed(&order, |named| named.agent = "build-bot".to_owned())),
        ),
        (
            "more rules",
            Box::new(|order| changed(&order, |named| named.rules.clear())),
        ),
        (
            "a later end",
            Box::new(|order| changed(&order, |named| named.until = named.until.plus(1))),
        ),
        (
            "other people",
            Box::new(|order| {
                recorded(&order, &keys.sealed(&order)).approvers(&people(&["dora", "frank"]))
            }),
        ),
    ];
    for (what, forged) in &forgeries {
        let report = of(&keys, [forged(order())]);
        assert_eq!(found(&report), [(Code::ApproverSig, Some(3))], "{what}");
        assert_eq!((report.exit(), report.last_good), (Exit::Tampered, Some(2)));
    }
    println!(
        "figure: {} kinds of forged orders: all found",
        forgeries.len()
    );
}

#[test]
fn every_flipped_byte_of_an_order_is_found() {
    let (keys, order) = (Keys::new(), order());
    let envelope = keys.sealed(&order);
    let parsed: Value = serde_json::from_str(&envelope).unwrap();
    let spots = [
        &parsed["payload"],
        &parsed["payloadType"],
        &parsed["signatures"][0]["sig"],
        &parsed["signatures"][1]["sig"],
    ];
    let mut leaves = Vec::new();
    for spot in spots {
        let spot = spot.as_str().unwrap();
        let from = envelope.find(spot).unwrap();
        for at in from..from + spot.len() {
            let mut bytes = envelope.clone().into_bytes();
            bytes[at] ^= 1;
            leaves.push(recorded(&order, &String::from_utf8(bytes).unwrap()));
        }
    }
    let flips = leaves.len() as u64;
    let (_dir, path) = place();
    let ledger = common::open(&path);
    let pending: Vec<_> = keys
        .beginning()
        .into_iter()
        .chain(leaves)
        .map(|leaf| ledger.append(leaf))
        .collect();
    for leaf in pending {
        leaf.wait().unwrap();
    }
    drop(ledger);
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(report.error_count, flips);
    assert!(
        report
            .errors
            .iter()
            .all(|found| found.code == Code::ApproverSig)
    );
    println!("figure: {flips} bytes of a signed order flipped: all found");
    assert!(flips > 400);
}

/// An order that ended 55 s ago: it may be recorded, and used, a minute after its end.
fn over() -> Order {
    let mut order = order();
    order.until = UnixMs::new(order.from.ms() - 55_000);
    order.from = UnixMs::new(order.until.ms() - 600_000);
    order
}

/// Until that minute has passed, too.
fn wait_for_its_end() {
    std::thread::sleep(std::time::Duration::from_millis(5500));
}

#[test]
fn a_decision_after_the_end_of_its_order_is_found() {
    let (keys, order) = (Keys::new(), over());
    let (_dir, path) = place();
    let in_force = [recorded(&order, &keys.sealed(&order)), decided(&order)];
    write(&path, keys.beginning().into_iter().chain(in_force));
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.errors);
    wait_for_its_end();
    write(&path, [decided(&order)]);
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(found(&report), [(Code::ApproverSig, Some(5))]);
}

#[test]
fn a_decision_by_an_order_that_is_not_in_force_is_found() {
    let (keys, order) = (Keys::new(), order());
    let in_force = || recorded(&order, &keys.sealed(&order));
    let ended = Draft::new(Kind::BreakGlass).field("ended", &[order.order_id]);
    let [start, same_policy] = keys.beginning();
    let of_agent = Agent {
        name: "build-bot".into(),
        ..Agent::default()
    };
    let by_rule = Policy {
        sha256: POLICY.into(),
        rule: Some("pii-read".into()),
        why: None,
    };
    let table: [(&str, Vec<Draft>); 7] = [
        ("no order", vec![]),
        ("it was ended", vec![in_force(), ended]),
        ("the daemon began anew", vec![in_force(), start]),
        ("another policy came", vec![in_force(), same_policy]),
        (
            "another agent",
            vec![in_force(), decided(&order).agent(&of_agent)],
        ),
        (
            "another rule",
            vec![in_force(), decided(&order).policy(&by_rule)],
        ),
        (
            "other people",
            vec![in_force(), decided(&order).approvers(&people(&["dora"]))],
        ),
    ];
    for (what, mut leaves) in table {
        let whole = leaves.len() == 2 && leaves[1].kind() == Kind::Decision;
        if !whole {
            leaves.push(decided(&order));
        }
        let last = 2 + leaves.len() as u64;
        let report = of(&keys, leaves);
        assert_eq!(found(&report), [(Code::ApproverSig, Some(last))], "{what}");
    }
}

#[test]
fn only_keys_of_the_policy_in_force_count_or_those_that_whoever_asks_knows() {
    let (keys, order) = (Keys::new(), order());
    let leaf = || recorded(&order, &keys.sealed(&order));
    // Whoever has left, and the key with them: the policy that named it is history.
    let later = Draft::new(Kind::Policy).policy(&Policy {
        sha256: OTHER.into(),
        ..Policy::default()
    });
    let report = of(&keys, [later, leaf()]);
    assert_eq!(found(&report), [(Code::ApproverSig, Some(4))]);
    let nowhere = Draft::new(Kind::Start);
    let report = of(&keys, [nowhere, leaf()]);
    assert_eq!(found(&report), [(Code::ApproverSig, Some(4))]);

    let (_dir, path) = place();
    write(&path, keys.beginning().into_iter().chain([leaf()]));
    let trusting = |key: &SigningKey| Trust {
        break_glass: vec![keys.dora.public(), key.public()],
        ..Trust::default()
    };
    let report = verify_with(&path, &trusting(&keys.erik), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.errors);
    let report = verify_with(&path, &trusting(&keys.mallory), |_, _| {}).unwrap();
    assert_eq!(found(&report), [(Code::ApproverSig, Some(3))]);
}

/// Keys and orders outlive the leaves that named them.
#[test]
fn after_pruning_orders_are_held_against_the_same_keys() {
    let (_dir, path) = place();
    let (keys, order) = (Keys::new(), order());
    let witness = NoteSigner::new("gateway.example", Role::Witness, &[9; 32]).unwrap();
    let named = json!({"witness": witness.verifier().to_string()});
    let anchor = Draft::new(Kind::Anchor).field("anchor", &named);
    let leaves = keys.beginning().into_iter();
    let late = over();
    let orders = [&order, &late].map(|order| recorded(order, &keys.sealed(order)));
    let leaves = leaves.chain([anchor]).chain(orders);
    write(
        &path,
        leaves.chain((0..30).map(|_| Draft::new(Kind::Review))),
    );
    let ledger = common::open(&path);
    ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let latest = ledger.published().borrow().clone().unwrap();
    let (mut note, _) = syshold_ledger::note::parse_checkpoint(&latest.note).unwrap();
    note.signatures
        .push(witness.sign(&note.text, 1_900_000_000));
    runtime.block_on(ledger.cosigned(note)).unwrap();
    let proof = verify(&path, |_, _| {}).unwrap();
    assert_eq!(proof.exit(), Exit::Clean, "{:?}", proof.errors);
    let reader = syshold_ledger::Reader::open(&path).unwrap();
    let now = jiff::Timestamp::now();
    let plan = syshold_ledger::prune::plan(&reader, &proof, now, 0, &[]).unwrap();
    drop(reader);
    ledger.prune(plan, "alice".to_owned()).unwrap();
    let another = self::order();
    for leaf in [
        decided(&order),
        recorded(&another, &keys.sealed(&another)),
        decided(&another),
    ] {
        ledger.append(leaf).wait().unwrap();
    }
    let report = verify(&path, |_, _| {}).unwrap();
    assert!(report.first > 6, "the orders and their policy are gone");
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.errors);
    let made_up = self::order();
    let envelope = signed(&made_up, &[&keys.dora, &keys.mallory]);
    let forged = ledger.append(recorded(&made_up, &envelope)).wait().unwrap();
    wait_for_its_end();
    let after = ledger.append(decided(&late)).wait().unwrap();
    let report = verify(&path, |_, _| {}).unwrap();
    let both = [forged, after].map(|leaf| (Code::ApproverSig, Some(leaf.idx)));
    assert_eq!(found(&report), both, "also when its end is carried");
}
