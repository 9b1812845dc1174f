//! The maps, and what happens when each is full.
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use syshold_abi::{
    AgentRules, Arguments, CGROUP_NAME_LEN, Daemon, Governed, InodeKey, Key, Loaded, MAX_AGENTS,
    MAX_GOVERNED, MAX_NET_RULES, MAX_PENDING, NetRule, Newborn, PATH_RULES, PID_LIMIT, PID_PAGE,
    PathRule, Pending, Place, Root, VERDICT_SLOTS, count, hook, sequence,
};

const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// First filter of every hook: one byte a PID. Cannot be full.
#[map]
pub static PIDS: Array<[u8; PID_PAGE as usize]> = Array::pinned(PID_LIMIT / PID_PAGE, MMAPABLE);

/// Details of governed processes. Full → the fork fails with EAGAIN; a missing entry changes
/// nothing about being governed (`PIDS` says that).
#[map]
pub static GOVERNED: HashMap<u32, Governed> = HashMap::pinned(MAX_GOVERNED, NO_PREALLOC);

/// Held threads: the truth about holds. Full → denied.
#[map]
pub static PENDING: HashMap<u32, Pending> = HashMap::pinned(MAX_PENDING, NO_PREALLOC);

/// All zero: what a PENDING entry starts as.
#[map]
pub static BLANK: Array<Pending> = Array::with_max_entries(1, 0);

/// Verdicts, stored by the daemon through mmap; see `abi::publish`. Cannot be full.
#[map]
pub static VERDICTS: Array<u64> = Array::pinned(VERDICT_SLOTS, MMAPABLE);

/// Which of a hold's candidate classes a path really had, in the slot of its verdict and stored
/// before it. Cannot be full.
#[map]
pub static SETTLED: Array<u64> = Array::pinned(VERDICT_SLOTS, MMAPABLE);

/// Wake-ups. Full → a new hold is denied; pending ones are found by the daemon's sweep.
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(EVENTS_SIZE, 0);
pub const EVENTS_SIZE: u32 = 1 << 20;

/// The daemon's switchboard.
#[map]
pub static DAEMON: Array<Daemon> = Array::pinned(1, 0);

/// What is attached; for daemons alone.
#[map]
pub static LOADED: Array<Loaded> = Array::pinned(1, 0);

/// Two banks of network rules.
#[map]
pub static NET_RULES: Array<NetRule> = Array::pinned(2 * MAX_NET_RULES as u32, 0);

/// Two banks of path rules: agent × action.
#[map]
pub static PATH_RULE: Array<PathRule> = Array::pinned(2 * PATH_RULES as u32, 0);

/// Two banks of what agents may do beside their rules, by agent.
#[map]
pub static AGENT_RULES: Array<AgentRules> = Array::pinned(2 * MAX_AGENTS as u32, 0);

/// Classes that any process of an agent has read, by agent.
#[map]
pub static AGENT_TAINT: Array<u64> = Array::pinned(MAX_AGENTS as u32, MMAPABLE);

/// Character devices (`i_rdev`) that agents may open beside the harmless ones: value = a bit per
/// agent. A block device of the same number is not meant. Full → the daemon refuses the policy.
#[map]
pub static DEVICES: HashMap<u32, u64> = HashMap::pinned(1024, NO_PREALLOC);

/// Unix sockets of ungoverned programs that agents may reach: value = a bit per agent. Full → the
/// daemon refuses the policy.
#[map]
pub static UNIX_SOCKETS: HashMap<Place, u64> = HashMap::pinned(1024, NO_PREALLOC);

/// Protected roots. Full → the daemon refuses the policy.
#[map]
pub static ROOTS: HashMap<InodeKey, Root> = HashMap::pinned(4096, NO_PREALLOC);

/// One bit per `i_ino % 4096` of a root: spares the walk its hash look-ups.
#[map]
pub static ROOT_BITS: Array<u64> = Array::pinned(64, 0);

/// Open files whose protected content was approved: file → inode. Evicted → asked again.
#[map]
pub static OPENED: LruHashMap<u64, Opened> = LruHashMap::pinned(65_536, 0);

/// Where each TCP socket was allowed to go first, by its cookie: nearly all go to one place, and this
/// costs half of what `SOCKETS` does. Evicted → judged again, and `egress` lets it pass.
#[map]
pub static STREAMS: LruHashMap<u64, Stream> = LruHashMap::pinned(65_536, 0);

/// Other destinations of sockets that were allowed: value = generation of the policy << 1, and 1 when
/// by a verdict. Evicted → judged again.
#[map]
pub static SOCKETS: LruHashMap<Destination, u64> = LruHashMap::pinned(65_536, 0);

/// Cookies of other sockets that the governed have used: value = agent, or `u32::MAX` for the daemon's own.
/// Evicted → `egress` lets it pass.
#[map]
pub static GOVERNED_SOCKETS: LruHashMap<u64, u32> = LruHashMap::pinned(65_536, 0);

/// Cookies of unix sockets that the governed have bound: value = agent. Evicted → out of reach of
/// its own agent, too.
#[map]
pub static UNIX_BOUND: LruHashMap<u64, u32> = LruHashMap::pinned(16_384, 0);

/// Executables, users and cgroups whose processes are governed: value = agent. Full → the
/// daemon refuses the policy.
#[map]
pub static EXES: HashMap<InodeKey, u32> = HashMap::pinned(1024, NO_PREALLOC);
#[map]
pub static USERS: HashMap<u32, u32> = HashMap::pinned(1024, NO_PREALLOC);
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::pinned(4096, NO_PREALLOC);
/// Unit names and cgroup paths to look out for when a cgroup is made.
#[map]
pub static CGROUP_NAMES: HashMap<[u8; CGROUP_NAME_LEN], u32> = HashMap::pinned(1024, NO_PREALLOC);

/// The inode the daemon's thread opened first since it removed the entry: how roots and executables
/// are enrolled. Overlayfs opens in a layer what it is asked for, and the walk goes up the overlay.
#[map]
pub static FIRST_OPEN: LruHashMap<u32, InodeKey> = LruHashMap::pinned(256, 0);

/// CLOCK_MONOTONIC nanoseconds at which each hook last saw the daemon: the canary.
#[map]
pub static CANARY: Array<u64> = Array::pinned(hook::COUNT as u32, 0);

/// Counters, see `abi::count`.
#[map]
pub static COUNTS: PerCpuArray<u64> = PerCpuArray::pinned(count::LEN, 0);

/// Children on their way, by the address of their `task_struct`, see `newborn`. Full → the fork
/// fails with EAGAIN.
#[map]
pub static NEWBORN: HashMap<u64, Newborn> = HashMap::pinned(MAX_GOVERNED, NO_PREALLOC);

/// Counts that are exact, see `abi::sequence`.
#[map]
pub static SEQUENCE: Array<u64> = Array::pinned(sequence::LEN, MMAPABLE);

/// What was approved on the way of one exec: when it was last passed. An exec may ask more than once,
/// and each restart begins anew. Evicted → asked again.
#[map]
pub static STEPS: LruHashMap<Step, u64> = LruHashMap::pinned(1024, 0);

/// What a thread's approved exec was approved with, by its id. Full → denied.
#[map]
pub static APPROVED_ARGUMENTS: HashMap<u32, Arguments> = HashMap::pinned(16_384, NO_PREALLOC);

/// The same once the exec goes on, by the address of its `linux_binprm`. Full → denied.
#[map]
pub static BOUND_ARGUMENTS: HashMap<u64, Arguments> = HashMap::pinned(16_384, NO_PREALLOC);

/// Processes whose program was let gain its privilege. Evicted → asked again.
#[map]
pub static PRIVILEGED: LruHashMap<u32, u32> = LruHashMap::pinned(1024, 0);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Step {
    pub key: Key,
    pub tid: u32,
    pub hook: u32,
}

/// An approved open file: proves that the `struct file` at that address is still the one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub inode: u64,
    pub dentry: u64,
    pub ino: u64,
    pub dev: u32,
    pub actions: u32,
}

/// A socket's approved destination, per agent and what it carried: what it has read since may not
/// go there unasked.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub key: Key,
    pub agent: u64,
    pub taint: u64,
}

/// An entry of `STREAMS`; `value` as in `SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stream {
    pub place: Destination,
    pub value: u64,
}
