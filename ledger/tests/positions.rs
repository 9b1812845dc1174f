//! Every kind of change at many places of a ledger, pages of the file that turn bad, and clean
//! ledgers that must raise no alarm. `cargo xtask bench ledger` asks for more of each.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{filled, forger, place, unguarded};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use syshold_ledger::{Code, Draft, Exit, Kind, Ledger, Reader, leaf_hash, verify};
use uuid::Uuid;

/// 214 leaves.
const HOLDS: usize = 70;
const LEAVES: u64 = 4 + 3 * HOLDS as u64;

fn asked(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn body(conn: &Connection, idx: u64) -> String {
    let sql = "SELECT body FROM leaf WHERE idx = ?1";
    conn.query_row(sql, [idx], |row| row.get(0)).unwrap()
}

fn put(conn: &Connection, idx: u64, body: &str, hash: &[u8]) {
    let sql = "UPDATE leaf SET body = ?2, hash = ?3 WHERE idx = ?1";
    assert_eq!(conn.execute(sql, params![idx, body, hash]).unwrap(), 1);
}

/// Changes a leaf and its hash, in its one spelling.
fn change(conn: &Connection, idx: u64, how: impl FnOnce(&mut Value)) {
    let mut leaf: Value = serde_json::from_str(&body(conn, idx)).unwrap();
    how(&mut leaf);
    let text = serde_json_canonicalizer::to_string(&leaf).unwrap();
    put(conn, idx, &text, &leaf_hash(text.as_bytes()).0);
}

/// Changes the text of a leaf and its hash.
fn spell(conn: &Connection, idx: u64, how: impl FnOnce(String) -> String) {
    let text = how(body(conn, idx));
    put(conn, idx, &text, &leaf_hash(text.as_bytes()).0);
}

fn run(conn: &Connection, sql: &str, idx: u64) {
    assert!(conn.execute(sql, [idx]).unwrap() > 0, "{sql}");
}

type Forgery = fn(&Connection, u64);

#[rustfmt::skip]
const KINDS: &[(&str, Forgery, &[Code])] = &[
    ("a bit of the body", |c, i| {
        let text = body(c, i).replacen("web-1", "web-0", 1);
        c.execute("UPDATE leaf SET body = ?2 WHERE idx = ?1", params![i, text]).unwrap();
    }, &[Code::LeafHash]),
    ("a bit of the hash", |c, i| {
        let mut hash = leaf_hash(body(c, i).as_bytes()).0;
        hash[31] ^= 1;
        put(c, i, &body(c, i), &hash);
    }, &[Code::LeafHash]),
    ("another hash", |c, i| put(c, i, &body(c, i), &[7; 32]), &[Code::LeafHash]),
    ("half a hash", |c, i| put(c, i, &body(c, i), &[7; 16]), &[Code::LeafHash]),
    ("a leaf gone", |c, i| run(c, "DELETE FROM leaf WHERE idx = ?1", i), &[Code::Gap]),
    ("two leaves gone", |c, i| run(c, "DELETE FROM leaf WHERE idx IN (?1, ?1 + 1)", i), &[Code::Gap, Code::Truncated]),
    ("a leaf gone, the others closed up", |c, i| {
        run(c, "DELETE FROM leaf WHERE idx = ?1", i);
        run(c, "UPDATE leaf SET idx = -idx WHERE idx > ?1", i);
        c.execute("UPDATE leaf SET idx = -idx - 1 WHERE idx < 0", []).unwrap();
    }, &[Code::Gap, Code::Prev]),
    ("two leaves swapped", |c, i| {
        run(c, "UPDATE leaf SET idx = 100000 WHERE idx = ?1", i);
        run(c, "UPDATE leaf SET idx = ?1 WHERE idx = ?1 + 1", i);
        run(c, "UPDATE leaf SET idx = ?1 + 1 WHERE idx = 100000", i);
    }, &[Code::Gap, Code::Prev]),
    ("another leaf in its place", |c, i| spell(c, i, |_| body(c, 1 + i % 2)), &[Code::Gap, Code::Prev]),
    ("the leaf before it twice", |c, i| spell(c, i, |_| body(c, i - 1)), &[Code::Gap, Code::Prev]),
    ("a field added", |c, i| change(c, i, |l| l["forged"] = json!(true)), &[Code::Prev, Code::Node, Code::Root]),
    ("a field taken away", |c, i| change(c, i, |l| { l.as_object_mut().unwrap().remove("host"); }), &[Code::Noncanonical]),
    ("another host", |c, i| change(c, i, |l| l["host"] = json!("web-2")), &[Code::Prev, Code::Node, Code::Root]),
    ("another kind", |c, i| change(c, i, |l| l["kind"] = json!("review")), &[Code::Prev, Code::Node, Code::Root]),
    ("a kind there is not", |c, i| change(c, i, |l| l["kind"] = json!("rumour")), &[Code::Noncanonical]),
    ("another index", |c, i| change(c, i, |l| l["idx"] = json!(i + 1)), &[Code::Gap]),
    ("another link", |c, i| change(c, i, |l| l["prev"] = json!("0".repeat(64))), &[Code::Prev]),
    ("an hour earlier", |c, i| change(c, i, |l| l["t"] = json!("2020-01-01T00:00:00.000Z")), &[Code::TimeOrder]),
    ("before the boot", |c, i| change(c, i, |l| l["t_boot"] = json!(0)), &[Code::TimeOrder]),
    ("another id", |c, i| change(c, i, |l| l["id"] = json!(Uuid::now_v7())), &[Code::Prev, Code::Node, Code::Root]),
    ("a space", |c, i| spell(c, i, |text| text.replacen(':', ": ", 1)), &[Code::Noncanonical]),
    ("an escape", |c, i| spell(c, i, |text| text.replacen("web-1", "web\\u002d1", 1)), &[Code::Noncanonical]),
    ("a float", |c, i| spell(c, i, |text| text.replacen("\"v\":1", "\"v\":1.0", 1)), &[Code::Noncanonical]),
    ("a key twice", |c, i| spell(c, i, |text| text.replacen('{', "{\"v\":1,", 1)), &[Code::Noncanonical]),
    ("half of it", |c, i| spell(c, i, |text| text[..text.len() / 2].to_owned()), &[Code::Noncanonical]),
    ("nothing", |c, i| spell(c, i, |_| String::new()), &[Code::Noncanonical]),
    ("the end cut off", |c, i| run(c, "DELETE FROM leaf WHERE idx >= ?1", i), &[Code::Truncated, Code::Node, Code::Root]),
    ("a node gone", |c, i| run(c, "DELETE FROM node WHERE level = 1 AND n = ?1 / 2", i), &[Code::Node]),
    ("another node", |c, i| run(c, "UPDATE node SET hash = zeroblob(32) WHERE level = 1 AND n = ?1 / 2", i), &[Code::Node]),
    ("another node above", |c, i| run(c, "UPDATE node SET hash = zeroblob(32) WHERE level = 2 AND n = ?1 / 4", i), &[Code::Node]),
    ("an opening of nothing", |c, i| run(c, "INSERT INTO opening VALUES (?1, 'process.argv', zeroblob(16), '[]')", i), &[Code::Opening]),
];

#[test]
fn every_kind_of_change_is_found_wherever_it_is_made() {
    let positions = asked("SYSHOLD_LEDGER_TEST_POSITIONS", 6);
    let (_dir, path) = place();
    filled(&path, HOLDS);
    // Everything in one file, to be copied.
    let (_to, plain) = place();
    Reader::open(&path).unwrap().snapshot(&plain).unwrap();
    let good = std::fs::read(&plain).unwrap();
    // Whole pairs and fours of leaves, so that each has its nodes.
    let last = LEAVES - 4;
    let mut caught = 0;
    for (name, forge, codes) in KINDS {
        for at in 0..positions {
            let idx = 2 + at * (last - 2) / positions.max(1);
            std::fs::write(&plain, &good).unwrap();
            unguarded(&plain, |conn| forge(conn, idx));
            let report = verify(&plain, |_, _| {}).unwrap();
            assert_eq!(report.exit(), Exit::Tampered, "{name} at {idx}");
            let found: BTreeSet<_> = report
                .errors
                .iter()
                .map(|found| found.code.as_str())
                .collect();
            assert!(
                codes.iter().any(|code| found.contains(code.as_str())),
                "{name} at {idx}: {found:?}"
            );
            // What is about the file alone leaves every leaf proven.
            let leaf = report.first_bad.as_ref().and_then(|bad| bad.idx);
            let proven = leaf.map_or(0, |_| report.last_good.map_or(0, |good| good + 1));
            assert!(proven <= idx + 1, "{name} at {idx}: {proven} leaves proven");
            caught += 1;
        }
    }
    println!(
        "figure: {} kinds of change at {positions} places each: {caught} of {caught} found",
        KINDS.len()
    );
    std::fs::write(&plain, &good).unwrap();
    assert_eq!(verify(&plain, |_, _| {}).unwrap().exit(), Exit::Clean);
}

#[test]
fn clean_ledgers_raise_no_alarm() {
    let ledgers = asked("SYSHOLD_LEDGER_TEST_CLEAN", 25);
    for n in 0..ledgers {
        let (_dir, path) = place();
        filled(&path, usize::try_from(n % 40).unwrap());
        let report = verify(&path, |_, _| {}).unwrap();
        assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    }
    println!("figure: {ledgers} clean ledgers: 0 false alarms");
}

/// A page that reads back as zeros, each in turn: what is acknowledged after that is there, or
/// nothing is acknowledged; and `verify` is not fooled.
#[test]
fn a_corrupt_page_denies_or_is_proven_around() {
    const PAGE: u64 = 4096;
    let (_dir, path) = place();
    filled(&path, 12);
    drop(forger(&path).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    let good = std::fs::read(&path).unwrap();
    let (mut denied, mut found, mut unused) = (0, 0, 0);
    let pages = good.len() as u64 / PAGE;
    for page in 0..pages {
        std::fs::write(&path, &good).unwrap();
        for side in ["-wal", "-shm"] {
            let _none = std::fs::remove_file(format!("{}{side}", path.display()));
        }
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; PAGE as usize], page * PAGE).unwrap();
        drop(file);
        let sound = verify(&path, |_, _| {}).is_ok_and(|report| report.exit() == Exit::Clean);
        let kept = append(&path);
        match (&kept, sound) {
            (None, _) => denied += 1,
            (Some(_), false) => found += 1,
            (Some(_), true) => unused += 1,
        }
        if let Some((idx, hash)) = kept {
            let reader = Reader::open(&path).unwrap();
            let leaf = reader.show(idx).unwrap().unwrap();
            assert_eq!(leaf.hash, hash, "page {page}: acknowledged, and lost");
        }
    }
    println!(
        "figure: {pages} pages zeroed in turn: {denied} denied, {found} written on and found by verify, {unused} unused"
    );
    assert!(
        denied > 0 && found > 0 && unused <= 2,
        "{denied} {found} {unused}"
    );
}

/// The same under a ledger that is open: nothing is acknowledged while the page is bad, and what was
/// refused is counted once it is good again.
#[test]
fn a_page_that_goes_bad_under_the_writer_denies_until_it_is_good() {
    const PAGE: usize = 4096;
    let (_dir, path) = place();
    filled(&path, 12);
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let add = || ledger.append(Draft::new(Kind::Review)).wait();
    let before = add().unwrap();
    // Into the file, so that the writer reads it anew.
    drop(forger(&path).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    let good = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Leaves begin on the second page.
    file.write_all_at(&[0; PAGE], PAGE as u64).unwrap();
    let refused = 5;
    for _ in 0..refused {
        assert!(add().is_err(), "acknowledged on a bad page");
    }
    let page = &good[PAGE..2 * PAGE];
    file.write_all_at(page, PAGE as u64).unwrap();
    let (begin, mut again) = (Instant::now(), 0);
    let after = loop {
        match add() {
            Ok(kept) => break kept,
            Err(_) => again += 1,
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "never good");
        std::thread::sleep(Duration::from_millis(50));
    };
    drop((ledger, file));
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let reader = Reader::open(&path).unwrap();
    for kept in [before, after] {
        let leaf = reader.show(kept.idx).unwrap().unwrap();
        assert_eq!(leaf.hash, kept.hash);
    }
    let gap = reader.show(after.idx - 1).unwrap().unwrap().value();
    assert_eq!(gap["gap"]["lost"], refused + again, "{gap}");
    println!(
        "figure: a page bad under an open ledger: {} refused, all of them counted in a gap leaf",
        refused + again
    );
}

/// A long check says how far it is.
#[test]
fn a_check_says_how_far_it_is() {
    let (_dir, path) = place();
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    let leaves: Vec<_> = (0..9_000)
        .map(|_| ledger.append(Draft::new(Kind::Review)))
        .collect();
    for leaf in leaves {
        leaf.wait().unwrap();
    }
    let mut said = Vec::new();
    let report = verify(&path, |done, total| said.push((done, total))).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let all = report.leaves;
    assert_eq!(said, [(4096, all), (8192, all), (all, all)]);
}

/// A decision after that: None when it is not acknowledged.
fn append(path: &Path) -> Option<(u64, syshold_ledger::TreeHash)> {
    let ledger = Ledger::open(path, "web-1".parse().unwrap()).ok()?;
    let kept = ledger.append(Draft::new(Kind::Review)).wait().ok()?;
    Some((kept.idx, kept.hash))
}
