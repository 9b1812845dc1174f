//! What needs other processes: the writer killed at any moment, a full disk, and readers that are
//! not root. Starts itself again in the roles below. The last needs root to become another user: it
//! is skipped in sight of a developer who is not root, and an error in CI.
#![expect(clippy::expect_used, reason = "tests with a main of their own")]

mod command;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod killed;
mod readers;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{decision, open, policy, request};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use syshold_ledger::leaf::{DecidedBy, Verdict};
use syshold_ledger::{Draft, Exit, Health, Kind, verify};
use uuid::Uuid;

const ROLE: &str = "SYSHOLD_LEDGER_TEST_ROLE";
const DB: &str = "SYSHOLD_LEDGER_TEST_DB";

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
        ("killed_at_any_moment", killed::killed_at_any_moment),
        (
            "a_full_disk_denies_records_and_recovers",
            disk::a_full_disk_denies_records_and_recovers,
        ),
        (
            "a_failed_fsync_is_never_taken_for_a_commit",
            disk::a_failed_fsync_is_never_taken_for_a_commit,
        ),
        (
            "the_command_line_answers_with_its_exit_status",
            command::the_command_line_answers_with_its_exit_status,
        ),
        (
            "the_command_line_hands_out_what_was_asked_for",
            command::the_command_line_hands_out_what_was_asked_for,
        ),
        (
            "a_terminal_is_told_how_far_a_long_check_is",
            command::a_terminal_is_told_how_far_a_long_check_is,
        ),
        ("the_group_can_verify", readers::the_group_can_verify),
        (
            "a_read_only_medium_can_be_verified",
            readers::a_read_only_medium_can_be_verified,
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
