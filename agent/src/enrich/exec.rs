//! What a held execve would run: its arguments, from the memory of the thread that waits, and the
//! digest of the program's file.
//!
//! The kernel reads the arguments again when the syscall goes on. So what is read here is right as
//! long as nobody else writes to that memory: another thread of the process, or a process that
//! shares it. [`Exec`] is what an approval is for; it does not bind the kernel.
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use nix::sys::stat::{major, minor};
use sha2::{Digest as _, Sha256};
use syshold_protocol::Digest;
use syshold_protocol::display::{LEFT_OUT, not_shown};
use uuid::Uuid;

use super::dir::Dir;
use super::{Enricher, Error};
use crate::request::Exec;

/// Most bytes of arguments, their NULs included; Linux takes 2 MiB and more.
const MOST_BYTES: usize = 256 * 1024;
const MOST_ARGUMENTS: usize = 8192;
/// Of a list that is longer, so many at its end are read, and so much of each is kept.
const LAST: usize = 8;
const LAST_BYTES: usize = 2048;
/// Linux takes no longer argument, and no list of more pages.
const LONGEST: usize = 128 * 1024;
const MOST_PAGES: usize = 4096;
const PAGE: u64 = 4096;

/// The program of a held execve, as the kernel knows it.
#[derive(Clone, Debug)]
pub struct Program {
    pub dev: u32,
    pub ino: u64,
    /// As the process sees it.
    pub path: Option<String>,
    pub call: Option<Call>,
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
        let read = move |this: &Self| this.read_exec(tid, tgid, start_ns, &program);
        self.read_soon(tgid, read).await.unwrap_or_else(|error| {
            tracing::warn!(%error, tid, "what a held thread would run cannot be read");
            unknown()
        })
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
        let mut exec = match arguments(&thread, program.call) {
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
        exec.sha256 = self
            .digest_of_program(&process, program)
            .unwrap_or_else(|error| {
                tracing::warn!(%error, tid, "the program of a held execve cannot be read");
                None
            });
        process.stat()?;
        Ok(exec)
    }

    /// The file that the path means to the process, if it is the one the kernel holds.
    fn digest_of_program(&self, process: &Dir, program: &Program) -> io::Result<Option<Digest>> {
        let Some(path) = &program.path else {
            return Ok(None);
        };
        // systemd keeps openat2 from us (RestrictSUIDSGID=). A link on the way may lead out of the
        // process's root: then it is another file, or the same one.
        let file = process.file(&format!("root/{path}"))?;
        let meta = file.metadata()?;
        // The kernel's own device number is not st_dev's encoding.
        let dev = major(meta.dev()) << 20 | minor(meta.dev());
        if dev != u64::from(program.dev) || meta.ino() != program.ino {
            return Ok(None);
        }
        self.digests.of(file)
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
fn arguments(thread: &Dir, call: Option<Call>) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let call = call.ok_or_else(|| io::Error::other("it is not in execve"))?;
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
        at += call.word as u64;
        if !whole || left == 0 || argv.len() == MOST_ARGUMENTS {
            if let (false, Some(last)) = (whole, argv.last_mut()) {
                last.extend(format!("… the rest{LEFT_OUT}").bytes());
            }
            argv.extend(end_of(&memory, at, call.word)?);
            return Ok((argv, false));
        }
    }
    Ok((argv, true))
}

/// The end of a list of arguments that goes on at `at`: what is asked is often told there.
fn end_of(memory: &File, mut at: u64, word: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut last = VecDeque::with_capacity(LAST + 1);
    let mut between = 0;
    let mut page = [0; PAGE as usize];
    'list: for _ in 0..MOST_PAGES {
        let rest = (PAGE - at % PAGE) as usize;
        let got = memory.read_at(&mut page[..rest], at)?;
        let words = page[..got].chunks_exact(word);
        if words.len() == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for bytes in words {
            let mut pointer = [0; 8];
            pointer[..word].copy_from_slice(bytes);
            match u64::from_le_bytes(pointer) {
                0 => break 'list,
                pointer => last.push_back(pointer),
            }
            if last.len() > LAST {
                last.pop_front();
                between += 1;
            }
            at += word as u64;
        }
    }
    let mut end = Vec::new();
    if between > 0 {
        end.push(not_shown(between, "arguments").into_bytes());
    }
    for pointer in last {
        let (mut text, whole) = text_at(memory, pointer, LONGEST)?;
        if text.len() > LAST_BYTES {
            let cut = text.len() - LAST_BYTES;
            text.splice(..cut, not_shown(cut, "bytes").into_bytes());
        }
        if !whole {
            text.extend(format!("… the rest{LEFT_OUT}").bytes());
        }
        end.push(text);
    }
    Ok(end)
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

/// Where execve was told its arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    argv: u64,
    /// Bytes of a pointer.
    word: usize,
}

impl Call {
    /// Of the syscall's number and its list of arguments; a call by int 0x80 has pointers of four
    /// bytes. None: it is no execve.
    #[must_use]
    pub fn of(syscall: u32, argv: u64) -> Option<Self> {
        let word = match syscall {
            59 | 322 => 8,
            11 | 358 => 4,
            _ => return None,
        };
        Some(Self { argv, word })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn a_pointer_is_as_wide_as_the_call() {
        let word = |nr| Call::of(nr, 0x7f00).map(|call| call.word);
        assert_eq!([59, 322, 11, 358].map(word), [8, 8, 4, 4].map(Some));
        assert_eq!(word(9), None);
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
    fn of_a_list_too_long_to_read_the_end_is_read() {
        let memory = File::open("/proc/self/mem").unwrap();
        let texts: Vec<_> = (0..5000)
            .map(|i| CString::new(format!("{i}{}", "y".repeat(i))).unwrap())
            .collect();
        let mut pointers: Vec<u64> = texts.iter().map(|text| text.as_ptr() as u64).collect();
        pointers.push(0);
        let at = pointers.as_ptr() as u64;
        let end = end_of(&memory, at, 8).unwrap();
        let shown: Vec<_> = end
            .iter()
            .map(|text| String::from_utf8_lossy(text))
            .collect();
        assert_eq!(shown.len(), LAST + 1);
        assert_eq!(shown[0], "… 4,992 more arguments, not shown …");
        assert!(
            shown[8].starts_with("… 2,955 more bytes, not shown …y"),
            "{}",
            &shown[8][..60]
        );
        // A list that is short enough, and 4 bytes a pointer.
        assert_eq!(end_of(&memory, at + 8 * 4999, 8).unwrap().len(), 1);
        assert!(end_of(&memory, at + 8 * 5000, 8).unwrap().is_empty());
        let none = [0_u32; 2];
        assert!(end_of(&memory, none.as_ptr() as u64, 4).unwrap().is_empty());
        assert!(end_of(&memory, 8, 8).is_err());
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
            call: None,
        };
        let path = file.path().to_str().unwrap();
        let digest = |program| {
            enricher
                .digest_of_program(&process, &program)
                .ok()
                .flatten()
        };
        assert_eq!(
            digest(program(meta.ino(), path)),
            Some(Digest::of(b"program"))
        );
        assert_eq!(digest(program(meta.ino() + 1, path)), None);
        assert_eq!(digest(program(meta.ino(), "/nowhere")), None);
    }
}
