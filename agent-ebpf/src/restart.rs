//! Which syscalls may be held, by hook: those that a restart brings back to it unchanged.
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use syshold_abi::hook;

use crate::field::{Kernel, load, offset};

/// The syscall's number when a restart brings it back here unchanged; None: it must not be held.
#[inline(always)]
pub unsafe fn restartable(task: Kernel, hook: u32) -> Option<u32> {
    const PF_EXITING: u32 = 0x4;
    const PF_IO_WORKER: u32 = 0x10;
    const PF_DUMPCORE: u32 = 0x200;
    const PF_SIGNALED: u32 = 0x400;
    const PF_USER_WORKER: u32 = 0x4000;
    const PF_KTHREAD: u32 = 0x0020_0000;
    const TS_COMPAT: u32 = 2;
    let flags: u32 = load(task, offset!(task_flags));
    if flags & (PF_EXITING | PF_IO_WORKER | PF_DUMPCORE | PF_SIGNALED | PF_USER_WORKER | PF_KTHREAD)
        != 0
    {
        return None;
    }
    let status: u32 = load(task, offset!(task_status));
    let regs = bpf_task_pt_regs(task.cast_mut().cast()) as usize as Kernel;
    let nr: u64 = load(regs, offset!(regs_orig_ax));
    let nr = nr as u32;
    let fits = if status & TS_COMPAT == 0 {
        native(hook, nr)
    } else {
        compat(hook, nr)
    };
    fits.then_some(nr)
}

/// In execve past the point of no return an error kills: the file was judged when it was opened.
#[inline(always)]
pub unsafe fn in_exec() -> bool {
    const TS_COMPAT: u32 = 2;
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    let status: u32 = load(task, offset!(task_status));
    let regs = bpf_task_pt_regs(task.cast_mut().cast()) as usize as Kernel;
    let nr: u64 = load(regs, offset!(regs_orig_ax));
    if status & TS_COMPAT == 0 {
        matches!(nr as u32, 59 | 322)
    } else {
        matches!(nr as u32, 11 | 358)
    }
}

/// x86-64 syscalls that may be held, by hook (arch/x86/entry/syscalls/syscall_64.tbl). x32
/// numbers have bit 30 set and match none.
#[inline(always)]
fn native(hook: u32, nr: u32) -> bool {
    match hook {
        // connect
        hook::SOCKET_CONNECT => nr == 42,
        // sendto sendmsg sendmmsg
        hook::SOCKET_SENDMSG => matches!(nr, 44 | 46 | 307),
        // open creat openat openat2 execve execveat
        hook::FILE_OPEN => matches!(nr, 2 | 85 | 257 | 437 | 59 | 322),
        // open creat openat openat2 mknod mknodat
        hook::PATH_MKNOD => matches!(nr, 2 | 85 | 257 | 437 | 133 | 259),
        hook::MMAP_FILE => nr == 9,
        // read write pread64 pwrite64 readv writev sendfile getdents io_submit getdents64
        // splice preadv pwritev copy_file_range preadv2 pwritev2 ioctl(FICLONE, FIDEDUPERANGE)
        // fallocate
        hook::FILE_PERMISSION => matches!(
            nr,
            0 | 1
                | 17
                | 18
                | 19
                | 20
                | 40
                | 78
                | 209
                | 217
                | 275
                | 295
                | 296
                | 326
                | 327
                | 328
                | 16
                | 285
        ),
        _ => false,
    }
}

/// The same for int 0x80 (arch/x86/entry/syscalls/syscall_32.tbl).
#[inline(always)]
fn compat(hook: u32, nr: u32) -> bool {
    match hook {
        hook::SOCKET_CONNECT => matches!(nr, 102 | 362),
        hook::SOCKET_SENDMSG => matches!(nr, 102 | 345 | 369 | 370),
        hook::FILE_OPEN => matches!(nr, 5 | 8 | 11 | 295 | 358 | 437),
        hook::PATH_MKNOD => matches!(nr, 5 | 8 | 14 | 295 | 297 | 437),
        hook::MMAP_FILE => matches!(nr, 90 | 192),
        hook::FILE_PERMISSION => matches!(
            nr,
            3 | 4
                | 54
                | 141
                | 145
                | 146
                | 180
                | 181
                | 187
                | 220
                | 239
                | 313
                | 324
                | 333
                | 334
                | 377
                | 378
                | 379
        ),
        _ => false,
    }
}
