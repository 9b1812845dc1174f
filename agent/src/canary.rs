//! Proof that enforcement is live: once a second the daemon itself does what each hook guards,
//! and the kernel side notes when it saw that. A hook that did not see a finished round is not
//! enforcing, whatever is attached (`ftrace_enabled = 0` detaches it silently). What costs more
//! than a syscall (a program, a cgroup) is done in every tenth round. A link whose pin is gone is
//! reported too: some hooks cannot be reached without doing what they guard against.
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use syshold_abi::hook;

use crate::kernel::{Kernel, Marker, PINS, acts};
use crate::park::CGROUP_ROOT;

/// Where the canary makes and removes its files.
const FOLDER: &str = "/run/syshold/canary";
/// Rounds between two thorough ones.
const THOROUGH_EVERY: u32 = 10;
/// A round that takes longer than this proves nothing any more.
const PATIENCE: Duration = Duration::from_secs(4);
/// Hooks that only a thorough round reaches.
const THOROUGH: [u32; 5] = [
    hook::EXEC,
    hook::BPRM_CHECK,
    hook::BPRM_CREDS,
    hook::CGROUP_MKDIR,
    hook::CGROUP_ATTACH,
];

/// What the canary found last.
#[derive(Debug, Default)]
pub struct Canary {
    /// The round under way.
    round: Option<Round>,
    rounds: u32,
    /// When the last finished round, and the last finished thorough one, began.
    proven: u64,
    thoroughly: u64,
    /// When the finished round before that began: its thread has ended by now.
    before: u64,
    problem: Option<String>,
    at: Option<jiff::Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// CLOCK_MONOTONIC nanoseconds.
    began: u64,
    thorough: bool,
}

impl Canary {
    /// Proven, and nothing since says otherwise.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.problem.is_none() && self.at.is_some()
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

    /// Does, on a thread of its own, what every hook guards, and calls `done`. Nothing here is
    /// held or answered: the kernel side knows the daemon. Some: the last round has not ended.
    pub fn round(
        &mut self,
        marker: Marker,
        done: impl FnOnce() + Send + 'static,
    ) -> Option<String> {
        if let Some(round) = self.round {
            let late = Duration::from_nanos(now().saturating_sub(round.began));
            return (late > PATIENCE)
                .then(|| format!("the proof has not ended for {} s", late.as_secs()));
        }
        let round = Round {
            began: now(),
            thorough: self.rounds.is_multiple_of(THOROUGH_EVERY),
        };
        // A new thread each time: that is what `task_alloc` and its kin see.
        let spawned = std::thread::Builder::new()
            .name("canary".to_owned())
            .spawn(move || {
                acts_of(round.thorough, marker);
                done();
            });
        match spawned {
            Ok(_) => {
                self.rounds = self.rounds.wrapping_add(1);
                self.round = Some(round);
                None
            }
            Err(error) => Some(format!("the canary could not start: {error}")),
        }
    }

    /// The round is over: which hooks did not see it? None: all did.
    pub fn over(&mut self, kernel: &Kernel) -> Option<String> {
        if let Some(round) = self.round.take() {
            self.before = std::mem::replace(&mut self.proven, round.began);
            if round.thorough {
                self.thoroughly = round.began;
            }
        }
        let pinned = pinned();
        let seen = kernel.canary();
        let mut unpinned = Vec::new();
        let mut blind = Vec::new();
        for program in &kernel.programs {
            if !pinned.contains(program.name) {
                unpinned.push(program.name);
            } else if program
                .canary
                .is_some_and(|hook| !(self.live(&seen, hook) || is_about_rings(hook) && no_rings()))
            {
                blind.push(program.name);
            }
        }
        let said = |what: &str, names: &[&str]| {
            (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
        };
        let found: Vec<String> = [
            said("not attached any more", &unpinned),
            said("not live", &blind),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!found.is_empty()).then(|| found.join("; "))
    }

    /// Did this hook see the last finished round that reaches it?
    #[must_use]
    pub fn live(&self, seen: &[u64], hook: u32) -> bool {
        let since = match hook {
            // A tracepoint may be skipped once (agent-ebpf/src/newborn.rs), and the last thread's end is seen later.
            hook::FORK | hook::EXIT | hook::TASK_FREE => self.before,
            _ if THOROUGH.contains(&hook) => self.thoroughly,
            _ => self.proven,
        };
        self.proven != 0 && seen.get(hook as usize).is_some_and(|at| *at >= since)
    }

    /// Takes note of a finding; Some when it differs from the one before.
    pub fn note(&mut self, problem: Option<String>) -> Option<String> {
        let first = self.at.is_none();
        if problem.is_none() {
            self.at = Some(jiff::Timestamp::now());
        }
        if self.problem == problem {
            return None;
        }
        let change = problem.clone().unwrap_or_else(|| "live again".to_owned());
        self.problem = problem;
        (!first || self.problem.is_some()).then_some(change)
    }
}

/// The links that are pinned: what is pinned is attached, for these links cannot be detached.
#[must_use]
pub fn pinned() -> HashSet<String> {
    let Ok(entries) = fs::read_dir(Path::new(PINS).join("links")) else {
        return HashSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn is_about_rings(hook: u32) -> bool {
    matches!(hook, hook::IO_URING | hook::URING_ALLOWED)
}

/// Rings are switched off for the whole host: there is nothing to refuse.
fn no_rings() -> bool {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|text| text.trim() == "2")
}

fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_nanos()).ok())
        .unwrap_or_default()
}

// Each failure below shows as a hook that saw nothing; there is nothing else to do about it.

fn acts_of(thorough: bool, marker: Marker) {
    let folder = Path::new(FOLDER);
    // An earlier version had a file of this name.
    let _ = fs::remove_file(folder);
    let _ = fs::remove_dir_all(folder);
    let _ = fs::create_dir_all(folder);
    let _ = names(folder);
    let _ = streams();
    let _ = datagrams();
    let _ = unix(folder);
    acts::on_self();
    // Whose links these are is looked at, as a tracer would.
    let _ = fs::read_link("/proc/1/exe");
    if thorough {
        acts::not_a_program();
        acts::run_a_program(marker);
        let _ = cgroups();
    }
    let _ = fs::remove_dir_all(folder);
}

/// Files and their names.
fn names(folder: &Path) -> std::io::Result<()> {
    let at = |name: &str| folder.join(name);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(at("file"))?;
    let _ = file.write(b"x");
    let _ = file.read(&mut [0; 8]);
    acts::map_and_ask(file.as_fd());
    let _ = file.set_len(0);
    let _ = nix::unistd::truncate(&at("file"), 0);
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    let _ = nix::unistd::chown(&at("file"), Some(nix::unistd::getuid()), None);
    acts::set_attribute(&at("file"));
    let _ = symlink("file", at("symlink"));
    let _ = fs::create_dir(at("folder"));
    let _ = fs::remove_dir(at("folder"));
    let _ = fs::hard_link(at("file"), at("link"));
    let _ = fs::rename(at("link"), at("renamed"));
    let _ = fs::remove_file(at("renamed"));
    Ok(())
}

/// On loopback: nothing leaves this machine.
fn streams() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let _ = stream.set_nodelay(true);
    let _ = listener.accept();
    Ok(())
}

fn datagrams() -> std::io::Result<()> {
    let (one, other) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let _ = one.send_to(&[0], other.local_addr()?);
    one.connect(other.local_addr()?)?;
    acts::send_with_options(&one);
    Ok(())
}

fn unix(folder: &Path) -> std::io::Result<()> {
    let listener = UnixListener::bind(folder.join("stream"))?;
    listener.set_nonblocking(true)?;
    let _stream = UnixStream::connect(folder.join("stream"))?;
    let _ = listener.accept();
    let receiver = UnixDatagram::bind(folder.join("datagram"))?;
    let _ = UnixDatagram::unbound()?.send_to(&[0], folder.join("datagram"));
    drop(receiver);
    Ok(())
}

/// A cgroup comes and goes, and this thread moves to where it is.
fn cgroups() -> std::io::Result<()> {
    let own = fs::read("/proc/self/cgroup")?;
    let own = crate::enrich::parse::cgroup(&own)
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .unwrap_or_default();
    let own: PathBuf = Path::new(CGROUP_ROOT).join(own.trim_start_matches('/'));
    let fresh = own.join("canary");
    let _ = fs::create_dir(&fresh);
    let _ = fs::remove_dir(&fresh);
    let mut threads: File = OpenOptions::new()
        .write(true)
        .open(own.join("cgroup.threads"))?;
    threads.write_all(b"0\n")
}
