//! What an attacker has at hand, and the one line that it says.
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::scene::Scene;
use crate::sys::{self, Arg, In, N, Out};

/// Calls told one by one; loops are told as counts.
const MOST_CALLS: usize = 48;
/// Bytes told as they were read.
const MOST_GOT: usize = 8192;

/// What an attack says: what its syscalls returned, and the bytes that it got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub attack: String,
    pub pid: u32,
    pub calls: Vec<Call>,
    /// Error numbers of all calls, with how often; 0 is success.
    pub errors: BTreeMap<i64, u64>,
    /// The attack's own view: it came through. Counts only where nothing else can be measured.
    pub did: bool,
    pub got: String,
    /// Why this machine or this user cannot try it.
    pub not_applicable: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub call: String,
    /// As the kernel returned it: below zero an error number.
    pub returned: i64,
}

/// Descriptors that came another way than by the attacker's own `open` and `connect`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// The protected file, read and write.
    pub file: i32,
    /// A connection to the harness.
    pub stream: i32,
}

/// An attack under way.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    pub(crate) scene: &'a Scene,
    /// From before the attacker was governed.
    pub(crate) inherited: Received,
    /// By SCM_RIGHTS, for this attack.
    pub(crate) given: Received,
    /// An io_uring from before it was governed.
    pub(crate) ring: Option<&'a crate::attacks::ring::Ring>,
    pub(crate) said: Said,
}

impl Act<'_> {
    /// A syscall; its result is told.
    pub(crate) fn call(&mut self, name: &str, number: i64, arguments: &mut [Arg<'_>]) -> i64 {
        let returned = sys::call(number, arguments);
        self.tell(name, returned);
        returned
    }

    pub(crate) fn tell(&mut self, name: &str, returned: i64) {
        *self.said.errors.entry((-returned).max(0)).or_default() += 1;
        if self.said.calls.len() < MOST_CALLS {
            self.said.calls.push(Call {
                call: name.to_owned(),
                returned,
            });
        }
    }

    pub(crate) fn got(&mut self, bytes: &[u8]) {
        let room = MOST_GOT.saturating_sub(self.said.got.len());
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.said.got.push_str(&String::from_utf8_lossy(bytes));
    }

    pub(crate) fn did(&mut self, came_through: bool) {
        self.said.did |= came_through;
    }

    pub(crate) fn not_applicable(&mut self, why: impl Into<String>) {
        self.said.not_applicable = Some(why.into());
    }

    // ---- what many attacks do ----

    pub(crate) fn open(&mut self, path: &Path, flags: i32) -> i64 {
        self.open_at(libc::AT_FDCWD, path, flags)
    }

    pub(crate) fn open_at(&mut self, dir: i32, path: &Path, flags: i32) -> i64 {
        self.call(
            "openat",
            libc::SYS_openat,
            &mut [
                N(dir.into()),
                In(&sys::path(path)),
                N(flags.into()),
                N(0o644),
            ],
        )
    }

    /// Reads from the start of a descriptor, and tells what.
    pub(crate) fn read(&mut self, fd: i64) -> i64 {
        if fd < 0 {
            return fd;
        }
        let mut bytes = [0u8; 4096];
        let len = self.call(
            "pread64",
            libc::SYS_pread64,
            &mut [N(fd), Out(&mut bytes), N(4096), N(0)],
        );
        self.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
        len
    }

    /// Reads whatever a pipe or a socket has.
    pub(crate) fn drain(&mut self, fd: i64) {
        let mut bytes = [0u8; 4096];
        let len = sys::call(libc::SYS_read, &mut [N(fd), Out(&mut bytes), N(4096)]);
        self.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
    }

    pub(crate) fn open_and_read(&mut self, path: &Path) {
        let fd = self.open(path, libc::O_RDONLY);
        self.read(fd);
        close(fd);
    }

    pub(crate) fn socket(&mut self, family: i32, kind: i32, protocol: i32) -> i64 {
        self.call(
            "socket",
            libc::SYS_socket,
            &mut [N(family.into()), N(kind.into()), N(protocol.into())],
        )
    }

    pub(crate) fn connect(&mut self, fd: i64, to: &[u8]) -> i64 {
        self.call(
            "connect",
            libc::SYS_connect,
            &mut [N(fd), In(to), N(to.len() as i64)],
        )
    }

    pub(crate) fn send_to(&mut self, fd: i64, flags: i32, to: &[u8]) -> i64 {
        let (flags, len) = (flags.into(), to.len() as i64);
        let to = if to.is_empty() { N(0) } else { In(to) };
        self.call(
            "sendto",
            libc::SYS_sendto,
            &mut [N(fd), In(b"attack"), N(6), N(flags), to, N(len)],
        )
    }

    /// A pipe: its ends.
    pub(crate) fn pipe(&mut self) -> (i64, i64) {
        let mut ends = [0u8; 8];
        self.call("pipe2", libc::SYS_pipe2, &mut [Out(&mut ends), N(0)]);
        let end = |at: usize| {
            i64::from(i32::from_ne_bytes([
                ends[at],
                ends[at + 1],
                ends[at + 2],
                ends[at + 3],
            ]))
        };
        (end(0), end(4))
    }

    /// Runs a program in a child whose output is told.
    pub(crate) fn execute(&mut self, words: &[&[u8]]) -> i32 {
        let (from, to) = self.pipe();
        let arguments: Vec<Vec<u8>> = words
            .iter()
            .map(|word| [word, &b"\0"[..]].concat())
            .collect();
        let mut pointers: Vec<*const u8> = arguments.iter().map(Vec::as_ptr).collect();
        pointers.push(std::ptr::null());
        let child = sys::fork(|| {
            sys::call(libc::SYS_dup2, &mut [N(to), N(1)]);
            sys::call(libc::SYS_dup2, &mut [N(to), N(2)]);
            let none = [0u8; 8];
            let table: Vec<u8> = pointers
                .iter()
                .flat_map(|pointer| (*pointer as usize).to_ne_bytes())
                .collect();
            let failed = sys::call(
                libc::SYS_execve,
                &mut [In(&arguments[0]), In(&table), In(&none)],
            );
            // The error number of exec itself.
            i32::try_from(-failed).unwrap_or(1).clamp(1, 120)
        });
        close(to);
        loop {
            let mut bytes = [0u8; 4096];
            let len = sys::call(libc::SYS_read, &mut [N(from), Out(&mut bytes), N(4096)]);
            if len <= 0 {
                break;
            }
            self.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
        }
        close(from);
        let status = sys::wait(child);
        self.tell("execve", -i64::from(status));
        status
    }
}

pub(crate) fn close(fd: i64) {
    if fd >= 0 {
        sys::call(libc::SYS_close, &mut [N(fd)]);
    }
}
