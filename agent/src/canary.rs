//! Proof that enforcement is live: once a second the daemon itself does what each hook guards,
//! and the kernel side notes when it saw that. A hook that did not see the last round is not
//! enforcing, whatever is attached (`ftrace_enabled = 0` detaches it silently).
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::kernel::{Kernel, map_and_unmap};

/// Where the canary creates its file, so that `path_mknod` is seen too.
const FILE: &str = "/run/syshold/canary";

/// What the canary found last.
#[derive(Debug, Default)]
pub struct Canary {
    /// CLOCK_MONOTONIC nanoseconds at the start of the last round.
    since: Option<u64>,
    problem: Option<String>,
    at: Option<jiff::Timestamp>,
}

impl Canary {
    #[must_use]
    pub fn ok(&self) -> bool {
        self.problem.is_none()
    }

    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// When enforcement was last seen to be live.
    #[must_use]
    pub fn at(&self) -> Option<jiff::Timestamp> {
        self.at
    }

    /// Does, on a thread of its own, what every hook guards. Nothing here is held or answered:
    /// the kernel side knows the daemon.
    pub fn round(&mut self) {
        self.since = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .ok()
            .and_then(|time| u64::try_from(Duration::from(time).as_nanos()).ok());
        // A new thread each time: that is what `task_alloc` sees.
        let spawned = std::thread::Builder::new()
            .name("canary".to_owned())
            .spawn(acts);
        if let Err(error) = spawned {
            tracing::error!(%error, "the canary could not start");
        }
    }

    /// Names the hooks that did not see the last round; None when all did.
    #[must_use]
    pub fn check(&self, kernel: &Kernel) -> Option<String> {
        // A busy machine may be late by one round.
        const LATE_NS: u64 = 1_000_000_000;
        let since = self.since?.saturating_sub(LATE_NS);
        let seen = kernel.canary();
        let blind: Vec<&str> = kernel
            .programs
            .iter()
            .filter(|program| {
                program
                    .canary
                    .is_some_and(|hook| seen.get(hook as usize).is_none_or(|at| *at < since))
            })
            .map(|program| program.name)
            .collect();
        (!blind.is_empty()).then(|| format!("not live: {}", blind.join(", ")))
    }

    /// Takes note of a finding; Some when it differs from the one before.
    pub fn note(&mut self, problem: Option<String>) -> Option<String> {
        if problem.is_none() {
            self.at = Some(jiff::Timestamp::now());
        }
        if self.problem == problem {
            return None;
        }
        let change = problem.clone().unwrap_or_else(|| "live again".to_owned());
        self.problem = problem;
        Some(change)
    }
}

fn acts() {
    // Each failure shows as a hook that saw nothing; there is nothing else to do about it.
    let _ = fs::create_dir_all(Path::new(FILE).parent().unwrap_or(Path::new("/")));
    let _ = fs::remove_file(FILE);
    let Ok(mut file) = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(FILE)
    else {
        return;
    };
    let _ = file.read(&mut [0; 8]);
    // Mapping is what `mmap_file` sees; the memory is not touched.
    map_and_unmap(file.as_fd());
    drop(file);
    let _ = fs::remove_file(FILE);
    // The discard port of this very machine: nothing leaves it.
    if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
        let _ = socket.connect("127.0.0.1:9");
        if let Ok(other) = UdpSocket::bind("127.0.0.1:0") {
            let _ = other.send_to(&[], "127.0.0.1:9");
        }
    }
}
