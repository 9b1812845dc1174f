//! What leaves the host: queries, exports, the report, the evidence bundle.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
mod common;

use std::io::{Cursor, Read as _};
use std::ops::ControlFlow;
use std::path::Path;

use common::place;
use common::story::story;
use jiff::Timestamp;
use serde_json::{Value, json};
use syshold_ledger::query::Query;
use syshold_ledger::record::Record;
use syshold_ledger::tree::Frontier;
use syshold_ledger::{Code, Exit, Reader, evidence, ocsf, report, verify};

fn find(reader: &Reader, query: &Query) -> Vec<Record> {
    let mut found = Vec::new();
    query
        .run(reader, |_, record| {
            found.push(record.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn a_question_finds_its_records_and_no_others() {
    let (_dir, path) = place();
    story(&path);
    let reader = Reader::open(&path).unwrap();
    let all = find(&reader, &Query::default());
    assert_eq!(all.len() as u64, reader.len().unwrap());
    let this_year = Timestamp::now().to_string()[..4].to_owned();
    let mut who = Query::default();
    who.during(&this_year).unwrap();
    who.filter.label = Some("pii".into());
    who.filter.by = Some("human".into());
    who.filter.verdict = Some("allow".into());
    let found = find(&reader, &who);
    assert_eq!(found.len(), 8);
    assert!(found.iter().all(Record::is_override));
    assert_eq!(found[0].who(), "dave@example.com");
    assert_eq!(
        found.iter().filter(|record| record.self_approved()).count(),
        1
    );
    who.during("1999").unwrap();
    assert!(find(&reader, &who).is_empty());
    for (id, expected) in [
        ("CC6.7", 21),
        ("AC-6(9)", 1),
        ("AU-5", 2),
        ("AC-5", 14),
        ("AU-11", 0),
    ] {
        let mut query = Query::default();
        query.control(id).unwrap();
        assert_eq!(find(&reader, &query).len(), expected, "{id}");
    }
}

#[test]
fn events_of_ocsf_say_what_was_decided() {
    let (_dir, path) = place();
    story(&path);
    let leaves = Reader::open(&path).unwrap().tail(1000).unwrap();
    let events: Vec<Value> = leaves.iter().map(ocsf::event).collect();
    let table = [
        ("read", "human", "allow", 1001, 100_102, 1, 8),
        ("connect", "human", "deny", 4001, 400_101, 2, 25),
        ("connect", "policy", "allow", 4001, 400_101, 1, 1),
        ("write", "timeout", "deny", 1001, 100_103, 2, 2),
        ("send", "policy", "deny", 4001, 400_106, 2, 26),
        ("exec", "human", "allow", 1007, 100_701, 1, 8),
    ];
    for (op, by, verdict, class, kind, action, disposition) in table {
        let at = leaves.iter().position(|leaf| {
            let record = Record::of(leaf);
            (
                record.op.as_str(),
                record.by.as_str(),
                record.verdict.as_str(),
            ) == (op, by, verdict)
        });
        let event = &events[at.unwrap()];
        let found =
            ["class_uid", "type_uid", "action_id", "disposition_id"].map(|name| &event[name]);
        let expected: [Value; 4] = [class.into(), kind.into(), action.into(), disposition.into()];
        assert_eq!(found, expected.each_ref(), "{op} {by} {verdict}");
        assert_eq!(event["metadata"]["sequence"], leaves[at.unwrap()].idx);
    }
}

#[test]
fn the_report_says_what_it_covers_and_runs_nothing() {
    let (_dir, path) = place();
    story(&path);
    let reader = Reader::open(&path).unwrap();
    let now: Timestamp = "2026-05-31T12:00:00Z".parse().unwrap();
    let proof = verify(&path, |_, _| {}).unwrap();
    assert_eq!(proof.exit(), Exit::Clean, "{:?}", proof.first_bad);
    let page = report::html(&reader, &Query::default(), &proof, now).unwrap();
    std::fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html"),
        &page,
    )
    .unwrap();
    for expected in [
        "Integrity verified",
        "every leaf",
        "ticket 4711",
        "(web, passkey)",
        "own agent",
        "events not recorded (gaps)",
        "3 not recorded: the disk is full",
        "Art. 14, Art. 26(6)",
        &proof.root.unwrap().to_string(),
        r"\u{202e}",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    for forbidden in [
        "<script", "\u{202e}", "\u{1b}", "http://", "https://", "src=", "satisf",
    ] {
        assert!(!page.contains(forbidden), "{forbidden:?} is in the page");
    }
    let at = |text: &str| page.find(text).unwrap();
    assert!(
        at("id=\"covers\"") < at("id=\"exceptions\"")
            && at("id=\"exceptions\"") < at("id=\"decisions\"")
    );

    // A filtered one says so, and one of a ledger that was changed says that before all else.
    let mut query = Query::default();
    query.filter.approver = Some("erin@example.com".into());
    query.say("approver", "erin@example.com");
    common::unguarded(&path, |conn| {
        conn.execute(
            "UPDATE leaf SET body = replace(body, 'dave', 'dora') WHERE idx = 4",
            [],
        )
        .unwrap();
    });
    let proof = verify(&path, |_, _| {}).unwrap();
    assert_eq!(proof.first_bad.as_ref().unwrap().code, Code::LeafHash);
    let page = report::html(&reader, &query, &proof, now).unwrap();
    assert!(page.contains("approver = erin@example.com") && page.contains("7 of "));
    assert!(page.contains("Integrity NOT verified") && page.contains("E_LEAF_HASH at leaf 4"));
    assert!(page.contains("Proven good up to leaf 3"));
    assert!(!page.contains("ticket 4711"));
}

#[test]
fn a_bundle_has_what_was_asked_for_and_no_more() {
    let (_dir, path) = place();
    story(&path);
    let reader = Reader::open(&path).unwrap();
    let proof = verify(&path, |_, _| {}).unwrap();
    let mut query = Query::default();
    query.filter.approver = Some("dave@example.com".into());
    query.say("approver", "dave@example.com");
    let now = "2026-05-31T12:00:00Z".parse().unwrap();
    let make = || {
        let mut bytes = Cursor::new(Vec::new());
        let summary = evidence::write(&reader, &query, &proof, now, &mut bytes).unwrap();
        (bytes.into_inner(), summary)
    };
    let (bytes, summary) = make();
    assert_eq!(bytes, make().0, "the same question has the same answer");
    assert_eq!(summary.records, 7);
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        zip.by_name(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    };
    let records = String::from_utf8(read("records.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 7);
    assert!(!records.contains("erin@example.com"));
    assert!(
        !String::from_utf8(read("report.html"))
            .unwrap()
            .contains("erin@example.com")
    );
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    assert_eq!(
        (&manifest["query"], &manifest["records"]),
        (&json!("approver = dave@example.com"), &json!(7))
    );
    for listed in manifest["files"].as_array().unwrap() {
        use sha2::Digest as _;
        let bytes = read(listed["name"].as_str().unwrap());
        let hex: String = sha2::Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(listed["sha256"], hex, "{}", listed["name"]);
    }
    // The tiles alone are the whole tree.
    let size = manifest["size"].as_u64().unwrap();
    let tile = read(&format!("tile/0/000.p/{size}"));
    let mut edge = Frontier::default();
    for hash in tile.chunks(32) {
        edge.push(
            syshold_ledger::TreeHash(hash.try_into().unwrap()),
            |_, _| {},
        );
    }
    assert_eq!(edge.root().to_string(), manifest["root"].as_str().unwrap());
}

#[test]
fn a_snapshot_is_a_ledger_of_its_own() {
    let (dir, path) = place();
    story(&path);
    let reader = Reader::open(&path).unwrap();
    let copy = dir.path().join("copy.db");
    reader.snapshot(&copy).unwrap();
    assert!(reader.snapshot(&copy).is_err(), "nothing is overwritten");
    let (here, there) = (
        verify(&path, |_, _| {}).unwrap(),
        verify(&copy, |_, _| {}).unwrap(),
    );
    assert_eq!(here, there);
    assert_eq!(there.exit(), Exit::Clean);
}
