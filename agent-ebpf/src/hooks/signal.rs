//! Tells the daemon that a process with a held thread was sent a signal: a frozen thread cannot
//! run its handler, nor notice that it should stop.
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use syshold_abi::{Event, Key, PID_DAEMON, PID_FREE, event, hook};

use crate::{
    field::{Kernel, load, offset},
    identity::{byte_of, current},
    maps::GOVERNED,
    tell::{emit, now},
};

/// More often than this a process's signals are not told; the daemon's sweep finds the rest.
const SIGNAL_EVERY_NS: u64 = 1_000_000;

/// `signal_generate(sig, info, task, group, result)`.
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    const SIGCONT: u32 = 18;
    const SIGSTOP: u32 = 19;
    const SEND_SIG_PRIV: u64 = 1;
    const TRACE_SIGNAL_DELIVERED: u32 = 0;
    let _ = current(hook::SIGNAL);
    let sig: u32 = ctx.arg(0);
    let info: u64 = ctx.arg(1);
    let task: Kernel = ctx.arg(2);
    let group: u32 = ctx.arg(3);
    let result: u32 = ctx.arg(4);
    // Our own pair: SIGSTOP and SIGCONT by the kernel itself. Timers and terminals signal so too.
    let ours = sig == SIGSTOP && info == SEND_SIG_PRIV;
    if sig == SIGCONT || ours || result != TRACE_SIGNAL_DELIVERED {
        return 0;
    }
    // SAFETY: a task_struct, by the tracepoint's prototype.
    unsafe {
        let tgid: u32 = load(task, offset!(task_tgid));
        let byte = byte_of(tgid);
        if byte == PID_FREE || byte == PID_DAEMON {
            return 0;
        }
        let Some(process) = GOVERNED.get_ptr_mut(&tgid) else {
            return 0;
        };
        let at = now();
        if (*process).held == 0 || at - (*process).signal_ns < SIGNAL_EVERY_NS {
            return 0;
        }
        (*process).signal_ns = at;
        let tid: u32 = load(task, offset!(task_pid));
        emit(&Event {
            kind: event::SIGNAL,
            tid,
            tgid,
            cause: sig,
            hook: hook::SIGNAL,
            key: Key {
                a: u64::from(group != 0),
                ..Key::default()
            },
            ..Event::default()
        });
    }
    0
}
