//! What the canary does that nobody wraps: each act reaches a hook and changes nothing, for this
//! happens every second on every host.
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::mmap::{self, map_and_unmap};

/// Lets a child of the daemon count as the daemon until it exits: how exec is proven.
#[derive(Clone, Debug)]
pub struct Marker(pub(super) Arc<mmap::Bytes>);

/// One syscall, for its way through the kernel; what it returns is of no interest.
macro_rules! try_syscall {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: any pointer among the arguments is to memory that outlives the call and is as
        // large as the syscall expects.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    };
}

/// Closes what a syscall returned, if that is a descriptor.
fn close(fd: libc::c_long) {
    if let Ok(fd) = RawFd::try_from(fd)
        && fd >= 0
    {
        // SAFETY: fresh from the syscall, nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// `mmap_file`, and an ioctl that no file knows for `file_ioctl`.
pub fn map_and_ask(file: impl AsFd) {
    map_and_unmap(file.as_fd());
    let mut settings = [0u8; 64];
    try_syscall!(
        SYS_ioctl,
        file.as_fd().as_raw_fd(),
        libc::TCGETS,
        settings.as_mut_ptr()
    );
}

/// `egress`: an IP header with four times "no operation", which it knows.
pub fn send_with_options(socket: &UdpSocket) {
    let options = [1u8; 4];
    try_syscall!(
        SYS_setsockopt,
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_OPTIONS,
        options.as_ptr(),
        options.len()
    );
    let _ = socket.send(&[0]);
}

/// `inode_setxattr`. File systems without such attributes refuse, after the hook.
pub fn set_attribute(path: &Path) {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return;
    };
    try_syscall!(
        SYS_setxattr,
        path.as_ptr(),
        c"trusted.syshold.canary".as_ptr(),
        c"x".as_ptr(),
        1usize,
        0
    );
}

/// Hooks about this very thread: signals, credentials, limits, bpf, rings.
pub fn on_self() {
    const IO_URING_PARAMS: usize = 30;
    const IORING_SETUP_NO_SQARRAY: u32 = 1 << 16;
    const BPF_PROG_GET_NEXT_ID: i32 = 11;
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    const NO_SAMPLE_PERIOD: u64 = 1 << 63;
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let tid = nix::unistd::gettid().as_raw();
    let pid = nix::unistd::getpid().as_raw();
    // Ignored by default, and nobody here listens for it.
    try_syscall!(SYS_tgkill, pid, tid, libc::SIGURG);

    // Raw: these are one thread's, where the C library would change all of them.
    try_syscall!(SYS_setuid, nix::unistd::getuid().as_raw());
    let header = [CAPABILITY_VERSION_3, 0];
    let mut sets = [0u32; 6];
    if try_syscall!(SYS_capget, header.as_ptr(), sets.as_mut_ptr()) == 0 {
        try_syscall!(SYS_capset, header.as_ptr(), sets.as_ptr());
    }

    let mut limit = [0u64; 2];
    let own = 0;
    let none = std::ptr::null::<u64>();
    if try_syscall!(
        SYS_prlimit64,
        own,
        libc::RLIMIT_CORE,
        none,
        limit.as_mut_ptr()
    ) == 0
    {
        let unread = std::ptr::null_mut::<u64>();
        try_syscall!(
            SYS_prlimit64,
            own,
            libc::RLIMIT_CORE,
            limit.as_ptr(),
            unread
        );
    }

    // Also `capable`, which it asks first.
    let mut attributes = [0u32; 32];
    try_syscall!(
        SYS_bpf,
        BPF_PROG_GET_NEXT_ID,
        attributes.as_mut_ptr(),
        size_of_val(&attributes)
    );

    // Refused right after the hook for its period, before there is an event: the kernel patches its
    // scheduler's code, on all processors, for the first event and after the last (`account_event`).
    let mut event = [0u64; 16];
    event[0] = u64::from(PERF_TYPE_SOFTWARE) | (size_of_val(&event) as u64) << 32;
    event[1] = PERF_COUNT_SW_DUMMY;
    event[2] = NO_SAMPLE_PERIOD;
    close(try_syscall!(
        SYS_perf_event_open,
        event.as_ptr(),
        0,
        -1,
        -1,
        0
    ));

    // A ring without that array is one that kernels since 6.13 do not patch their code for
    // (`io_key_has_sqarray`); those before 6.6 know no other.
    for flags in [IORING_SETUP_NO_SQARRAY, 0] {
        let mut params = [0u32; IO_URING_PARAMS];
        params[2] = flags;
        let ring = try_syscall!(SYS_io_uring_setup, 1, params.as_mut_ptr());
        if ring >= 0 {
            close(ring);
            break;
        }
    }
}

/// `bprm_check_security` comes before anything looks at what the file holds. Text, so that the
/// kernel does not ask modprobe for a loader.
pub fn not_a_program() {
    let fd = try_syscall!(SYS_memfd_create, c"canary".as_ptr(), libc::MFD_CLOEXEC);
    if fd < 0 {
        return;
    }
    let text = "not a program\n";
    try_syscall!(SYS_write, fd, text.as_ptr(), text.len());
    let nothing = [std::ptr::null::<u8>()];
    try_syscall!(
        SYS_execveat,
        fd,
        c"".as_ptr(),
        nothing.as_ptr(),
        nothing.as_ptr(),
        libc::AT_EMPTY_PATH
    );
    close(fd);
}

/// All of exec, by a child that counts as the daemon.
pub fn run_a_program(marker: Marker) {
    let mut command = Command::new("/bin/true");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mark = move || -> io::Result<()> {
        // One store into the shared table; the kernel side takes it back at exit.
        let pid = nix::unistd::getpid().as_raw();
        let byte = marker.0.at(pid.unsigned_abs() as usize)?;
        byte.store(syshold_abi::PID_DAEMON);
        Ok(())
    };
    // SAFETY: between fork and exec it only asks for its PID, maps a page and stores a byte.
    let spawned = unsafe { command.pre_exec(mark) }.spawn();
    if let Ok(mut child) = spawned {
        let _ = child.wait();
    }
}
