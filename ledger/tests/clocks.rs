//! A wall clock that is set, an hour ahead and an hour back, under a ledger that is being written:
//! `libfaketime` sets it for a process of this test, the boot clock goes on.
#![expect(clippy::expect_used, reason = "a test with a main of its own")]
mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use common::{open, place};
use serde_json::Value;
use syshold_ledger::{Draft, Exit, Kind, Reader, verify};

const DB: &str = "SYSHOLD_LEDGER_TEST_DB";
const NAME: &str = "clock_steps_are_said_and_break_nothing";
const HOUR_MS: i64 = 3_600_000;

fn main() -> ExitCode {
    if let Some(db) = std::env::var_os(DB) {
        return write(&PathBuf::from(db));
    }
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let run = filter.is_none_or(|word| NAME.contains(&word));
    if run {
        steps();
        println!("test {NAME} ... ok");
    }
    let (run, filtered) = (u8::from(run), u8::from(!run));
    println!(
        "\ntest result: ok. {run} passed; 0 failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::SUCCESS
}

/// Role: a leaf for each line.
fn write(path: &Path) -> ExitCode {
    let ledger = open(path);
    for _line in std::io::stdin().lines() {
        let kept = ledger
            .append(Draft::new(Kind::Review))
            .wait()
            .expect("kept");
        println!("{}", kept.idx);
    }
    ExitCode::SUCCESS
}

fn library() -> PathBuf {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let all = places.map(|place| PathBuf::from(place).join("faketime/libfaketime.so.1"));
    let found = all.into_iter().find(|path| path.exists());
    found.expect("libfaketime: install it (faketime), it sets the clock of one process")
}

fn steps() {
    let (dir, path) = place();
    let clock = dir.path().join("clock");
    let set = |seconds: &str| std::fs::write(&clock, seconds).expect("the clock");
    set("+0");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .env(DB, &path)
        .env("LD_PRELOAD", library())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut to = child.stdin.take().expect("its input");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for time in ["+0", "+3600", "+0", "-3600", "+0"] {
        set(time);
        for _ in 0..3 {
            writeln!(to, "next").expect("it listens");
            let line = lines.next().expect("an answer").expect("a line");
            line.parse::<u64>().expect("every leaf is acknowledged");
        }
    }
    drop(to);
    assert!(child.wait().expect("its end").success());

    let report = verify(&path, |_, _| {}).expect("a report");
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let reader = Reader::open(&path).expect("the ledger");
    let leaves: Vec<Value> = reader
        .tail(100)
        .expect("readable")
        .iter()
        .map(syshold_ledger::Leaf::value)
        .collect();
    let steps: Vec<i64> = leaves
        .iter()
        .filter(|leaf| leaf["kind"] == "clock")
        .map(|leaf| leaf["step"]["ms"].as_i64().expect("a step"))
        .collect();
    let near = |step: &i64, hour: i64| (step - hour * HOUR_MS).abs() < 5_000;
    let expected = [1, -1, -1, 1];
    assert!(
        steps.len() == 4
            && steps
                .iter()
                .zip(expected)
                .all(|(step, hour)| near(step, hour)),
        "{steps:?}"
    );
    let reviews = leaves
        .iter()
        .filter(|leaf| leaf["kind"] == "review")
        .count();
    println!("figure: clock set by ±1 h, 4 times: {reviews} leaves, all kept, each step said");
    assert_eq!(reviews, 15);
}
