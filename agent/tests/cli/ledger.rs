//! The daemon's ledger: damaged, taken from, and changed for root.
use std::path::Path;
use std::process::{Command, Stdio};

use syshold_agent::control::{self, Call, Refusal, Reply};
use syshold_agent::driver::upkeep;
use syshold_ledger::{Draft, Kind, Ledger};

use super::{Daemon, code, err, out};

/// Nothing is released by a daemon that cannot record, and it does not try again by itself: it says
/// once what is wrong and what to do, where people look.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_damaged_or_was_changed_is_said_once_and_not_tried_again() {
    type Harm = fn(&Path);
    let zero_a_page = |db: &Path| {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(db).unwrap();
        file.write_all_at(&[0; 4096], 4096).unwrap();
    };
    let table: [(Harm, &str, i32); 4] = [
        (zero_a_page, "E_DB: ", 78),
        (
            |db| std::fs::write(db, "no ledger at all, whatever else it is").unwrap(),
            "not a ledger",
            78,
        ),
        (
            |db| {
                let mut bytes = std::fs::read(db).unwrap();
                let hit = bytes.windows(5).rposition(|five| five == b"web-1").unwrap();
                bytes[hit] = b'W';
                std::fs::write(db, bytes).unwrap();
            },
            "E_LEAF_HASH at leaf",
            78,
        ),
        // That may be over at the next try.
        (
            |db| {
                let lock = std::fs::File::create(db.with_extension("lock")).unwrap();
                lock.lock().unwrap();
                std::mem::forget(lock);
            },
            "another process writes this ledger",
            1,
        ),
    ];
    for (harm, expected, status) in table {
        let dir = tempfile::tempdir().unwrap();
        let (db, config) = (dir.path().join("ledger.db"), dir.path().join("agent.toml"));
        let ledger = Ledger::open(&db, "web-1".parse().unwrap()).unwrap();
        for _ in 0..50 {
            ledger.append(Draft::new(Kind::Review)).await.unwrap();
        }
        drop(ledger);
        // What another test starts meanwhile has our descriptors until it is another program.
        let lock = std::fs::File::open(db.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        drop(lock);
        std::fs::write(&config, format!("[host]\nledger = {db:?}\n")).unwrap();
        harm(&db);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sysholdd"));
        command
            .arg("--config")
            .arg(&config)
            .arg("--state")
            .arg(dir.path())
            .arg("--socket")
            .arg(dir.path().join("control.sock"))
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert_eq!(code(&output), Some(status), "{output:?}");
        let said: Vec<_> = err(&output)
            .lines()
            .filter(|line| line.contains(expected))
            .collect();
        assert_eq!(said.len(), 1, "{output:?}");
        assert!(said[0].contains(db.to_str().unwrap()), "{said:?}");
        assert!(!dir.path().join("control.sock").exists());
        // What `syshold status` shows while there is no daemon.
        let left = std::fs::read_to_string(dir.path().join(control::REFUSED));
        assert_eq!(left.is_ok_and(|text| text.contains(expected)), status == 78);
    }
}

/// A daemon that keeps this ledger, and takes whoever asks for `who`, with that user id or their own.
fn keeper(ledger: &Ledger, db: &Path, uid: Option<u32>, who: &'static str) -> Daemon {
    let (ledger, db) = (ledger.clone(), db.to_owned());
    Daemon::start(move |mut asked| {
        let Call::Ledger { work } = asked.call.clone() else {
            panic!("{:?}", asked.call)
        };
        asked.peer.uid = uid.unwrap_or(asked.peer.uid);
        upkeep::answer(asked, work, ledger.clone(), db.clone(), who.to_owned());
    })
}

/// Who may read the ledger may take of it, and it says so itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_the_ledger_is_noted_in_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("ledger.db");
    let ledger = Ledger::open(&db, "web-1".parse().unwrap()).unwrap();
    let user = keeper(&ledger, &db, Some(1000), "bob");
    let read = || syshold_ledger::Reader::open(&db).unwrap();
    for (words, format, query) in [
        (
            &["export", "--format", "csv", "--during", "2026"][..],
            "csv",
            "during = 2026",
        ),
        (&["export", "--follow"], "jsonl", "every leaf"),
        (&["report", "--by", "human"], "report", "by = human"),
        (&["evidence", "-o", "/nowhere"], "evidence", "every leaf"),
    ] {
        let size = read().size().unwrap();
        let words: Vec<_> = ["ledger"].iter().chain(words).copied().collect();
        let done = user.syshold(&words).await;
        // The ledger of this installation, which tests have none of, is what it goes on to read.
        assert_eq!(code(&done), Some(1), "{done:?}");
        assert!(err(&done).contains("/var/lib/syshold/"), "{done:?}");
        assert_eq!(out(&done), "", "what is exported, and nothing else");
        let last = read().tail(1).unwrap()[0].value();
        let said = &last["export"];
        assert_eq!(last["kind"], "export");
        assert_eq!(said["format"], format, "{said}");
        assert_eq!(
            (&said["query"], &said["by"]),
            (&query.into(), &"bob".into())
        );
        assert_eq!(said["size"], size, "{said}");
        let root = read().root(size).unwrap().to_string();
        assert_eq!(said["root"], root, "{said}");
        assert_eq!(
            said["follow"].as_bool(),
            words.contains(&"--follow").then_some(true)
        );
    }
    let noted = read().size().unwrap();
    let file = db.to_str().unwrap();
    let named = user.syshold(&["ledger", "export", "--db", file]).await;
    assert_eq!(code(&named), Some(0), "{named:?}");
    assert_eq!(out(&named).lines().count() as u64, noted);
    assert_eq!(read().size().unwrap(), noted, "a file is nobody's ledger");

    let busy = Daemon::start(|asked| {
        asked.answer(Reply::refused(Refusal::Failed, "the disk is full"));
    });
    let refused = busy.syshold(&["ledger", "export"]).await;
    assert_eq!(code(&refused), Some(1), "{refused:?}");
    assert!(
        err(&refused).contains("the disk is full"),
        "nothing is read"
    );
    let report = syshold_ledger::verify(&db, |_, _| {}).unwrap();
    assert_eq!(report.exit(), syshold_ledger::Exit::Clean, "{report:?}");
}

/// One process writes a ledger: the daemon does what the command line asks, and goes on recording.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_changes_its_ledger_for_root_and_for_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("ledger.db");
    let options = syshold_ledger::Options {
        openable: vec!["process.argv".to_owned()],
        ..syshold_ledger::Options::default()
    };
    let ledger = Ledger::open_with(&db, "web-1".parse().unwrap(), options).unwrap();
    let secret = || {
        let said = serde_json::json!({"argv": ["mail", "hunter2@example.com"]});
        Draft::new(Kind::Review).field("process", &said)
    };
    let idx = ledger.append(secret()).await.unwrap().idx;
    let root = keeper(&ledger, &db, None, "alice");
    let user = keeper(&ledger, &db, Some(1000), "bob");
    let leaf = idx.to_string();
    let redact = [
        "ledger",
        "redact",
        &leaf,
        "--reason",
        "asked to be forgotten",
    ];
    let review = ["ledger", "review", "--note", "no finding", "--to", "1"];
    let (rotate, prune) = (["ledger", "rotate-key"], ["ledger", "prune"]);
    for words in [&redact[..], &rotate, &prune, &review] {
        let refused = user.syshold(words).await;
        assert_eq!(code(&refused), Some(77), "{refused:?}");
    }
    let read = || syshold_ledger::Reader::open(&db).unwrap();
    assert_eq!(read().openings(idx).unwrap().len(), 1, "nothing was done");

    let done = root.syshold(&redact).await;
    assert_eq!(code(&done), Some(0), "{done:?}");
    assert!(out(&done).contains("redacted for good"), "{done:?}");
    assert_eq!(read().openings(idx).unwrap(), []);
    let again = root.syshold(&redact).await;
    assert_eq!(code(&again), Some(1), "{again:?}");
    assert!(err(&again).contains("nothing to redact"), "{again:?}");
    ledger.append(secret()).await.unwrap();
    let rotated = root.syshold(&["ledger", "rotate-key"]).await;
    assert_eq!(code(&rotated), Some(0), "{rotated:?}");
    let reviewed = root.syshold(&review).await;
    assert_eq!(code(&reviewed), Some(0), "{reviewed:?}");
    assert!(out(&reviewed).contains("leaves 0 to 1 are reviewed"));
    let last = read().tail(1).unwrap()[0].value();
    assert_eq!(last["review"]["by"], "alice", "{last}");
    assert_eq!(
        last["review"]["root"],
        read().root(2).unwrap().to_string(),
        "{last}"
    );
    let pruned = root.syshold(&["ledger", "prune", "--keep", "0"]).await;
    assert_eq!(code(&pruned), Some(1), "{pruned:?}");
    assert!(
        err(&pruned).contains("no witness has cosigned"),
        "{pruned:?}"
    );
    ledger.append(secret()).await.unwrap();

    // The file itself is the daemon's.
    let file = db.to_str().unwrap();
    let busy = root.syshold(&["ledger", "rotate-key", "--db", file]).await;
    assert_eq!(code(&busy), Some(1), "{busy:?}");
    assert!(err(&busy).contains("leave out --db"), "{busy:?}");
    let report = syshold_ledger::verify(&db, |_, _| {}).unwrap();
    assert_eq!(report.exit(), syshold_ledger::Exit::Clean, "{report:?}");
    assert_eq!(report.epochs, 2);
    let said = read().tail(10).unwrap();
    let by: Vec<_> = said
        .iter()
        .map(|leaf| leaf.value()["redact"]["by"].clone())
        .collect();
    assert!(by.contains(&"alice".into()), "{by:?}");
}
