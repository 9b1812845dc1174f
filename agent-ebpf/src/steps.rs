//! One exec may ask more than once: opening its file, running it, the privilege that comes with it. Each
//! restart begins anew, so what was approved on the way is kept until the exec goes on.
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

use crate::{
    decide::What,
    identity::Current,
    maps::{PENDING, STEPS, Step},
    restart::{argv_of, in_exec, is_exec},
    tell::now,
};

/// Between two hooks of one execve; a thread that is kept from running for longer is asked again.
const STEP_NS: u64 = 2_000_000_000;

/// Approved earlier in the exec that a later hook of it holds now: the restart comes by here again.
/// Whatever else the thread does meanwhile (a signal's handler may run before a restart) is not that
/// exec: its hold was begun by an execve with the same list of arguments, and right after this step.
#[inline(always)]
pub unsafe fn step_is_done(who: &Current, what: &What) -> bool {
    let Some(pending) = PENDING.get_ptr(&who.tid) else {
        return false;
    };
    let Some(passed) = STEPS.get_ptr_mut(&step(who, what)) else {
        return false;
    };
    let later = (*pending).hook != what.hook || (*pending).key != what.key;
    let argv = argv_of(bpf_get_current_task_btf().cast_const().cast());
    // A list at address 0 is allowed, and is what every other syscall has.
    let same = in_exec() && is_exec((*pending).syscall) && argv == (*pending).argv;
    let done = later && same && *passed + STEP_NS >= (*pending).since_ns;
    if done {
        // The next step's hold begins after this.
        *passed = now();
    }
    done
}

/// This step of the exec was approved, just now.
#[inline(always)]
pub unsafe fn step_done(who: &Current, what: &What) {
    if in_exec() {
        let _ = STEPS.insert(&step(who, what), &now(), 0);
    }
}

#[inline(always)]
fn step(who: &Current, what: &What) -> Step {
    Step {
        key: what.key,
        tid: who.tid,
        hook: what.hook,
    }
}
