//! Answers in the ledger, held against the keys that it says were pinned: by whoever writes the
//! ledger, root with the live keys included, none can be made up.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod common;

use std::path::Path;

use common::{place, policy, request};
use serde_json::{Value, json};
use syshold_ledger::leaf::{Approver, DecidedBy, Verdict};
use syshold_ledger::note::{NoteSigner, Role};
use syshold_ledger::{
    Code, Draft, Exit, Kind, Ledger, Options, Redaction, Report, Trust, verify, verify_with,
};
use syshold_protocol::dsse::{self, Call};
use syshold_protocol::{
    Assurance, Channel, Decision, DecisionId, DecisionVerdict, Digest, Nonce, RequestId,
    Revocation, Revocations, SigningKey, UnixMs,
};
use uuid::Uuid;

const HOST: &str = "web-1";

fn open(path: &Path, openable: &[&str]) -> Ledger {
    let options = Options {
        openable: openable.iter().map(|path| (*path).to_owned()).collect(),
        epoch_leaves: 8,
        ..Options::default()
    };
    Ledger::open_with(path, HOST.parse().unwrap(), options).unwrap()
}

fn start(key: &SigningKey) -> Draft {
    let said = json!({"host_id": HOST, "keys": [key.public()]});
    Draft::new(Kind::Start).field("gateway", &said)
}

fn answer(request: Uuid, verdict: DecisionVerdict) -> Decision {
    let person = syshold_protocol::Approver {
        subject: "dave@example.com".parse().unwrap(),
        channel: Channel::Web,
        team_id: None,
        user_id: None,
        assurance: Assurance::Passkey,
        at: UnixMs::new(1_800_000_000_000),
        reason: Some("the quarterly export".to_owned()),
        standing: None,
        proof: None,
    };
    Decision {
        v: 1,
        decision_id: DecisionId(Uuid::now_v7()),
        request_id: RequestId(request),
        request_sha256: Digest([7; 32]),
        host_id: HOST.parse().unwrap(),
        nonce: Nonce([1; 16]),
        verdict,
        grant: None,
        approvers: match verdict {
            DecisionVerdict::Expired => Vec::new(),
            _ => vec![person],
        },
        policy_sha256: Digest([0xab; 32]),
        rendered_sha256: None,
        issued_at: UnixMs::new(1_800_000_000_000),
        ledger: None,
    }
}

fn seal(decision: &Decision, key: &SigningKey) -> String {
    String::from_utf8(dsse::seal(decision, key).unwrap().envelope).unwrap()
}

/// The leaf of a decision, as a host writes it.
fn decided(decision: &Decision, verdict: Verdict, by: DecidedBy) -> Draft {
    let people: Vec<_> = decision
        .approvers
        .iter()
        .map(|person| Approver {
            subject: person.subject.to_string(),
            channel: "web".to_owned(),
            method: "passkey".to_owned(),
            comment: person.reason.clone(),
            ..Approver::default()
        })
        .collect();
    let said = json!({"verdict": verdict, "by": by, "id": decision.decision_id});
    common::decision(decision.request_id.0, verdict, by)
        .field("decision", &said)
        .approvers(&people)
}

/// A ledger with one question, and what `leaf` makes of an answer to it; found in it.
fn with(key: &SigningKey, leaf: impl FnOnce(Uuid) -> Draft) -> Report {
    let (_dir, path) = place();
    let ledger = open(&path, &[]);
    let id = Uuid::now_v7();
    for draft in [start(key), policy(), request(id), leaf(id)] {
        ledger.append(draft).wait().unwrap();
    }
    drop(ledger);
    verify(&path, |_, _| {}).unwrap()
}

fn only(report: &Report, code: Code) {
    let codes: Vec<_> = report.errors.iter().map(|found| found.code).collect();
    assert_eq!(codes, [code], "{:?}", report.errors);
    assert_eq!(report.exit(), Exit::Tampered);
    assert_eq!(report.first_bad.as_ref().unwrap().idx, Some(4));
    assert_eq!(report.last_good, Some(3));
}

#[test]
fn answers_that_fit_are_believed() {
    use {DecidedBy as By, DecisionVerdict as Said, Verdict as Did};
    let key = SigningKey::generate();
    for (said, did, by) in [
        (Said::Approve, Did::Allow, By::Human),
        (Said::ApproveModified, Did::Allow, By::Human),
        (Said::Deny, Did::Deny, By::Human),
        (Said::Expired, Did::Deny, By::Timeout),
        // A rule may say so; that nobody approved is signed all the same.
        (Said::Expired, Did::Allow, By::Timeout),
    ] {
        let report = with(&key, |id| {
            let decision = answer(id, said);
            decided(&decision, did, by).field("envelope", &seal(&decision, &key))
        });
        assert_eq!(report.exit(), Exit::Clean, "{said}: {:?}", report.first_bad);
    }
    let report = with(&key, |id| grant(&answer(id, Said::Approve), &key));
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
}

/// A late approval.
fn grant(decision: &Decision, key: &SigningKey) -> Draft {
    Draft::new(Kind::Grant)
        .request(decision.request_id.0)
        .field("decision_id", &decision.decision_id)
        .field("envelope", &seal(decision, key))
        .approvers(&[Approver {
            subject: "dave@example.com".to_owned(),
            ..Approver::default()
        }])
}

#[test]
fn answers_that_were_made_up_changed_or_taken_from_elsewhere_are_found() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let human = DecidedBy::Human;
    let approve = |id| answer(id, DecisionVerdict::Approve);
    type Forged<'a> = Box<dyn Fn(Uuid) -> Draft + 'a>;
    let forgeries: Vec<(&str, Forged<'_>)> = vec![
        (
            "another key",
            Box::new(|id| {
                let decision = approve(id);
                decided(&decision, Verdict::Allow, human)
                    .field("envelope", &seal(&decision, &other))
            }),
        ),
        (
            "another request's",
            Box::new(|id| {
                let theirs = approve(Uuid::now_v7());
                let mut ours = theirs.clone();
                ours.request_id = RequestId(id);
                decided(&ours, Verdict::Allow, human).field("envelope", &seal(&theirs, &key))
            }),
        ),
        (
            "another decision's",
            Box::new(|id| {
                let (signed, named) = (approve(id), approve(id));
                decided(&named, Verdict::Allow, human).field("envelope", &seal(&signed, &key))
            }),
        ),
        (
            "another host's",
            Box::new(|id| {
                let mut decision = approve(id);
                decision.host_id = "web-2".parse().unwrap();
                decided(&decision, Verdict::Allow, human).field("envelope", &seal(&decision, &key))
            }),
        ),
        (
            "a denial made an approval",
            Box::new(|id| {
                let decision = answer(id, DecisionVerdict::Deny);
                decided(&decision, Verdict::Allow, human).field("envelope", &seal(&decision, &key))
            }),
        ),
        (
            "an approval made a denial",
            Box::new(|id| {
                let decision = approve(id);
                decided(&decision, Verdict::Deny, human).field("envelope", &seal(&decision, &key))
            }),
        ),
        (
            "other people",
            Box::new(|id| {
                let decision = approve(id);
                let mut named = decision.clone();
                named.approvers[0].subject = "erin@example.com".parse().unwrap();
                decided(&named, Verdict::Allow, human).field("envelope", &seal(&decision, &key))
            }),
        ),
        (
            "nothing",
            Box::new(|id| decided(&approve(id), Verdict::Allow, human)),
        ),
        (
            "signed, and no decision",
            Box::new(|id| {
                let call = Call {
                    v: 1,
                    host_id: HOST.parse().unwrap(),
                    method: "GET".to_owned(),
                    path: "/".to_owned(),
                    at: UnixMs::new(1),
                };
                let envelope = dsse::seal(&call, &key).unwrap().envelope;
                let text = String::from_utf8(envelope).unwrap();
                decided(&approve(id), Verdict::Allow, human).field("envelope", &text)
            }),
        ),
        (
            "a grant nobody signed",
            Box::new(|id| grant(&approve(id), &other)),
        ),
    ];
    for (what, forged) in &forgeries {
        println!("{what}");
        only(&with(&key, forged), Code::ApproverSig);
    }
    println!(
        "figure: {} kinds of forged answers: all found",
        forgeries.len()
    );
}

/// A list with one approval that was taken back.
fn taken_back(request: Uuid) -> Revocations {
    let decision = answer(request, DecisionVerdict::Approve);
    let entry = Revocation {
        n: 3,
        decision_id: decision.decision_id,
        request_id: decision.request_id,
        by: decision.approvers[0].clone(),
    };
    Revocations {
        v: 1,
        host_id: HOST.parse().unwrap(),
        since: 2,
        entries: vec![entry],
        latest: 3,
        issued_at: UnixMs::new(1_800_000_000_000),
    }
}

/// The leaf of it, as a host writes it.
fn revoked(list: &Revocations) -> Draft {
    let entry = &list.entries[0];
    Draft::new(Kind::Revoke)
        .request(entry.request_id.0)
        .field("decision_id", &entry.decision_id)
        .field("revoke", &json!({"cause": "revoked", "count": 0}))
        .approvers(&[Approver {
            subject: entry.by.subject.to_string(),
            comment: entry.by.reason.clone(),
            ..Approver::default()
        }])
}

fn sealed(list: &Revocations, key: &SigningKey) -> String {
    String::from_utf8(dsse::seal(list, key).unwrap().envelope).unwrap()
}

#[test]
fn approvals_taken_back_that_were_made_up_or_changed_are_found() {
    let (key, other) = (SigningKey::generate(), SigningKey::generate());
    let fits = |id| {
        let list = taken_back(id);
        revoked(&list).field("envelope", &sealed(&list, &key))
    };
    let report = with(&key, fits);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    // Another policy ends grants, too: nobody signs that.
    let said = json!({"cause": "policy_changed", "count": 1});
    let by_policy = |_| Draft::new(Kind::Revoke).field("revoke", &said);
    assert_eq!(with(&key, by_policy).exit(), Exit::Clean);

    type Change<'a> = &'a dyn Fn(&mut Revocations);
    let changes: [(&str, Change<'_>); 4] = [
        ("another host's", &|list| {
            list.host_id = "web-2".parse().unwrap();
        }),
        ("of another approval", &|list| {
            list.entries[0].decision_id = DecisionId(Uuid::now_v7());
        }),
        ("of another request", &|list| {
            list.entries[0].request_id = RequestId(Uuid::now_v7());
        }),
        ("by another person", &|list| {
            list.entries[0].by.subject = "erin@example.com".parse().unwrap();
        }),
    ];
    for (what, change) in changes {
        println!("{what}");
        let forged = |id| {
            let mut list = taken_back(id);
            let leaf = revoked(&list);
            change(&mut list);
            leaf.field("envelope", &sealed(&list, &key))
        };
        only(&with(&key, forged), Code::ApproverSig);
    }
    let unsigned = |id| revoked(&taken_back(id));
    only(&with(&key, unsigned), Code::ApproverSig);
    let strangers = |id| {
        let list = taken_back(id);
        revoked(&list).field("envelope", &sealed(&list, &other))
    };
    only(&with(&key, strangers), Code::ApproverSig);
    let a_decision = |id| {
        let decision = answer(id, DecisionVerdict::Approve);
        revoked(&taken_back(id)).field("envelope", &seal(&decision, &key))
    };
    only(&with(&key, a_decision), Code::ApproverSig);
}

#[test]
fn an_answer_in_a_ledger_that_pins_nobody_is_not_believed() {
    let (_dir, path) = place();
    let ledger = open(&path, &[]);
    let (id, key) = (Uuid::now_v7(), SigningKey::generate());
    let decision = answer(id, DecisionVerdict::Approve);
    let leaf = decided(&decision, Verdict::Allow, DecidedBy::Human);
    let leaf = leaf.field("envelope", &seal(&decision, &key));
    for draft in [Draft::new(Kind::Start), policy(), request(id), leaf] {
        ledger.append(draft).wait().unwrap();
    }
    drop(ledger);
    only(&verify(&path, |_, _| {}).unwrap(), Code::ApproverSig);

    // Whoever asks knows the gateway's key; the ledger cannot talk them out of it.
    let (_dir, path) = place();
    let ledger = open(&path, &[]);
    let leaf = decided(&decision, Verdict::Allow, DecidedBy::Human);
    let leaf = leaf.field("envelope", &seal(&decision, &key));
    for draft in [start(&key), policy(), request(id), leaf] {
        ledger.append(draft).wait().unwrap();
    }
    drop(ledger);
    let trusting = |key: &SigningKey| Trust {
        gateway: vec![key.public()],
        ..Trust::default()
    };
    let good = verify_with(&path, &trusting(&key), |_, _| {}).unwrap();
    assert_eq!(good.exit(), Exit::Clean);
    let stranger = SigningKey::generate();
    let report = verify_with(&path, &trusting(&stranger), |_, _| {}).unwrap();
    only(&report, Code::ApproverSig);
}

/// One flipped bit a leaf, in every byte that is signed or is the signature.
#[test]
fn every_flipped_byte_of_an_answer_is_found() {
    let (_dir, path) = place();
    let ledger = open(&path, &[]);
    let (id, key) = (Uuid::now_v7(), SigningKey::generate());
    for draft in [start(&key), policy(), request(id)] {
        ledger.append(draft).wait().unwrap();
    }
    let decision = answer(id, DecisionVerdict::Approve);
    let envelope = seal(&decision, &key);
    let parsed: Value = serde_json::from_str(&envelope).unwrap();
    let spots = [
        parsed["payload"].as_str().unwrap(),
        parsed["payloadType"].as_str().unwrap(),
        parsed["signatures"][0]["sig"].as_str().unwrap(),
    ];
    let mut pending = Vec::new();
    for spot in spots {
        let from = envelope.find(spot).unwrap();
        for at in from..from + spot.len() {
            let mut bytes = envelope.clone().into_bytes();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            let leaf = decided(&decision, Verdict::Allow, DecidedBy::Human);
            pending.push(ledger.append(leaf.field("envelope", &text)));
        }
    }
    let flips = pending.len() as u64;
    for leaf in pending {
        leaf.wait().unwrap();
    }
    drop(ledger);
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(report.error_count, flips);
    let code = |found: &syshold_ledger::Finding| found.code == Code::ApproverSig;
    assert!(report.errors.iter().all(code), "{:?}", report.errors);
    println!("figure: {flips} bytes of a signed answer flipped: all found");
    assert!(flips > 500);
}

/// What people wrote is in the signed answer, too: it goes with it, and everything else is proven.
#[test]
fn a_redacted_answer_is_missed_by_nobody_and_a_changed_one_is_found() {
    let (dir, path) = place();
    let ledger = open(&path, &["envelope", "approvers.comment"]);
    let key = SigningKey::generate();
    ledger.append(start(&key)).wait().unwrap();
    ledger.append(policy()).wait().unwrap();
    let say = |signed_by: &SigningKey| {
        let id = Uuid::now_v7();
        ledger.append(request(id)).wait().unwrap();
        let decision = answer(id, DecisionVerdict::Approve);
        let leaf = decided(&decision, Verdict::Allow, DecidedBy::Human);
        let leaf = leaf.field("envelope", &seal(&decision, signed_by));
        ledger.append(leaf).wait().unwrap().idx
    };
    let (redacted, _kept) = (say(&key), say(&key));
    assert_eq!(verify(&path, |_, _| {}).unwrap().exit(), Exit::Clean);
    let what = Redaction {
        idx: redacted,
        paths: Vec::new(),
        reason: "asked to be forgotten".into(),
        by: "privacy@example.com".into(),
    };
    let forged = say(&SigningKey::generate());
    ledger.redact(what).unwrap();
    drop(ledger);
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(
        (report.error_count, report.errors[0].idx),
        (1, Some(forged))
    );
    assert_eq!(report.errors[0].code, Code::ApproverSig);
    drop(dir);
}

/// The keys outlive the leaf that named them.
#[test]
fn after_pruning_answers_are_held_against_the_same_keys() {
    let (_dir, path) = place();
    let ledger = open(&path, &[]);
    let key = SigningKey::generate();
    let witness = NoteSigner::new("gateway.example", Role::Witness, &[9; 32]).unwrap();
    let named = json!({"witness": witness.verifier().to_string()});
    let anchor = Draft::new(Kind::Anchor).field("anchor", &named);
    for draft in [start(&key), policy(), anchor] {
        ledger.append(draft).wait().unwrap();
    }
    for _ in 0..30 {
        ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let latest = ledger.published().borrow().clone().unwrap();
    let (mut note, _) = syshold_ledger::note::parse_checkpoint(&latest.note).unwrap();
    note.signatures
        .push(witness.sign(&note.text, 1_900_000_000));
    runtime.block_on(ledger.cosigned(note)).unwrap();
    let proof = verify(&path, |_, _| {}).unwrap();
    let reader = syshold_ledger::Reader::open(&path).unwrap();
    let plan =
        syshold_ledger::prune::plan(&reader, &proof, jiff::Timestamp::now(), 0, &[]).unwrap();
    drop(reader);
    ledger.prune(plan, "alice".to_owned()).unwrap();
    let say = |signed_by: &SigningKey| {
        let id = Uuid::now_v7();
        ledger.append(request(id)).wait().unwrap();
        let decision = answer(id, DecisionVerdict::Approve);
        let leaf = decided(&decision, Verdict::Allow, DecidedBy::Human);
        let leaf = leaf.field("envelope", &seal(&decision, signed_by));
        ledger.append(leaf).wait().unwrap().idx
    };
    say(&key);
    let report = verify(&path, |_, _| {}).unwrap();
    assert!(report.first > 3, "the start leaf is gone");
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let forged = say(&SigningKey::generate());
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(
        (report.error_count, report.errors[0].idx),
        (1, Some(forged))
    );
    assert_eq!(report.errors[0].code, Code::ApproverSig);
}
