//! What needs other processes: the writer killed at any moment, a full disk, and readers that are
//! not root. Starts itself again in the roles below. The last needs root to become another user: it
//! is skipped in sight of a developer who is not root, and an error in CI.
#![expect(clippy::expect_used, reason = "tests with a main of their own")]
mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{decision, filled, open, place, policy, request};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::pty::openpty;
use nix::sched::{CloneFlags, unshare};
use syshold_ledger::leaf::{DecidedBy, Verdict};
use syshold_ledger::{
    AppendError, ClockState, Draft, Exit, Filter, Health, Kind, Ledger, Options, Reader, verify,
};
use uuid::Uuid;

const ROLE: &str = "SYSHOLD_LEDGER_TEST_ROLE";
const DB: &str = "SYSHOLD_LEDGER_TEST_DB";
/// How often the writer is killed; more when this variable says so.
const KILLS: (&str, usize) = ("SYSHOLD_LEDGER_TEST_KILLS", 60);

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("append") => return append_for_ever(&db()),
        Ok("cli") => return command_line(),
        Ok("persist") => return append_whatever_happens(&db()),
        Ok("verify") => {
            return ExitCode::from(
                verify(&db(), |_, _| {}).map_or(Exit::Unreadable, |report| report.exit()) as u8,
            );
        }
        _ => {}
    }
    let root = nix::unistd::geteuid().is_root();
    let tests: [(&str, fn()); 8] = [
        ("killed_at_any_moment", killed_at_any_moment),
        (
            "a_full_disk_denies_records_and_recovers",
            a_full_disk_denies_records_and_recovers,
        ),
        (
            "a_failed_fsync_is_never_taken_for_a_commit",
            a_failed_fsync_is_never_taken_for_a_commit,
        ),
        (
            "the_command_line_answers_with_its_exit_status",
            the_command_line_answers_with_its_exit_status,
        ),
        (
            "the_command_line_hands_out_what_was_asked_for",
            the_command_line_hands_out_what_was_asked_for,
        ),
        (
            "a_terminal_is_told_how_far_a_long_check_is",
            a_terminal_is_told_how_far_a_long_check_is,
        ),
        ("the_group_can_verify", the_group_can_verify),
        (
            "a_read_only_medium_can_be_verified",
            a_read_only_medium_can_be_verified,
        ),
    ];
    own_namespace(root);
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let (mut run, mut skipped) = (0, 0);
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        if name == "the_group_can_verify" && !root {
            assert!(std::env::var_os("CI").is_none(), "{name} needs root");
            println!("test {name} ... ignored, needs root to become another user");
            skipped += 1;
            continue;
        }
        test();
        println!("test {name} ... ok");
        run += 1;
    }
    println!(
        "\ntest result: ok. {run} passed; 0 failed; {skipped} ignored; 0 measured; {} filtered out",
        tests.len() - run - skipped
    );
    ExitCode::SUCCESS
}

/// Mounts made from here on are seen by nobody else and end with this process. Who is not root
/// becomes root of a user namespace.
fn own_namespace(root: bool) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let flags = if root {
        CloneFlags::CLONE_NEWNS
    } else {
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER
    };
    unshare(flags).expect("namespaces of its own; where only root may have them, run this as root");
    if !root {
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            std::fs::write(format!("/proc/self/{file}"), text)
                .expect("the map of a user namespace");
        }
    }
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("private mounts");
}

fn db() -> PathBuf {
    std::env::var_os(DB).expect("a path").into()
}

fn in_role(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.env(ROLE, role).env(DB, path).stdin(Stdio::null());
    command
}

/// Role: appends from four threads until killed, and prints each acknowledged leaf.
fn append_for_ever(path: &Path) -> ExitCode {
    let ledger = open(path);
    let say = |committed: syshold_ledger::Committed| {
        // One write, so that a kill leaves no half line that is taken for a whole one.
        let line = format!("{} {}\n", committed.idx, committed.hash);
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .expect("stdout");
    };
    say(ledger.append(policy()).wait().expect("append"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let id = Uuid::now_v7();
                    say(ledger.append(request(id)).wait().expect("append"));
                    say(ledger
                        .append(decision(id, Verdict::Allow, DecidedBy::Human))
                        .wait()
                        .expect("append"));
                }
            });
        }
    });
    ExitCode::SUCCESS
}

fn killed_at_any_moment() {
    let (_dir, path) = place();
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut recoveries = Vec::new();
    let kills =
        std::env::var(KILLS.0).map_or(KILLS.1, |text| text.parse().expect("a number of kills"));
    for round in 0..kills {
        let mut child = in_role("append", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        // Killed after a different number of leaves each time, right from the first.
        for line in lines.by_ref().take(1 + (round * 37) % 300) {
            let line = line.expect("a line");
            let (idx, hash) = line.split_once(' ').expect("idx and hash");
            assert!(
                acknowledged
                    .insert(idx.parse().expect("a number"), hash.to_owned())
                    .is_none(),
                "leaf {idx} given twice"
            );
        }
        child.kill().expect("kill -9");
        for line in lines.map_while(Result::ok) {
            let (idx, hash) = line.split_once(' ').expect("idx and hash");
            acknowledged.insert(idx.parse().expect("a number"), hash.to_owned());
        }
        child.wait().expect("its end");
        recoveries.push(recovered(&path));
    }
    let reader = Reader::open(&path).expect("the ledger");
    for (idx, hash) in &acknowledged {
        let leaf = reader
            .show(*idx)
            .expect("readable")
            .unwrap_or_else(|| panic!("leaf {idx} was acknowledged and is lost"));
        assert_eq!(&leaf.hash.to_string(), hash);
    }
    let report = verify(&path, |_, _| {}).expect("a report");
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    recoveries.sort_by_key(|recovery| recovery.took);
    let usual = recoveries[recoveries.len() / 2].took;
    let slowest = &recoveries[recoveries.len() - 1];
    println!(
        "figure: {kills} times kill -9: {} leaves acknowledged, 0 lost, {} in the ledger; recovery {usual:?}, at worst {:?}, of which {:?} on the processor and {:?} waiting for it; then the disk took {:?} for one fdatasync",
        acknowledged.len(),
        report.leaves,
        slowest.took,
        slowest.ran,
        slowest.queued,
        slowest.disk,
    );
    // The worst one says more about what else this machine does.
    assert!(usual < Duration::from_secs(1), "recovery takes {usual:?}");
}

/// What one recovery took, and what of that this machine did with other things.
struct Recovery {
    took: Duration,
    /// This thread, on the processor.
    ran: Duration,
    /// This thread, ready to run, while others did.
    queued: Duration,
    /// One fdatasync of another file, right after it.
    disk: Duration,
}

fn recovered(path: &Path) -> Recovery {
    // The kernel's own book: on the processor and ready to be, in nanoseconds.
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
        let mut numbers = text
            .split_whitespace()
            .map(|n| n.parse().expect("a number"));
        let mut next = || Duration::from_nanos(numbers.next().expect("two of them"));
        (next(), next())
    };
    let (begin, before) = (Instant::now(), spent());
    let ledger = open(path);
    let (took, after) = (begin.elapsed(), spent());
    drop(ledger);
    let begin = Instant::now();
    let mut probe = std::fs::File::create(path.with_extension("probe")).expect("a file");
    probe.write_all(&[7; 4096]).expect("written");
    probe.sync_data().expect("on disk");
    Recovery {
        took,
        ran: after.0 - before.0,
        queued: after.1 - before.1,
        disk: begin.elapsed(),
    }
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn new(at: &Path, kilobytes: u32) -> Self {
        std::fs::create_dir(at).expect("a directory");
        let options = format!("size={kilobytes}k,mode=700");
        mount(
            Some("syshold-test"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("a small disk");
        Self(at.to_owned())
    }

    fn remount_read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).expect("remount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("umount");
    }
}

fn fill(file: &Path) {
    let mut filler = std::fs::File::create(file).expect("a filler");
    for size in [65_536, 4096, 1] {
        while filler
            .write(&vec![1; size])
            .is_ok_and(|written| written > 0)
        {}
    }
}

fn a_full_disk_denies_records_and_recovers() {
    let (dir, _) = place();
    let disk = Disk::new(&dir.path().join("disk"), 3072);
    let path = disk.0.join("ledger.db");
    let options = Options {
        ballast_bytes: 512 * 1024,
        ..Options::default()
    };
    let ledger =
        Ledger::open_with(&path, "web-1".parse().expect("a name"), options).expect("a ledger");
    let health = ledger.health();
    ledger.append(policy()).wait().expect("room");
    let allow = || {
        ledger
            .append(decision(Uuid::now_v7(), Verdict::Allow, DecidedBy::Policy))
            .wait()
    };
    let deny = || {
        ledger
            .append(decision(Uuid::now_v7(), Verdict::Deny, DecidedBy::Error))
            .wait()
    };
    let mut kept = Vec::new();
    let mut lost: u64 = 0;
    // Few: what reopening takes out of the log must not be enough for a new ballast.
    for _ in 0..10 {
        kept.push(allow().expect("room"));
    }

    let filler = disk.0.join("filler");
    fill(&filler);
    let first = loop {
        match allow() {
            Ok(committed) => kept.push(committed),
            Err(error) => break error,
        }
    };
    lost += 1;
    assert!(matches!(first, AppendError::Store(_)), "{first:?}");
    assert!(
        matches!(*health.borrow(), Health::Degraded { .. }),
        "{:?}",
        *health.borrow()
    );

    // Denials are recorded on the space kept back, approvals are not.
    kept.push(deny().expect("a denial is recorded on a full disk"));
    let refused = allow();
    lost += 1;
    assert!(
        matches!(refused, Err(AppendError::Degraded(_))),
        "{refused:?}"
    );
    // Whoever filled the disk goes on, until the space kept back is gone too.
    fill(&disk.0.join("filler2"));
    let mut denials = 0;
    while !matches!(*health.borrow(), Health::Broken { .. }) {
        match deny() {
            Ok(committed) => kept.push(committed),
            Err(error) => {
                assert!(matches!(error, AppendError::Store(_)), "{error:?}");
                lost += 1;
            }
        }
        denials += 1;
        assert!(denials < 100_000, "the disk never filled again");
    }
    assert!(allow().is_err());
    lost += 1;

    std::fs::remove_file(&filler).expect("space");
    std::fs::remove_file(disk.0.join("filler2")).expect("space");
    let begin = Instant::now();
    while *health.borrow() != Health::Good {
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "not good again: {:?}",
            *health.borrow()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    kept.push(allow().expect("good again"));
    drop(ledger);

    let report = verify(&path, |_, _| {}).expect("a report");
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let reader = Reader::open(&path).expect("the ledger");
    for committed in &kept {
        assert_eq!(
            reader
                .show(committed.idx)
                .expect("readable")
                .map(|leaf| leaf.hash),
            Some(committed.hash)
        );
    }
    let mut counted = 0;
    let gaps = Filter {
        kind: Some("gap".into()),
        ..Filter::default()
    };
    reader
        .scan(&gaps, |leaf| {
            counted += leaf.value()["gap"]["lost"].as_u64().expect("a count");
            std::ops::ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(counted, lost, "the gap leaves count what was lost");
    assert!(
        std::fs::metadata(disk.0.join("ledger.ballast"))
            .expect("a ballast")
            .len()
            >= 512 * 1024
    );
    println!(
        "figure: full disk: {} acknowledged and kept, {lost} refused and counted, {denials} denials on the ballast",
        kept.len()
    );
}

/// Role: appends one leaf after the other, and prints for each whether it was acknowledged.
fn append_whatever_happens(path: &Path) -> ExitCode {
    let ledger = open(path);
    for n in 0..60 {
        match ledger
            .append(Draft::new(Kind::Review).field("n", &n))
            .wait()
        {
            Ok(committed) => println!("{n} {}", committed.idx),
            Err(_) => println!("{n} refused"),
        }
    }
    let begin = Instant::now();
    while *ledger.health().borrow() != Health::Good && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    ExitCode::SUCCESS
}

/// The kernel's answer to a call is replaced by an error, once and several times in a row: a disk
/// that fails to sync, to write or to read, one that is full, one that was remounted read-only.
fn a_failed_fsync_is_never_taken_for_a_commit() {
    for (calls, error, when) in [
        ("fdatasync,fsync", "EIO", "20"),
        ("fdatasync,fsync", "EIO", "25..26"),
        ("fdatasync,fsync", "EIO", "30..36"),
        ("fdatasync,fsync", "EIO", "12..60+7"),
        ("pwrite64", "EIO", "40..48"),
        ("pwrite64", "ENOSPC", "60..66"),
        ("pwrite64,ftruncate,fdatasync,fsync", "EROFS", "70..78"),
    ] {
        let (_dir, path) = place();
        filled(&path, 1);
        let child = in_role("persist", &path);
        let injected = format!("inject={calls}:error={error}:when={when}");
        let traced = format!("trace={calls}");
        let output = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &traced, "-e", &injected])
            .arg(child.get_program())
            .envs(
                child
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .output()
            .expect("strace: install it, it makes the fsync fail");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report = verify(&path, |_, _| {}).expect("a report");
        assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
        let reader = Reader::open(&path).expect("the ledger");
        let (mut kept, mut refused) = (0, 0);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (n, answer) = line.split_once(' ').expect("n and answer");
            match answer.parse::<u64>() {
                Ok(idx) => {
                    let leaf = reader
                        .show(idx)
                        .expect("readable")
                        .expect("an acknowledged leaf is there")
                        .value();
                    assert_eq!(leaf["n"].to_string(), n);
                    kept += 1;
                }
                Err(_) => refused += 1,
            }
        }
        let (mut lost, mut unacknowledged) = (0, 0);
        let gaps = Filter {
            kind: Some("gap".into()),
            ..Filter::default()
        };
        reader
            .scan(&gaps, |leaf| {
                let gap = &leaf.value()["gap"];
                lost += gap["lost"].as_u64().expect("a count");
                if let (Some(from), Some(to)) = (
                    gap["unacknowledged"]["from"].as_u64(),
                    gap["unacknowledged"]["to"].as_u64(),
                ) {
                    unacknowledged += to - from + 1;
                }
                std::ops::ControlFlow::Continue(())
            })
            .expect("readable");
        println!(
            "figure: {calls} fail with {error} at {when}: {kept} acknowledged, {refused} refused ({unacknowledged} of them in the file), {lost} in gap leaves"
        );
        assert!(refused > 0, "nothing failed: {calls} {error} {when}");
        assert_eq!(lost, refused);
    }
}

/// Role: `ledger …`, with the arguments of this process.
fn command_line() -> ExitCode {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        ledger: syshold_ledger::cli::LedgerArgs,
    }
    let line: Line = clap::Parser::parse();
    syshold_ledger::cli::run_at(&line.ledger, &db())
}

/// Standard error is a terminal, and the check is long because somebody keeps the file for a second;
/// into a pipe nothing is said.
fn a_terminal_is_told_how_far_a_long_check_is() {
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

fn the_command_line_answers_with_its_exit_status() {
    let (_dir, path) = place();
    filled(&path, 5);
    let run = |arguments: &[&str]| {
        let output = in_role("cli", &path)
            .args(arguments)
            .output()
            .expect("a child");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
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

fn the_command_line_hands_out_what_was_asked_for() {
    let (dir, path) = place();
    filled(&path, 5);
    let run = |arguments: &[&str]| {
        let output = in_role("cli", &path)
            .args(arguments)
            .output()
            .expect("a child");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (out, error) = (text(output.stdout), text(output.stderr));
        (output.status.code(), out, error)
    };
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

/// `verify` as a user who is only in the file's group.
fn verify_as_group(path: &Path, group: u32) -> Option<i32> {
    let binary = std::env::current_exe().expect("this test");
    // The build directory may be closed to others; a copy is not.
    let copy = std::env::temp_dir().join(format!("syshold-verify-{}", std::process::id()));
    std::fs::copy(&binary, &copy).expect("a copy");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("mode");
    let status = Command::new(&copy)
        .env(ROLE, "verify")
        .env(DB, path)
        .uid(65_534)
        .gid(group)
        .current_dir("/")
        .status();
    std::fs::remove_file(&copy).expect("gone");
    status.expect("a child").code()
}

fn the_group_can_verify() {
    const OWNER: u32 = 61_233;
    const GROUP: u32 = 61_234;
    let (dir, path) = place();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o750)).expect("mode");
    chown(dir.path(), Some(OWNER), Some(GROUP)).expect("group");
    filled(&path, 5);
    for file in std::fs::read_dir(dir.path()).expect("a directory") {
        let file = file.expect("a file");
        let meta = file.metadata().expect("its owner");
        assert_eq!(
            (meta.uid(), meta.gid()),
            (OWNER, GROUP),
            "{:?} is the directory's",
            file.file_name()
        );
    }
    assert_eq!(
        verify_as_group(&path, 61_235),
        Some(3),
        "others cannot even look"
    );
    assert_eq!(
        verify_as_group(&path, GROUP),
        Some(0),
        "while no daemon runs"
    );

    let ledger = open(&path);
    ledger.append(policy()).wait().expect("append");
    assert_eq!(
        verify_as_group(&path, GROUP),
        Some(0),
        "while the daemon writes"
    );
    ledger.append(policy()).wait().expect("append");
    drop(ledger);

    let mut child = in_role("append", &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("output"))
        .read_line(&mut line)
        .expect("a leaf");
    child.kill().expect("kill");
    child.wait().expect("its end");
    assert_eq!(verify_as_group(&path, GROUP), Some(0), "after a crash");

    // A copy of it, by somebody who is nobody here and cannot write beside it.
    let elsewhere = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a directory");
    let copy = elsewhere.path().join("copy.db");
    for (from, to) in [
        (&path, &copy),
        (
            &path.with_extension("db-wal"),
            &copy.with_extension("db-wal"),
        ),
    ] {
        std::fs::copy(from, to).expect("a copy");
        std::fs::set_permissions(to, PermissionsExt::from_mode(0o644)).expect("mode");
    }
    assert_eq!(verify_as_group(&copy, 65_534), Some(0), "a copy");
    common::forger(&copy)
        .execute("DELETE FROM leaf WHERE idx = 3", [])
        .expect("forged");
    assert_eq!(verify_as_group(&copy, 65_534), Some(1), "a changed copy");
}

fn a_read_only_medium_can_be_verified() {
    for crashed in [false, true] {
        let (dir, path) = place();
        filled(&path, 5);
        if crashed {
            let mut child = in_role("append", &path)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
            assert_eq!(lines.by_ref().take(20).count(), 20);
            child.kill().expect("kill");
            child.wait().expect("its end");
        }
        let log = path.with_extension("db-wal");
        assert_eq!(log.exists(), crashed, "only a crash leaves a log behind");
        let medium = Disk::new(&dir.path().join("medium"), 16_384);
        let copy = medium.0.join("ledger.db");
        std::fs::copy(&path, &copy).expect("a copy");
        if crashed {
            std::fs::copy(&log, copy.with_extension("db-wal")).expect("a copy of the log");
        }
        medium.remount_read_only();
        let report = verify(&copy, |_, _| {}).expect("readable");
        assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
        assert_eq!(
            report.leaves > 19,
            crashed,
            "what is only in the log counts: {} leaves",
            report.leaves
        );
    }
}
