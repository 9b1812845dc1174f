//! Threads into the freezer and out again.
//!
//! A held thread spins in its restart loop until it is written into `cgroup.threads` of a
//! frozen, threaded child (`syshold-hold`) of its own cgroup: only that thread sleeps. Where
//! such a child cannot be made, the fall-backs are a frozen domain child for the whole process,
//! and SIGSTOP, which the kernel side does by itself when nobody parks (`abi::mode::STOP`).
//! Which one is in use is visible, never silently chosen.
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Where cgroup v2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The child's name; anything else that bears it was made by an earlier daemon.
pub const CHILD: &str = "syshold-hold";

/// How threads of a cgroup are made to wait, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One thread, in a frozen threaded child.
    Thread,
    /// The whole process, in a frozen domain child.
    Process,
    /// The whole process, by SIGSTOP.
    Stop,
}

impl Mode {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thread => "frozen threaded cgroup",
            Self::Process => "frozen domain cgroup",
            Self::Stop => "SIGSTOP",
        }
    }
}

#[derive(Debug, Error)]
pub enum ParkError {
    #[error("thread {tid} is gone")]
    Gone { tid: u32 },
    #[error("{path}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
}

/// The holding children that exist, and who sleeps where.
#[derive(Debug, Default)]
pub struct Parking {
    /// By the cgroup that a thread belongs to.
    children: HashMap<PathBuf, Child>,
    parked: HashMap<u32, PathBuf>,
    /// The worst mode in use since the start, and why.
    fallback: Option<(Mode, String)>,
}

#[derive(Debug)]
struct Child {
    mode: Mode,
    sleepers: usize,
}

impl Parking {
    /// Takes back what an earlier daemon left: every child below the cgroup root is adopted with
    /// its sleepers, so that their holds can be decided after all.
    pub fn adopt(&mut self, root: &Path) -> io::Result<usize> {
        let mut adopted = 0;
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)?.filter_map(Result::ok) {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if entry.file_name() != CHILD {
                    folders.push(entry.path());
                    continue;
                }
                let kind = fs::read_to_string(entry.path().join("cgroup.type")).unwrap_or_default();
                let mode = if kind.trim() == "threaded" {
                    Mode::Thread
                } else {
                    Mode::Process
                };
                let tids = ids(&entry.path().join("cgroup.threads")).unwrap_or_default();
                adopted += tids.len();
                for tid in &tids {
                    self.parked.insert(*tid, folder.clone());
                }
                self.children.insert(
                    folder.clone(),
                    Child {
                        mode,
                        sleepers: tids.len(),
                    },
                );
            }
        }
        Ok(adopted)
    }

    /// Puts a thread to sleep; a thread that sleeps already stays as it is.
    pub fn park(&mut self, tgid: u32, tid: u32) -> Result<Mode, ParkError> {
        if let Some(own) = self.parked.get(&tid) {
            let mode = self
                .children
                .get(own)
                .map_or(Mode::Thread, |child| child.mode);
            if in_child(tid) {
                return Ok(mode);
            }
            self.woke(tid);
        }
        let own = cgroup_of(tid)?;
        let mode = match self.children.get(&own) {
            Some(child) => child.mode,
            None => self.prepare(&own),
        };
        let entered = match mode {
            Mode::Thread => enter(&own.join(CHILD).join("cgroup.threads"), tid),
            Mode::Process => enter(&own.join(CHILD).join("cgroup.procs"), tgid),
            Mode::Stop => return Ok(mode),
        };
        match entered {
            Ok(()) => {}
            Err(source) if is_gone(&source) => {
                self.tidy(&own);
                return Err(ParkError::Gone { tid });
            }
            Err(source) => {
                self.tidy(&own);
                return Err(ParkError::Cgroup { path: own, source });
            }
        }
        self.children
            .entry(own.clone())
            .or_insert(Child { mode, sleepers: 0 })
            .sleepers += 1;
        self.parked.insert(tid, own);
        Ok(mode)
    }

    /// Wakes a thread: back to its own cgroup, where it restarts its syscall. False: it did not
    /// sleep here.
    pub fn wake(&mut self, tgid: u32, tid: u32) -> Result<bool, ParkError> {
        let Some(own) = self.parked.get(&tid).cloned() else {
            return Ok(false);
        };
        let mode = self
            .children
            .get(&own)
            .map_or(Mode::Thread, |child| child.mode);
        let left = match mode {
            Mode::Process => enter(&own.join("cgroup.procs"), tgid),
            Mode::Thread | Mode::Stop => enter(&own.join("cgroup.threads"), tid),
        };
        match left {
            Ok(()) => {
                self.woke(tid);
                Ok(true)
            }
            Err(source) if is_gone(&source) => {
                self.woke(tid);
                Ok(false)
            }
            Err(source) => Err(ParkError::Cgroup { path: own, source }),
        }
    }

    /// The thread is out or dead: the last one out removes the child, so that a container
    /// runtime or systemd can remove the cgroup.
    pub fn woke(&mut self, tid: u32) {
        let Some(own) = self.parked.remove(&tid) else {
            return;
        };
        if let Some(child) = self.children.get_mut(&own) {
            child.sleepers = child.sleepers.saturating_sub(1);
        }
        self.tidy(&own);
    }

    /// Everyone who sleeps.
    pub fn sleepers(&self) -> impl Iterator<Item = u32> + '_ {
        self.parked.keys().copied()
    }

    /// The worst mode that had to be chosen, and why.
    #[must_use]
    pub fn fallback(&self) -> Option<&(Mode, String)> {
        self.fallback.as_ref()
    }

    /// Makes the holding child, best mode first.
    fn prepare(&mut self, own: &Path) -> Mode {
        let mode = match make_child(own, true) {
            Ok(()) => Mode::Thread,
            Err(threaded) => match make_child(own, false) {
                Ok(()) => {
                    self.note(Mode::Process, &threaded);
                    Mode::Process
                }
                Err(domain) => {
                    self.note(Mode::Stop, &domain);
                    Mode::Stop
                }
            },
        };
        self.children
            .insert(own.to_owned(), Child { mode, sleepers: 0 });
        mode
    }

    fn note(&mut self, mode: Mode, why: &ParkError) {
        tracing::warn!(mode = mode.name(), %why, "parking falls back");
        if self
            .fallback
            .as_ref()
            .is_none_or(|(worst, _)| *worst < mode)
        {
            self.fallback = Some((mode, why.to_string()));
        }
    }

    fn tidy(&mut self, own: &Path) {
        if self
            .children
            .get(own)
            .is_some_and(|child| child.sleepers == 0)
        {
            self.children.remove(own);
            // Busy: someone is still on the way out; the next one to leave tries again.
            let _ = fs::remove_dir(own.join(CHILD));
        }
    }
}

fn make_child(own: &Path, threaded: bool) -> Result<(), ParkError> {
    let child = own.join(CHILD);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ParkError::Cgroup { path, source }
    };
    match fs::create_dir(&child) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&child)(source));
        }
        _ => {}
    }
    let set = |file: &str, value: &str| {
        let path = child.join(file);
        fs::write(&path, value).map_err(failed(&path))
    };
    let done = if threaded {
        set("cgroup.type", "threaded")
    } else {
        Ok(())
    }
    .and_then(|()| set("cgroup.freeze", "1"));
    if done.is_err() {
        let _ = fs::remove_dir(&child);
    }
    done
}

fn enter(file: &Path, id: u32) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(id.to_string().as_bytes())
}

/// ESRCH: no such thread any more. ENOENT, ENODEV: its cgroup went with it.
fn is_gone(error: &io::Error) -> bool {
    use nix::errno::Errno;
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV))
}

fn in_child(tid: u32) -> bool {
    cgroup_line(tid).is_some_and(|path| path.ends_with(CHILD))
}

/// The thread's own cgroup, the holding child stripped.
fn cgroup_of(tid: u32) -> Result<PathBuf, ParkError> {
    let mut path = cgroup_line(tid).ok_or(ParkError::Gone { tid })?;
    if path.ends_with(CHILD) {
        path.pop();
    }
    Ok(Path::new(CGROUP_ROOT).join(path.strip_prefix("/").unwrap_or(&path)))
}

/// The `0::` line of /proc/TID/cgroup.
fn cgroup_line(tid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{tid}/cgroup")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(PathBuf::from)
}

fn ids(file: &Path) -> io::Result<Vec<u32>> {
    Ok(fs::read_to_string(file)?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect())
}
