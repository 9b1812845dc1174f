//! The one decision: a rule of the kernel's copy of the policy, an earlier verdict, or a hold.
//!
//! A hold (order matters, see `hold`): PENDING entry → thread-directed SIGSTOP and SIGCONT →
//! event → -ERESTARTNOINTR. SIGCONT flushes the SIGSTOP but TIF_SIGPENDING stays, so the
//! syscall restarts and meets the hook again, until the daemon parks the thread in a frozen
//! cgroup and, later, publishes a verdict and lets it go.
use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_d_path, bpf_get_current_cgroup_id, bpf_get_current_comm,
    generated::{bpf_get_current_task_btf, bpf_loop, bpf_send_signal_thread},
};
use syshold_abi::{
    CLASS_OWN, CLASS_OWN_PROGRAMS, Event, HEARTBEAT_STALE_NS, Key, MAX_AGENTS, MAX_CHANGES,
    MAX_NET_RULES, PATH_LEN, PATH_RULES, Pending, SPIN_GAP_NS, SPIN_LIMIT_NS, VERDICT_SLOTS,
    WAKE_AGAIN_NS, action, cause, count, daemon, event, mode, object, published, sequence, verdict,
};

use crate::{
    field::{Kernel, add, load, offset},
    identity::{Current, carry, rules_of, taint},
    maps::{BLANK, DAEMON, GOVERNED, NET_RULES, PATH_RULE, PENDING, SEQUENCE, SETTLED, VERDICTS},
    restart::{argv_of, restartable},
    spell::{Named, spell},
    tell::{bump, emit, emit_denied, forget, now},
};

const EPERM: i32 = 1;
const EINTR: i32 = 4;
const ERESTARTNOINTR: i32 = 513;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

/// What becomes of the syscall.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Go,
    Deny,
    Interrupt,
    /// Held: it restarts and asks again.
    Restart,
}

impl Answer {
    /// The hook's return value.
    #[inline(always)]
    pub fn code(self) -> i32 {
        match self {
            Self::Go => 0,
            Self::Deny => -EPERM,
            Self::Interrupt => -EINTR,
            Self::Restart => -ERESTARTNOINTR,
        }
    }
}

/// What a hook found out about a sensitive operation.
pub struct What {
    pub hook: u32,
    pub key: Key,
    /// Data classes of a file.
    pub classes: u64,
    /// Classes that a glob may add.
    pub glob: u64,
}

/// How people will see the object.
pub enum Display {
    None,
    /// `struct path`, in hooks that may call `bpf_d_path`.
    Path(Kernel),
    /// A name, and where it goes to, spelled.
    Names(Named, Option<Named>),
}

/// The kernel denies on its own: counted and told.
#[inline(always)]
pub fn deny(who: &Current, what: &What, why: u32) -> Answer {
    bump(count::DENIED + why);
    emit_denied(&Event {
        kind: event::DENIED,
        tid: who.tid,
        tgid: who.tgid,
        agent: who.agent(),
        id: 0,
        cause: why,
        hook: what.hook,
        key: what.key,
    });
    Answer::Deny
}

/// A sensitive operation of a governed thread. `remembered`: an earlier verdict for this very
/// object still holds.
#[inline(always)]
pub unsafe fn decide(
    who: &Current,
    what: &What,
    display: Display,
    remembered: impl FnOnce() -> bool,
    remember: impl FnOnce(),
) -> Answer {
    decide_carrying(who, what, display, taint(who), remembered, remember)
}

/// The same; what the thread's process carries is known.
#[inline(always)]
pub unsafe fn decide_carrying(
    who: &Current,
    what: &What,
    display: Display,
    carried: u64,
    remembered: impl FnOnce() -> bool,
    remember: impl FnOnce(),
) -> Answer {
    let agent = who.agent();
    if agent >= MAX_AGENTS as u32 {
        return deny(who, what, cause::UNKNOWN_AGENT);
    }
    let (rule, why) = match what.key.kind {
        object::SOCKET => network_rule(agent, &what.key, carried),
        object::PRIVILEGE => (privilege_rule(agent), cause::RULE),
        _ => file_rule(agent, what, carried),
    };
    follow(
        who,
        what,
        display,
        carried,
        (rule, why),
        remembered,
        remember,
    )
}

/// As [`decide`], of a file or name.
#[inline(always)]
pub unsafe fn decide_file(who: &Current, what: &What, display: Display) -> Answer {
    let agent = who.agent();
    if agent >= MAX_AGENTS as u32 {
        return deny(who, what, cause::UNKNOWN_AGENT);
    }
    let carried = taint(who);
    let rule = file_rule(agent, what, carried);
    follow(who, what, display, carried, rule, || false, || {})
}

/// Does what the rule says.
#[inline(always)]
unsafe fn follow(
    who: &Current,
    what: &What,
    display: Display,
    carried: u64,
    (rule, why): (u32, u32),
    remembered: impl FnOnce() -> bool,
    remember: impl FnOnce(),
) -> Answer {
    match rule {
        verdict::ALLOW => {
            bump(count::ALLOWED + what.hook);
            goes(who, what, what.classes | what.glob, 0)
        }
        verdict::DENY => deny(who, what, why),
        _ if remembered() => goes(who, what, what.classes, 0),
        _ => match hold(who, what, carried, display) {
            (Answer::Go, classes, id) => {
                remember();
                goes(who, what, classes, id)
            }
            (answer, ..) => answer,
        },
    }
}

/// Reading leaves its mark; to execute a file is to open it for reading first.
#[inline(always)]
unsafe fn goes(who: &Current, what: &What, classes: u64, hold: u64) -> Answer {
    if what.key.actions & action::READ != 0 {
        carry(who, &what.key, classes & !CLASS_OWN_PROGRAMS, hold);
    }
    Answer::Go
}

/// What is looked for in the network rules, and what was found.
#[repr(C)]
struct Search {
    /// The address, as in [`Key`].
    hi: u64,
    lo: u64,
    taint: u64,
    first: u32,
    port: u32,
    proto: u32,
    actions: u32,
    agent: u32,
    verdict: u32,
    cause: u32,
    _pad: u32,
}

/// Verdict and cause. First match wins; no match: user space decides.
#[inline(always)]
unsafe fn network_rule(agent: u32, key: &Key, taint: u64) -> (u32, u32) {
    let Some(daemon) = DAEMON.get_ptr(0) else {
        return (verdict::DENY, cause::RULE);
    };
    let bank = (*daemon).bank & 1;
    let rules = (*daemon).net_rules[bank as usize];
    let mut search = Search {
        hi: key.b,
        lo: key.c,
        taint,
        first: bank * MAX_NET_RULES as u32,
        port: (key.extra & 0xffff) as u32,
        proto: (key.extra >> 16) as u32,
        actions: key.actions,
        agent: agent & 63,
        verdict: verdict::ASK,
        cause: cause::NONE,
        _pad: 0,
    };
    // Not a loop of its own: the verifier would walk through every round of it, in every hook.
    let one: unsafe extern "C" fn(u32, *mut Search) -> i64 = rule_fits;
    let looked = bpf_loop(
        rules.min(MAX_NET_RULES as u32),
        one as *mut c_void,
        (&raw mut search).cast(),
        0,
    );
    if looked < 0 {
        return (verdict::DENY, cause::UNREADABLE);
    }
    (search.verdict, search.cause)
}

/// 1 ends the search.
unsafe extern "C" fn rule_fits(index: u32, search: *mut Search) -> i64 {
    let search = &mut *search;
    let Some(rule) = NET_RULES.get_ptr(search.first + index) else {
        return 1;
    };
    let rule = &*rule;
    let off =
        ((search.hi ^ rule.addr_hi) & rule.mask_hi) | ((search.lo ^ rule.addr_lo) & rule.mask_lo);
    let fits = off == 0
        && rule.agents >> search.agent & 1 == 1
        && search.port >= u32::from(rule.port_lo)
        && search.port <= u32::from(rule.port_hi)
        && (rule.proto == 0 || rule.proto == search.proto)
        && search.actions & !rule.actions == 0
        && (rule.after == 0 || rule.after & search.taint != 0);
    if fits {
        search.verdict = rule.verdict;
        search.cause = rule.cause;
    }
    i64::from(fits)
}

#[inline(always)]
unsafe fn file_rule(agent: u32, what: &What, taint: u64) -> (u32, u32) {
    match own(what) {
        Some(why) => (verdict::DENY, why),
        None => (path_rule(agent, what, taint), cause::RULE),
    }
}

/// The daemon's own files are denied before any rule, to every agent.
#[inline(always)]
fn own(what: &What) -> Option<u32> {
    let changes = what.key.actions & !(action::READ | action::EXEC) != 0;
    let denied = what.classes & CLASS_OWN != 0 || what.classes & CLASS_OWN_PROGRAMS != 0 && changes;
    denied.then_some(cause::SELF_PROTECTION)
}

/// What the agent's rules say of changes of credentials; nothing said is asked.
#[inline(always)]
unsafe fn privilege_rule(agent: u32) -> u32 {
    match rules_of(agent) {
        Some(rules) => rules.privilege,
        None => verdict::DENY,
    }
}

/// The strictest of what each action says of each class.
#[inline(always)]
unsafe fn path_rule(agent: u32, what: &What, taint: u64) -> u32 {
    const KNOWN: u32 = action::READ | action::WRITE | action::DELETE | action::EXEC;
    let Some(daemon) = DAEMON.get_ptr(0) else {
        return verdict::DENY;
    };
    // What this does not look at below must not read as allowed.
    if what.key.actions & !KNOWN != 0 {
        return verdict::ASK;
    }
    let row = ((*daemon).bank & 1) * PATH_RULES as u32 + (agent & 63) * action::COUNT as u32;
    let one = |act| class_rule(row, what, taint, act);
    // Straight-line: the verifier of 6.1 refuses the loop the compiler makes of this.
    stricter(
        stricter(one(action::READ), one(action::WRITE)),
        stricter(one(action::DELETE), one(action::EXEC)),
    )
}

/// Does a rule speak of running something of these classes?
#[inline(always)]
pub unsafe fn exec_matters(who: &Current, what: &What) -> bool {
    let Some(daemon) = DAEMON.get_ptr(0) else {
        return true;
    };
    let row = ((*daemon).bank & 1) * PATH_RULES as u32 + (who.agent() & 63) * action::COUNT as u32;
    class_rule(row, what, taint(who), action::EXEC) != verdict::ALLOW
}

/// What one action says of all classes. Whether a glob's class counts is known in user space.
#[inline(always)]
unsafe fn class_rule(row: u32, what: &What, taint: u64, act: u32) -> u32 {
    if what.key.actions & act == 0 {
        return verdict::ALLOW;
    }
    // Reading and executing the daemon's programs is everybody's; see `own`.
    let classes = what.classes & !CLASS_OWN_PROGRAMS;
    match PATH_RULE.get_ptr(row + act.trailing_zeros()) {
        Some(rule) if taint & (*rule).after != 0 => verdict::ASK,
        Some(rule) if classes & (*rule).deny == 0 => {
            if (classes | what.glob) & !(*rule).allow == 0 {
                verdict::ALLOW
            } else {
                verdict::ASK
            }
        }
        _ => verdict::DENY,
    }
}

/// Deny over ask over allow.
#[inline(always)]
fn stricter(one: u32, other: u32) -> u32 {
    match (one, other) {
        (verdict::DENY, _) | (_, verdict::DENY) => verdict::DENY,
        (verdict::ALLOW, verdict::ALLOW) => verdict::ALLOW,
        _ => verdict::ASK,
    }
}

/// Holds the thread, or applies the verdict of its hold. With it the classes that the object
/// turned out to have, and the hold.
#[inline(always)]
unsafe fn hold(who: &Current, what: &What, taint: u64, display: Display) -> (Answer, u64, u64) {
    let at = now();
    let mut changes = 0;
    if let Some(pending) = PENDING.get_ptr_mut(&who.tid) {
        let id = (*pending).id;
        if (*pending).key == what.key && same_question(who, what, (*pending).taint ^ taint) {
            let slot = who.tid % VERDICT_SLOTS;
            let word = VERDICTS
                .get_ptr(slot)
                .map_or(0, |word| word.read_volatile());
            let answer = match published(word, id) {
                verdict::ALLOW => Answer::Go,
                verdict::DENY => Answer::Deny,
                verdict::INTERRUPT => Answer::Interrupt,
                _ => {
                    (*pending).restarts += 1;
                    bump(count::RESTARTS);
                    return (wait(pending, at), 0, id);
                }
            };
            let settled = SETTLED.get_ptr(slot).map_or(0, |word| word.read_volatile());
            forget(who.tid, who.tgid);
            tell(who, event::RESUMED, id);
            return (answer, what.classes | what.glob & settled, id);
        }
        // A signal handler jumped away, or the thread tries something else: the old hold is over.
        changes = (*pending).changes + 1;
        forget(who.tid, who.tgid);
        tell(who, event::ABANDONED, id);
        if changes > MAX_CHANGES {
            return (deny(who, what, cause::SPINNING), 0, 0);
        }
    }
    let answer = begin(who, what, taint, display, at);
    if let Some(pending) = PENDING.get_ptr_mut(&who.tid) {
        (*pending).changes = changes;
    }
    (answer, 0, 0)
}

/// What is sent, written or deleted is another question once the process has read `more` that some
/// rule asks for: another thread may have, while this one was held.
#[inline(always)]
unsafe fn same_question(who: &Current, what: &What, more: u64) -> bool {
    const BLIND: u32 = action::READ | action::EXEC | action::PRIVILEGE;
    what.key.actions & !BLIND == 0
        || more & rules_of(who.agent()).map_or(u64::MAX, |rules| rules.after) == 0
}

#[inline(always)]
fn tell(who: &Current, kind: u32, id: u64) {
    emit(&Event {
        kind,
        tid: who.tid,
        tgid: who.tgid,
        agent: who.agent(),
        id,
        ..Event::default()
    });
}

/// A new hold: may it be held here and now, and is someone there to decide?
#[inline(always)]
unsafe fn begin(who: &Current, what: &What, taint: u64, display: Display, at: u64) -> Answer {
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    let Some(nr) = restartable(task, what.hook) else {
        return deny(who, what, cause::CONTEXT);
    };
    if !somebody_decides(at) {
        return deny(who, what, cause::DAEMON_AWAY);
    }
    let Some(id) = next_id() else {
        return deny(who, what, cause::FULL);
    };
    let Some(blank) = BLANK.get_ptr(0) else {
        return deny(who, what, cause::FULL);
    };
    if PENDING.insert(&who.tid, &*blank, 0).is_err() {
        return deny(who, what, cause::FULL);
    }
    let Some(pending) = PENDING.get_ptr_mut(&who.tid) else {
        return deny(who, what, cause::FULL);
    };
    (*pending).key = what.key;
    (*pending).id = id;
    (*pending).since_ns = at;
    (*pending).classes = what.classes & !CLASS_OWN_PROGRAMS;
    (*pending).glob_classes = what.glob;
    (*pending).taint = taint;
    (*pending).cgroup = bpf_get_current_cgroup_id();
    (*pending).tid = who.tid;
    (*pending).tgid = who.tgid;
    (*pending).agent = who.agent();
    (*pending).hook = what.hook;
    (*pending).syscall = nr;
    (*pending).argv = argv_of(task);
    if let Ok(comm) = bpf_get_current_comm() {
        (*pending).comm = comm;
    }
    if let Some(process) = GOVERNED.get_ptr_mut(&who.tgid) {
        (*pending).start_ns = (*process).start_ns;
        add(&raw mut (*process).held, 1);
    }
    let path = (&raw mut (*pending).path).cast::<u8>();
    match display {
        Display::None => {}
        Display::Path(from) => {
            bpf_d_path(from.cast_mut().cast(), path.cast(), PATH_LEN as u32);
        }
        Display::Names(name, onto) => spell(path, name, onto),
    }
    let answer = wait(pending, at);
    if answer == Answer::Restart {
        bump(count::HELD + what.hook);
        answer
    } else {
        forget(who.tid, who.tgid);
        deny(who, what, cause::SIGNAL)
    }
}

/// Signals first, the event after them: the other order lets the daemon's SIGCONT come first
/// and leaves the thread stopped.
#[inline(always)]
unsafe fn wait(pending: *mut Pending, at: u64) -> Answer {
    let fresh = (*pending).woke_ns == 0;
    let how = way_to_wait(pending, at);
    (*pending).mode = how;
    if bpf_send_signal_thread(SIGSTOP) != 0 {
        return Answer::Deny;
    }
    if how == mode::PARK && bpf_send_signal_thread(SIGCONT) != 0 {
        return Answer::Deny;
    }
    if fresh || at - (*pending).woke_ns > WAKE_AGAIN_NS {
        (*pending).woke_ns = at;
        let sent = emit(&Event {
            kind: event::HELD,
            tid: (*pending).tid,
            tgid: (*pending).tgid,
            agent: (*pending).agent,
            id: (*pending).id,
            cause: 0,
            hook: (*pending).hook,
            key: (*pending).key,
        });
        // Nobody would hear of a new hold; an old one is found by the sweep.
        if fresh && !sent {
            return Answer::Deny;
        }
    }
    Answer::Restart
}

/// A program that handles SIGCONT would run its handler at every restart; and with nobody to
/// park it, a thread must not spin.
#[inline(always)]
unsafe fn way_to_wait(pending: *mut Pending, at: u64) -> u32 {
    const SIG_IGN: u64 = 1;
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    let sighand: Kernel = load(task, offset!(task_sighand));
    let handler: u64 = load(sighand, offset!(sighand_cont_handler));
    if at - (*pending).seen_ns > SPIN_GAP_NS {
        (*pending).spin_ns = at;
    }
    (*pending).seen_ns = at;
    if handler > SIG_IGN {
        mode::STOP
    } else if !daemon_live(at) || at - (*pending).spin_ns > SPIN_LIMIT_NS {
        mode::UNPARKED
    } else {
        mode::PARK
    }
}

#[inline(always)]
unsafe fn daemon_live(at: u64) -> bool {
    DAEMON
        .get_ptr(0)
        .is_some_and(|d| (*d).state == daemon::LIVE && at < (*d).heartbeat_ns + HEARTBEAT_STALE_NS)
}

#[inline(always)]
unsafe fn somebody_decides(at: u64) -> bool {
    daemon_live(at)
        || DAEMON
            .get_ptr(0)
            .is_some_and(|d| (*d).state == daemon::RESTARTING && at < (*d).grace_until_ns)
}

#[inline(always)]
unsafe fn next_id() -> Option<u64> {
    SEQUENCE
        .get_ptr_mut(sequence::HOLD)
        .map(|last| add(last, 1) + 1)
}
