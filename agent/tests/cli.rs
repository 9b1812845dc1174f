//! The command line against a control socket: what it prints, and the code it ends with.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use jiff::Timestamp;
use syshold_agent::control::{
    self, Asked, Call, Canary, Counts, Door, Hold, Hook, Kernel, Ledger, Over, Parking, Policy,
    Refusal, Reply, State, Status,
};
use syshold_agent::driver::upkeep;
use syshold_ledger::{Draft, Kind};
use syshold_protocol::break_glass::{self, Terms};
use syshold_protocol::{PublicKey, Subject};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A door whose driver is the test.
struct Daemon {
    dir: TempDir,
    _door: Door,
}

impl Daemon {
    fn start(answer: impl Fn(Asked) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (to_driver, mut asked) = mpsc::channel(8);
        let door = control::listen(&dir.path().join("control.sock"), to_driver).unwrap();
        tokio::spawn(async move {
            while let Some(next) = asked.recv().await {
                answer(next);
            }
        });
        Self { dir, _door: door }
    }

    async fn syshold(&self, args: &[&str]) -> Output {
        syshold(&self.dir.path().join("control.sock"), args).await
    }
}

async fn syshold(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syshold"));
    command
        .arg("--socket")
        .arg(socket)
        .args(args)
        .env_remove("SYSHOLD_GATEWAY")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn policy() -> Policy {
    Policy {
        path: "/etc/syshold/agent.toml".into(),
        sha256: "ab".repeat(32),
        loaded_at: Timestamp::now(),
        problem: None,
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 7,
        started: Timestamp::now(),
        policy: policy(),
        kernel: Kernel {
            release: "6.12.1".to_owned(),
            hooks: vec![Hook {
                name: "file_open".to_owned(),
                attached: true,
                live: true,
            }],
            lacks: Vec::new(),
        },
        parking: Parking {
            mode: "frozen threaded cgroup".to_owned(),
            why: None,
        },
        dns: "allowed to this host's resolvers".to_owned(),
        agents: vec![control::Agent {
            name: "bot".to_owned(),
            owner: None,
            processes: 3,
        }],
        counts: Counts::default(),
        relaxed: vec!["on_unreachable is allow".to_owned()],
        gateway: Some(control::Gateway {
            url: "https://gw.example:8443".to_owned(),
            reachable: true,
            last_ok: Some(Timestamp::now()),
            trouble: None,
        }),
        ledger: Ledger {
            path: PathBuf::from("/var/lib/syshold/ledger.db"),
            leaves: 41,
            ok: true,
            problem: None,
            witness: Some(control::Witness {
                compared: true,
                cosigned: Some((40, Timestamp::now())),
                trouble: None,
            }),
        },
        canary: Canary {
            ok: true,
            at: Some(Timestamp::now()),
            problem: None,
        },
    }
}

fn hold(id: u64) -> Reply {
    Reply::Hold(Box::new(Hold {
        id,
        since: Timestamp::now(),
        expires: None,
        agent: "bot".to_owned(),
        pid: 41,
        tid: 42,
        comm: "cu\u{1b}[2Jrl".to_owned(),
        action: "connect".to_owned(),
        object: "tcp://192.0.2.7:443".to_owned(),
        rule: "egress".to_owned(),
        mode: "park".to_owned(),
        state: State::Waiting,
        request_id: None,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_each_verb_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    for (args, expected) in [
        (&["status"][..], 69),
        (&["status", "--json"], 69),
        (&["holds"], 69),
        (&["reload"], 69),
        (&["run", "--agent", "bot", "--", "echo", "ran"], 126),
        (&["approvals", "list"], 78),
    ] {
        let output = syshold(&socket, args).await;
        assert_eq!(code(&output), Some(expected), "{args:?}: {output:?}");
        assert_eq!(out(&output), "", "{args:?}");
        assert_eq!(
            err(&output).lines().count(),
            1,
            "{args:?}: {}",
            err(&output)
        );
    }
    // Nobody listens there any more.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = syshold(&socket, &["status"]).await;
    assert_eq!(code(&output), Some(69));
    assert!(
        err(&output).contains("systemctl start sysholdd"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_usage() {
    let nowhere = Path::new("/nonexistent");
    for args in [
        &["frobnicate"][..],
        &["run", "ls"],
        &["approvals", "approve"],
        &["approvals", "deny", "id"],
        &["enrol", "--gateway", "http://gw", "--token-file", "-"],
    ] {
        assert_eq!(code(&syshold(nowhere, args).await), Some(2), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_becomes_the_command_once_it_is_governed() {
    let daemon = Daemon::start(|asked| {
        let Call::Govern { agent } = asked.call.clone() else {
            panic!("{asked:?}")
        };
        assert_ne!(asked.peer.pid, std::process::id());
        asked.answer(Reply::Governed { agent });
    });
    let run = |words: &'static [&'static str]| {
        let mut args = vec!["run", "--no-scope", "--agent", "bot", "--"];
        args.extend(words);
        let daemon = &daemon;
        async move { daemon.syshold(&args).await }
    };
    let output = run(&["sh", "-c", "echo \"$0 $1\"; exit 7", "a b", "--json"]).await;
    assert_eq!((code(&output), out(&output)), (Some(7), "a b --json\n"));
    assert_eq!(err(&output), "");
    // The command's own signals: it must not inherit what this program ignores.
    let output = run(&["sh", "-c", "kill -PIPE $$; echo alive"]).await;
    assert_eq!(out(&output), "", "SIGPIPE is ignored in the command");
    let output = run(&["/nonexistent/command"]).await;
    assert_eq!(code(&output), Some(126));
    assert!(err(&output).contains("/nonexistent/command"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_when_governing_is_refused_cut_short_or_answered_oddly() {
    let refuse = |asked: Asked| {
        asked.answer(Reply::refused(
            Refusal::UnknownAgent,
            "no agent bot; the policy names: x",
        ));
    };
    let leave = |asked: Asked| drop(asked);
    let odd = |asked: Asked| asked.answer(Reply::Reloaded { policy: policy() });
    for daemon in [
        Daemon::start(refuse),
        Daemon::start(leave),
        Daemon::start(odd),
    ] {
        let output = daemon
            .syshold(&["run", "--no-scope", "--agent", "bot", "--", "echo", "ran"])
            .await;
        assert_eq!((code(&output), out(&output)), (Some(126), ""), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_codes() {
    for (cause, expected) in [
        (Refusal::Governed, 77),
        (Refusal::Permission, 77),
        (Refusal::Policy, 78),
        (Refusal::Busy, 69),
        (Refusal::Failed, 1),
    ] {
        let daemon = Daemon::start(move |asked| asked.answer(Reply::refused(cause, "because")));
        for verb in ["reload", "status", "holds"] {
            let output = daemon.syshold(&[verb]).await;
            assert_eq!(code(&output), Some(expected), "{cause:?} {verb}");
            assert_eq!(err(&output), "syshold: because\n");
        }
    }
    let daemon = Daemon::start(|asked| asked.answer(Reply::refused(Refusal::Governed, "no")));
    let output = daemon.syshold(&["approvals", "list"]).await;
    assert_eq!(code(&output), Some(77));
    assert!(
        err(&output).contains("governed process cannot approve"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_for_people_and_for_programs() {
    let daemon = Daemon::start(|asked| asked.answer(Reply::Status(Box::new(status()))));
    let output = daemon.syshold(&["status"]).await;
    assert_eq!(code(&output), Some(0), "{output:?}");
    for word in [
        "enforcing",
        "6.12.1",
        "https://gw.example:8443",
        "41 leaves",
        "on_unreachable is allow",
        "bot",
    ] {
        assert!(out(&output).contains(word), "{word}: {}", out(&output));
    }
    assert!(
        !out(&output).contains('\u{1b}'),
        "colours without a terminal"
    );
    let output = daemon.syshold(&["status", "--json"]).await;
    let back: Status = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(
        (back.version, back.kernel),
        (status().version, status().kernel)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_fails_when_enforcement_is_not_proven() {
    type Change = fn(&mut Status);
    let table: [(Change, &str); 5] = [
        (|s| s.canary.ok = false, "not enforcing"),
        (
            |s| s.kernel.hooks[0].attached = false,
            "hook file_open is not attached",
        ),
        (|s| s.ledger.ok = false, "the ledger cannot be written"),
        (|s| s.gateway = None, "not enrolled"),
        (|s| s.policy.problem = Some("line 3".to_owned()), "line 3"),
    ];
    for (change, said) in table {
        let mut sick = status();
        change(&mut sick);
        let daemon =
            Daemon::start(move |asked| asked.answer(Reply::Status(Box::new(sick.clone()))));
        let output = daemon.syshold(&["status"]).await;
        assert_eq!(code(&output), Some(1), "{said}");
        assert!(out(&output).contains(said), "{said}: {}", out(&output));
        assert_eq!(code(&daemon.syshold(&["status", "--json"]).await), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_are_listed_whole_and_without_what_a_terminal_obeys() {
    let daemon = Daemon::start(|asked| asked.answer_all((0..3000).map(hold).collect()));
    let output = daemon.syshold(&["holds", "--json"]).await;
    assert_eq!(code(&output), Some(0));
    assert_eq!(out(&output).lines().count(), 3000);
    let last: Reply = serde_json::from_str(out(&output).lines().last().unwrap()).unwrap();
    assert!(matches!(last, Reply::Hold(hold) if hold.id == 2999));
    let output = daemon.syshold(&["holds"]).await;
    assert!(out(&output).contains("tcp://192.0.2.7:443"));
    assert!(!out(&output).contains('\u{1b}'));
    let none = Daemon::start(drop);
    assert_eq!(out(&none.syshold(&["holds"]).await), "Nothing is held.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_prints_each_change() {
    let daemon = Daemon::start(|asked| {
        assert_eq!(asked.call, Call::Holds { follow: true });
        assert!(asked.reply.send(hold(5)));
        assert!(asked.reply.send(Reply::Over(Over {
            id: 5,
            at: Timestamp::now(),
            verdict: "deny".to_owned(),
            cause: "expired".to_owned(),
        })));
    });
    let output = daemon.syshold(&["holds", "--follow"]).await;
    assert_eq!(code(&output), Some(69), "an end that nobody asked for");
    let lines: Vec<_> = out(&output).lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains("waiting") && lines[1].contains("expired"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stops_in_the_middle_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for said in [
            "",
            "{\"reply\":\"hold\"",
            "{\"reply\":\"surprise\"}\n",
            "\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 100]).unwrap();
            stream.write_all(said.as_bytes()).unwrap();
        }
    });
    for expected in [69, 69, 1, 1] {
        let output = syshold(&socket, &["holds"]).await;
        assert_eq!(code(&output), Some(expected), "{output:?}");
        assert_eq!(out(&output), "");
    }
}

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
        let ledger = syshold_ledger::Ledger::open(&db, "web-1".parse().unwrap()).unwrap();
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

/// Who may read the ledger may take of it, and it says so itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_the_ledger_is_noted_in_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("ledger.db");
    let ledger = syshold_ledger::Ledger::open(&db, "web-1".parse().unwrap()).unwrap();
    let (own, path) = (ledger.clone(), db.clone());
    let user = Daemon::start(move |mut asked| {
        let Call::Ledger { work } = asked.call.clone() else {
            panic!("{:?}", asked.call)
        };
        asked.peer.uid = 1000;
        upkeep::answer(asked, work, own.clone(), path.clone(), "bob".to_owned());
    });
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
    let ledger = syshold_ledger::Ledger::open_with(&db, "web-1".parse().unwrap(), options).unwrap();
    let secret = || {
        let said = serde_json::json!({"argv": ["mail", "hunter2@example.com"]});
        Draft::new(Kind::Review).field("process", &said)
    };
    let idx = ledger.append(secret()).await.unwrap().idx;
    let (own, path) = (ledger.clone(), db.clone());
    let root = Daemon::start(move |asked| {
        let Call::Ledger { work } = asked.call.clone() else {
            panic!("{:?}", asked.call)
        };
        upkeep::answer(asked, work, own.clone(), path.clone(), "alice".to_owned());
    });
    let (own, path) = (ledger.clone(), db.clone());
    let user = Daemon::start(move |mut asked| {
        let Call::Ledger { work } = asked.call.clone() else {
            panic!("{:?}", asked.call)
        };
        asked.peer.uid = 1000;
        upkeep::answer(asked, work, own.clone(), path.clone(), "bob".to_owned());
    });
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

fn key_in(line: &str) -> PublicKey {
    line.split('"').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_order_is_signed_by_two_and_brought_to_the_daemon() {
    let (seen, mut orders) = mpsc::unbounded_channel();
    let daemon = Daemon::start(move |asked| match &asked.call {
        Call::BreakGlass { order } => {
            seen.send(order.clone()).unwrap();
            let text = "In force.\u{1b}[2J".to_owned();
            asked.answer(Reply::Done { text });
        }
        Call::BreakGlassEnd => asked.answer(Reply::Done {
            text: "Ended: 1.".to_owned(),
        }),
        other => panic!("{other:?}"),
    });
    let path = |name: &str| daemon.dir.path().join(name).display().to_string();
    let mut keys = Vec::new();
    for name in ["dora", "erik"] {
        let made = daemon
            .syshold(&["break-glass", "key", "--out", &path(name)])
            .await;
        let subject: Subject = format!("{name}@example.com").parse().unwrap();
        keys.push((subject, key_in(out(&made))));
        let mode = std::fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = daemon
        .syshold(&["break-glass", "key", "--out", &path("dora")])
        .await;
    assert_eq!(code(&again), Some(1), "a key is never overwritten");

    let (dora, erik, order) = (path("dora"), path("erik"), path("order"));
    let write = [
        "break-glass",
        "order",
        "--agent",
        "bot",
        "--rule",
        "pii-read",
        "--host",
        "host-1",
        "--minutes",
        "10",
        "--reason",
        "INC-7",
        "--key",
        &dora,
        "--out",
        &order,
    ];
    let written = daemon.syshold(&write).await;
    assert_eq!(code(&written), Some(0), "{}", err(&written));
    let long = write.map(|word| if word == "10" { "16" } else { word });
    assert_eq!(code(&daemon.syshold(&long).await), Some(2));
    let host_id = "host-1".parse().unwrap();
    let judged = |envelope: &[u8]| {
        let terms = Terms {
            host_id: &host_id,
            keys: &keys,
        };
        let now = std::time::SystemTime::now().into();
        break_glass::accept(envelope, &terms, now, &|_| false, &|_, _| false)
    };
    let one = std::fs::read(&order).unwrap();
    assert!(judged(&one).is_err(), "one person alone");

    let signed = daemon
        .syshold(&["break-glass", "countersign", &order, "--key", &erik])
        .await;
    assert_eq!(code(&signed), Some(0), "{}", err(&signed));
    for fact in ["bot", "pii-read", "INC-7", "host-1"] {
        assert!(out(&signed).contains(fact), "the second one sees {fact}");
    }
    let used = daemon.syshold(&["break-glass", "use", &order]).await;
    assert_eq!(code(&used), Some(0), "{}", err(&used));
    assert!(out(&used).contains("In force.") && !out(&used).contains("\u{1b}[2J"));
    let accepted = judged(orders.recv().await.unwrap().as_bytes()).unwrap();
    assert_eq!(accepted.signers.len(), 2);
    assert_eq!(accepted.order.rules, ["pii-read"]);
    assert!((9 * 60_000..=10 * 60_000).contains(&accepted.ttl_ms));

    let ended = daemon.syshold(&["break-glass", "end"]).await;
    assert!(out(&ended).contains("Ended: 1."));
    let garbage = daemon.syshold(&["break-glass", "use", &dora]).await;
    assert_eq!(code(&garbage), Some(1), "a key is no order");
    assert!(!err(&garbage).contains("PRIVATE"));
}
