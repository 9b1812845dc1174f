//! The only types that cross between the kernel programs and the daemon.
//!
//! Fixed-width integers, `repr(C)`, no implicit padding, no `bool`, `Option` or `enum`: each
//! side reads what the other wrote byte for byte. Sizes are asserted at the end of this file,
//! so that both sides fail to compile when they stop agreeing.
#![no_std]
mod arguments;
mod loaded;
mod offsets;

pub use arguments::{Arguments, SipHash, zeros_in};
pub use loaded::{Attached, Loaded, MAX_PROGRAMS};
pub use offsets::Offsets;

/// Version of everything in this file; pinned maps of another version are not adopted.
pub const ABI_VERSION: u32 = 5;

/// Most governed agents a policy may name: one bit each in [`NetRule::agents`].
pub const MAX_AGENTS: usize = 64;
/// Most data classes a policy may name: one bit each in [`Root::classes`].
pub const MAX_CLASSES: usize = 62;
/// Bit of the daemon's own files, which nobody governed may touch: policy, ledger, pins, sockets.
pub const CLASS_OWN: u64 = 1 << 63;
/// Bit of the daemon's own programs and units, which may be read and executed, not changed.
pub const CLASS_OWN_PROGRAMS: u64 = 1 << 62;
/// Most network rules the kernel answers; further rules are judged in user space.
pub const MAX_NET_RULES: usize = 128;
/// Most holds pending at once; a further one is denied.
pub const MAX_PENDING: u32 = 16_384;
/// Most governed processes at once; a further fork fails with EAGAIN.
pub const MAX_GOVERNED: u32 = 65_536;
/// Slots of the verdict array; a hold's slot is `tid % VERDICT_SLOTS`.
pub const VERDICT_SLOTS: u32 = 65_536;
/// One more than the largest PID of a 64-bit kernel (`PID_MAX_LIMIT`).
pub const PID_LIMIT: u32 = 4_194_304;
/// Longest path shown to an approver, in bytes, NUL included. Display only.
pub const PATH_LEN: usize = 1024;
/// Longest unit or cgroup name matched in the kernel, NUL included.
pub const CGROUP_NAME_LEN: usize = 128;
/// Longest file-name suffix a glob is filtered by in the kernel.
pub const SUFFIX_LEN: usize = 16;
/// Deepest path walked; deeper counts as protected.
pub const MAX_DEPTH: u32 = 64;

/// What a governed process tries, as bits: an `open(O_RDWR)` is READ and WRITE at once.
pub mod action {
    pub const CONNECT: u32 = 1 << 0;
    pub const SEND: u32 = 1 << 1;
    pub const LISTEN: u32 = 1 << 2;
    pub const READ: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
    pub const DELETE: u32 = 1 << 5;
    pub const EXEC: u32 = 1 << 6;
    pub const PRIVILEGE: u32 = 1 << 7;
    /// How many actions there are: the width of a row of path rules.
    pub const COUNT: usize = 8;
}

/// What a verdict or a kernel rule says.
pub mod verdict {
    /// Nothing yet: still held.
    pub const NONE: u32 = 0;
    pub const ALLOW: u32 = 1;
    /// The syscall fails with EPERM.
    pub const DENY: u32 = 2;
    /// The syscall fails with EINTR: a signal with a handler wants the program to stop.
    pub const INTERRUPT: u32 = 3;
    /// Kernel rules only: user space decides.
    pub const ASK: u32 = 4;
}

/// How a thread waits. In [`Pending::mode`].
pub mod mode {
    /// The entry is still being written: not yet a hold.
    pub const WRITING: u32 = 0;
    /// Restart loop until the daemon parks the thread in a frozen cgroup.
    pub const PARK: u32 = 1;
    /// Group stop by SIGSTOP, ended by SIGCONT with the verdict: the program handles SIGCONT itself.
    pub const STOP: u32 = 2;
    /// Group stop because nobody parked the thread in time: the daemon is away, late, or cannot.
    /// One that can parks it after all, and ends the stop.
    pub const UNPARKED: u32 = 3;
}

/// What the daemon is doing, in [`Daemon::state`].
pub mod daemon {
    /// Gone, or never there: new holds are denied, pending ones stay.
    pub const AWAY: u32 = 0;
    pub const LIVE: u32 = 1;
    /// Restarting on purpose: new holds wait (stopped) until [`super::Daemon::grace_until_ns`].
    pub const RESTARTING: u32 = 2;
}

/// Which hook saw an operation. Indexes the canary and count arrays.
pub mod hook {
    pub const SOCKET_CREATE: u32 = 0;
    pub const SOCKET_CONNECT: u32 = 1;
    pub const SOCKET_SENDMSG: u32 = 2;
    pub const FILE_OPEN: u32 = 3;
    pub const FILE_PERMISSION: u32 = 4;
    pub const MMAP_FILE: u32 = 5;
    pub const PATH_MKNOD: u32 = 6;
    pub const TASK_ALLOC: u32 = 7;
    pub const IO_URING: u32 = 8;
    pub const FORK: u32 = 9;
    pub const EXEC: u32 = 10;
    pub const EXIT: u32 = 11;
    pub const SIGNAL: u32 = 12;
    pub const SOCKET_BIND: u32 = 13;
    pub const SOCKET_LISTEN: u32 = 14;
    pub const SOCKET_ACCEPT: u32 = 15;
    pub const SOCKET_SETSOCKOPT: u32 = 16;
    pub const UNIX_CONNECT: u32 = 17;
    pub const UNIX_SEND: u32 = 18;
    /// The `cgroup_skb` program behind the socket hooks.
    pub const EGRESS: u32 = 19;
    pub const PATH_RENAME: u32 = 20;
    pub const PATH_LINK: u32 = 21;
    /// Also `path_rmdir`.
    pub const PATH_UNLINK: u32 = 22;
    /// Also `file_truncate`.
    pub const PATH_TRUNCATE: u32 = 23;
    /// chmod, chown, extended attributes.
    pub const PATH_ATTRIBUTES: u32 = 24;
    /// mkdir, symlink.
    pub const PATH_MAKE: u32 = 25;
    pub const BPRM_CHECK: u32 = 26;
    pub const BPRM_CREDS: u32 = 27;
    pub const SETUID: u32 = 28;
    pub const CAPSET: u32 = 29;
    pub const CAPABLE: u32 = 30;
    pub const USERNS: u32 = 31;
    pub const MOUNT: u32 = 32;
    pub const PTRACE: u32 = 33;
    pub const BPF: u32 = 34;
    pub const PERF: u32 = 35;
    /// Modules, kexec images, firmware.
    pub const KERNEL_CODE: u32 = 36;
    pub const KILL: u32 = 37;
    pub const IOCTL: u32 = 38;
    /// Limits, priorities and scheduling of the daemon.
    pub const DAEMON_TASK: u32 = 39;
    pub const CGROUP_MKDIR: u32 = 40;
    pub const CGROUP_ATTACH: u32 = 41;
    pub const URING_ALLOWED: u32 = 42;
    /// Its polling threads, its commands to drivers, its other users.
    pub const URING_EXTRAS: u32 = 43;
    /// An accepted connection gets its descriptor.
    pub const SOCK_GRAFT: u32 = 44;
    pub const TASK_FREE: u32 = 45;
    pub const COUNT: usize = 48;
}

/// Why the kernel denied on its own. In [`Event::cause`] and the count array.
pub mod cause {
    pub const NONE: u32 = 0;
    /// A rule of the policy.
    pub const RULE: u32 = 1;
    /// The daemon is away or its heartbeat is stale.
    pub const DAEMON_AWAY: u32 = 2;
    /// A map or the ring buffer is full.
    pub const FULL: u32 = 3;
    /// Not a syscall that can be restarted (io_uring, kernel thread, exiting, compat, …).
    pub const CONTEXT: u32 = 4;
    /// The thread-directed signal could not be sent.
    pub const SIGNAL: u32 = 5;
    /// Restarted too often without being parked.
    pub const SPINNING: u32 = 6;
    /// A socket family or type that is never governed safely.
    pub const SOCKET_TYPE: u32 = 7;
    pub const IO_URING: u32 = 8;
    /// Governed by PID but its agent is unknown: the table was full at the fork.
    pub const UNKNOWN_AGENT: u32 = 9;
    /// The kernel could not read the object (fault, too deep, disconnected).
    pub const UNREADABLE: u32 = 10;
    /// Built in: the gateway, the daemon's own files.
    pub const SELF_PROTECTION: u32 = 11;
    /// A capability that would lift the hold, see [`super::CAPABILITIES_DENIED`].
    pub const CAPABILITY: u32 = 12;
    /// A user namespace, a mount, a chroot.
    pub const NAMESPACE: u32 = 13;
    /// Tracing, or reading through /proc, a process of someone else.
    pub const TRACE: u32 = 14;
    pub const DEVICE: u32 = 15;
    /// Writing to cgroupfs, bpffs, tracefs, /proc/sys and the like.
    pub const KERNEL_FS: u32 = 16;
    /// Keystrokes put into a terminal.
    pub const TERMINAL: u32 = 17;
    /// bpf(), perf events, modules, kexec.
    pub const KERNEL_CODE: u32 = 18;
    /// A socket option or control message that changes where packets go.
    pub const SOCKET_OPTION: u32 = 19;
    /// A unix socket of a program that is not governed, and not named by the policy.
    pub const UNIX_SOCKET: u32 = 20;
    /// setfsuid(), whose error the kernel swallows.
    pub const SETFSUID: u32 = 21;
    /// The arguments of a program differ from those that were approved, see [`super::Arguments`].
    pub const ARGUMENTS: u32 = 22;
    pub const COUNT: usize = 32;
}

/// Where an object lives, in [`Key::kind`].
pub mod object {
    pub const SOCKET: u32 = 1;
    pub const FILE: u32 = 2;
    /// A name about to be created in a directory: `ino` is the directory's, `extra` a name hash.
    pub const NEW_FILE: u32 = 3;
    /// A listening unix socket.
    pub const UNIX: u32 = 4;
    /// A change of credentials.
    pub const PRIVILEGE: u32 = 5;
}

/// What kind of privilege, in [`Key::a`] of [`object::PRIVILEGE`].
pub mod privilege {
    /// setuid and its kin: `b` the new effective user id, `c` the new group id.
    pub const SETUID: u64 = 1;
    /// capset: `b` the effective capabilities that are new.
    pub const CAPSET: u64 = 2;
    /// A program with set-user-id, set-group-id or file capabilities: `b` the new effective user
    /// id, `c` its inode number, `extra` its device.
    pub const PROGRAM: u64 = 3;
}

/// The kernel object and the act a verdict belongs to. Never a path or a PID alone.
///
/// SOCKET: `a` socket cookie, `b`/`c` the address as two big-endian halves (IPv4 is mapped to
/// ::ffff:0:0/96), `extra` = protocol << 16 | port (host order).
/// FILE: `a` s_dev, `b` i_ino, `c` i_generation, `extra` 0.
/// A rename or link of it: `extra` a hash of the new place.
/// `NEW_FILE`: `a` s_dev, `b` directory i_ino, `c` hash of the name, `extra` 0.
/// UNIX: as [`Place`]: `a` s_dev and `b` i_ino of the folder, `c` hash of the name; an abstract
/// name: `a`, `b` 0.
/// PRIVILEGE: see [`privilege`].
/// A socket that listens: `b`/`c` and the port are its own address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    pub kind: u32,
    /// Bits of [`action`].
    pub actions: u32,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub extra: u64,
}

/// A held thread. Key: TID. Written by the kernel only; full → the operation is denied.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub key: Key,
    /// Unique since boot: a counter; 62 bits, see [`publish`].
    pub id: u64,
    /// CLOCK_MONOTONIC nanoseconds when the hold began.
    pub since_ns: u64,
    /// CLOCK_MONOTONIC nanoseconds of the last wake-up sent for it.
    pub woke_ns: u64,
    /// … of its last restart, and of the first of an unbroken run of them: a parked thread
    /// leaves a gap.
    pub seen_ns: u64,
    pub spin_ns: u64,
    /// `task_struct.start_boottime` of the thread-group leader, nanoseconds.
    pub start_ns: u64,
    /// Data classes of the object, one bit each.
    pub classes: u64,
    /// Classes that a glob may add: user space matches the path before anyone is asked.
    pub glob_classes: u64,
    /// Classes that the process, or its agent, has read.
    pub taint: u64,
    /// The thread's cgroup, `kernfs_node.id`.
    pub cgroup: u64,
    /// Where execve's list of arguments is in the caller's memory; 0: it is another syscall.
    pub argv: u64,
    pub tid: u32,
    pub tgid: u32,
    pub agent: u32,
    pub hook: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// How often the syscall has been restarted.
    pub restarts: u32,
    /// x86-64 syscall number.
    pub syscall: u32,
    /// How many holds of this thread ended before it, one after the other, because it tried
    /// something else when it was restarted.
    pub changes: u32,
    pub comm: [u8; 16],
    /// Display only: `bpf_d_path`, NUL-terminated; empty when the hook cannot tell.
    pub path: [u8; PATH_LEN],
}

/// A published verdict: one word in slot `tid % VERDICT_SLOTS`, stored whole, so that an id never
/// meets another hold's verdict. Written by the daemon only.
#[must_use]
pub const fn publish(id: u64, verdict: u32) -> u64 {
    id << 2 | (verdict & 3) as u64
}

/// The verdict a published word holds for hold `id`; NONE when it is another hold's.
#[must_use]
pub const fn published(word: u64, id: u64) -> u32 {
    if word >> 2 == id {
        (word & 3) as u32
    } else {
        verdict::NONE
    }
}

/// Bytes of the PID table in one array element.
pub const PID_PAGE: u32 = 4096;
/// In the PID table: nobody's business.
pub const PID_FREE: u8 = 0;
/// In the PID table: governed, but by an agent that could not be told. Everything is denied.
pub const PID_UNKNOWN: u8 = 0xfe;
/// In the PID table: the daemon.
pub const PID_DAEMON: u8 = 0xff;

/// The PID table's byte of a governed process: its agent + 1.
#[must_use]
pub const fn pid_byte(agent: u32) -> u8 {
    if agent < MAX_AGENTS as u32 {
        agent as u8 + 1
    } else {
        PID_UNKNOWN
    }
}

/// A governed process. Key: TGID.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Governed {
    /// `start_boottime` of the process, nanoseconds: tells a reused PID.
    pub start_ns: u64,
    /// Index of the agent in the policy.
    pub agent: u32,
    /// TGID of the process that entered governance first: the tree's root.
    pub root: u32,
    /// CLOCK_MONOTONIC nanoseconds of the last SIGNAL event.
    pub signal_ns: u64,
    /// How many of its threads are held.
    pub held: u64,
    /// Classes it has read, or inherited from who has.
    pub taint: u64,
}

/// The child of a governed process that has no PID yet. Key: the address of its `task_struct`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Newborn {
    /// TGID of who forks it.
    pub parent: u32,
    pub agent: u32,
    /// As in [`Governed`].
    pub root: u32,
    pub padding: u32,
    /// `start_boottime` of the parent, nanoseconds.
    pub start_ns: u64,
}

/// Words of the map SEQUENCE.
pub mod sequence {
    /// The last hold id.
    pub const HOLD: u32 = 0;
    /// How many processes are governed; the daemon counts those it takes.
    pub const GOVERNED: u32 = 1;
    /// How many [`super::Newborn`]s there are.
    pub const EXPECTED: u32 = 2;
    pub const LEN: u32 = 3;
}

/// A protected root. Key: [`InodeKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Root {
    /// Classes everything below carries.
    pub classes: u64,
    /// Classes that globs below may give; filtered by `suffix`, decided in user space.
    pub glob_classes: u64,
    /// The last 16 bytes of a file name, as two little-endian words …
    pub suffix: [u64; 2],
    /// … and which of their bits must match for `glob_classes`; 0: any name.
    pub mask: [u64; 2],
    /// Shortest name that can match.
    pub min_len: u64,
    /// Not a root itself but a folder on the way to one: who moves it away, or removes it, touches
    /// what has these classes below it.
    pub leads_to: u64,
}

/// An inode as the kernel knows it: `i_sb->s_dev` and `i_ino`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InodeKey {
    pub ino: u64,
    pub dev: u32,
    pub _pad: u32,
}

/// One network rule of the kernel's copy of the policy; first match wins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NetRule {
    /// Bit per agent.
    pub agents: u64,
    /// The rule is only for processes that carry one of these classes; 0: for all.
    pub after: u64,
    /// Network prefix, big-endian halves, IPv4 as ::ffff:0:0/96.
    pub addr_hi: u64,
    pub addr_lo: u64,
    pub mask_hi: u64,
    pub mask_lo: u64,
    /// Inclusive port range.
    pub port_lo: u16,
    pub port_hi: u16,
    /// IPPROTO_TCP, IPPROTO_UDP or 0 for both.
    pub proto: u32,
    /// ALLOW, DENY or ASK of [`verdict`].
    pub verdict: u32,
    /// Bits of [`action`]: CONNECT, SEND, LISTEN.
    pub actions: u32,
    /// Index of the rule in the policy, for counting; `u32::MAX`: built in.
    pub rule: u32,
    pub cause: u32,
}

/// Path rules of one agent and one action, by class. A class in neither is asked; a class that only
/// a glob may give (`Pending::glob_classes`) is allowed if it is in `allow`, and asked otherwise:
/// whether it counts at all is known in user space.
///
/// The programs that rules for exec name are classes, too: allowed in the rows of every action but
/// EXEC. In the row of EXEC every class is in `allow` of which no rule speaks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PathRule {
    pub allow: u64,
    pub deny: u64,
    /// Carrying one of these, a process is asked, whatever the other two say.
    pub after: u64,
}

/// What an agent may do that is otherwise denied outright, and how its other rules stand.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentRules {
    /// Capabilities of [`CAPABILITIES_DENIED`] that it keeps.
    pub capabilities: u64,
    /// Bits of [`exception`].
    pub exceptions: u32,
    /// ALLOW, DENY or ASK: changes of credentials.
    pub privilege: u32,
    /// Classes that are remembered once they were read. Programs, and configuration that every
    /// program reads, are not: they would make each process differ from what it was.
    pub taints: u64,
    /// Classes that some rule names in `after`: having read one of them makes another question of
    /// what is sent or written.
    pub after: u64,
}

/// In [`AgentRules::exceptions`].
pub mod exception {
    /// User namespaces, and mounts and capabilities inside them: bwrap, rootless podman.
    pub const USER_NAMESPACES: u32 = 1 << 0;
    /// Every process of the agent carries what any of them has read.
    pub const SHARED_TAINT: u32 = 1 << 1;
    /// Tracing and reading through /proc of its own user's processes.
    pub const TRACE: u32 = 1 << 2;
}

/// Capabilities (include/uapi/linux/capability.h) the governed do not have: each would lift the
/// hold or reach into the kernel. `DAC_READ_SEARCH` `NET_ADMIN` `NET_RAW` `SYS_MODULE` `SYS_RAWIO`
/// `SYS_PTRACE` `SYS_ADMIN` `SYS_BOOT` `MKNOD` `MAC_OVERRIDE` `MAC_ADMIN` `PERFMON` `BPF`
/// `CHECKPOINT_RESTORE`.
pub const CAPABILITIES_DENIED: u64 = 1 << 2
    | 1 << 12
    | 1 << 13
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 21
    | 1 << 22
    | 1 << 27
    | 1 << 32
    | 1 << 33
    | 1 << 38
    | 1 << 39
    | 1 << 40;

/// A name in a folder: where a unix socket listens. The name by its hash, because the socket's
/// inode changes with each start of its program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Of the folder; 0 with `dev` 0: an abstract name.
    pub ino: u64,
    /// As [`name_hash`].
    pub name: u64,
    pub dev: u32,
    pub _pad: u32,
}

/// A hash of a file name, or of an abstract socket's name without its first NUL: FNV-1a by words
/// of eight bytes, the last one filled with NULs. `words` yields them.
#[must_use]
pub fn name_hash(len: u32, words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0xcbf2_9ce4_8422_2325 ^ len as u64, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Number of [`PathRule`]s in one bank.
pub const PATH_RULES: usize = MAX_AGENTS * action::COUNT;

/// The daemon's switchboard, one entry. Two banks of rules; a reload fills the idle one and
/// flips `bank` last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Daemon {
    pub abi: u32,
    /// One of [`daemon`].
    pub state: u32,
    pub tgid: u32,
    /// 0 or 1.
    pub bank: u32,
    pub net_rules: [u32; 2],
    /// CLOCK_MONOTONIC nanoseconds of the last heartbeat.
    pub heartbeat_ns: u64,
    pub grace_until_ns: u64,
    /// How many protected roots there are; 0 spares every walk.
    pub roots: u32,
    /// Changes with every change of the tables: what a rule allowed is looked at again.
    pub generation: u32,
    /// Of [`SipHash`]; random, and the same as long as the maps stay pinned.
    pub hash_key: [u64; 2],
}

/// A heartbeat older than this means the daemon is away.
pub const HEARTBEAT_STALE_NS: u64 = 10_000_000_000;
/// A spinning hold wakes the daemon again after this.
pub const WAKE_AGAIN_NS: u64 = 2_000_000;
/// A pause between two restarts longer than this: the thread was parked meanwhile.
pub const SPIN_GAP_NS: u64 = 50_000_000;
/// A thread whose object changes more often than this while it is held is denied: it would keep
/// the daemon busy, and itself from an answer, for as long as it likes.
pub const MAX_CHANGES: u32 = 64;
/// Spinning longer than this without being parked turns into [`mode::UNPARKED`]: no sooner than a
/// silent daemon counts as away, because parents see such a stop.
pub const SPIN_LIMIT_NS: u64 = HEARTBEAT_STALE_NS;

/// A wake-up through the ring buffer. The PENDING map is the truth; a lost event costs time only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// One of [`event`].
    pub kind: u32,
    pub tid: u32,
    pub tgid: u32,
    pub agent: u32,
    /// Hold id, or 0.
    pub id: u64,
    /// DENIED: one of [`cause`]. SIGNAL: the signal, with `key.a` 1 when it is the process's.
    pub cause: u32,
    pub hook: u32,
    /// DENIED: what was tried.
    pub key: Key,
}

/// Kinds of [`Event`].
pub mod event {
    /// A thread is held, or is spinning again.
    pub const HELD: u32 = 1;
    /// The kernel applied a verdict: the syscall is on its way.
    pub const RESUMED: u32 = 2;
    /// The hold was left without a verdict (another syscall took its place).
    pub const ABANDONED: u32 = 3;
    /// The kernel denied on its own.
    pub const DENIED: u32 = 4;
    /// A signal was sent to a process that has a held thread.
    pub const SIGNAL: u32 = 5;
    /// A process entered governance by exec, user, unit or cgroup.
    pub const ENTERED: u32 = 6;
    /// A governed process is gone (its last thread). `key.a`: its `start_boottime`.
    pub const EXITED: u32 = 7;
    /// A governed process runs another program now. `key.a`: its `start_boottime`.
    pub const EXECED: u32 = 8;
    /// A process carries classes that it did not before: `key.a` those, `key.b` and `key.c` inode
    /// and device of what it read, `id` the hold that let it, or 0 when a rule of the kernel did.
    pub const TAINTED: u32 = 9;
}

/// Indexes of the per-CPU counters.
pub mod count {
    use super::{cause, hook};

    /// + hook: allowed by a kernel rule.
    pub const ALLOWED: u32 = 0;
    /// + hook: held.
    pub const HELD: u32 = hook::COUNT as u32;
    /// + cause: denied by the kernel on its own.
    pub const DENIED: u32 = 2 * hook::COUNT as u32;
    /// Restarts of held syscalls.
    pub const RESTARTS: u32 = DENIED + cause::COUNT as u32;
    /// Children of the governed that only their first act made governed.
    pub const BORN_UNSEEN: u32 = RESTARTS + 1;
    /// Processes whose end only the end of their task told.
    pub const DIED_UNSEEN: u32 = RESTARTS + 2;
    pub const LEN: u32 = RESTARTS + 16;
}

// A change of any of these must bump ABI_VERSION.
const _: () = {
    assert!(size_of::<Key>() == 40);
    assert!(size_of::<Pending>() == 40 + 11 * 8 + 8 * 4 + 16 + PATH_LEN);
    assert!(size_of::<Governed>() == 40);
    assert!(size_of::<Newborn>() == 24);
    assert!(size_of::<Root>() == 64);
    assert!(size_of::<InodeKey>() == 16);
    assert!(size_of::<NetRule>() == 72);
    assert!(size_of::<PathRule>() == 24);
    assert!(size_of::<AgentRules>() == 32);
    assert!(size_of::<Arguments>() == 40);
    assert!(size_of::<Place>() == 24);
    assert!(size_of::<Daemon>() == 64);
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Loaded>() == 32 + 96 * 8);
    assert!(size_of::<Offsets>() == 91 * 4);
};

#[cfg(feature = "user")]
mod user {
    //! SAFETY of all: `repr(C)`, integers only, no padding (asserted above): any bytes are valid.
    use super::*;
    unsafe impl aya::Pod for Key {}
    unsafe impl aya::Pod for Pending {}
    unsafe impl aya::Pod for Governed {}
    unsafe impl aya::Pod for Root {}
    unsafe impl aya::Pod for InodeKey {}
    unsafe impl aya::Pod for NetRule {}
    unsafe impl aya::Pod for PathRule {}
    unsafe impl aya::Pod for AgentRules {}
    unsafe impl aya::Pod for Arguments {}
    unsafe impl aya::Pod for Place {}
    unsafe impl aya::Pod for Daemon {}
    unsafe impl aya::Pod for Event {}
    unsafe impl aya::Pod for Loaded {}
    unsafe impl aya::Pod for Offsets {}
}
