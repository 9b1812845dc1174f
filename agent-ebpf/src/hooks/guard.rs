//! Denied outright to the governed: what would lift the hold, reach into the kernel, or act
//! through someone else. Some of these hooks run under spinlocks, so none of them holds.
use aya_ebpf::{macros::lsm, programs::LsmContext};
use syshold_abi::{
    CAPABILITIES_DENIED, Key, PID_DAEMON, PID_FREE, cause, count, exception, hook, mode,
};

use crate::{
    decide::{Answer, What, deny},
    field::{Kernel, load, offset},
    identity::{Current, Who, byte_of, current, rules_of},
    maps::{GOVERNED, PENDING},
    restart::in_syscall,
    tell::bump,
};

/// `about` says more in the ledger: a capability, a process, a request code.
#[inline(always)]
fn refuse(who: &Current, hook: u32, why: u32, about: u64) -> Answer {
    let what = What {
        hook,
        key: Key {
            b: about,
            ..Key::default()
        },
        classes: 0,
        glob: 0,
    };
    deny(who, &what, why)
}

#[inline(always)]
unsafe fn exempt(who: &Current, bit: u32) -> bool {
    rules_of(who.agent()).is_some_and(|rules| rules.exceptions & bit != 0)
}

// ---- capabilities and namespaces ----

/// `security_capable(cred, ns, cap, opts)`.
#[lsm(hook = "capable")]
pub fn capable(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::CAPABLE) else {
        return 0;
    };
    let namespace: Kernel = ctx.arg(1);
    let capability: u32 = ctx.arg(2);
    let options: u32 = ctx.arg(3);
    // SAFETY: a user namespace, by the hook's prototype.
    unsafe { uses(&who, namespace, capability, options) }.code()
}

#[inline(always)]
unsafe fn uses(who: &Current, namespace: Kernel, capability: u32, options: u32) -> Answer {
    const NOAUDIT: u32 = 2;
    const DAC_READ_SEARCH: u32 = 2;
    const OPEN_BY_HANDLE_AT: u32 = 304;
    let bit = 1u64 << (capability & 63);
    if CAPABILITIES_DENIED & bit == 0 {
        return Answer::Go;
    }
    let rules = rules_of(who.agent());
    let level: u32 = load(namespace, offset!(userns_level));
    let keeps = rules.is_some_and(|rules| {
        if level == 0 {
            rules.capabilities & bit != 0
        } else {
            rules.exceptions & exception::USER_NAMESPACES != 0
        }
    });
    if keeps {
        return Answer::Go;
    }
    // The kernel asks for many "just in case", and for this one at every file that is not the
    // user's, before it asks for another that will do.
    let quiet =
        options & NOAUDIT != 0 || capability == DAC_READ_SEARCH && !in_syscall(OPEN_BY_HANDLE_AT);
    if quiet {
        bump(count::DENIED + cause::CAPABILITY);
        return Answer::Deny;
    }
    refuse(who, hook::CAPABLE, cause::CAPABILITY, u64::from(capability))
}

/// In a user namespace of its own an agent has every capability.
#[inline(always)]
fn namespace(hook: u32) -> i32 {
    match current(hook) {
        // SAFETY: looks up a map.
        Who::Governed(who) if unsafe { !exempt(&who, exception::USER_NAMESPACES) } => {
            refuse(&who, hook, cause::NAMESPACE, 0)
        }
        _ => Answer::Go,
    }
    .code()
}

/// `security_create_user_ns(cred)`.
#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    namespace(hook::USERNS)
}

/// `security_sb_mount(dev_name, path, type, flags, data)`.
#[lsm(hook = "sb_mount")]
pub fn sb_mount(_ctx: LsmContext) -> i32 {
    namespace(hook::MOUNT)
}

/// `security_sb_umount(mnt, flags)`.
#[lsm(hook = "sb_umount")]
pub fn sb_umount(_ctx: LsmContext) -> i32 {
    namespace(hook::MOUNT)
}

/// `security_sb_pivotroot(old_path, new_path)`.
#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(_ctx: LsmContext) -> i32 {
    namespace(hook::MOUNT)
}

/// `security_move_mount(from_path, to_path)`.
#[lsm(hook = "move_mount")]
pub fn move_mount(_ctx: LsmContext) -> i32 {
    namespace(hook::MOUNT)
}

/// `security_path_chroot(path)`.
#[lsm(hook = "path_chroot")]
pub fn path_chroot(_ctx: LsmContext) -> i32 {
    namespace(hook::MOUNT)
}

// ---- other processes ----

/// `security_ptrace_access_check(child, mode)`: ptrace, `process_vm_*`, `pidfd_getfd`, and much
/// of /proc/PID. Runs under a spinlock.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::PTRACE) else {
        return 0;
    };
    let child: Kernel = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    // SAFETY: a task_struct, by the hook's prototype.
    unsafe { traces(&who, child, mode) }.code()
}

#[inline(always)]
unsafe fn traces(who: &Current, child: Kernel, mode: u32) -> Answer {
    const NOAUDIT: u32 = 4;
    let tgid: u32 = load(child, offset!(task_tgid));
    let byte = byte_of(tgid);
    if byte == who.byte || byte == PID_FREE && own_user(child) && exempt(who, exception::TRACE) {
        return Answer::Go;
    }
    // `ps` looks at everyone, and does without what it may not see.
    if mode & NOAUDIT != 0 {
        bump(count::DENIED + cause::TRACE);
        return Answer::Deny;
    }
    refuse(who, hook::PTRACE, cause::TRACE, u64::from(tgid))
}

#[inline(always)]
unsafe fn own_user(other: Kernel) -> bool {
    let cred: Kernel = load(other, offset!(task_real_cred));
    let uid: u32 = load(cred, offset!(cred_uid));
    uid == aya_ebpf::helpers::bpf_get_current_uid_gid() as u32
}

/// `security_task_kill(p, info, sig, cred)`: of signals sent by processes only. Runs under a
/// spinlock.
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::KILL) else {
        return 0;
    };
    let target: Kernel = ctx.arg(0);
    let signal: u32 = ctx.arg(2);
    // SAFETY: a task_struct, by the hook's prototype.
    unsafe { kills(&who, target, signal) }.code()
}

#[inline(always)]
unsafe fn kills(who: &Current, target: Kernel, signal: u32) -> Answer {
    const SIGCONT: u32 = 18;
    let tgid: u32 = load(target, offset!(task_tgid));
    let byte = byte_of(tgid);
    if byte == PID_FREE {
        return Answer::Go;
    }
    if byte == PID_DAEMON || signal == SIGCONT && waits(target, tgid) {
        return refuse(who, hook::KILL, cause::SELF_PROTECTION, u64::from(tgid));
    }
    Answer::Go
}

/// Is a thread of it held, so that SIGCONT would make it spin? A shell continues a job that its
/// user has stopped, held or not.
#[inline(always)]
unsafe fn waits(target: Kernel, tgid: u32) -> bool {
    const SIGNAL_STOP_STOPPED: u32 = 1;
    if GOVERNED
        .get_ptr(&tgid)
        .is_none_or(|process| (*process).held == 0)
    {
        return false;
    }
    let signal: Kernel = load(target, offset!(task_signal));
    let flags: u32 = load(signal, offset!(signal_flags));
    let tid: u32 = load(target, offset!(task_pid));
    let stops = PENDING
        .get_ptr(&tid)
        .is_some_and(|pending| matches!((*pending).mode, mode::STOP | mode::UNPARKED));
    flags & SIGNAL_STOP_STOPPED == 0 || stops
}

/// `security_file_send_sigiotask(tsk, fown, sig)`: F_SETOWN and F_SETSIG send any signal, from
/// any context. The daemon asks for none.
#[lsm(hook = "file_send_sigiotask")]
pub fn file_send_sigiotask(ctx: LsmContext) -> i32 {
    let target: Kernel = ctx.arg(0);
    // SAFETY: a task_struct, by the hook's prototype.
    let tgid: u32 = unsafe { load(target, offset!(task_tgid)) };
    if byte_of(tgid) == PID_DAEMON {
        return Answer::Deny.code();
    }
    0
}

/// Limits, priority and scheduling of the daemon are nobody's who is governed.
#[inline(always)]
fn manages(target: Kernel) -> i32 {
    let Who::Governed(who) = current(hook::DAEMON_TASK) else {
        return 0;
    };
    // SAFETY: a task_struct, by the hooks' prototypes.
    let tgid: u32 = unsafe { load(target, offset!(task_tgid)) };
    if byte_of(tgid) == PID_DAEMON {
        return refuse(
            &who,
            hook::DAEMON_TASK,
            cause::SELF_PROTECTION,
            u64::from(tgid),
        )
        .code();
    }
    0
}

/// `security_task_setrlimit(p, resource, new_rlim)`.
#[lsm(hook = "task_setrlimit")]
pub fn task_setrlimit(ctx: LsmContext) -> i32 {
    manages(ctx.arg(0))
}

/// `security_task_setscheduler(p)`: also CPU affinity.
#[lsm(hook = "task_setscheduler")]
pub fn task_setscheduler(ctx: LsmContext) -> i32 {
    manages(ctx.arg(0))
}

/// `security_task_setnice(p, nice)`.
#[lsm(hook = "task_setnice")]
pub fn task_setnice(ctx: LsmContext) -> i32 {
    manages(ctx.arg(0))
}

/// `security_task_setioprio(p, ioprio)`.
#[lsm(hook = "task_setioprio")]
pub fn task_setioprio(ctx: LsmContext) -> i32 {
    manages(ctx.arg(0))
}

// ---- the kernel ----

#[inline(always)]
fn kernel_code(hook: u32) -> i32 {
    match current(hook) {
        Who::Governed(who) => refuse(&who, hook, cause::KERNEL_CODE, 0),
        Who::Daemon | Who::Ungoverned => Answer::Go,
    }
    .code()
}

/// `security_bpf(cmd, attr, size)`.
#[lsm(hook = "bpf")]
pub fn bpf(_ctx: LsmContext) -> i32 {
    kernel_code(hook::BPF)
}

/// `security_perf_event_open(type)`.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    kernel_code(hook::PERF)
}

/// `security_kernel_read_file(file, id, contents)`: modules, kexec images, firmware.
#[lsm(hook = "kernel_read_file")]
pub fn kernel_read_file(_ctx: LsmContext) -> i32 {
    kernel_code(hook::KERNEL_CODE)
}

/// `security_kernel_load_data(id, contents)`: the same from memory.
#[lsm(hook = "kernel_load_data")]
pub fn kernel_load_data(_ctx: LsmContext) -> i32 {
    kernel_code(hook::KERNEL_CODE)
}

// ---- terminals ----

/// Keystrokes put into a terminal are run by whoever reads it: mostly a shell that is not
/// governed.
#[inline(always)]
fn ioctl(command: u32) -> i32 {
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    match current(hook::IOCTL) {
        Who::Governed(who) if matches!(command, TIOCSTI | TIOCLINUX) => {
            refuse(&who, hook::IOCTL, cause::TERMINAL, u64::from(command))
        }
        _ => Answer::Go,
    }
    .code()
}

/// `security_file_ioctl(file, cmd, arg)`.
#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    ioctl(ctx.arg(1))
}

/// `security_file_ioctl_compat(file, cmd, arg)`.
#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    ioctl(ctx.arg(1))
}
