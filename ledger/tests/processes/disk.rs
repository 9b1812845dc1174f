//! A disk that is full, and one that fails to sync, to write or to read.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use syshold_ledger::leaf::{DecidedBy, Verdict};
use syshold_ledger::{AppendError, Exit, Filter, Health, Ledger, Options, Reader, verify};
use uuid::Uuid;

use crate::common::{decision, filled, place, policy};
use crate::in_role;

/// A small disk of its own.
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    pub(crate) fn new(at: &Path, kilobytes: u32) -> Self {
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

    pub(crate) fn remount_read_only(&self) {
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

pub(crate) fn a_full_disk_denies_records_and_recovers() {
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

/// The kernel's answer to a call is replaced by an error, once and several times in a row: a disk
/// that fails to sync, to write or to read, one that is full, one that was remounted read-only.
pub(crate) fn a_failed_fsync_is_never_taken_for_a_commit() {
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
