//! The command line as a process: its exit status, what it hands out, and what a terminal is told.
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::pty::openpty;
use syshold_ledger::{ClockState, Draft, Kind, Ledger, Options, Reader};

use crate::common::{self, filled, open, place};
use crate::in_role;

/// `syshold ledger …` to its end: the exit status, and what it said on both outputs.
fn run(path: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = in_role("cli", path).args(arguments).output();
    let output = output.expect("a child");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let (out, error) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, error)
}

/// Standard error is a terminal, and the check is long because somebody keeps the file for a second;
/// into a pipe nothing is said.
pub(crate) fn a_terminal_is_told_how_far_a_long_check_is() {
    let (_dir, path) = place();
    let ledger = open(&path);
    let leaves: Vec<_> = (0..9_000)
        .map(|_| ledger.append(Draft::new(Kind::Review)))
        .collect();
    for leaf in leaves {
        leaf.wait().expect("a leaf");
    }
    drop(ledger);
    let all = Reader::open(&path).expect("the ledger").len().expect("it");
    let run = |stderr: Stdio| {
        let keeper = common::forger(&path);
        keeper
            .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT")
            .expect("the file for itself");
        let mut child = in_role("cli", &path)
            .arg("verify")
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("a child");
        // It has begun when it has the file open; then it waits for it.
        let files = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let has_it = || {
            let files = files.read_dir().expect("its files").flatten();
            let mut targets = files.map(|file| std::fs::read_link(file.path()));
            targets.any(|target| target.is_ok_and(|target| target == path))
        };
        while !has_it() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_secs(1));
        assert!(child.try_wait().expect("its state").is_none(), "it waits");
        drop(keeper);
        child.wait_with_output().expect("its end")
    };
    let terminal = openpty(None, None).expect("a terminal");
    let screen = std::thread::spawn(move || {
        let (mut master, mut text) = (std::fs::File::from(terminal.master), Vec::new());
        // It ends with EIO, when nobody has the other end open any more.
        let _gone = master.read_to_end(&mut text);
        String::from_utf8(text).expect("text")
    });
    let output = run(terminal.slave.into());
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8(output.stdout).expect("text");
    assert!(!report.contains('\r') && !report.contains('%'), "{report}");
    let said = screen.join().expect("the screen");
    let lines: Vec<_> = said.split('\r').map(str::trim_end).collect();
    let after = |done: u64| format!("{done} of {all} leaves, {} %", done * 100 / all);
    let mut expected = vec![String::new(), after(4096), after(8192), after(all)];
    // Wiped, for what is printed next.
    expected.extend([String::new(), String::new()]);
    assert_eq!(lines, expected, "{said:?}");

    let output = run(Stdio::piped());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"", "nothing into a pipe");
}

pub(crate) fn the_command_line_answers_with_its_exit_status() {
    let (_dir, path) = place();
    filled(&path, 5);
    let run = |arguments: &[&str]| run(&path, arguments);
    let (status, text, _) = run(&["tail", "-n", "3"]);
    assert_eq!((status, text.lines().count()), (Some(0), 4), "{text}");
    assert!(
        text.contains("resumed") && !text.contains('\u{1b}'),
        "no colours into a pipe: {text}"
    );
    let (status, text, _) = run(&[
        "tail",
        "--json",
        "--kind",
        "decision",
        "--approver",
        "erin@example.com",
    ]);
    assert_eq!((status, text.lines().count()), (Some(0), 5));
    let leaf: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let idx = leaf["idx"].to_string();
    let (status, shown, _) = run(&["show", &idx, "--json"]);
    assert_eq!(
        (status, shown.trim_end()),
        (Some(0), text.lines().last().expect("a line"))
    );
    let (status, shown, _) = run(&["show", &idx]);
    assert!(
        status == Some(0) && shown.contains("approvers[1].subject") && shown.contains("\nhash"),
        "{shown}"
    );
    let (status, _, error) = run(&["show", "99"]);
    assert_eq!(
        (status, error.as_str()),
        (
            Some(1),
            "syshold ledger: there is no leaf 99; the last one is 18\n"
        )
    );
    let (status, text, _) = run(&["verify"]);
    assert!(
        status == Some(0) && text.contains("19 leaves") && text.contains("clean"),
        "{text}"
    );

    common::unguarded(&path, |conn| {
        conn.execute(
            "UPDATE leaf SET body = replace(body, 'connect', 'send') WHERE idx = 7",
            [],
        )
        .expect("forged");
    });
    let (status, text, _) = run(&["verify"]);
    assert!(
        status == Some(1) && text.contains("E_LEAF_HASH at leaf 7: expected "),
        "{text}"
    );
    assert!(
        text.contains("TAMPERED: proven good up to leaf 6"),
        "{text}"
    );
    let (status, text, _) = run(&["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (status, &report["first_bad"]["code"], &report["last_good"]),
        (Some(1), &"E_LEAF_HASH".into(), &6.into())
    );
    let (_dir, unsynced) = place();
    let options = Options {
        clock: Some(Box::new(|| {
            Some(ClockState {
                synced: false,
                maxerror_us: 16_000_000,
            })
        })),
        ..Options::default()
    };
    drop(Ledger::open_with(&unsynced, "web-1".parse().expect("a name"), options).expect("made"));
    let unsynced = unsynced.display().to_string();
    let (status, text, _) = run(&["verify", "--db", &unsynced]);
    assert!(
        status == Some(2) && text.contains("W_CLOCK_UNSYNCED"),
        "{text}"
    );
    let (status, _, error) = run(&["verify", "--db", "/nowhere/ledger.db"]);
    assert!(
        status == Some(3) && error.starts_with("syshold ledger: /nowhere/ledger.db: "),
        "{error}"
    );
    let (status, _, error) = run(&["tail", "--db", "/etc/passwd"]);
    assert!(
        status == Some(1) && error.contains("not a ledger"),
        "{error}"
    );
}

pub(crate) fn the_command_line_hands_out_what_was_asked_for() {
    let (dir, path) = place();
    filled(&path, 5);
    let run = |arguments: &[&str]| run(&path, arguments);
    let year = jiff::Timestamp::now().to_string()[..4].to_owned();
    let asked = [
        "query",
        "--during",
        &year,
        "--by",
        "human",
        "--verdict",
        "allow",
    ];
    let (status, text, _) = run(&asked);
    assert!(
        status == Some(0) && text.lines().count() == 7 && text.contains("5 of 19 leaves: "),
        "{text}"
    );
    let (_, text, _) = run(&[&asked[..], &["--format", "csv"]].concat());
    assert_eq!(text.lines().count(), 6);
    let (_, text, _) = run(&[&asked[..], &["--json"]].concat());
    assert_eq!(text.lines().count(), 5);
    let (_, text, _) = run(&["export", "--format", "ocsf", "--kind", "decision"]);
    let event: serde_json::Value =
        serde_json::from_str(text.lines().next().expect("an event")).expect("JSON");
    assert_eq!(event["class_uid"], 4001);
    let (status, _, error) = run(&["query", "--during", "May"]);
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("\"May\" is no year"), "{error}");
    let (status, _, error) = run(&["query", "--control", "XX-1"]);
    assert!(status == Some(2) && error.contains("no control"), "{error}");

    let (status, checkpoint, _) = run(&["checkpoint"]);
    assert_eq!((status, checkpoint.lines().nth(1)), (Some(0), Some("19")));
    let (status, proof, _) = run(&["prove", "7"]);
    assert!(status == Some(0) && proof.starts_with("c2sp.org/tlog-proof@v1\nindex 7\n"));
    assert!(proof.ends_with(&checkpoint), "{proof}");
    let (status, _, error) = run(&["prove", "99"]);
    assert!(
        status == Some(1) && error.contains("no checkpoint covers leaf 99"),
        "{error}"
    );

    let at = |name: &str| dir.path().join(name).display().to_string();
    let (status, _, error) = run(&["report", "--output", &at("report.html")]);
    assert_eq!(status, Some(0), "{error}");
    let page = std::fs::read_to_string(at("report.html")).expect("a report");
    assert!(page.contains("Integrity verified") && page.ends_with("</html>"));
    let (status, text, _) = run(&["evidence", "--kind", "decision", "-o", &at("bundle.zip")]);
    assert!(
        status == Some(0) && text.contains("5 records, proven in a tree of 19"),
        "{text}"
    );
    let (status, _, error) = run(&["snapshot", &at("copy.db")]);
    assert_eq!(status, Some(0), "{error}");
    let (status, text, _) = run(&["verify", "--db", &at("copy.db")]);
    assert!(
        status == Some(0) && text.contains("as the ledger names it"),
        "{text}"
    );

    // The key that somebody else told, in a file or as it is.
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("identity key ")?.split(' ').next())
        .expect("a key")
        .to_owned();
    std::fs::write(at("key"), format!("{key}\n")).expect("written");
    for key in [&key, &at("key")] {
        let (status, text, _) = run(&["verify", "--key", key]);
        assert!(
            status == Some(0) && text.contains("the one you gave"),
            "{text}"
        );
    }
    let other = "web-1+00000000+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx";
    let (status, _, error) = run(&["verify", "--key", other]);
    assert!(
        status == Some(3) && error.contains("the hash is not"),
        "{error}"
    );
    std::fs::write(at("seen"), &checkpoint).expect("written");
    let (status, _, _) = run(&["verify", "--witnessed", &at("seen")]);
    assert_eq!(status, Some(0));

    let (status, text, error) = run(&["rotate-key"]);
    assert!(
        status == Some(0) && text.contains("after leaf 19"),
        "{error}"
    );
    for (words, said) in [
        (
            &["--from", "3", "--to", "2"][..],
            "leaf 3 comes after leaf 2",
        ),
        (&["--to", "99"], "there is no leaf 99; the last one is 19"),
    ] {
        let (status, _, error) = run(&[&["review", "--note", "x"], words].concat());
        assert!(status == Some(1) && error.contains(said), "{error}");
    }
    let (status, text, error) = run(&["review", "--note", "no finding"]);
    assert!(
        status == Some(0) && text == "leaves 0 to 19 are reviewed; leaf 20 says so\n",
        "{text}{error}"
    );
    let (_, text, _) = run(&["query", "--control", "AU-6"]);
    assert!(text.contains("1 of 21 leaves"), "{text}");
    let ledger = open(&path);
    let (status, _, error) = run(&["rotate-key"]);
    assert!(
        status == Some(1) && error.contains("another process writes"),
        "{error}"
    );

    // Following: what is committed from now on comes at once.
    let mut child = in_role("cli", &path)
        .args(["export", "--follow", "--kind", "revoke"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
    for n in 0..3 {
        let draft = Draft::new(Kind::Revoke).field("n", &n);
        ledger.append(draft).wait().expect("recorded");
        let line = lines.next().expect("a line").expect("text");
        assert!(line.contains(&format!("\"n\":{n}")), "{line}");
    }
    child.kill().expect("killed");
    child.wait().expect("its end");
}
