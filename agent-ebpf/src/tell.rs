//! The little that every room needs: the time, the daemon's ear, the counters, and the end of a
//! hold's entry.
use aya_ebpf::helpers::bpf_ktime_get_ns;
use syshold_abi::Event;

use crate::{
    field::add,
    maps::{COUNTS, EVENTS, EVENTS_SIZE, GOVERNED, PENDING},
};

/// CLOCK_MONOTONIC, nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Wakes the daemon. False: the ring buffer is full.
#[inline(always)]
pub fn emit(event: &Event) -> bool {
    EVENTS.output::<Event>(event, 0).is_ok()
}

/// A denial, while the ring is less than half full: whoever is denied as fast as it can must not
/// take the room of what is held. All are counted.
#[inline(always)]
pub fn emit_denied(event: &Event) {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    if EVENTS.query(BPF_RB_AVAIL_DATA) < u64::from(EVENTS_SIZE) / 2 {
        emit(event);
    }
}

/// Counts for `status`; see `abi::count`.
#[inline(always)]
pub fn bump(index: u32) {
    if let Some(count) = COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's word; a lost count under preemption is a statistic.
        unsafe { *count += 1 };
    }
}

/// Removes a hold from PENDING.
#[inline(always)]
pub unsafe fn forget(tid: u32, tgid: u32) {
    if PENDING.remove(&tid).is_ok()
        && let Some(process) = GOVERNED.get_ptr_mut(&tgid)
    {
        add(&raw mut (*process).held, u64::MAX);
    }
}
