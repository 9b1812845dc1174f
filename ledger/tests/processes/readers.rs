//! Readers that may not write: people of the file's group, and whoever has it on a read-only medium.
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use syshold_ledger::{Exit, verify};

use crate::common::{self, filled, open, place, policy};
use crate::disk::Disk;
use crate::{DB, ROLE, in_role};

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

pub(crate) fn the_group_can_verify() {
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

pub(crate) fn a_read_only_medium_can_be_verified() {
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
