//! Tampering: each kind has its code; what the chain alone cannot prove is written down here too.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{filled, forger, place, resign, rewrite, unguarded};
use rusqlite::{Connection, params};
use serde_json::json;
use syshold_ledger::{Code, Exit, ReadError, Report, leaf_hash, verify};

fn check(path: &Path) -> Report {
    verify(path, |_, _| {}).unwrap()
}

fn body(conn: &Connection, idx: u64) -> String {
    conn.query_row("SELECT body FROM leaf WHERE idx = ?1", [idx], |row| {
        row.get(0)
    })
    .unwrap()
}

fn set(conn: &Connection, idx: u64, body: &[u8], hash: &[u8]) {
    conn.execute(
        "UPDATE leaf SET body = CAST(?2 AS TEXT), hash = ?3 WHERE idx = ?1",
        params![idx, body, hash],
    )
    .unwrap();
}

#[test]
fn every_kind_of_change_has_its_code() {
    type Forgery = fn(&Connection);
    // 13 leaves: genesis, start, policy, 3 × (request, decision, outcome), stop.
    let table: &[(&str, Forgery, Code, u64)] = &[
        (
            "a word changed",
            |c| {
                drop(c.execute(
                    "UPDATE leaf SET body = replace(body, 'allow', 'deny') WHERE idx = 4",
                    [],
                ));
            },
            Code::LeafHash,
            4,
        ),
        (
            "a word changed, the hash too",
            |c| {
                let changed = body(c, 4).replace("allow", "deny");
                set(c, 4, changed.as_bytes(), &leaf_hash(changed.as_bytes()).0);
            },
            Code::Prev,
            5,
        ),
        (
            "another hash",
            |c| set(c, 6, body(c, 6).as_bytes(), &[7; 32]),
            Code::LeafHash,
            6,
        ),
        (
            "one leaf out",
            |c| drop(c.execute("DELETE FROM leaf WHERE idx = 5", [])),
            Code::Gap,
            5,
        ),
        (
            "the first leaf out",
            |c| drop(c.execute("DELETE FROM leaf WHERE idx = 0", [])),
            Code::Gap,
            0,
        ),
        (
            "one leaf out, the rest moved up",
            |c| {
                c.execute_batch("DELETE FROM leaf WHERE idx = 5; UPDATE leaf SET idx = -idx WHERE idx > 5; UPDATE leaf SET idx = -idx - 1 WHERE idx < 0").unwrap();
            },
            Code::Prev,
            5,
        ),
        (
            "two leaves swapped",
            |c| {
                c.execute_batch("UPDATE leaf SET idx = 100 WHERE idx = 4; UPDATE leaf SET idx = 4 WHERE idx = 5; UPDATE leaf SET idx = 5 WHERE idx = 100").unwrap();
            },
            Code::Prev,
            4,
        ),
        (
            "a leaf put in twice",
            |c| {
                c.execute("INSERT INTO leaf (idx, body, hash) SELECT 13, body, hash FROM leaf WHERE idx = 12", []).unwrap();
            },
            Code::Prev,
            13,
        ),
        (
            "spaces",
            |c| {
                let b = body(c, 12).replace(':', ": ");
                set(c, 12, b.as_bytes(), &leaf_hash(b.as_bytes()).0);
            },
            Code::Noncanonical,
            12,
        ),
        (
            "a float",
            |c| {
                let b = body(c, 12).replace("\"idx\":12", "\"idx\":12.0");
                set(c, 12, b.as_bytes(), &leaf_hash(b.as_bytes()).0);
            },
            Code::Noncanonical,
            12,
        ),
        (
            "a key twice",
            |c| {
                let b = body(c, 12).replace("\"idx\":12", "\"idx\":12,\"idx\":12");
                set(c, 12, b.as_bytes(), &leaf_hash(b.as_bytes()).0);
            },
            Code::Noncanonical,
            12,
        ),
        (
            "no JSON",
            |c| set(c, 12, b"gone", &leaf_hash(b"gone").0),
            Code::Noncanonical,
            12,
        ),
        (
            "nothing",
            |c| set(c, 12, b"", &leaf_hash(b"").0),
            Code::Noncanonical,
            12,
        ),
        (
            "an unknown kind",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 12 {
                        leaf["kind"] = json!("party");
                    }
                });
            },
            Code::Noncanonical,
            12,
        ),
        (
            "a version from nowhere",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 12 {
                        leaf["v"] = json!(2);
                    }
                });
            },
            Code::Noncanonical,
            12,
        ),
        (
            "another index in the body",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 12 {
                        leaf["idx"] = json!(11);
                    }
                });
            },
            Code::Gap,
            12,
        ),
        (
            "dated back",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf["t"] = json!("2020-01-01T00:00:00.000Z");
                    }
                });
            },
            Code::TimeOrder,
            7,
        ),
        (
            "dated ahead",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf["t"] = json!("2090-01-01T00:00:00.000Z");
                    }
                });
            },
            Code::TimeOrder,
            8,
        ),
        (
            "the boot clock back",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf["t_boot"] = json!(0);
                    }
                });
            },
            Code::TimeOrder,
            7,
        ),
        (
            "the request of a human decision renamed",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 6 {
                        leaf["request"] = json!("01938d5e-6b2a-7c3d-8e4f-0123456789ab");
                    }
                });
            },
            Code::Orphan,
            7,
        ),
        (
            "a human decision for no request",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf.as_object_mut().unwrap().remove("request");
                    }
                });
            },
            Code::Orphan,
            7,
        ),
        (
            "the outcome of no decision",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 8 {
                        leaf["hold"] = json!("17");
                    }
                });
            },
            Code::Orphan,
            8,
        ),
        (
            "the outcome of another boot",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 8 {
                        leaf["boot_id"] = json!("another");
                    }
                });
            },
            Code::Orphan,
            8,
        ),
        (
            "a policy nobody introduced",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf["policy"]["sha256"] = json!("ef".repeat(32));
                    }
                });
            },
            Code::PolicyRef,
            7,
        ),
        (
            "a decision under no policy",
            |c| {
                rewrite(c, |n, leaf| {
                    if n == 7 {
                        leaf.as_object_mut().unwrap().remove("policy");
                    }
                });
            },
            Code::PolicyRef,
            7,
        ),
    ];
    for (name, forge, code, idx) in table {
        let (_dir, path) = place();
        filled(&path, 3);
        assert_eq!(check(&path).exit(), Exit::Clean);
        unguarded(&path, *forge);
        let report = check(&path);
        let codes: Vec<_> = report.errors.iter().map(|e| (e.code, e.idx)).collect();
        assert!(codes.contains(&(*code, Some(*idx))), "{name}: {codes:?}");
        let first = report
            .first_bad
            .clone()
            .unwrap_or_else(|| panic!("{name}: not noticed"));
        let before = first.idx.and_then(|idx| idx.checked_sub(1));
        assert_eq!(
            report.last_good,
            before.filter(|idx| *idx >= report.first),
            "{name}"
        );
        // A leaf's own hash was changed too: what shows it is the next leaf, and the tree.
        let altered = idx - u64::from(*code == Code::Prev && name.contains("hash"));
        assert!(
            report.last_good.is_none_or(|good| good < altered),
            "{name}: {first}"
        );
        assert_eq!(report.exit(), Exit::Tampered, "{name}");
    }
}

#[test]
fn the_file_itself() {
    let (_dir, path) = place();
    filled(&path, 3);
    let fresh = std::fs::read(&path).unwrap();
    for (change, found) in [
        ("CREATE TABLE more (x)", "another table more"),
        (
            "CREATE TRIGGER t AFTER INSERT ON leaf BEGIN SELECT 1; END",
            "another trigger t",
        ),
        ("CREATE VIEW v AS SELECT 1", "another view v"),
        (
            "ALTER TABLE leaf RENAME COLUMN verdict TO verdict2",
            "another table leaf",
        ),
    ] {
        std::fs::write(&path, &fresh).unwrap();
        forger(&path).execute_batch(change).unwrap();
        let first = check(&path).first_bad.unwrap();
        assert_eq!((first.code, first.found.as_str()), (Code::Schema, found));
    }
    std::fs::write(&path, &fresh).unwrap();
    forger(&path)
        .pragma_update(None, "user_version", 7)
        .unwrap();
    assert!(matches!(
        verify(&path, |_, _| {}),
        Err(ReadError::Newer { found: 7, .. })
    ));
    std::fs::write(&path, &fresh[..100]).unwrap();
    assert!(
        verify(&path, |_, _| {}).is_err() || check(&path).exit() == Exit::Tampered,
        "cut to a stump"
    );
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(
        verify(&path, |_, _| {}),
        Err(ReadError::NotALedger { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        verify(&path, |_, _| {}),
        Err(ReadError::Missing { .. })
    ));
    assert!(!path.exists(), "verify makes nothing");
}

/// On the disk, under SQLite.
#[test]
fn any_flipped_bit_of_a_body_or_a_hash_is_found() {
    let (_dir, path) = place();
    filled(&path, 20);
    let bodies: Vec<String> = (0..64).map(|idx| body(&forger(&path), idx)).collect();
    let good = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // A page that was split keeps stale copies: all of them are flipped.
    let places_of = |bytes: &[u8]| -> Vec<usize> {
        good.windows(bytes.len())
            .enumerate()
            .filter(|(_, window)| *window == bytes)
            .map(|(at, _)| at)
            .collect()
    };
    let mut flips = 0;
    for (idx, body) in bodies.iter().enumerate() {
        let hash = leaf_hash(body.as_bytes()).0;
        // Each leaf at other positions, so that together they cover them all.
        for (bytes, step) in [(body.as_bytes(), 16), (&hash[..], 8)] {
            let places = places_of(bytes);
            for offset in (idx % step..bytes.len()).step_by(step) {
                for at in places.iter().map(|place| place + offset) {
                    file.write_all_at(&[good[at] ^ 1 << (flips % 8)], at as u64)
                        .unwrap();
                }
                let first = check(&path)
                    .first_bad
                    .unwrap_or_else(|| panic!("leaf {idx}, byte {offset}"));
                let mut flipped = bytes.to_vec();
                flipped[offset] ^= 1 << (flips % 8);
                // A body that names another place is told of first.
                let placed = serde_json::from_slice::<serde_json::Value>(&flipped)
                    .is_ok_and(|body| body["idx"].as_u64().is_some_and(|said| said != idx as u64));
                let code = if placed { Code::Gap } else { Code::LeafHash };
                assert_eq!(
                    (first.code, first.idx),
                    (code, Some(idx as u64)),
                    "byte {offset}"
                );
                for at in places.iter().map(|place| place + offset) {
                    file.write_all_at(&good[at..=at], at as u64).unwrap();
                }
                flips += 1;
            }
        }
    }
    println!("figure: {flips} bits of bodies and hashes flipped: all found");
    assert_eq!(check(&path).exit(), Exit::Clean);
}

/// A byte changed on the disk, under SQLite: it is found, or every leaf still reads the same.
#[test]
fn any_flipped_byte_of_the_file_is_found_or_harmless() {
    let (_dir, path) = place();
    filled(&path, 20);
    let head = check(&path).head;
    let good = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let (mut found, mut harmless) = (0, 0);
    for at in (0..good.len()).step_by(61) {
        file.write_all_at(&[good[at] ^ 0x10], at as u64).unwrap();
        match verify(&path, |_, _| {}) {
            Ok(report) if report.exit() == Exit::Clean => {
                assert_eq!(report.head, head, "byte {at}");
                harmless += 1;
            }
            Ok(_) | Err(_) => found += 1,
        }
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    }
    println!(
        "figure: bytes of the file flipped: {found} found, {harmless} harmless (free space, file header)"
    );
    assert!(found > harmless);
}

/// The limit without a witness, kept in sight: whoever has the live keys rewrites what they signed
/// since the last rotation. See also the text that `verify` ends with.
#[test]
fn a_cut_or_rewritten_end_is_not_noticed_by_the_file_alone() {
    let (_dir, path) = place();
    filled(&path, 3);
    let head = check(&path).head;
    forger(&path)
        .execute("DELETE FROM leaf WHERE idx > 8", [])
        .unwrap();
    let first = check(&path).first_bad.unwrap();
    assert_eq!(
        first.code,
        Code::Truncated,
        "without the keys it shows: {first}"
    );
    resign(&forger(&path));
    assert_eq!(check(&path).exit(), Exit::Clean);
    assert_ne!(check(&path).head, head, "a head noted elsewhere shows it");
    rewrite(&forger(&path), |_, leaf| {
        if leaf["agent"]["name"] == "support-bot" {
            leaf["agent"]["name"] = json!("other-bot");
        }
    });
    assert_eq!(check(&path).exit(), Exit::Clean);
}
