//! The arguments of an approved exec: the program gets those that people saw.
//!
//! They are read from the caller's memory at every restart, and another thread may write to that.
//! Before the point of no return only their number can be told. In `bprm_committed_creds` the new
//! memory is the current one and nobody else's: a program with other arguments is killed before
//! its first instruction.
use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_loop, bpf_send_signal},
};
use syshold_abi::{Arguments, Event, Key, SipHash, cause, count, event, hook, zeros_in};

use crate::{
    field::{Kernel, load, offset},
    identity::Current,
    maps::{APPROVED_ARGUMENTS, BOUND_ARGUMENTS, DAEMON, PENDING},
    restart::is_exec,
    tell::{bump, emit_denied},
};

const SIGKILL: u32 = 9;

/// An exec looks for its program's handler, for a script more than once. False: it has more or
/// fewer arguments than were approved.
#[inline(always)]
pub unsafe fn comes_by(who: &Current, bprm: Kernel) -> bool {
    if is_script(bprm) {
        return true;
    }
    let exec = bprm as u64;
    let _ = BOUND_ARGUMENTS.remove(&exec);
    let restarted = PENDING
        .get_ptr(&who.tid)
        .is_some_and(|pending| is_exec((*pending).syscall));
    if !restarted {
        // What was approved for another one, which then failed, is void.
        let _ = APPROVED_ARGUMENTS.remove(&who.tid);
        return true;
    }
    let Some(approved) = APPROVED_ARGUMENTS.get_ptr(&who.tid) else {
        return true;
    };
    let bound = Arguments {
        begin: load(bprm, offset!(bprm_p)),
        ..*approved
    };
    let count: u32 = load(bprm, offset!(bprm_argc));
    (bound.is_free() || count == bound.count) && BOUND_ARGUMENTS.insert(&exec, &bound, 0).is_ok()
}

/// Are there arguments to hold an approved exec to? The daemon stores them before it approves.
#[inline(always)]
pub unsafe fn are_known(who: &Current) -> bool {
    APPROVED_ARGUMENTS.get_ptr(&who.tid).is_some()
}

/// Exec is past the point of no return.
#[inline(always)]
pub unsafe fn enforce(tgid: u32, agent: u32, bprm: Kernel) {
    let exec = bprm as u64;
    let Some(bound) = BOUND_ARGUMENTS.get(&exec).copied() else {
        return;
    };
    let _ = BOUND_ARGUMENTS.remove(&exec);
    // The thread has its leader's id by now; what is left under its own ends with that.
    let _ = APPROVED_ARGUMENTS.remove(&tgid);
    if bound.is_free() || are_same(bprm, &bound) {
        return;
    }
    bpf_send_signal(SIGKILL);
    bump(count::DENIED + cause::ARGUMENTS);
    emit_denied(&Event {
        kind: event::DENIED,
        tid: tgid,
        tgid,
        agent,
        id: 0,
        cause: cause::ARGUMENTS,
        hook: hook::BPRM_CHECK,
        key: Key::default(),
    });
}

/// A script's first argument makes room for its interpreter and its own path; the others stay
/// where they are.
#[inline(always)]
unsafe fn are_same(bprm: Kernel, bound: &Arguments) -> bool {
    let now: u64 = load(bprm, offset!(bprm_p));
    let count: u32 = load(bprm, offset!(bprm_argc));
    let end = bound.begin + u64::from(bound.len);
    let (from, expected) = if is_script(bprm) {
        (bound.begin + u64::from(bound.first), bound.rest)
    } else {
        (bound.begin, bound.all)
    };
    if bound.begin == 0 || now > from {
        return false;
    }
    // As many end as there are, and one ends where they should: so they begin and end there.
    let (Some(before), Some(rest)) = (read(now, from), read(from, end)) else {
        return false;
    };
    let ends = before.is_empty() || before.ends;
    ends && rest.hash == expected && before.zeros + rest.zeros == u64::from(count)
}

/// `bprm_change_interp` gives a script's interpreter a name of its own.
#[inline(always)]
unsafe fn is_script(bprm: Kernel) -> bool {
    let name: u64 = load(bprm, offset!(bprm_filename));
    let interpreter: u64 = load(bprm, offset!(bprm_interp));
    name != interpreter
}

struct Text {
    hash: u64,
    zeros: u64,
    len: u64,
    /// Its last byte is 0.
    ends: bool,
}

impl Text {
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len == 0
    }
}

struct Reading {
    at: u64,
    end: u64,
    zeros: u64,
    failed: u64,
    hash: SipHash,
}

/// Reads the new program's memory. Eight bytes above the last string there are always more.
#[inline(always)]
unsafe fn read(from: u64, end: u64) -> Option<Text> {
    const MOST: u64 = 1 << 22;
    let len = end.checked_sub(from).filter(|len| *len <= MOST)?;
    let mut reading = Reading {
        at: from,
        end,
        zeros: 0,
        failed: 0,
        hash: SipHash::new((*DAEMON.get_ptr(0)?).hash_key),
    };
    let one: unsafe extern "C" fn(u32, *mut Reading) -> i64 = next;
    let words = (len >> 3) as u32 + 1;
    let looked = bpf_loop(words, one as *mut c_void, (&raw mut reading).cast(), 0);
    let left = end.wrapping_sub(reading.at) & 7;
    let last = bpf_probe_read_user(reading.at as *const u64).ok()? & ((1 << (left * 8)) - 1);
    if looked < 0 || reading.failed != 0 {
        return None;
    }
    let zeros = u64::from(zeros_in(last)) - (8 - left);
    let byte = bpf_probe_read_user(end.wrapping_sub(1) as *const u8).ok()?;
    Some(Text {
        hash: reading.hash.end(last, len as u32),
        zeros: reading.zeros + zeros,
        len,
        ends: byte == 0,
    })
}

/// 1 ends the reading.
unsafe extern "C" fn next(_: u32, reading: *mut Reading) -> i64 {
    let reading = &mut *reading;
    if reading.end.wrapping_sub(reading.at) < 8 {
        return 1;
    }
    let Ok(word) = bpf_probe_read_user(reading.at as *const u64) else {
        reading.failed = 1;
        return 1;
    };
    reading.hash.word(word);
    reading.zeros += u64::from(zeros_in(word));
    reading.at += 8;
    0
}
