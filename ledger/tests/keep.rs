//! Redaction and pruning: what goes is gone from every file, what stays still proves itself.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
mod common;

use std::path::Path;

use common::{decision, forger, outcome, place, policy, request};
use jiff::{Timestamp, ToSpan as _};
use syshold_ledger::leaf::{DecidedBy, Process, Verdict};
use syshold_ledger::note::{NoteSigner, Role, VerifierKey, parse_checkpoint};
use syshold_ledger::prune::{self, PruneError};
use syshold_ledger::{
    Code, Draft, Exit, Kind, Ledger, Options, Reader, Redaction, Report, Trust, UpkeepError, tree,
    verify, verify_with, witness,
};
use uuid::Uuid;

const SECRET: &str = "--password=correct-horse-battery";

fn check(path: &Path) -> Report {
    verify(path, |_, _| {}).unwrap()
}

fn codes(report: &Report) -> Vec<Code> {
    report.errors.iter().map(|finding| finding.code).collect()
}

fn open(path: &Path) -> Ledger {
    let options = Options {
        epoch_leaves: 16,
        openable: ["process.argv", "process.cwd", "approvers.comment"]
            .map(str::to_owned)
            .into(),
        ..Options::default()
    };
    Ledger::open_with(path, "web-1".parse().unwrap(), options).unwrap()
}

fn with_secret() -> Draft {
    Draft::new(Kind::Review).process(&Process {
        pid: 7,
        start: "1".into(),
        exe: "/usr/bin/curl".into(),
        argv: vec!["curl".into(), SECRET.into()],
        cwd: Some("/srv/pii".into()),
        ..Process::default()
    })
}

fn in_any_file(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[test]
fn what_is_redacted_is_gone_and_every_proof_holds() {
    let (dir, path) = place();
    let ledger = open(&path);
    ledger.append(policy()).wait().unwrap();
    let idx = ledger.append(with_secret()).wait().unwrap().idx;
    let other = ledger.append(with_secret()).wait().unwrap().idx;
    let reader = Reader::open(&path).unwrap();
    let before = reader.show(idx).unwrap().unwrap();
    assert!(!before.body.contains(SECRET));
    assert_eq!(reader.openings(idx).unwrap().len(), 2);
    assert!(reader.openings(idx).unwrap()[0].1.contains(SECRET));
    let proof = reader.proof(idx).unwrap();
    drop(reader);

    let redact = |idx, paths: &[&str]| {
        ledger.redact(Redaction {
            idx,
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            reason: "asked to be forgotten".into(),
            by: "privacy@example.com".into(),
        })
    };
    let wrong = redact(idx, &["process.exe"]).unwrap_err();
    assert!(matches!(wrong, UpkeepError::NotOpen { .. }), "{wrong}");
    assert!(redact(0, &[]).is_err(), "a leaf without commitments");
    let said = redact(idx, &["process.argv"]).unwrap();
    assert!(redact(idx, &["process.argv"]).is_err(), "only once");
    redact(other, &[]).unwrap();
    assert!(
        !in_any_file(dir.path(), SECRET),
        "also while the daemon writes"
    );
    drop(ledger);

    let report = check(&path);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let reader = Reader::open(&path).unwrap();
    let after = reader.show(idx).unwrap().unwrap();
    assert_eq!(before, after, "the leaf itself did not change");
    assert_eq!(reader.openings(idx).unwrap().len(), 1);
    assert_eq!(reader.openings(other).unwrap(), []);
    let leaf = reader.show(said.idx).unwrap().unwrap().value();
    assert_eq!(leaf["redact"]["by"], "privacy@example.com");
    // The proof from before, against its own checkpoint, and that checkpoint against the ledger.
    let (head, note) = proof.split_once("\n\n").unwrap();
    let (_, old) = parse_checkpoint(note).unwrap();
    assert!(head.starts_with("c2sp.org/tlog-proof@v1\nindex "));
    assert_eq!(reader.root(old.size).unwrap(), old.root);
    let steps = reader.inclusion(idx, old.size).unwrap();
    assert!(tree::included(after.hash, idx, old.size, &steps, old.root));
}

#[test]
fn an_opening_that_vanishes_or_changes_is_found() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let idx = ledger.append(with_secret()).wait().unwrap().idx;
    let other = ledger.append(with_secret()).wait().unwrap().idx;
    let redaction = Redaction {
        idx: other,
        paths: Vec::new(),
        reason: "asked".into(),
        by: "privacy".into(),
    };
    ledger.redact(redaction).unwrap();
    drop(ledger);
    let good = std::fs::read(&path).unwrap();
    for (change, at) in [
        ("DELETE FROM opening WHERE path = 'process.argv'", Some(idx)),
        (
            "UPDATE opening SET value = '[\"ls\"]' WHERE path = 'process.argv'",
            Some(idx),
        ),
        (
            "UPDATE opening SET salt = zeroblob(16) WHERE path = 'process.cwd'",
            Some(idx),
        ),
        (
            "INSERT INTO opening SELECT 2, path, salt, value FROM opening WHERE idx = 1",
            Some(2),
        ),
        (
            "INSERT INTO opening VALUES (0, 'x', zeroblob(16), '1')",
            None,
        ),
    ] {
        std::fs::write(&path, &good).unwrap();
        assert_eq!(check(&path).exit(), Exit::Clean);
        forger(&path).execute(change, []).unwrap();
        let report = check(&path);
        assert!(
            codes(&report).iter().all(|code| *code == Code::Opening),
            "{change}"
        );
        assert_eq!(report.first_bad.unwrap().idx, at, "{change}");
    }
}

/// A ledger of some epochs, cosigned, that goes on after that.
fn cosigned(path: &Path) -> (VerifierKey, Uuid) {
    let signer = NoteSigner::new("gateway.example", Role::Witness, &[9; 32]).unwrap();
    let ledger = open(path);
    let hold = |id| {
        ledger.append(request(id)).wait().unwrap();
        let decided = decision(id, Verdict::Allow, DecidedBy::Human);
        ledger.append(decided).wait().unwrap();
        ledger.append(outcome(id)).wait().unwrap();
    };
    ledger.append(policy()).wait().unwrap();
    // Asked in an epoch that goes, decided in one that stays.
    let late = Uuid::now_v7();
    ledger.append(request(late)).wait().unwrap();
    (0..20).for_each(|_| hold(Uuid::now_v7()));
    let latest = ledger.published().borrow().clone().unwrap();
    let identity = std::fs::read_to_string(path.with_extension("identity")).unwrap();
    let log = NoteSigner::from_secret_text(&identity).unwrap().verifier();
    let asked = Reader::open(path).unwrap().submission(0, &latest).unwrap();
    let now = Timestamp::now().as_second() as u64;
    let seen = witness::cosign(&signer, &log, None, &asked, now).unwrap();
    let line = seen.cosignature.to_string();
    let note = witness::accept(&latest.note, &line, &signer.verifier()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(ledger.cosigned(note)).unwrap();
    hold(Uuid::now_v7());
    ledger
        .append(decision(late, Verdict::Deny, DecidedBy::Human))
        .wait()
        .unwrap();
    (signer.verifier(), late)
}

#[test]
fn what_is_pruned_is_said_and_everything_else_proves_itself() {
    let (dir, path) = place();
    let (witness, late) = cosigned(&path);
    let trust = Trust {
        witnesses: vec![witness.clone()],
        ..Trust::default()
    };
    let reader = Reader::open(&path).unwrap();
    let proof = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(proof.exit(), Exit::Clean, "{:?}", proof.first_bad);
    let known = [witness];
    let plan = |proof: &Report, now, days| prune::plan(&reader, proof, now, days, &known);
    let now = Timestamp::now();
    // Without a witness, or before its time, nothing goes.
    assert!(matches!(
        plan(&check(&path), now, 0),
        Err(PruneError::NotCosigned)
    ));
    let young = plan(&proof, now, prune::RETENTION_DAYS);
    assert!(
        matches!(
            young,
            Err(PruneError::NothingOld {
                days: 400,
                next: Some(_)
            })
        ),
        "{young:?}"
    );
    let later = now.checked_add((401 * 24).hours()).unwrap();
    plan(&proof, later, prune::RETENTION_DAYS).unwrap();
    let plan = plan(&proof, now.checked_add(1.second()).unwrap(), 0).unwrap();
    let cosigned = proof.cosigned.clone().unwrap().size;
    assert!(
        plan.to > 32 && plan.to < cosigned,
        "{} of {cosigned}",
        plan.to
    );
    let (size, kept) = (
        reader.size().unwrap(),
        reader.show(plan.to).unwrap().unwrap(),
    );
    let gone = reader.show(5).unwrap().unwrap();
    let root = reader.root(size).unwrap();
    let to = plan.to;
    drop(reader);

    let ledger = open(&path);
    ledger.prune(plan, "root".into()).unwrap();
    ledger.append(policy()).wait().unwrap();
    drop(ledger);
    let unique = gone.value()["id"].as_str().unwrap().to_owned();
    assert!(
        !in_any_file(dir.path(), &unique),
        "the pruned leaf is gone from every file"
    );
    // It opens again, goes on, and proves itself, with the witness it carries along.
    let ledger = open(&path);
    ledger.append(request(Uuid::now_v7())).wait().unwrap();
    drop(ledger);
    let report = check(&path);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    assert_eq!(report.first, to);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.root(size).unwrap(), root, "the tree is the same");
    assert!(reader.show(5).unwrap().is_none());
    // A pruned leaf that somebody kept is still proven, and so is what stayed.
    for leaf in [&gone, &kept] {
        let steps = reader.inclusion(leaf.idx, size).unwrap();
        assert!(tree::included(leaf.hash, leaf.idx, size, &steps, root));
    }
    let carried = reader.tail(100).unwrap();
    let said = carried
        .iter()
        .find(|leaf| leaf.value()["kind"] == "prune")
        .unwrap();
    assert!(
        said.body.contains(&late.to_string()),
        "the question is carried along"
    );
    drop(reader);

    let good = std::fs::read(&path).unwrap();
    let tampered = |change: &str| {
        std::fs::write(&path, &good).unwrap();
        forger(&path).execute_batch(change).unwrap();
        codes(&check(&path))
    };
    let more = format!(
        "INSERT INTO node SELECT 0, idx, hash FROM leaf WHERE idx = {to}; DELETE FROM leaf WHERE idx = {to}"
    );
    assert!(tampered(&more).contains(&Code::Gap), "one more leaf gone");
    assert!(tampered("DELETE FROM node WHERE level = 0 AND n = 3").contains(&Code::Prune));
    assert!(
        tampered("UPDATE node SET hash = zeroblob(32) WHERE level = 0 AND n = 3")
            .contains(&Code::Node)
    );
    let younger = "UPDATE leaf SET body = replace(body, '\"retention_days\":0', '\"retention_days\":400') WHERE kind = 'prune'";
    assert!(tampered(younger).contains(&Code::Prune));
    let unseen = format!("DELETE FROM checkpoint WHERE size = {cosigned}");
    assert!(tampered(&unseen).contains(&Code::Prune));
    assert_eq!(tampered("SELECT 1"), []);
}

#[test]
fn pruning_twice_carries_the_first_along() {
    let (_dir, path) = place();
    let (witness, _) = cosigned(&path);
    let known = [witness];
    for _ in 0..2 {
        let trust = Trust {
            witnesses: known.to_vec(),
            ..Trust::default()
        };
        let proof = verify_with(&path, &trust, |_, _| {}).unwrap();
        let reader = Reader::open(&path).unwrap();
        let now = Timestamp::now().checked_add(1.second()).unwrap();
        match prune::plan(&reader, &proof, now, 0, &known) {
            Ok(plan) => {
                drop(reader);
                open(&path).prune(plan, "root".into()).unwrap();
            }
            Err(error) => assert!(matches!(error, PruneError::NothingOld { .. }), "{error}"),
        }
        let report = check(&path);
        assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    }
    assert!(check(&path).first > 0);
}
