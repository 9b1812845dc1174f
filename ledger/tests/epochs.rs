//! Keys, epochs and checkpoints: what is signed by which key, what a crash in the middle of a
//! rotation leaves, and what of the past a stolen live key cannot rewrite.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
mod common;

use std::path::Path;

use common::{filled, forger, open, place, resign, rewrite};
use rusqlite::{Connection, params};
use serde_json::json;
use syshold_ledger::note::{Note, NoteSigner, Role, VerifierKey, parse_checkpoint};
use syshold_ledger::witness::{self, Refusal, Submission};
use syshold_ledger::{
    Code, Draft, Exit, Kind, Ledger, OpenError, Options, Reader, Report, Trust, verify, verify_with,
};

fn check(path: &Path) -> Report {
    verify(path, |_, _| {}).unwrap()
}

fn codes(report: &Report) -> Vec<Code> {
    report.errors.iter().map(|finding| finding.code).collect()
}

fn with_epochs(path: &Path, epoch_leaves: u64, leaves: usize) {
    let options = Options {
        epoch_leaves,
        ..Options::default()
    };
    let ledger = Ledger::open_with(path, "web-1".parse().unwrap(), options).unwrap();
    for n in 0..leaves {
        let draft = Draft::new(Kind::Review).field("n", &n);
        ledger.append(draft).wait().unwrap();
    }
}

fn keys(path: &Path) -> Vec<(u64, VerifierKey)> {
    let leaves = Reader::open(path).unwrap().tail(100_000).unwrap();
    let epoch = |leaf: &syshold_ledger::Leaf| {
        let key = leaf.value()["keys"]["epoch"].as_str()?.parse().unwrap();
        Some((leaf.idx, key))
    };
    leaves.iter().filter_map(epoch).collect()
}

#[test]
fn epochs_end_by_themselves_and_their_keys_are_gone() {
    let (dir, path) = place();
    with_epochs(&path, 16, 3);
    let first = std::fs::read_to_string(path.with_extension("epoch")).unwrap();
    with_epochs(&path, 16, 100);
    let report = check(&path);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let epochs = keys(&path);
    assert!(epochs.len() >= 6, "{} epochs", epochs.len());
    assert_eq!(report.epochs, epochs.len() as u64);
    // PRIVATE+KEY+name+hash+data, and data is base64: it may have a plus of its own.
    let secret = first.trim().splitn(5, '+').nth(4).unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "the first epoch's key is in {}", file.display());
    }
    for extension in ["identity", "epoch"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path.with_extension(extension)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{extension}");
    }
    // Each checkpoint by the key of its size, and the last of an epoch still by its own.
    let conn = forger(&path);
    let mut statement = conn.prepare("SELECT note FROM checkpoint").unwrap();
    let notes = statement.query_map([], |row| row.get::<_, String>(0));
    for raw in notes.unwrap() {
        let (note, checkpoint) = parse_checkpoint(&raw.unwrap()).unwrap();
        let expected = epochs
            .iter()
            .rev()
            .find(|(idx, _)| idx + 1 < checkpoint.size)
            .unwrap_or(&epochs[0]);
        let made = note
            .signatures
            .iter()
            .any(|line| line.verify(&expected.1, &note.text).is_some());
        assert!(made, "{} leaves", checkpoint.size);
    }
}

#[test]
fn a_crash_in_a_rotation_is_finished_or_undone() {
    let (_dir, path) = place();
    let (epoch, next) = (
        path.with_extension("epoch"),
        path.with_extension("epoch-next"),
    );
    filled(&path, 2);
    let before = std::fs::read(&epoch).unwrap();

    // Written, not committed; and only half written.
    let origin = NoteSigner::from_secret_text(&String::from_utf8(before.clone()).unwrap());
    let stray = NoteSigner::generate(origin.unwrap().verifier().name()).unwrap();
    for left in [stray.secret_text().as_bytes(), b"PRIVATE+KEY+we"] {
        std::fs::write(&next, left).unwrap();
        drop(open(&path));
        assert!(!next.exists(), "the key of no epoch is gone");
        assert_eq!(std::fs::read(&epoch).unwrap(), before);
    }

    // Committed, not renamed.
    let ledger = open(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let rotated = runtime.unwrap().block_on(ledger.rotate_key()).unwrap();
    drop(ledger);
    let after = std::fs::read(&epoch).unwrap();
    assert_ne!(after, before);
    std::fs::write(&epoch, &before).unwrap();
    std::fs::write(&next, &after).unwrap();
    let ledger = open(&path);
    ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    drop(ledger);
    assert!(!next.exists());
    assert_eq!(std::fs::read(&epoch).unwrap(), after);
    let report = check(&path);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    assert_eq!(keys(&path).last().unwrap().0, rotated.idx);

    // Neither key is the epoch's: nothing is written any more.
    std::fs::write(&epoch, &before).unwrap();
    let refused = Ledger::open(&path, "web-1".parse().unwrap()).map(drop);
    assert!(matches!(refused, Err(OpenError::Keys(_))), "{refused:?}");
    std::fs::remove_file(&epoch).unwrap();
    let refused = Ledger::open(&path, "web-1".parse().unwrap()).map(drop);
    assert!(refused.unwrap_err().to_string().contains("is missing"));
}

#[test]
fn a_stolen_live_key_cannot_rewrite_an_earlier_epoch() {
    let (_dir, path) = place();
    with_epochs(&path, 16, 70);
    let kept = |conn: &Connection| {
        let mut statement = conn.prepare("SELECT size, note FROM checkpoint").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap()
            .map(Result::unwrap)
            .collect::<Vec<(u64, String)>>()
    };
    let conn = forger(&path);
    let old = kept(&conn);
    let change = |n: u64, leaf: &mut serde_json::Value| {
        if n == 20 {
            leaf["n"] = json!("forged");
        }
    };
    // Without the old checkpoints nobody vouches for the keys; with them the past is another.
    rewrite(&conn, change);
    let report = check(&path);
    assert!(
        codes(&report).contains(&Code::EpochGap),
        "{:?}",
        codes(&report)
    );
    for (size, note) in &old {
        conn.execute(
            "INSERT OR IGNORE INTO checkpoint VALUES (?1, ?2)",
            params![size, note],
        )
        .unwrap();
    }
    let report = check(&path);
    let first = report.first_bad.clone().unwrap();
    assert_eq!(first.code, Code::Inconsistent, "{first}");
    assert!(
        report.last_good.unwrap() < 20 && report.last_good.unwrap() > 10,
        "{report:?}"
    );

    // The limit, kept in sight: what the live key signed since the last rotation, and nobody else
    // saw, it can sign again.
    let (_dir, path) = place();
    with_epochs(&path, 16, 70);
    let conn = forger(&path);
    let (old, last) = (kept(&conn), keys(&path).last().unwrap().0);
    rewrite(&conn, |n, leaf| {
        if n == last + 1 {
            leaf["n"] = json!("forged");
        }
    });
    for (size, note) in old.iter().filter(|(size, _)| *size <= last + 1) {
        conn.execute(
            "INSERT INTO checkpoint VALUES (?1, ?2)",
            params![size, note],
        )
        .unwrap();
    }
    let report = check(&path);
    assert_eq!(
        report.exit(),
        Exit::Clean,
        "not detected: {:?}",
        report.first_bad
    );
}

fn change_note(conn: &Connection, size: u64, change: impl FnOnce(String) -> String) {
    let raw: String = conn
        .query_row(
            "SELECT note FROM checkpoint WHERE size = ?1",
            [size],
            |row| row.get(0),
        )
        .unwrap();
    conn.execute(
        "UPDATE checkpoint SET note = ?2 WHERE size = ?1",
        params![size, change(raw)],
    )
    .unwrap();
}

#[test]
fn every_change_to_nodes_and_checkpoints_has_its_code() {
    type Forgery = fn(&Connection, u64);
    let table: &[(&str, Forgery, Code)] = &[
        (
            "a node changed",
            |c, _| {
                drop(c.execute(
                    "UPDATE node SET hash = zeroblob(32) WHERE level = 1 AND n = 2",
                    [],
                ));
            },
            Code::Node,
        ),
        (
            "a node out",
            |c, _| drop(c.execute("DELETE FROM node WHERE level = 2 AND n = 1", [])),
            Code::Node,
        ),
        (
            "a node too many",
            |c, _| drop(c.execute("INSERT INTO node VALUES (1, 500, zeroblob(32))", [])),
            Code::Node,
        ),
        (
            "the latest checkpoint out",
            |c, s| drop(c.execute("DELETE FROM checkpoint WHERE size = ?1", [s])),
            Code::Root,
        ),
        (
            "all checkpoints out",
            |c, _| drop(c.execute("DELETE FROM checkpoint", [])),
            Code::Root,
        ),
        (
            "no note",
            |c, s| change_note(c, s, |_| "gone".into()),
            Code::CkptFormat,
        ),
        (
            "a fourth line",
            |c, s| change_note(c, s, |n| n.replacen("\n\n", "\nmore\n\n", 1)),
            Code::CkptFormat,
        ),
        (
            "under another size",
            |c, s| drop(c.execute("UPDATE checkpoint SET size = size - 1 WHERE size = ?1", [s])),
            Code::CkptFormat,
        ),
        (
            "another origin",
            |c, s| change_note(c, s, |n| n.replacen("web-1", "web-2", 1)),
            Code::Origin,
        ),
        (
            "a flipped signature",
            |c, s| {
                change_note(c, s, |n| {
                    let mut note: Note = n.parse().unwrap();
                    note.signatures[0].bytes[7] ^= 1;
                    note.to_string()
                });
            },
            Code::CkptSig,
        ),
        (
            "no identity signature",
            |c, s| {
                change_note(c, s, |n| {
                    let mut note: Note = n.parse().unwrap();
                    note.signatures.remove(0);
                    note.to_string()
                });
            },
            Code::CkptSig,
        ),
        (
            "no epoch signature",
            |c, s| {
                change_note(c, s, |n| {
                    let mut note: Note = n.parse().unwrap();
                    note.signatures.remove(1);
                    note.to_string()
                });
            },
            Code::EpochKey,
        ),
        (
            "a second epoch key",
            |c, s| {
                change_note(c, s, |n| {
                    let mut note: Note = n.parse().unwrap();
                    let name = note.signatures[0].name.clone();
                    note.signatures
                        .push(NoteSigner::generate(&name).unwrap().sign(&note.text, 0));
                    note.to_string()
                });
            },
            Code::EpochKey,
        ),
        (
            "the checkpoint of a rotation out",
            |c, _| {
                drop(c.execute("DELETE FROM checkpoint WHERE size = (SELECT idx + 1 FROM leaf WHERE kind = 'key_rotate' LIMIT 1)", []));
            },
            Code::EpochGap,
        ),
        (
            "the last leaf out",
            |c, s| drop(c.execute("DELETE FROM leaf WHERE idx = ?1", [s - 1])),
            Code::Truncated,
        ),
        (
            "an opening of nothing",
            |c, _| {
                drop(c.execute(
                    "INSERT INTO opening VALUES (3, 'process.argv', zeroblob(16), '[]')",
                    [],
                ));
            },
            Code::Opening,
        ),
    ];
    let (_dir, path) = place();
    with_epochs(&path, 16, 40);
    assert_eq!(check(&path).exit(), Exit::Clean);
    let (good, size) = (
        std::fs::read(&path).unwrap(),
        Reader::open(&path).unwrap().size().unwrap(),
    );
    for (name, forge, code) in table {
        std::fs::write(&path, &good).unwrap();
        forge(&forger(&path), size);
        let report = check(&path);
        assert_eq!(report.exit(), Exit::Tampered, "{name}");
        assert!(codes(&report).contains(code), "{name}: {:?}", report.errors);
    }
}

#[test]
fn every_flipped_bit_of_a_note_is_found() {
    let (_dir, path) = place();
    filled(&path, 20);
    let conn = forger(&path);
    let size = Reader::open(&path).unwrap().size().unwrap();
    let raw: String = conn
        .query_row(
            "SELECT note FROM checkpoint WHERE size = ?1",
            [size],
            |row| row.get(0),
        )
        .unwrap();
    let mut flips = 0;
    for at in 0..raw.len() {
        let mut bytes = raw.clone().into_bytes();
        bytes[at] ^= 1 << (at % 7);
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        conn.execute(
            "UPDATE checkpoint SET note = ?2 WHERE size = ?1",
            params![size, changed],
        )
        .unwrap();
        assert_eq!(check(&path).exit(), Exit::Tampered, "byte {at}: {changed}");
        flips += 1;
    }
    println!("figure: {flips} bytes of checkpoints flipped: all found");
    assert!(flips > 300);
}

#[test]
fn a_ledger_from_before_the_tree_gets_one() {
    let (_dir, path) = place();
    filled(&path, 30);
    let conn = forger(&path);
    rewrite(&conn, |_, leaf| {
        drop(leaf.as_object_mut().unwrap().remove("keys"));
    });
    conn.execute_batch(
        "DROP TABLE node; DROP TABLE checkpoint; DROP TABLE opening; PRAGMA user_version = 1",
    )
    .unwrap();
    for extension in ["identity", "epoch"] {
        std::fs::remove_file(path.with_extension(extension)).unwrap();
    }
    assert_eq!(codes(&check(&path))[0], Code::Schema);
    let ledger = open(&path);
    ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    drop(ledger);
    let report = check(&path);
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    assert_eq!((report.leaves, report.epochs), (96, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_witness_cosigns_what_only_grew() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let grow = |n: u64| {
        for _ in 0..n {
            ledger.append(Draft::new(Kind::Review)).wait().unwrap();
        }
        ledger.published().borrow().clone().unwrap()
    };
    let reader = Reader::open(&path).unwrap();
    let first = tokio::task::block_in_place(|| grow(5));
    let log = |path: &Path| -> VerifierKey {
        let key = std::fs::read_to_string(path.with_extension("identity")).unwrap();
        NoteSigner::from_secret_text(&key).unwrap().verifier()
    };
    let log = log(&path);
    let secret = [9; 32];
    let signer = NoteSigner::new("gateway.example", Role::Witness, &secret).unwrap();
    let witness = signer.verifier();
    assert_eq!(witness.to_string().parse::<VerifierKey>().unwrap(), witness);

    let asked = reader.submission(0, &first).unwrap();
    assert_eq!(asked.to_string().parse::<Submission>().unwrap(), asked);
    let now = 1_800_000_000;
    let seen = witness::cosign(&signer, &log, None, &asked, now).unwrap();
    let note = witness::accept(&first.note, &format!("{}\n", seen.cosignature), &witness).unwrap();
    ledger.cosigned(note).await.unwrap();

    let second = tokio::task::block_in_place(|| grow(9));
    let asked = reader.submission(6, &second).unwrap();
    let last = Some(&seen.checkpoint);
    let again = witness::cosign(&signer, &log, last, &asked, now + 1).unwrap();
    assert_eq!(again.checkpoint.size, 15);
    let refused = |submission: &Submission, last| {
        witness::cosign(&signer, &log, last, submission, now).unwrap_err()
    };
    assert_eq!(
        refused(&reader.submission(0, &second).unwrap(), last),
        Refusal::Conflict(6)
    );
    assert_eq!(
        refused(&asked, Some(&again.checkpoint)),
        Refusal::Conflict(15)
    );
    let mut bent = asked.clone();
    bent.proof[0].0[0] ^= 1;
    assert_eq!(refused(&bent, last), Refusal::Inconsistent);
    let stranger = NoteSigner::generate(log.name()).unwrap().verifier();
    assert_eq!(
        witness::cosign(&signer, &stranger, last, &asked, now).unwrap_err(),
        Refusal::NotSigned
    );
    let other = NoteSigner::generate("other/log").unwrap().verifier();
    assert_eq!(
        witness::cosign(&signer, &other, last, &asked, now).unwrap_err(),
        Refusal::UnknownLog
    );
    for (bad, status) in [
        ("", 400),
        ("old 1\nx\n\nnote", 400),
        ("old 01\n\nnote", 400),
        ("old 6\n\nnote", 400),
    ] {
        let refusal = bad
            .parse()
            .map_or_else(|refusal| refusal, |s: Submission| refused(&s, last));
        assert_eq!(refusal.status(), status, "{bad}");
    }
    drop(ledger);

    // The report says what the witness saw; what it did not see is warned about when it is old.
    let trust = Trust {
        witnesses: vec![witness.clone()],
        ..Trust::default()
    };
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{report:?}");
    assert_eq!(report.cosigned.as_ref().unwrap().size, 6);
    let conn = forger(&path);
    change_note(&conn, 6, |raw| {
        let (mut note, _) = parse_checkpoint(&raw).unwrap();
        note.signatures.pop();
        note.signatures.push(signer.sign(&note.text, 1_000_000_000));
        note.to_string()
    });
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(
        (report.exit(), report.warnings[0].code),
        (Exit::WarningsOnly, Code::Unanchored)
    );
    change_note(&conn, 6, |raw| {
        let (mut note, _) = parse_checkpoint(&raw).unwrap();
        note.signatures.last_mut().unwrap().bytes[20] ^= 1;
        note.to_string()
    });
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(codes(&report), [Code::Cosig]);

    // Rolled back as a whole, or rewritten as a whole: the witness knows.
    change_note(&conn, 6, |raw| {
        let (mut note, _) = parse_checkpoint(&raw).unwrap();
        note.signatures.pop();
        note.to_string()
    });
    let latest = parse_checkpoint(&second.note).unwrap();
    let trust = Trust {
        witnessed: Some(latest.clone()),
        ..Trust::default()
    };
    assert_eq!(
        verify_with(&path, &trust, |_, _| {}).unwrap().exit(),
        Exit::Clean
    );
    assert_eq!(reader.against(&latest.1).unwrap(), None);
    conn.execute("DELETE FROM leaf WHERE idx >= 10", [])
        .unwrap();
    resign(&conn);
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(codes(&report), [Code::Rollback]);
    assert_eq!(report.last_good, Some(9));
    assert_eq!(
        reader.against(&latest.1).unwrap().unwrap().code,
        Code::Rollback
    );
    let trust = Trust {
        witnessed: Some(parse_checkpoint(&first.note).unwrap()),
        ..Trust::default()
    };
    assert_eq!(
        verify_with(&path, &trust, |_, _| {}).unwrap().exit(),
        Exit::Clean
    );
    rewrite(&conn, |n, leaf| {
        if n == 3 {
            leaf["forged"] = json!(true);
        }
    });
    assert_eq!(
        check(&path).exit(),
        Exit::Clean,
        "the file alone does not show it"
    );
    let report = verify_with(&path, &trust, |_, _| {}).unwrap();
    assert_eq!(codes(&report), [Code::Fork]);
    assert_eq!(
        reader.against(&seen.checkpoint).unwrap().unwrap().code,
        Code::Fork
    );
    let pinned = Trust {
        identity: Some(stranger),
        ..Trust::default()
    };
    let report = verify_with(&path, &pinned, |_, _| {}).unwrap();
    assert!(codes(&report).contains(&Code::CkptSig), "another log's key");
}

/// A host whose witness has not answered yet is not warned about, for an hour.
#[test]
fn a_witness_that_was_just_named_is_not_missed_yet() {
    let (_dir, path) = place();
    let witness = NoteSigner::new("gateway.example", Role::Witness, &[9; 32]).unwrap();
    let said = json!({"witness": witness.verifier().to_string()});
    let anchor = || Draft::new(Kind::Anchor).field("anchor", &said);
    let ledger = open(&path);
    for draft in [anchor(), Draft::new(Kind::Review), anchor()] {
        ledger.append(draft).wait().unwrap();
    }
    drop(ledger);
    assert_eq!(check(&path).exit(), Exit::Clean);
    let conn = forger(&path);
    rewrite(&conn, |n, leaf| {
        if n < 2 {
            leaf["t"] = json!("2026-01-01T00:00:00.000Z");
        }
    });
    let report = check(&path);
    assert_eq!(report.error_count, 0, "{report:?}");
    assert_eq!(report.warnings[0].code, Code::Unanchored);
}
