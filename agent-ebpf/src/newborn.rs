//! Children between the fork's `task_alloc` and their PID: nobody governed is born unseen.
//!
//! `sched_process_fork` gives a child its PID's byte, and costs nothing more. But a tracepoint's
//! program is skipped while the same program is under way on the same CPU (`__bpf_trace_run`
//! counts `prog->active`), and kernels that let tracepoints be preempted (7.x, PREEMPT_LAZY) skip
//! it when the fork is preempted in it for another. An LSM program is never skipped
//! (`bpf_prog_check_recur`): `task_alloc` leaves a note at the address of the child's task, the
//! tracepoint takes it away, and who finds its own note at its first act is governed then.
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use syshold_abi::{Newborn, PID_FREE, count, sequence};

use crate::{
    field::{Kernel, add},
    identity::{Current, byte_of, enter},
    maps::{GOVERNED, NEWBORN, SEQUENCE},
    tell::bump,
};

/// `task_alloc` of a governed process's child. False: no room; it must not be born.
#[inline(always)]
pub unsafe fn expect(child: Kernel, parent: &Current) -> bool {
    let (root, start_ns) = GOVERNED
        .get(&parent.tgid)
        .map_or((parent.tgid, 0), |own| (own.root, own.start_ns));
    let note = Newborn {
        parent: parent.tgid,
        agent: parent.agent(),
        root,
        padding: 0,
        start_ns,
    };
    // Counted first: who is born sees the count.
    count_expected(1);
    if NEWBORN.insert(&(child as u64), &note, 0).is_err() {
        count_expected(-1);
        return false;
    }
    true
}

/// It has its byte, or was never born.
#[inline(always)]
pub unsafe fn settled(child: Kernel) {
    if any() && NEWBORN.remove(&(child as u64)).is_ok() {
        count_expected(-1);
    }
}

/// The byte of a process without one: it may have been born unseen. `FREE` when not.
#[inline(always)]
pub fn byte_of_unseen(tgid: u32) -> u8 {
    if !any() {
        return PID_FREE;
    }
    // SAFETY: the current task.
    unsafe { claim(tgid) }
}

#[inline(always)]
unsafe fn claim(tgid: u32) -> u8 {
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    let Some(note) = NEWBORN.get(&(task as u64)).copied() else {
        return PID_FREE;
    };
    // What the parent has read until now, the child may have; of a parent that is gone, anything.
    let taint = match GOVERNED.get(&note.parent) {
        Some(parent) if parent.start_ns == note.start_ns => parent.taint,
        _ => u64::MAX,
    };
    enter(task, tgid, note.agent, note.root, taint);
    settled(task);
    bump(count::BORN_UNSEEN);
    byte_of(tgid)
}

/// Is anybody between the two?
#[inline(always)]
fn any() -> bool {
    SEQUENCE
        .get(sequence::EXPECTED)
        .is_none_or(|expected| *expected != 0)
}

#[inline(always)]
fn count_expected(by: i64) {
    if let Some(expected) = SEQUENCE.get_ptr_mut(sequence::EXPECTED) {
        // SAFETY: an aligned word of a map value.
        unsafe { add(expected, by as u64) };
    }
}
