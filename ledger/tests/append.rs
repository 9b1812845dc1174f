//! Appending: what is acknowledged is there, in order, and chained.
mod common;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::time::{Duration, Instant};

use common::{decision, filled, open, outcome, place, policy, request};
use serde_json::json;
use syshold_ledger::leaf::{DecidedBy, Verdict};
use syshold_ledger::{
    AppendError, ClockState, Draft, DraftError, Exit, Filter, Kind, Ledger, OpenError, Options,
    Reader, leaf_hash, verify,
};
use uuid::Uuid;

#[test]
fn a_new_ledger_begins_with_genesis_and_goes_on_after_a_restart() {
    let (_dir, path) = place();
    filled(&path, 3);
    let ledger = open(&path);
    let committed = ledger.append(Draft::new(Kind::Start)).wait().unwrap();
    assert_eq!(committed.idx, 13);
    drop(ledger);

    let reader = Reader::open(&path).unwrap();
    let leaves = reader.tail(100).unwrap();
    assert_eq!(leaves.len(), 14);
    let first = leaves[0].value();
    assert_eq!(
        (&first["kind"], &first["prev"]),
        (&json!("genesis"), &json!("0".repeat(64)))
    );
    for pair in leaves.windows(2) {
        assert_eq!(
            pair[1].value()["prev"],
            leaf_hash(pair[0].body.as_bytes()).to_string()
        );
    }
    assert_eq!(leaves[13].hash, committed.hash);
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(
        (report.exit(), report.leaves, report.head),
        (Exit::Clean, 14, Some(committed.hash))
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[test]
fn the_newest_leaf_comes_first_until_the_reader_has_enough() {
    let (_dir, path) = place();
    filled(&path, 2);
    let reader = Reader::open(&path).unwrap();
    let all: Vec<u64> = reader.tail(100).unwrap().iter().map(|l| l.idx).collect();
    let back = |enough: usize| {
        let mut found = Vec::new();
        reader
            .back(|leaf| {
                found.push(leaf.idx);
                if found.len() == enough {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    };
    assert!(back(1000).iter().eq(all.iter().rev()));
    assert_eq!(back(2), [all.len() as u64 - 1, all.len() as u64 - 2]);
}

#[test]
fn columns_are_what_was_hashed() {
    let (_dir, path) = place();
    filled(&path, 2);
    let reader = Reader::open(&path).unwrap();
    let find = |filter: Filter| {
        let mut found = Vec::new();
        reader
            .scan(&filter, |leaf| {
                found.push(leaf.idx);
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    };
    assert_eq!(
        find(Filter {
            kind: Some("decision".into()),
            ..Filter::default()
        }),
        [4, 7]
    );
    assert_eq!(
        find(Filter {
            verdict: Some("allow".into()),
            from_idx: 5,
            ..Filter::default()
        }),
        [7]
    );
    assert_eq!(
        find(Filter {
            approver: Some("erin@example.com".into()),
            ..Filter::default()
        }),
        [4, 7],
        "the second approver too"
    );
    assert_eq!(
        find(Filter {
            agent: Some("support-bot".into()),
            rule: Some("egress".into()),
            ..Filter::default()
        }),
        [3, 4, 6, 7]
    );
    assert_eq!(
        find(Filter {
            rule: Some("' OR 1=1 --".into()),
            ..Filter::default()
        }),
        [0_u64; 0]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_commits() {
    const CALLERS: usize = 64;
    const EACH: usize = 60;
    let (_dir, path) = place();
    let ledger = open(&path);
    ledger.append(policy()).await.unwrap();
    let begin = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..EACH {
                    seen.push(
                        ledger
                            .append(decision(Uuid::now_v7(), Verdict::Allow, DecidedBy::Policy))
                            .await
                            .unwrap(),
                    );
                }
                seen
            })
        })
        .collect();
    let mut all = HashSet::new();
    for caller in callers {
        for committed in caller.await.unwrap() {
            assert!(all.insert(committed.idx), "one index given twice");
        }
    }
    let took = begin.elapsed();
    println!(
        "{} durable decisions from {CALLERS} callers in {took:?}: {:.0}/s",
        all.len(),
        all.len() as f64 / took.as_secs_f64()
    );
    assert_eq!(all.len(), CALLERS * EACH);
    drop(ledger);
    assert_eq!(verify(&path, |_, _| {}).unwrap().exit(), Exit::Clean);
}

#[test]
fn a_draft_that_is_no_leaf_fails_alone() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let good = ledger.append(Draft::new(Kind::Review).field("n", &1));
    let float = ledger.append(Draft::new(Kind::Review).field("n", &1.5));
    let long = ledger.append(Draft::new(Kind::Review).field("text", &"x".repeat(70_000)));
    let forged = ledger.append(Draft::new(Kind::Review).field("prev", "x"));
    let after = ledger.append(Draft::new(Kind::Review).field("n", &2));
    assert_eq!(good.wait().unwrap().idx, 1);
    assert!(matches!(
        float.wait(),
        Err(AppendError::Draft(DraftError::Float(_)))
    ));
    assert!(matches!(
        long.wait(),
        Err(AppendError::Draft(DraftError::TooLong(_)))
    ));
    assert!(matches!(
        forged.wait(),
        Err(AppendError::Draft(DraftError::Reserved(_)))
    ));
    assert_eq!(after.wait().unwrap().idx, 2, "no hole is left");
    drop(ledger);
    assert_eq!(verify(&path, |_, _| {}).unwrap().exit(), Exit::Clean);
}

#[test]
fn what_waits_when_the_ledger_is_dropped_is_written() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let pending: Vec<_> = (0..500)
        .map(|n| ledger.append(Draft::new(Kind::Review).field("n", &n)))
        .collect();
    drop(ledger);
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().idx, n as u64 + 1);
    }
}

#[test]
fn a_full_queue_refuses_and_the_ledger_says_so() {
    let (_dir, path) = place();
    let ledger = Ledger::open_with(
        &path,
        "web-1".parse().unwrap(),
        Options {
            queue: 1,
            ..Options::default()
        },
    )
    .unwrap();
    let answers: Vec<_> = (0..300)
        .map(|_| ledger.append(Draft::new(Kind::Review)))
        .collect();
    let refused = answers
        .into_iter()
        .map(syshold_ledger::Pending::wait)
        .filter(|a| matches!(a, Err(AppendError::QueueFull)))
        .count();
    assert!(refused > 0, "the queue never filled");
    ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    drop(ledger);
    let mut lost = 0;
    let gaps = Filter {
        kind: Some("gap".into()),
        ..Filter::default()
    };
    let reader = Reader::open(&path).unwrap();
    reader
        .scan(&gaps, |leaf| {
            lost += leaf.value()["gap"]["lost"].as_u64().unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(lost, refused as u64);
}

#[test]
fn the_clocks_state_is_in_each_leaf_and_warned_about() {
    let (_dir, path) = place();
    let clock = || {
        Some(ClockState {
            synced: false,
            maxerror_us: 16_000_000,
        })
    };
    let options = Options {
        clock: Some(Box::new(clock)),
        ..Options::default()
    };
    let ledger = Ledger::open_with(&path, "web-1".parse().unwrap(), options).unwrap();
    ledger.append(policy()).wait().unwrap();
    drop(ledger);
    let leaf = Reader::open(&path)
        .unwrap()
        .show(1)
        .unwrap()
        .unwrap()
        .value();
    assert_eq!(
        leaf["clock"],
        json!({"synced": false, "maxerror_us": 16_000_000})
    );
    let report = verify(&path, |_, _| {}).unwrap();
    assert_eq!(
        (report.exit(), report.warnings.len()),
        (Exit::WarningsOnly, 1)
    );
}

#[test]
fn follow_sees_commits_of_others() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let follower = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut seen = Vec::new();
            let reader = Reader::open(&path).unwrap();
            reader
                .follow(&Filter::default(), Duration::from_millis(5), |leaf| {
                    seen.push(leaf.idx);
                    if leaf.idx == 20 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .unwrap();
            seen
        }
    });
    for _ in 0..20 {
        ledger.append(Draft::new(Kind::Review)).wait().unwrap();
    }
    assert_eq!(follower.join().unwrap(), (0..=20).collect::<Vec<_>>());
}

#[test]
fn what_is_no_good_place_or_file_is_refused_by_name() {
    let (dir, path) = place();
    let ledger = open(&path);
    let open_again = || {
        Ledger::open(&path, "web-1".parse().unwrap())
            .map(drop)
            .unwrap_err()
    };
    assert!(matches!(open_again(), OpenError::InUse { .. }));
    drop(ledger);

    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o770)).unwrap();
    assert!(matches!(open_again(), OpenError::Directory { .. }));
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o750)).unwrap();

    common::forger(&path)
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(open_again(), OpenError::Newer { found: 99, .. }));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a newer ledger is never altered"
    );
    common::forger(&path)
        .pragma_update(None, "user_version", 2)
        .unwrap();
    drop(open(&path));

    common::forger(&path)
        .execute("DELETE FROM leaf", [])
        .unwrap();
    assert!(matches!(open_again(), OpenError::Emptied { .. }));

    std::fs::write(
        &path,
        b"this is a text file, long enough to be taken for a header of something",
    )
    .unwrap();
    assert!(matches!(open_again(), OpenError::NotALedger { .. }));
    std::fs::remove_file(&path).unwrap();
    common::forger(&path)
        .execute_batch("CREATE TABLE other (x)")
        .unwrap();
    assert!(matches!(open_again(), OpenError::NotALedger { .. }));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(open_again(), OpenError::Directory { .. }));

    let nowhere = dir.path().join("no/where.db");
    assert!(matches!(
        Ledger::open(&nowhere, "h".parse().unwrap()).map(drop),
        Err(OpenError::Directory { .. })
    ));
}

#[test]
fn the_directory_may_be_reached_through_a_link() {
    let (dir, path) = place();
    let link = dir.path().with_extension("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    filled(&link.join("ledger.db"), 1);
    std::fs::remove_file(link).unwrap();
    assert_eq!(verify(&path, |_, _| {}).unwrap().exit(), Exit::Clean);
}

#[test]
fn a_tampered_tail_is_not_built_upon() {
    let (_dir, path) = place();
    filled(&path, 2);
    common::forger(&path)
        .execute(
            "UPDATE leaf SET body = replace(body, 'connect', 'send') WHERE idx = 4",
            [],
        )
        .unwrap();
    assert!(matches!(
        Ledger::open(&path, "web-1".parse().unwrap()).map(drop),
        Err(OpenError::Tampered { .. })
    ));
}

#[test]
fn a_change_under_the_writer_fails_the_batch_and_is_recorded() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let id = Uuid::now_v7();
    ledger.append(policy()).wait().unwrap();
    ledger.append(request(id)).wait().unwrap();
    // Root cuts the last leaf off, which was acknowledged: nothing is ever written after that.
    common::forger(&path)
        .execute("DELETE FROM leaf WHERE idx = 2", [])
        .unwrap();
    let refused = ledger.append(outcome(id)).wait();
    assert!(matches!(refused, Err(AppendError::Store(_))), "{refused:?}");
    let refused = ledger
        .append(decision(id, Verdict::Deny, DecidedBy::Error))
        .wait();
    assert!(
        matches!(&refused, Err(AppendError::Store(why)) if why.contains("acknowledged")),
        "{refused:?}"
    );
}

/// POSIX: whoever closes a file ends every lock that its process has on it.
#[test]
fn a_reader_in_the_daemon_leaves_the_writers_locks_alone() {
    let (_dir, path) = place();
    let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
    ledger.append(Draft::new(Kind::Start)).wait().unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    let locks = || {
        let all = std::fs::read_to_string("/proc/locks").unwrap();
        let own = format!(" {} ", std::process::id());
        let of_file = format!(":{inode} ");
        let held = all.lines().filter(|line| line.contains(&own));
        held.filter(|line| line.contains(&of_file)).count()
    };
    let before = locks();
    assert!(before > 0, "the writer holds one");
    drop(Reader::open(&path).unwrap());
    assert_eq!(locks(), before);
    drop(verify(&path, |_, _| {}).unwrap());
    assert_eq!(locks(), before);
    drop(ledger);
}
