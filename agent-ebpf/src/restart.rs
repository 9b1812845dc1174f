//! Which syscalls may be held: those that a restart brings back to the same hook unchanged.
//!
//! By hook and by table (arch/x86/entry/syscalls/syscall_64.tbl, syscall_32.tbl). A hook that is
//! reached from any other syscall is denied; x32 numbers have bit 30 set and match none.
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use syshold_abi::hook;

use crate::field::{Kernel, load, offset};

/// The syscall a thread is in.
#[derive(Clone, Copy)]
enum Syscall {
    Native(u32),
    /// Through int 0x80.
    Compat(u32),
}

#[inline(always)]
unsafe fn syscall_of(task: Kernel) -> Syscall {
    const TS_COMPAT: u32 = 2;
    let status: u32 = load(task, offset!(task_status));
    let regs = bpf_task_pt_regs(task.cast_mut().cast()) as usize as Kernel;
    let nr: u64 = load(regs, offset!(regs_orig_ax));
    if status & TS_COMPAT == 0 {
        Syscall::Native(nr as u32)
    } else {
        Syscall::Compat(nr as u32)
    }
}

/// The syscall's number when it may be held; None: it must not be.
#[inline(always)]
pub unsafe fn restartable(task: Kernel, hook: u32) -> Option<u32> {
    const PF_EXITING: u32 = 0x4;
    const PF_IO_WORKER: u32 = 0x10;
    const PF_DUMPCORE: u32 = 0x200;
    const PF_SIGNALED: u32 = 0x400;
    const PF_USER_WORKER: u32 = 0x4000;
    const PF_KTHREAD: u32 = 0x0020_0000;
    let flags: u32 = load(task, offset!(task_flags));
    if flags & (PF_EXITING | PF_IO_WORKER | PF_DUMPCORE | PF_SIGNALED | PF_USER_WORKER | PF_KTHREAD)
        != 0
    {
        return None;
    }
    match syscall_of(task) {
        Syscall::Native(nr) => native(hook, nr).then_some(nr),
        Syscall::Compat(nr) => compat(hook, nr).then_some(nr),
    }
}

/// Is it execve or execveat, whichever way it was called?
#[inline(always)]
pub fn is_exec(nr: u32) -> bool {
    matches!(nr, 59 | 322 | 11 | 358)
}

/// The list of arguments that this execve was called with.
#[inline(always)]
pub unsafe fn argv_of(task: Kernel) -> u64 {
    let regs = bpf_task_pt_regs(task.cast_mut().cast()) as usize as Kernel;
    match syscall_of(task) {
        Syscall::Native(59) => load(regs, offset!(regs_si)),
        Syscall::Native(322) => load(regs, offset!(regs_dx)),
        Syscall::Compat(11) => load(regs, offset!(regs_cx)),
        Syscall::Compat(358) => load(regs, offset!(regs_dx)),
        _ => 0,
    }
}

/// In execve past the point of no return an error kills: the file was judged when it was opened.
#[inline(always)]
pub unsafe fn in_exec() -> bool {
    match syscall_of(bpf_get_current_task_btf().cast_const().cast()) {
        Syscall::Native(nr) => matches!(nr, 59 | 322),
        Syscall::Compat(nr) => matches!(nr, 11 | 358),
    }
}

/// Opening with O_TRUNC truncates after the open itself was judged.
#[inline(always)]
pub unsafe fn in_open() -> bool {
    match syscall_of(bpf_get_current_task_btf().cast_const().cast()) {
        Syscall::Native(nr) => matches!(nr, 2 | 85 | 257 | 437),
        Syscall::Compat(nr) => matches!(nr, 5 | 8 | 295 | 437),
    }
}

/// Is this the native syscall `nr`?
#[inline(always)]
pub unsafe fn in_syscall(nr: u32) -> bool {
    matches!(syscall_of(bpf_get_current_task_btf().cast_const().cast()), Syscall::Native(now) if now == nr)
}

/// Are pages moved into a file, rather than copied from the caller's memory?
#[inline(always)]
pub unsafe fn in_splice() -> bool {
    match syscall_of(bpf_get_current_task_btf().cast_const().cast()) {
        // sendfile splice
        Syscall::Native(nr) => matches!(nr, 40 | 275),
        // sendfile sendfile64 splice
        Syscall::Compat(nr) => matches!(nr, 187 | 239 | 313),
    }
}

#[inline(always)]
fn native(hook: u32, nr: u32) -> bool {
    match hook {
        // connect
        hook::SOCKET_CONNECT => nr == 42,
        // sendto sendmsg sendmmsg; write writev pwritev2 sendfile splice. Not io_submit: it makes
        // EINTR of a restart.
        hook::SOCKET_SENDMSG => matches!(nr, 44 | 46 | 307 | 1 | 20 | 328 | 40 | 275),
        hook::SOCKET_BIND => nr == 49,
        hook::SOCKET_LISTEN => nr == 50,
        // accept accept4
        hook::SOCKET_ACCEPT => matches!(nr, 43 | 288),
        // open creat openat openat2 execve execveat
        hook::FILE_OPEN => matches!(nr, 2 | 85 | 257 | 437 | 59 | 322),
        // open creat openat openat2 mknod mknodat; bind of a unix socket
        hook::PATH_MKNOD => matches!(nr, 2 | 85 | 257 | 437 | 133 | 259 | 49),
        hook::MMAP_FILE => nr == 9,
        // read write pread64 pwrite64 readv writev sendfile getdents io_submit getdents64
        // splice preadv pwritev copy_file_range preadv2 pwritev2 ioctl(FICLONE, FIDEDUPERANGE)
        // fallocate
        hook::FILE_PERMISSION => {
            matches!(nr, 0 | 1 | 17..=20 | 40 | 78 | 209 | 217 | 275 | 295 | 296)
                || matches!(nr, 326..=328 | 16 | 285)
        }
        // rename renameat renameat2
        hook::PATH_RENAME => matches!(nr, 82 | 264 | 316),
        // link linkat
        hook::PATH_LINK => matches!(nr, 86 | 265),
        // unlink rmdir unlinkat
        hook::PATH_UNLINK => matches!(nr, 87 | 84 | 263),
        // truncate ftruncate
        hook::PATH_TRUNCATE => matches!(nr, 76 | 77),
        // chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat; setxattr, removexattr and
        // their kin; file_setattr
        hook::PATH_ATTRIBUTES => {
            matches!(nr, 90..=94 | 260 | 268 | 452)
                || matches!(nr, 188..=190 | 197..=199 | 463 | 466 | 469)
        }
        // mkdir mkdirat symlink symlinkat
        hook::PATH_MAKE => matches!(nr, 83 | 258 | 88 | 266),
        // execve execveat
        hook::BPRM_CHECK | hook::BPRM_CREDS => matches!(nr, 59 | 322),
        // setuid setreuid setresuid
        hook::SETUID => matches!(nr, 105 | 113 | 117),
        hook::CAPSET => nr == 126,
        _ => false,
    }
}

/// The same for int 0x80. 102 is socketcall, which is all of them.
#[inline(always)]
fn compat(hook: u32, nr: u32) -> bool {
    match hook {
        hook::SOCKET_CONNECT => matches!(nr, 102 | 362),
        hook::SOCKET_SENDMSG => {
            matches!(nr, 102 | 345 | 369 | 370 | 4 | 146 | 379 | 187 | 239 | 313)
        }
        hook::SOCKET_BIND => matches!(nr, 102 | 361),
        hook::SOCKET_LISTEN => matches!(nr, 102 | 363),
        hook::SOCKET_ACCEPT => matches!(nr, 102 | 364),
        hook::FILE_OPEN => matches!(nr, 5 | 8 | 11 | 295 | 358 | 437),
        hook::PATH_MKNOD => matches!(nr, 5 | 8 | 14 | 295 | 297 | 437 | 102 | 361),
        hook::MMAP_FILE => matches!(nr, 90 | 192),
        hook::FILE_PERMISSION => {
            matches!(
                nr,
                3 | 4 | 54 | 141 | 145 | 146 | 180 | 181 | 187 | 220 | 239
            ) || matches!(nr, 248 | 313 | 324 | 333 | 334 | 377..=379)
        }
        hook::PATH_RENAME => matches!(nr, 38 | 302 | 353),
        hook::PATH_LINK => matches!(nr, 9 | 303),
        hook::PATH_UNLINK => matches!(nr, 10 | 40 | 301),
        hook::PATH_TRUNCATE => matches!(nr, 92 | 93 | 193 | 194),
        hook::PATH_ATTRIBUTES => {
            matches!(
                nr,
                15 | 16 | 94 | 95 | 182 | 198 | 207 | 212 | 298 | 306 | 452
            ) || matches!(nr, 226..=228 | 235..=237 | 463 | 466 | 469)
        }
        hook::PATH_MAKE => matches!(nr, 39 | 296 | 83 | 304),
        hook::BPRM_CHECK | hook::BPRM_CREDS => matches!(nr, 11 | 358),
        // The 16-bit ones, too.
        hook::SETUID => matches!(nr, 23 | 70 | 164 | 203 | 208 | 213),
        hook::CAPSET => nr == 185,
        _ => false,
    }
}
