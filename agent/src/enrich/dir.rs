//! A process by its folder in /proc, held open.
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use super::{Error, MAX_PATH, UNKNOWN, parse, shorten};
use crate::park;

/// Longest file of /proc that is read whole.
pub(super) const MAX_FILE: usize = 64 * 1024;

/// A folder of /proc that names one process or thread for good.
pub(super) struct Dir {
    pub(super) dir: OwnedFd,
    pub(super) pid: u32,
}

#[derive(Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}

impl Dir {
    pub(super) fn open(pid: u32) -> Result<Self, Error> {
        Self::open_at(AT_FDCWD, &format!("/proc/{pid}"), pid)
    }

    pub(super) fn open_at(at: impl AsFd, path: &str, pid: u32) -> Result<Self, Error> {
        match openat(
            at,
            path,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(dir) => Ok(Self { dir, pid }),
            Err(e) => Err(error(pid, "its folder", e)),
        }
    }

    pub(super) fn stat(&self) -> Result<parse::Stat, Error> {
        let text = self
            .read("stat", MAX_FILE)
            .map_err(|e| self.error("the start time", e))?;
        parse::stat(&text.bytes).ok_or_else(|| self.error("the start time", Errno::EINVAL))
    }

    pub(super) fn cgroup(&self) -> String {
        let text = self.read("cgroup", MAX_FILE).unwrap_or_default();
        let Some(path) = parse::cgroup(&text.bytes) else {
            return UNKNOWN.to_owned();
        };
        // A parked thread sits in a child that is ours, not its own.
        let own = format!("/{}", park::CHILD);
        match path.strip_suffix(own.as_bytes()) {
            Some(b"") => "/".to_owned(),
            Some(home) => shorten::path(home, MAX_PATH),
            None => shorten::path(path, MAX_PATH),
        }
    }

    pub(super) fn sub(&self, name: &str) -> nix::Result<OwnedFd> {
        openat(
            &self.dir,
            name,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
    }

    pub(super) fn file(&self, name: &str) -> nix::Result<File> {
        openat(
            &self.dir,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
            Mode::empty(),
        )
        .map(File::from)
    }

    pub(super) fn read(&self, name: &str, most: usize) -> nix::Result<Text> {
        let mut bytes = Vec::new();
        self.file(name)?
            .take(most as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        let cut = bytes.len() > most;
        bytes.truncate(most);
        Ok(Text { bytes, cut })
    }

    pub(super) fn link(&self, name: &str) -> nix::Result<Vec<u8>> {
        readlinkat(&self.dir, name).map(OsString::into_vec)
    }

    pub(super) fn error(&self, what: &'static str, errno: Errno) -> Error {
        error(self.pid, what, errno)
    }
}

fn error(pid: u32, what: &'static str, errno: Errno) -> Error {
    match errno {
        Errno::ESRCH | Errno::ENOENT => Error::Gone { pid },
        errno => Error::Unreadable {
            pid,
            what,
            source: errno.into(),
        },
    }
}
