//! Two syscalls nobody wraps.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sends SIGCONT to a process through a pidfd, so that a reused PID is never hit: `is_still`
/// checks, with the pidfd held, that it is the process that is meant.
pub fn continue_process(tgid: u32, is_still: impl FnOnce() -> bool) -> io::Result<()> {
    let pid = libc::pid_t::try_from(tgid).map_err(io::Error::other)?;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns; descriptors fit an int.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    if !is_still() {
        return Ok(());
    }
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a live pidfd; no siginfo.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGCONT,
            none,
            0,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// No core dumps and no ptrace by the same user: the daemon's memory holds keys.
pub fn stop_dumps() -> io::Result<()> {
    // SAFETY: no pointers.
    let rc = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives memory that is free back to the kernel: reading its type information takes megabytes
/// that are never needed again.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
