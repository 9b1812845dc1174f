//! Syscalls as they are: numbers in, the kernel's own result out. Nothing between an attack and
//! what the kernel answers, so that a restart code that leaks is seen.
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An argument of a syscall.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    /// A number: descriptor, flags, length.
    N(i64),
    /// Memory that the kernel reads.
    In(&'a [u8]),
    /// Memory that it writes.
    Out(&'a mut [u8]),
}

pub(crate) use Arg::{In, N, Out};

/// The result: what a function returns, or the negative error number.
pub(crate) fn call(number: i64, arguments: &mut [Arg<'_>]) -> i64 {
    let mut words = [0i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            N(number) => *number,
            In(bytes) => bytes.as_ptr() as i64,
            Out(bytes) => bytes.as_mut_ptr() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: every pointer comes from a slice that is borrowed for the call, as large as the
    // length that the caller passes with it; numbers are not pointers. Addresses inside a
    // structure are to buffers that the attack keeps alive.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

/// A path as the kernel takes it.
pub(crate) fn path(path: &Path) -> Vec<u8> {
    CString::new(path.as_os_str().as_bytes())
        .unwrap_or_default()
        .into_bytes_with_nul()
}

/// The bytes of a structure.
pub(crate) fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: used with C structures of this crate and of libc whose padding nobody reads; the
    // slice lives as long as the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Forks. The child runs `child` and exits with what that returns.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> i64 {
    // SAFETY: the attacker's processes have one thread when they fork; what runs in the child is
    // an attack's own.
    match unsafe { libc::fork() } {
        0 => {
            let code = child();
            // SAFETY: ends this process without the parent's clean-up.
            unsafe { libc::_exit(code) }
        }
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        pid => i64::from(pid),
    }
}

/// Waits for a child; its exit status, or 128 + the signal.
pub(crate) fn wait(pid: i64) -> i32 {
    let mut status = 0i32;
    let pid = i32::try_from(pid).unwrap_or(-1);
    // SAFETY: a valid pointer to an int.
    let done = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if done < 0 {
        -1
    } else if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    }
}

/// Anonymous memory that children share, zeroed, below 2 GB so that 32-bit syscalls reach it. Never
/// unmapped: attackers are short-lived.
pub(crate) fn shared(len: usize) -> Option<&'static mut [u8]> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: `len` bytes, mapped just above and for good. Other processes write to it as well:
    // that is what those attacks are about.
    Some(unsafe { std::slice::from_raw_parts_mut(at.cast(), len) })
}

/// Copies what is mapped at an address.
pub(crate) fn peek(address: i64, len: usize) -> Vec<u8> {
    // SAFETY: an address that mmap has just returned for at least `len` bytes.
    unsafe { std::slice::from_raw_parts(address as *const u8, len) }.to_vec()
}

/// `int 0x80`: the 32-bit table. Addresses have to be below 4 GB.
pub(crate) fn call32(number: u32, a: u32, b: u32, c: u32) -> i32 {
    let result: u32;
    // SAFETY: rbx belongs to the compiler, so it is put back; memory is what `shared` made.
    unsafe {
        std::arch::asm!(
            "xchg {b:r}, rbx",
            "int 0x80",
            "xchg {b:r}, rbx",
            b = inout(reg) u64::from(a) => _,
            inlateout("eax") number => result,
            in("ecx") b,
            in("edx") c,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result as i32
}

/// A handler for a signal; `SA_RESTART` and nothing else.
pub(crate) fn on_signal(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: an all-zero sigaction is valid; the handlers of this crate make raw syscalls only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// `vfork`, done by hand so that the child has its own stack frame: `CLONE_VM | CLONE_VFORK`. It
/// calls `child` on a stack of its own.
pub(crate) fn vfork(
    child: extern "C" fn(*mut libc::c_void) -> i32,
    argument: *mut libc::c_void,
) -> i64 {
    let mut stack = vec![0u8; 256 * 1024];
    let top = stack.len() & !15;
    // SAFETY: the parent sleeps until the child has ended, so stack and argument outlive it; the
    // stack grows down from its aligned top.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr().add(top).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            argument,
        )
    };
    if pid < 0 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        i64::from(pid)
    }
}
