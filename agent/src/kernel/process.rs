//! A few syscalls nobody wraps.
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

/// Asks for short turns on the processor, for this thread and those it starts. A held thread spins
/// until it is parked or answered, and kernels since 6.6 let it have its whole turn, up to the next
/// tick; since 6.12 whoever asks for shorter ones goes first. Other kernels ignore it.
pub fn take_short_turns() -> io::Result<()> {
    /// Nanoseconds; the shortest there are.
    const TURN: u64 = 100_000;
    // SAFETY: integers only.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: a valid, exclusive pointer for the length of the call, and its size.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    attr.sched_runtime = TURN;
    // SAFETY: a valid pointer to what carries its size.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps the allocator from hoarding, before there are threads: it learns from the megabytes of
/// kernel types that large blocks are common, and would not give any back from then on.
pub fn spare_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain settings; no thread allocates yet. What is refused stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
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

/// What the kernel thinks of its clock: whether it is synchronised, and its largest error in
/// microseconds (adjtimex(2)). Auditors want both beside a time stamp.
#[must_use]
pub fn clock_state() -> Option<(bool, u64)> {
    // SAFETY: all zero is a valid timex: with `modes` 0 nothing is changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a valid, exclusive pointer for the length of the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let maxerror = u64::try_from(timex.maxerror).ok()?;
    (state >= 0).then_some((state != libc::TIME_ERROR, maxerror))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_has_an_opinion_of_itself() {
        let (_, maxerror_us) = clock_state().unwrap();
        // The kernel's own cap: MAXPHASE grows at 500 ppm up to 16 s (NTP_PHASE_LIMIT).
        assert!(maxerror_us <= 16_000_000, "{maxerror_us}");
    }

    #[test]
    fn short_turns_change_nothing_else() {
        // SAFETY: no pointers; of this thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        take_short_turns().unwrap();
        assert_eq!(nice(), before);
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
    }
}
