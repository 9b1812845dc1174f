//! What a held execve would run: its arguments, from the memory of the thread that waits, and the
//! digest of the program's file.
//!
//! The kernel reads the arguments again when the syscall goes on. So what is read here is right as
//! long as nobody else writes to that memory: another thread of the process, or a process that
//! shares it. [`Exec`] is what an approval is for; it does not bind the kernel.
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{major, minor};
use sha2::{Digest as _, Sha256};
use syshold_protocol::Digest;
use uuid::Uuid;

use super::dir::Dir;
use super::{Enricher, Error, TURNS};
use crate::request::Exec;

/// Most bytes of arguments, their NULs included; Linux takes 2 MiB and more.
const MOST_BYTES: usize = 256 * 1024;
const MOST_ARGUMENTS: usize = 8192;
/// How long a thread may take to come to rest.
const REST: Duration = Duration::from_secs(4);
const PAGE: u64 = 4096;

/// The program of a held execve, as the kernel knows it.
#[derive(Clone, Debug)]
pub struct Program {
    pub dev: u32,
    pub ino: u64,
    /// As the process sees it.
    pub path: Option<String>,
}

impl Enricher {
    /// What the held thread would run; what cannot be read is left out, and says so.
    pub async fn would_run(
        self: &Arc<Self>,
        tid: u32,
        tgid: u32,
        start_ns: u64,
        program: Program,
    ) -> Exec {
        let this = Arc::clone(self);
        let turn = Arc::clone(&self.readers).acquire_owned();
        let Ok(Ok(seat)) = tokio::time::timeout(TURNS * self.patience, turn).await else {
            return unknown();
        };
        let read = tokio::task::spawn_blocking(move || {
            let exec = this.read_exec(tid, tgid, start_ns, &program);
            drop(seat);
            exec
        });
        match tokio::time::timeout(self.patience, read).await {
            Ok(Ok(Ok(exec))) => exec,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, tid, "what a held thread would run cannot be read");
                unknown()
            }
            Ok(Err(_)) | Err(_) => unknown(),
        }
    }

    fn read_exec(
        &self,
        tid: u32,
        tgid: u32,
        start_ns: u64,
        program: &Program,
    ) -> Result<Exec, Error> {
        let process = self.open(tgid, start_ns)?;
        let thread = Dir::open_at(&process.dir, &format!("task/{tid}"), tgid)?;
        let mut exec = match arguments(&thread) {
            Ok((argv, true)) => Exec {
                argv_sha256: digest_of(&argv),
                argv,
                whole: true,
                sha256: None,
            },
            // What is there may be shown; nobody's approval may count for the rest.
            Ok((argv, false)) => Exec { argv, ..unknown() },
            Err(error) => {
                tracing::warn!(%error, tid, "the arguments of a held execve cannot be read");
                unknown()
            }
        };
        exec.sha256 = self.digest_of_program(&process, program);
        process.stat()?;
        Ok(exec)
    }

    /// The file that the path means to the process, if it is the one the kernel holds.
    fn digest_of_program(&self, process: &Dir, program: &Program) -> Option<Digest> {
        let path = program.path.as_deref()?;
        let root = process.sub("root").ok()?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(openat2(root, path, how).ok()?);
        let meta = file.metadata().ok()?;
        // The kernel's own device number is not st_dev's encoding.
        let dev = major(meta.dev()) << 20 | minor(meta.dev());
        let same = dev == u64::from(program.dev) && meta.ino() == program.ino;
        self.digests.of(file).ok().flatten().filter(|_| same)
    }
}

/// Arguments that nobody knows are like no others.
fn unknown() -> Exec {
    Exec {
        argv: Vec::new(),
        whole: false,
        argv_sha256: Digest::of(Uuid::new_v4().as_bytes()),
        sha256: None,
    }
}

fn digest_of(argv: &[Vec<u8>]) -> Digest {
    let mut hasher = Sha256::new();
    for argument in argv {
        hasher.update(argument);
        hasher.update([0]);
    }
    Digest(hasher.finalize().into())
}

/// The arguments at execve's pointers, and whether they are all.
fn arguments(thread: &Dir) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let call = syscall_of(thread)?;
    let memory = thread.file("mem").map_err(io::Error::from)?;
    let mut argv = Vec::new();
    let mut left = MOST_BYTES;
    let mut at = call.argv;
    // Without a list of arguments the kernel makes it an empty one.
    while at != 0 {
        let mut pointer = [0; 8];
        memory.read_exact_at(&mut pointer[..call.word], at)?;
        let pointer = u64::from_le_bytes(pointer);
        if pointer == 0 {
            break;
        }
        let (argument, whole) = text_at(&memory, pointer, left)?;
        left = left.saturating_sub(argument.len() + 1);
        argv.push(argument);
        if !whole || left == 0 || argv.len() == MOST_ARGUMENTS {
            return Ok((argv, false));
        }
        at += call.word as u64;
    }
    Ok((argv, true))
}

/// Bytes up to a NUL, at most `most`; and whether the NUL was there.
fn text_at(memory: &File, mut at: u64, most: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    let mut page = [0; PAGE as usize];
    while text.len() < most {
        // Not over the end of a page: the next one may not be there.
        let rest = (PAGE - at % PAGE) as usize;
        let got = memory.read_at(&mut page[..rest], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = page[..got].iter().position(|byte| *byte == 0) {
            text.extend(&page[..end]);
            return Ok((text, true));
        }
        text.extend(&page[..got]);
        at += got as u64;
    }
    text.truncate(most);
    Ok((text, false))
}

#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// Where the list of arguments is.
    argv: u64,
    /// Bytes of a pointer.
    word: usize,
}

/// Waits until the thread rests, then says where its arguments are.
fn syscall_of(thread: &Dir) -> io::Result<Call> {
    let until = Instant::now() + REST;
    loop {
        let text = thread.read("syscall", 512).map_err(io::Error::from)?;
        let text = String::from_utf8_lossy(&text.bytes).into_owned();
        if text.trim() != "running" {
            return execve(&text)
                .ok_or_else(|| io::Error::other(format!("it is not in execve: {}", text.trim())));
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `/proc/TID/syscall`: the number, six arguments, stack and program counter. execve's second and
/// execveat's third argument is the list; of int 0x80 pointers have four bytes.
fn execve(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let (place, word) = match words.next()?.parse::<u32>().ok()? {
        59 => (1, 8),
        322 => (2, 8),
        11 => (1, 4),
        358 => (2, 4),
        _ => return None,
    };
    let argv = words.nth(place)?.strip_prefix("0x")?;
    let argv = u64::from_str_radix(argv, 16).ok()?;
    Some(Call { argv, word })
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn the_list_is_found_in_each_kind_of_execve() {
        let call = |argv, word| Some(Call { argv, word });
        let table = [
            ("59 0x1 0x7f00 0x3 0x4 0x5 0x6 0x7 0x8\n", call(0x7f00, 8)),
            ("322 0x1 0x2 0x7f00 0x4 0x5 0x6 0x7 0x8\n", call(0x7f00, 8)),
            ("11 0x1 0xff00 0x3 0x4 0x5 0x6 0x7 0x8\n", call(0xff00, 4)),
            ("358 0x1 0x2 0xff00 0x4 0x5 0x6 0x7 0x8\n", call(0xff00, 4)),
            ("9 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8\n", None),
            ("-1 0x7ffc 0x7f\n", None),
            ("59 0x1\n", None),
            ("59 0x1 7f00 0x3\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(execve(text), expected, "{text:?}");
        }
    }

    #[test]
    fn arguments_are_read_from_memory_and_cut_where_they_are_too_long() {
        let memory = File::open("/proc/self/mem").unwrap();
        let long = CString::new("x".repeat(10_000)).unwrap();
        let read = |most| text_at(&memory, long.as_ptr() as u64, most).unwrap();
        assert_eq!(read(20_000), (vec![b'x'; 10_000], true));
        assert_eq!(read(5000), (vec![b'x'; 5000], false));
        assert!(text_at(&memory, 1, 10).is_err());
    }

    #[test]
    fn what_is_not_known_is_like_nothing_else() {
        assert_ne!(unknown().argv_sha256, unknown().argv_sha256);
        let one = digest_of(&[b"a".to_vec(), b"b".to_vec()]);
        assert_ne!(one, digest_of(&[b"a b".to_vec()]));
        assert_ne!(one, digest_of(&[b"ab".to_vec()]));
    }

    #[test]
    fn a_digest_is_of_the_very_file_that_is_held() {
        let enricher = Enricher::default();
        let process = Dir::open(std::process::id()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, b"program").unwrap();
        let meta = file.as_file().metadata().unwrap();
        let dev = major(meta.dev()) << 20 | minor(meta.dev());
        let program = |ino, path: &str| Program {
            dev: u32::try_from(dev).unwrap(),
            ino,
            path: Some(path.to_owned()),
        };
        let path = file.path().to_str().unwrap();
        let digest = |program| enricher.digest_of_program(&process, &program);
        assert_eq!(
            digest(program(meta.ino(), path)),
            Some(Digest::of(b"program"))
        );
        assert_eq!(digest(program(meta.ino() + 1, path)), None);
        assert_eq!(digest(program(meta.ino(), "/nowhere")), None);
    }
}
