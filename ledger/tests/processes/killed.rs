//! The writer, killed at any moment: what it acknowledged is there, and what a recovery takes.
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use syshold_ledger::{Exit, Reader, verify};

use crate::common::{open, place};
use crate::in_role;

/// How often the writer is killed; more when this variable says so.
const KILLS: (&str, usize) = ("SYSHOLD_LEDGER_TEST_KILLS", 60);

pub(crate) fn killed_at_any_moment() {
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
