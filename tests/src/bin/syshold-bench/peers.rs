//! The smallest supervisors that other mechanisms allow: they say yes to everything, so what they
//! add is the price of the mechanism alone.
#![expect(
    unsafe_code,
    reason = "fork, fanotify and seccomp have no safe wrappers here; each block says why"
)]
use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

/// Of `linux/seccomp.h`; the numbers carry the sizes of the structures.
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// A process that answers until this is dropped.
pub(crate) struct Supervisor {
    pid: Pid,
    answered: NonNull<AtomicU64>,
}

impl Supervisor {
    /// Permission events of one file.
    pub(crate) fn fanotify(path: &Path) -> Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let (supervisor, mut channel) =
            Self::start(|channel, answered| answer_fanotify(&path, channel, answered))?;
        channel.read_exact(&mut [0]).context("fanotify")?;
        Ok(supervisor)
    }

    /// User notifications of `openat` and `connect` of this process, from now on.
    pub(crate) fn seccomp() -> Result<Self> {
        let measured = std::process::id();
        let (supervisor, mut channel) =
            Self::start(|channel, answered| answer_seccomp(measured, channel, answered))?;
        let listener = install_filter()?;
        channel.write_all(&listener.as_raw_fd().to_ne_bytes())?;
        // It has its own copy now.
        channel.read_exact(&mut [0]).context("seccomp")?;
        Ok(supervisor)
    }

    /// How many questions it has answered.
    pub(crate) fn answered(&self) -> u64 {
        // SAFETY: mapped for as long as this process lives.
        unsafe { self.answered.as_ref() }.load(Ordering::Relaxed)
    }

    fn start(
        answer: impl FnOnce(UnixStream, &AtomicU64) -> Result<Infallible>,
    ) -> Result<(Self, UnixStream)> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: fresh memory, zeroed, shared with the child.
        let page =
            unsafe { mmap_anonymous(None, NonZeroUsize::MIN, protection, MapFlags::MAP_SHARED) }?;
        let answered = page.cast::<AtomicU64>();
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: there is one thread so far.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok((
                Self {
                    pid: child,
                    answered,
                },
                ours,
            )),
            ForkResult::Child => {
                drop(ours);
                // SAFETY: as above.
                let Err(error) = answer(theirs, unsafe { answered.as_ref() });
                eprintln!("syshold-bench: the supervisor: {error:#}");
                std::process::exit(1);
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn answer_fanotify(
    path: &CString,
    mut channel: UnixStream,
    answered: &AtomicU64,
) -> Result<Infallible> {
    let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
    // SAFETY: no pointers.
    let group = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
    checked(group.into())?;
    // SAFETY: `path` ends with NUL and outlives the call.
    let marked = unsafe {
        let mask = libc::FAN_OPEN_PERM;
        libc::fanotify_mark(
            group,
            libc::FAN_MARK_ADD,
            mask,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    checked(marked.into())?;
    channel.write_all(&[0])?;
    loop {
        // SAFETY: the kernel writes whole events: one fits, and no second one can wait, because
        // the one process that opens the file waits for this answer. The descriptor in the event
        // is ours to close.
        unsafe {
            let mut event: libc::fanotify_event_metadata = std::mem::zeroed();
            let size = size_of_val(&event);
            checked(libc::read(group, (&raw mut event).cast(), size) as i64)?;
            let answer = libc::fanotify_response {
                fd: event.fd,
                response: libc::FAN_ALLOW,
            };
            let size = size_of_val(&answer);
            checked(libc::write(group, (&raw const answer).cast(), size) as i64)?;
            libc::close(event.fd);
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer_seccomp(
    measured: u32,
    mut channel: UnixStream,
    answered: &AtomicU64,
) -> Result<Infallible> {
    let mut number = [0; 4];
    channel.read_exact(&mut number)?;
    // SAFETY: no pointers.
    let listener = unsafe {
        let process = checked(libc::syscall(libc::SYS_pidfd_open, measured, 0))?;
        let theirs = i32::from_ne_bytes(number);
        checked(libc::syscall(libc::SYS_pidfd_getfd, process, theirs, 0))?
    };
    let listener = i32::try_from(listener)?;
    channel.write_all(&[0])?;
    loop {
        // SAFETY: each structure is the one of its ioctl.
        unsafe {
            let mut question: libc::seccomp_notif = std::mem::zeroed();
            checked(libc::ioctl(listener, NOTIF_RECV, &raw mut question).into())?;
            let mut answer = libc::seccomp_notif_resp {
                id: question.id,
                val: 0,
                error: 0,
                flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            };
            checked(libc::ioctl(listener, NOTIF_SEND, &raw mut answer).into())?;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// From here on this process asks before `openat` and `connect`.
fn install_filter() -> Result<OwnedFd> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, k, jt| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = [
        // The syscall's number is the first word of `seccomp_data`.
        line(LOAD, 0, 0),
        line(EQUAL, libc::SYS_openat as u32, 2),
        line(EQUAL, libc::SYS_connect as u32, 1),
        line(RETURN, libc::SECCOMP_RET_ALLOW, 0),
        line(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns; the result is a descriptor of ours.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        let listener = checked(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        ))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(listener)?))
    }
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
