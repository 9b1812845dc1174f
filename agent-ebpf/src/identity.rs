//! Who is governed: told by PID in one look-up, inherited, sticky.
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
    generated::bpf_get_current_task_btf,
};
use syshold_abi::{
    AgentRules, Event, Governed, Key, MAX_AGENTS, PID_DAEMON, PID_FREE, PID_PAGE, count, event,
    exception, hook, pid_byte, sequence,
};

use crate::{
    field::{Kernel, add, copy, load, offset, or},
    hooks::exec::runs_another,
    maps::{
        AGENT_RULES, AGENT_TAINT, APPROVED_ARGUMENTS, CANARY, CGROUPS, DAEMON, EXES, GOVERNED,
        PENDING, PIDS, SEQUENCE, USERS,
    },
    newborn,
    paths::{dentry_of, inode_of, key_of, path_of},
    tell::{bump, emit, forget, now},
};

/// Whom a hook is running for.
#[derive(Clone, Copy)]
pub enum Who {
    Ungoverned,
    Daemon,
    Governed(Current),
}

/// A governed thread.
#[derive(Clone, Copy)]
pub struct Current {
    pub tid: u32,
    pub tgid: u32,
    /// Byte of the PID table.
    pub byte: u8,
}

impl Current {
    /// Index of the agent; past the last agent when it could not be told.
    #[inline(always)]
    pub fn agent(&self) -> u32 {
        u32::from(self.byte) - 1
    }
}

/// The byte of a PID in the table. A PID past the table is the unknown agent.
#[inline(always)]
pub fn byte_of(tgid: u32) -> u8 {
    match PIDS.get_ptr(tgid / PID_PAGE) {
        // SAFETY: masked to the page.
        Some(page) => unsafe { *page.cast::<u8>().add((tgid & (PID_PAGE - 1)) as usize) },
        None => syshold_abi::PID_UNKNOWN,
    }
}

#[inline(always)]
fn set_byte(tgid: u32, byte: u8) {
    if let Some(page) = PIDS.get_ptr_mut(tgid / PID_PAGE) {
        // SAFETY: masked to the page; one byte, one owner, no read-modify-write.
        unsafe {
            page.cast::<u8>()
                .add((tgid & (PID_PAGE - 1)) as usize)
                .write_volatile(byte);
        }
    }
}

/// The daemon has been seen at a hook.
#[inline(always)]
pub fn note(seen_by: u32) {
    if let Some(at) = CANARY.get_ptr_mut(seen_by) {
        // SAFETY: one word.
        unsafe { at.write_volatile(now()) };
    }
}

/// Who runs, and the canary: `seen_by` is live when the daemon has just been seen there.
#[inline(always)]
pub fn current(seen_by: u32) -> Who {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    let byte = byte_of(tgid);
    let byte = if byte == PID_FREE {
        newborn::byte_of_unseen(tgid)
    } else {
        byte
    };
    if byte == PID_FREE {
        return Who::Ungoverned;
    }
    if byte == PID_DAEMON {
        note(seen_by);
        return Who::Daemon;
    }
    Who::Governed(Current {
        tid: pid_tgid as u32,
        tgid,
        byte,
    })
}

/// What an agent may do beside its rules. None: no such agent.
#[inline(always)]
pub unsafe fn rules_of(agent: u32) -> Option<AgentRules> {
    let bank = (*DAEMON.get_ptr(0)?).bank & 1;
    if agent >= MAX_AGENTS as u32 {
        return None;
    }
    AGENT_RULES.get(bank * MAX_AGENTS as u32 + agent).copied()
}

#[inline(always)]
unsafe fn shares_taint(agent: u32) -> bool {
    rules_of(agent).is_some_and(|rules| rules.exceptions & exception::SHARED_TAINT != 0)
}

/// Classes that a thread's process carries, and with SHARED_TAINT its whole agent. One that is
/// governed but has no details carries all.
#[inline(always)]
pub unsafe fn taint(who: &Current) -> u64 {
    let Some(own) = GOVERNED.get_ptr(&who.tgid) else {
        return u64::MAX;
    };
    match AGENT_TAINT.get_ptr(who.agent()) {
        Some(all) if shares_taint(who.agent()) => (*own).taint | *all,
        _ => (*own).taint,
    }
}

/// The part of it that some rule asks for: with more of it, what is sent or written is another
/// question.
#[inline(always)]
pub unsafe fn asked_after(who: &Current) -> u64 {
    part_asked_after(who, taint(who))
}

/// The same of what it is known to carry.
#[inline(always)]
pub unsafe fn part_asked_after(who: &Current, carried: u64) -> u64 {
    carried & rules_of(who.agent()).map_or(u64::MAX, |rules| rules.after)
}

/// A read that goes through: from now on the process carries what it read, and its children will.
/// `hold` is the one that let it, 0 a rule.
#[inline(always)]
pub unsafe fn carry(who: &Current, what: &Key, classes: u64, hold: u64) {
    // Programs and what everybody reads leave none; what the policy says of it cannot be read: all do.
    let classes = classes & rules_of(who.agent()).map_or(u64::MAX, |rules| rules.taints);
    let Some(process) = GOVERNED.get_ptr_mut(&who.tgid) else {
        return;
    };
    if (*process).taint & classes == classes {
        return;
    }
    let before = or(&raw mut (*process).taint, classes);
    if shares_taint(who.agent())
        && let Some(all) = AGENT_TAINT.get_ptr_mut(who.agent())
    {
        or(all, classes);
    }
    emit(&Event {
        kind: event::TAINTED,
        tid: who.tid,
        tgid: who.tgid,
        agent: who.agent(),
        id: hold,
        key: Key {
            a: classes & !before,
            b: what.b,
            c: what.a,
            ..*what
        },
        ..Event::default()
    });
}

/// Takes a process under governance. Idempotent; never changes who governs it already.
#[inline(always)]
pub unsafe fn govern(task: Kernel, agent: u32, why: u32) {
    let tgid: u32 = load(task, offset!(task_tgid));
    if byte_of(tgid) != PID_FREE {
        return;
    }
    enter(task, tgid, agent, tgid, 0);
    emit(&Event {
        kind: event::ENTERED,
        tid: tgid,
        tgid,
        agent,
        hook: why,
        ..Event::default()
    });
}

/// The byte first: from then on the process is governed, whatever happens to the details.
#[inline(always)]
pub unsafe fn enter(task: Kernel, tgid: u32, agent: u32, root: u32, taint: u64) {
    set_byte(tgid, pid_byte(agent));
    let start_ns: u64 = load(task, offset!(task_start_boottime));
    let details = Governed {
        start_ns,
        agent,
        root,
        signal_ns: 0,
        held: 0,
        taint,
    };
    if GOVERNED.insert(&tgid, &details, 0).is_ok() {
        count_governed(1);
    }
}

#[inline(always)]
fn count_governed(by: i64) {
    if let Some(count) = SEQUENCE.get_ptr_mut(sequence::GOVERNED) {
        // SAFETY: an aligned word of a map value.
        unsafe { add(count, by as u64) };
    }
}

/// Room for one more governed process? Leaves slack for forks under way on other CPUs. Signed: a
/// count that slipped below zero must not read as full.
#[inline(always)]
pub fn room_for_one_more() -> bool {
    SEQUENCE
        .get(sequence::GOVERNED)
        .is_some_and(|count| (*count as i64) < i64::from(syshold_abi::MAX_GOVERNED) - 256)
}

/// `sched_process_fork`: the child has its PID and has not run yet.
#[inline(always)]
pub unsafe fn inherit(child: Kernel) {
    let parent_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let byte = byte_of(parent_tgid);
    if byte == PID_DAEMON {
        note(hook::FORK);
    }
    if byte == PID_FREE || byte == PID_DAEMON {
        return;
    }
    let tgid: u32 = load(child, offset!(task_tgid));
    if tgid == parent_tgid {
        return;
    }
    let (root, taint) = GOVERNED
        .get(&parent_tgid)
        .map_or((parent_tgid, u64::MAX), |parent| {
            (parent.root, parent.taint)
        });
    enter(child, tgid, u32::from(byte) - 1, root, taint);
    newborn::settled(child);
}

/// `sched_process_exit`: drops the thread's hold, and with the last thread the process.
#[inline(always)]
pub unsafe fn exit(task: Kernel) {
    let tgid: u32 = load(task, offset!(task_tgid));
    let byte = byte_of(tgid);
    if byte == PID_FREE {
        return;
    }
    let signal: Kernel = load(task, offset!(task_signal));
    let live: i32 = load(signal, offset!(signal_live));
    if byte == PID_DAEMON {
        note(hook::EXIT);
        if live == 0 {
            daemon_gone(tgid);
        }
        return;
    }
    let tid: u32 = load(task, offset!(task_pid));
    abandon(tid, tgid);
    if live == 0 {
        gone(task, tid, tgid);
    }
}

/// `task_free`: what [`exit`] did not see, as a tracepoint's program may be skipped (see `newborn`).
/// A task that failed to be born still has its parent's ids: only the dead count.
#[inline(always)]
pub unsafe fn freed(task: Kernel) {
    /// include/linux/sched.h
    const EXIT_DEAD: i32 = 0x10;
    let tgid: u32 = load(task, offset!(task_tgid));
    let byte = byte_of(tgid);
    let state: i32 = load(task, offset!(task_exit_state));
    if byte == PID_FREE || state & EXIT_DEAD == 0 {
        return;
    }
    let tid: u32 = load(task, offset!(task_pid));
    let signal: Kernel = load(task, offset!(task_signal));
    let live: i32 = load(signal, offset!(signal_live));
    let last = tid == tgid && live == 0;
    if byte == PID_DAEMON {
        note(hook::TASK_FREE);
        if last {
            daemon_gone(tgid);
        }
        return;
    }
    abandon(tid, tgid);
    let start_ns: u64 = load(task, offset!(task_start_boottime));
    let same = GOVERNED
        .get(&tgid)
        .is_none_or(|process| process.start_ns == start_ns);
    if last && same {
        bump(count::DIED_UNSEEN);
        gone(task, tid, tgid);
    }
}

/// A thread that ends is not held any more.
#[inline(always)]
unsafe fn abandon(tid: u32, tgid: u32) {
    let _ = APPROVED_ARGUMENTS.remove(&tid);
    if let Some(pending) = PENDING.get_ptr(&tid)
        && (*pending).tgid == tgid
    {
        let id = (*pending).id;
        forget(tid, tgid);
        emit(&Event {
            kind: event::ABANDONED,
            tid,
            tgid,
            id,
            ..Event::default()
        });
    }
}

/// The last thread of a governed process has ended.
#[inline(always)]
unsafe fn gone(task: Kernel, tid: u32, tgid: u32) {
    set_byte(tgid, PID_FREE);
    if GOVERNED.remove(&tgid).is_ok() {
        count_governed(-1);
    }
    tell_process(
        event::EXITED,
        tid,
        tgid,
        load(task, offset!(task_start_boottime)),
    );
}

/// A governed process has changed: what was granted to it ends.
#[inline(always)]
fn tell_process(kind: u32, tid: u32, tgid: u32, start_ns: u64) {
    let key = Key {
        a: start_ns,
        ..Key::default()
    };
    emit(&Event {
        kind,
        tid,
        tgid,
        key,
        ..Event::default()
    });
}

/// From here on new holds are denied and pending ones stay; unless it restarts on purpose.
#[inline(always)]
unsafe fn daemon_gone(tgid: u32) {
    set_byte(tgid, PID_FREE);
    if let Some(daemon) = DAEMON.get_ptr_mut(0)
        && (*daemon).tgid == tgid
        && (*daemon).state == syshold_abi::daemon::LIVE
    {
        (*daemon).state = syshold_abi::daemon::AWAY;
    }
}

/// Does an exec of `file` make this process governed? By its program, its user or its cgroup. A
/// change of user alone does not: PAM changes it back and forth in processes that stay root's.
#[inline(always)]
pub unsafe fn enters(file: Kernel, uid: u32) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let byte = byte_of(tgid);
    if byte != PID_FREE {
        runs_another(tgid);
        if byte != PID_DAEMON
            && let Some(process) = GOVERNED.get_ptr(&tgid)
        {
            tell_process(event::EXECED, tgid, tgid, (*process).start_ns);
        }
        return;
    }
    let agent = EXES
        .get(&key_of(inode_of(file)))
        .copied()
        .or_else(|| USERS.get(&uid).copied())
        .or_else(|| by_cgroup());
    let task: Kernel = bpf_get_current_task_btf().cast_const().cast();
    if let Some(agent) = agent
        && !is_executor(task, file)
    {
        govern(task, agent, hook::EXEC);
    }
}

/// Is it systemd on its way to a unit's program, in the unit's cgroup already and about to make
/// mounts, drop capabilities and change users? Governed at its next exec. A governed process does
/// not become a child of PID 1 that is not governed: it stays governed.
#[inline(always)]
pub unsafe fn sets_up_unit(task: Kernel) -> bool {
    let mm: Kernel = load(task, offset!(task_mm));
    let file: Kernel = load(mm, offset!(mm_exe_file));
    match init_of(task) {
        Some(init) => inode_of(init) == inode_of(file) || is_executor(task, file),
        None => false,
    }
}

/// `systemd-executor`, beside the program that PID 1, its parent, runs.
#[inline(always)]
unsafe fn is_executor(task: Kernel, file: Kernel) -> bool {
    const NAME: [u64; 2] = [
        u64::from_le_bytes(*b"systemd-"),
        u64::from_le_bytes(*b"executor"),
    ];
    let Some(init) = init_of(task) else {
        return false;
    };
    let init = dentry_of(path_of(init));
    let dentry = dentry_of(path_of(file));
    let folder: Kernel = load(dentry, offset!(dentry_parent));
    let beside: Kernel = load(init, offset!(dentry_parent));
    let len: u32 = load(dentry, offset!(dentry_name_len));
    let name: u64 = load(dentry, offset!(dentry_name));
    folder == beside && len == 16 && copy(name as *const [u64; 2]) == Some(NAME)
}

/// The program of PID 1, when that is the task's parent.
#[inline(always)]
unsafe fn init_of(task: Kernel) -> Option<Kernel> {
    let parent: Kernel = load(task, offset!(task_real_parent));
    let tgid: u32 = load(parent, offset!(task_tgid));
    if tgid != 1 {
        return None;
    }
    let mm: Kernel = load(parent, offset!(task_mm));
    Some(load(mm, offset!(mm_exe_file)))
}

/// The nearest governed cgroup at or above the current one.
#[inline(always)]
unsafe fn by_cgroup() -> Option<u32> {
    if let Some(agent) = CGROUPS.get(&bpf_get_current_cgroup_id()) {
        return Some(*agent);
    }
    for level in 1..12 {
        let id = bpf_get_current_ancestor_cgroup_id(level);
        if id == 0 {
            break;
        }
        if let Some(agent) = CGROUPS.get(&id) {
            return Some(*agent);
        }
    }
    None
}
