//! Birth, exec, user change and death of processes.
use aya_ebpf::{
    helpers::bpf_get_current_uid_gid,
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};
use syshold_abi::hook;

use crate::{
    arguments,
    field::{Kernel, load, offset},
    identity::{Who, current, enters, exit, freed, inherit, room_for_one_more},
    newborn,
};

/// `security_task_alloc(task, clone_flags)`: the child has no PID yet.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    const CLONE_THREAD: u64 = 0x0001_0000;
    const EAGAIN: i32 = 11;
    let child: Kernel = ctx.arg(0);
    let flags: u64 = ctx.arg(1);
    // SAFETY: a task_struct, by the hook's prototype; only its address is taken.
    unsafe {
        match current(hook::TASK_ALLOC) {
            Who::Governed(_) if flags & CLONE_THREAD != 0 => 0,
            Who::Governed(who) if room_for_one_more() && newborn::expect(child, &who) => 0,
            Who::Governed(_) => -EAGAIN,
            // Whoever had this address before.
            Who::Ungoverned | Who::Daemon => {
                newborn::settled(child);
                0
            }
        }
    }
}

/// `security_task_free(task)`: of every thread, a while after its end, and of one that failed to be
/// born. Nobody's context.
#[lsm(hook = "task_free")]
pub fn task_free(ctx: LsmContext) -> i32 {
    let task: Kernel = ctx.arg(0);
    // SAFETY: a task_struct, by the hook's prototype.
    unsafe {
        newborn::settled(task);
        freed(task);
    }
    0
}

/// `sched_process_fork(parent, child)`: before `wake_up_new_task`.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let child: Kernel = ctx.arg(1);
    // SAFETY: a task_struct, by the tracepoint's prototype.
    unsafe { inherit(child) };
    0
}

/// `sched_process_exit(task, …)`: of every thread.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Kernel = ctx.arg(0);
    // SAFETY: a task_struct, by the tracepoint's prototype.
    unsafe { exit(task) };
    0
}

/// `security_bprm_committed_creds(bprm)`: exec is past the point of no return.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(ctx: LsmContext) -> i32 {
    let bprm: Kernel = ctx.arg(0);
    let who = current(hook::EXEC);
    // SAFETY: a linux_binprm, by the hook's prototype.
    unsafe {
        if let Who::Governed(who) = who {
            arguments::enforce(who.tgid, who.agent(), bprm);
        }
        let file: Kernel = load(bprm, offset!(bprm_file));
        // Not bprm->cred: exec has handed it over to the task by now.
        let uid = bpf_get_current_uid_gid() as u32;
        enters(file, uid);
    }
    0
}
