//! Running, status, holds and reload: what each prints, for people and for programs, and its codes.
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use syshold_agent::control::{
    self, Asked, Call, Canary, Counts, Hold, Hook, Kernel, Ledger, Over, Parking, Policy, Refusal,
    Reply, State, Status,
};

use super::{Daemon, code, err, out, syshold};

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
