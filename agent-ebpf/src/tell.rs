//! The little that every room needs: the time, the daemon's ear, the counters, and the end of a
//! hold's entry.
use aya_ebpf::helpers::bpf_ktime_get_ns;
use syshold_abi::Event;

use crate::{
    field::add,
    maps::{COUNTS, EVENTS, GOVERNED, PENDING},
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
