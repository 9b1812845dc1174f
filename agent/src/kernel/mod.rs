//! The kernel side, as the driver sees it: programs, maps, offsets, events. The only unsafe.
//!
//! Everything is pinned: links and maps outlive the daemon, so that its death releases nothing
//! (see [`Kernel::load`] for what a restart does with what it finds).
#![expect(
    unsafe_code,
    reason = "mmap of maps, pidfd and prctl syscalls; each block says why"
)]
pub mod acts;
mod adopt;
mod arguments;
mod btf;
mod load;
mod mmap;
pub mod offsets;
mod paths;
mod process;
mod verify;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use syshold_abi::{
    self as abi, AgentRules, Arguments, Daemon, Event, Governed, InodeKey, NetRule, PathRule,
    Pending, Place, Root,
};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

pub use acts::Marker;
pub use load::{LoadError, PINS, Program, covered_by};
pub use paths::paths_of;
pub use process::{
    clock_state, continue_process, spare_memory, stop_dumps, take_short_turns, trim_memory,
};

use crate::gate::Verdict;
use crate::request::{
    Actions, AgentId, Classes, Exec, HoldId, Object, Privilege, Request, Transport,
};

/// The loaded programs and their maps.
pub struct Kernel {
    pub programs: Vec<Program>,
    /// Hooks that this kernel has not, see [`covered_by`].
    pub lacks: Vec<&'static str>,
    events: AsyncFd<Events>,
    pids: Arc<mmap::Bytes>,
    verdicts: mmap::Shared,
    settled: mmap::Shared,
    sequence: mmap::Shared,
    governed: HashMap<MapData, u32, Governed>,
    pending: HashMap<MapData, u32, Pending>,
    daemon: Array<MapData, Daemon>,
    net_rules: Array<MapData, NetRule>,
    path_rules: Array<MapData, PathRule>,
    agent_rules: Array<MapData, AgentRules>,
    devices: HashMap<MapData, u32, u64>,
    unix_sockets: HashMap<MapData, Place, u64>,
    roots: HashMap<MapData, InodeKey, Root>,
    root_bits: Array<MapData, u64>,
    exes: HashMap<MapData, InodeKey, u32>,
    users: HashMap<MapData, u32, u32>,
    cgroups: HashMap<MapData, u64, u32>,
    cgroup_names: HashMap<MapData, [u8; abi::CGROUP_NAME_LEN], u32>,
    approved_arguments: HashMap<MapData, u32, Arguments>,
    first_open: HashMap<MapData, u32, InodeKey>,
    canary: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    record: adopt::Record,
    switch: Daemon,
}

#[derive(Debug, Error)]
pub enum KernelError {
    #[error("the kernel's map {map}: {source}")]
    Map { map: &'static str, source: MapError },
    #[error("mapping a page of the kernel's map PIDS: {0}")]
    Pids(nix::Error),
    #[error("cannot enrol {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "cannot enrol {path}: the file_open program did not see it opened; enforcement is not live"
    )]
    Unseen { path: PathBuf },
    #[error("the policy needs {found} {what}; this kernel side holds {most}")]
    TooMany {
        what: &'static str,
        found: usize,
        most: usize,
    },
}

/// What the kernel is to enforce; replaces everything that was enforced before.
#[derive(Debug, Default)]
pub struct Tables {
    pub net: Vec<NetRule>,
    pub path: Vec<PathRule>,
    /// By agent.
    pub agents: Vec<AgentRules>,
    /// Character devices that agents may open, a bit each.
    pub devices: Vec<(u32, u64)>,
    pub unix_sockets: Vec<(Place, u64)>,
    pub roots: Vec<(InodeKey, Root)>,
    pub exes: Vec<(InodeKey, u32)>,
    pub users: Vec<(u32, u32)>,
    pub cgroups: Vec<(u64, u32)>,
    /// Unit names and cgroup paths.
    pub cgroup_names: Vec<(String, u32)>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("programs", &self.programs)
            .finish_non_exhaustive()
    }
}

struct Events(RingBuf<MapData>);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn map<T>(map: &'static str, result: Result<T, MapError>) -> Result<T, KernelError> {
    result.map_err(|source| KernelError::Map { map, source })
}

/// A look-up where absence is an answer.
fn found<T>(name: &'static str, result: Result<T, MapError>) -> Result<Option<T>, KernelError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(KernelError::Map { map: name, source }),
    }
}

impl Kernel {
    /// Waits for wake-ups and returns them all. They are hints: [`Self::pending`] is the truth.
    pub async fn events(&mut self) -> io::Result<Vec<Event>> {
        const BATCH: usize = 4096;
        let mut ready = self.events.readable_mut().await?;
        let mut events = Vec::new();
        let ring = &mut ready.get_inner_mut().0;
        while let Some(item) = ring.next() {
            if item.len() == size_of::<Event>() {
                // SAFETY: the length is checked, and any bytes are a valid Event (abi).
                events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
            if events.len() == BATCH {
                return Ok(events);
            }
        }
        ready.clear_ready();
        Ok(events)
    }

    /// Everything held right now, one by one: thousands of them are megabytes.
    pub fn pending(&self) -> impl Iterator<Item = Pending> {
        // An entry that goes while we look is no error: it is not held any more.
        self.pending
            .iter()
            .filter_map(Result::ok)
            .map(|(_, pending)| pending)
            .filter(is_written)
    }

    /// What `tid` is held for.
    pub fn held(&self, tid: u32) -> Result<Option<Pending>, KernelError> {
        Ok(found("PENDING", self.pending.get(&tid, 0))?.filter(is_written))
    }

    /// Says which classes a held file has after its path was matched, for the process that reads it
    /// to carry. Before its verdict is published.
    pub fn settle(&self, tid: u32, classes: Classes) {
        let slot = (tid % abi::VERDICT_SLOTS) as usize;
        self.settled.store_word(slot, classes.0);
    }

    /// Says with which arguments an approved exec may go on; None: no rule asks for them. Those that
    /// were not read whole only a rule allows that does not ask for them. Before its verdict is
    /// published.
    pub fn bind(&mut self, tid: u32, exec: Option<&Exec>) -> Result<(), KernelError> {
        let whole = exec.filter(|exec| exec.whole);
        let arguments = whole.map_or(Arguments::FREE, |exec| {
            arguments::of(&exec.argv, self.switch.hash_key)
        });
        map(
            "APPROVED_ARGUMENTS",
            self.approved_arguments.insert(tid, arguments, 0),
        )
    }

    /// Publishes the verdict of a hold: its thread finds it when it restarts. Called with a
    /// [`crate::gate::ReleaseRight`] at hand, and again while the kernel has not applied it.
    pub fn publish(&self, tid: u32, hold: HoldId, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Allow => abi::verdict::ALLOW,
            Verdict::Deny => abi::verdict::DENY,
            Verdict::Interrupt => abi::verdict::INTERRUPT,
        };
        let slot = (tid % abi::VERDICT_SLOTS) as usize;
        self.verdicts
            .store_word(slot, abi::publish(hold.0, verdict));
    }

    /// The agent that governs a process.
    #[must_use]
    pub fn governs(&self, tgid: u32) -> Option<AgentId> {
        if tgid >= abi::PID_LIMIT {
            return Some(AgentId(abi::MAX_AGENTS as u32));
        }
        match self.pids.at(tgid as usize).map(|byte| byte.load()) {
            Ok(abi::PID_FREE | abi::PID_DAEMON) => None,
            Ok(byte) => Some(AgentId(u32::from(byte) - 1)),
            // What cannot be told is not let off.
            Err(_) => Some(AgentId(abi::MAX_AGENTS as u32)),
        }
    }

    pub fn details(&self, tgid: u32) -> Result<Option<Governed>, KernelError> {
        found("GOVERNED", self.governed.get(&tgid, 0))
    }

    /// The process that each tree of governed processes began with.
    #[must_use]
    pub fn roots(&self) -> std::collections::HashSet<u32> {
        let all = self.governed.iter().filter_map(Result::ok);
        all.map(|(_, process)| process.root).collect()
    }

    /// The processes of an agent.
    #[must_use]
    pub fn processes_of(&self, agent: AgentId) -> Vec<u32> {
        self.governed
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, process)| process.agent == agent.0)
            .map(|(tgid, _)| tgid)
            .collect()
    }

    /// How many processes each agent has.
    #[must_use]
    pub fn population(&self) -> Vec<u64> {
        let mut population = vec![0; abi::MAX_AGENTS];
        for (_, process) in self.governed.iter().filter_map(Result::ok) {
            if let Some(count) = population.get_mut(process.agent as usize) {
                *count += 1;
            }
        }
        population
    }

    /// Takes a running process under governance. The details first: from the byte on, its
    /// children inherit them.
    pub fn govern(&mut self, tgid: u32, start_ns: u64, agent: AgentId) -> Result<(), KernelError> {
        if tgid >= abi::PID_LIMIT {
            return Ok(());
        }
        let byte = self.pids.at(tgid as usize).map_err(KernelError::Pids)?;
        if !matches!(byte.load(), abi::PID_FREE | abi::PID_DAEMON) {
            return Ok(());
        }
        let details = Governed {
            start_ns,
            agent: agent.0,
            root: tgid,
            signal_ns: 0,
            held: 0,
            taint: 0,
        };
        map("GOVERNED", self.governed.insert(tgid, details, 0))?;
        // Its exit counts down again.
        self.sequence.count_up(abi::sequence::GOVERNED as usize);
        byte.store(abi::pid_byte(agent.0));
        Ok(())
    }

    /// Puts new tables in force: the idle bank first, then the switch, then what the old policy
    /// had and the new one has not.
    pub fn enforce(&mut self, tables: &Tables) -> Result<(), KernelError> {
        let too_many = |what, found, most| KernelError::TooMany { what, found, most };
        if tables.net.len() > abi::MAX_NET_RULES {
            return Err(too_many(
                "network rules",
                tables.net.len(),
                abi::MAX_NET_RULES,
            ));
        }
        if tables.path.len() != abi::PATH_RULES {
            return Err(too_many("path rules", tables.path.len(), abi::PATH_RULES));
        }
        if tables.agents.len() != abi::MAX_AGENTS {
            return Err(too_many("agents", tables.agents.len(), abi::MAX_AGENTS));
        }
        let bank = (self.switch.bank & 1) ^ 1;
        for (i, rules) in (0u32..).zip(&tables.agents) {
            let index = bank * abi::MAX_AGENTS as u32 + i;
            map("AGENT_RULES", self.agent_rules.set(index, rules, 0))?;
        }
        for (i, rule) in (0u32..).zip(&tables.net) {
            let index = bank * abi::MAX_NET_RULES as u32 + i;
            map("NET_RULES", self.net_rules.set(index, rule, 0))?;
        }
        for (i, rule) in (0u32..).zip(&tables.path) {
            map(
                "PATH_RULE",
                self.path_rules
                    .set(bank * abi::PATH_RULES as u32 + i, rule, 0),
            )?;
        }
        let mut bits = [0u64; 64];
        for (key, root) in &tables.roots {
            map("ROOTS", self.roots.insert(key, root, 0))?;
            // What only leads to a root is looked for by itself, and on no walk.
            if root.classes | root.glob_classes != 0 {
                bits[(key.ino >> 6) as usize & 63] |= 1 << (key.ino & 63);
            }
        }
        // More roots than before is safe at any moment, so bits are only widened before the flip.
        for (i, new) in (0u32..).zip(bits) {
            let old = map("ROOT_BITS", self.root_bits.get(&i, 0))?;
            map("ROOT_BITS", self.root_bits.set(i, old | new, 0))?;
        }
        self.switch.roots = self.switch.roots.max(tables.roots.len() as u32);
        self.switch.net_rules[bank as usize] = tables.net.len() as u32;
        self.switch.bank = bank;
        self.switch.generation = self.switch.generation.wrapping_add(1);
        self.flip()?;
        for (i, new) in (0u32..).zip(bits) {
            map("ROOT_BITS", self.root_bits.set(i, new, 0))?;
        }
        self.switch.roots = tables.roots.len() as u32;
        self.flip()?;
        replace("DEVICES", &mut self.devices, &tables.devices)?;
        replace("UNIX_SOCKETS", &mut self.unix_sockets, &tables.unix_sockets)?;
        replace("ROOTS", &mut self.roots, &tables.roots)?;
        replace("EXES", &mut self.exes, &tables.exes)?;
        replace("USERS", &mut self.users, &tables.users)?;
        replace("CGROUPS", &mut self.cgroups, &tables.cgroups)?;
        let names: Vec<_> = tables
            .cgroup_names
            .iter()
            .map(|(name, agent)| (cgroup_name(name), *agent))
            .collect();
        replace("CGROUP_NAMES", &mut self.cgroup_names, &names)
    }

    /// Device and inode of a file or folder, as the kernel knows them: `stat` lies on btrfs and
    /// overlayfs, where they are the overlay's own, not a layer's. Needs `file_open` to be live.
    pub fn enrol(&mut self, path: &Path) -> Result<InodeKey, KernelError> {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        found("FIRST_OPEN", self.first_open.remove(&tid))?;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| KernelError::Open {
                path: path.to_owned(),
                source,
            })?;
        let key = found("FIRST_OPEN", self.first_open.get(&tid, 0))?;
        drop(file);
        key.ok_or_else(|| KernelError::Unseen {
            path: path.to_owned(),
        })
    }

    /// The daemon is here and governs; `now_ns` is CLOCK_MONOTONIC.
    pub fn beat(&mut self, now_ns: u64) -> Result<(), KernelError> {
        self.switch.abi = abi::ABI_VERSION;
        self.switch.state = abi::daemon::LIVE;
        self.switch.tgid = std::process::id();
        self.switch.heartbeat_ns = now_ns;
        self.flip()
    }

    /// The daemon is about to be replaced: new holds wait, stopped, until then.
    pub fn restarting(&mut self, until_ns: u64) -> Result<(), KernelError> {
        self.switch.state = abi::daemon::RESTARTING;
        self.switch.grace_until_ns = until_ns;
        self.flip()
    }

    /// Names this process to the kernel side: never held, feeds canary and enrolment.
    pub fn introduce_daemon(&self) -> Result<(), KernelError> {
        let own = self.pids.at(std::process::id() as usize);
        own.map_err(KernelError::Pids)?.store(abi::PID_DAEMON);
        Ok(())
    }

    /// For children of the daemon that count as the daemon.
    #[must_use]
    pub fn marker(&self) -> Marker {
        Marker(Arc::clone(&self.pids))
    }

    /// When each hook last saw the daemon, CLOCK_MONOTONIC nanoseconds; 0: never.
    #[must_use]
    pub fn canary(&self) -> Vec<u64> {
        (0..abi::hook::COUNT as u32)
            .map(|i| self.canary.get(&i, 0).unwrap_or(0))
            .collect()
    }

    /// What is attached did not enforce: the next daemon does not go on with it.
    pub fn distrust(&mut self) -> Result<(), KernelError> {
        map("LOADED", self.record.forget())
    }

    /// A counter of `abi::count`, over all CPUs.
    #[must_use]
    pub fn count(&self, index: u32) -> u64 {
        self.counts
            .get(&index, 0)
            .map_or(0, |per_cpu| per_cpu.iter().sum())
    }

    fn flip(&mut self) -> Result<(), KernelError> {
        map("DAEMON", self.daemon.set(0, self.switch, 0))
    }
}

fn is_written(pending: &Pending) -> bool {
    pending.mode != abi::mode::WRITING
}

/// Inserts what is new and removes what is not there any more, in this order.
fn replace<K: aya::Pod + PartialEq, V: aya::Pod>(
    name: &'static str,
    into: &mut HashMap<MapData, K, V>,
    entries: &[(K, V)],
) -> Result<(), KernelError> {
    for (key, value) in entries {
        map(name, into.insert(key, value, 0))?;
    }
    let old: Vec<K> = into.keys().filter_map(Result::ok).collect();
    for key in old
        .iter()
        .filter(|key| !entries.iter().any(|(new, _)| new == *key))
    {
        match into.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(KernelError::Map { map: name, source }),
        }
    }
    Ok(())
}

fn cgroup_name(name: &str) -> [u8; abi::CGROUP_NAME_LEN] {
    let mut bytes = [0; abi::CGROUP_NAME_LEN];
    let len = name.len().min(abi::CGROUP_NAME_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// A kernel fact, in the agent's words.
#[must_use]
pub fn request_of(pending: &Pending) -> Request {
    let (path, _) = paths_of(pending);
    Request {
        agent: AgentId(pending.agent),
        actions: Actions(pending.key.actions),
        object: object_of(&pending.key, path),
        classes: Classes(pending.classes),
        taint: Classes(pending.taint),
        exec: None,
    }
}

/// The object of a key; `path` is for people.
#[must_use]
pub fn object_of(key: &abi::Key, path: Option<String>) -> Object {
    match key.kind {
        abi::object::SOCKET => Object::Socket {
            cookie: key.a,
            transport: if key.extra >> 16 == libc::IPPROTO_UDP as u64 {
                Transport::Udp
            } else {
                Transport::Tcp
            },
            to: address(key.b, key.c, key.extra as u16),
        },
        abi::object::NEW_FILE => Object::NewFile {
            dev: key.a as u32,
            ino: key.b,
            name_hash: key.c,
            path,
        },
        abi::object::UNIX => Object::Unix {
            dev: key.a as u32,
            ino: key.b,
            name_hash: key.c,
        },
        abi::object::PRIVILEGE => Object::Privilege(privilege_of(key)),
        _ => Object::File {
            dev: key.a as u32,
            ino: key.b,
            generation: key.c,
            onto: key.extra,
            path,
        },
    }
}

fn privilege_of(key: &abi::Key) -> Privilege {
    match key.a {
        abi::privilege::SETUID => Privilege::User {
            uid: key.b as u32,
            gid: key.c as u32,
        },
        abi::privilege::CAPSET => Privilege::Capabilities(key.b),
        abi::privilege::PROGRAM => Privilege::Program {
            uid: key.b as u32,
            dev: key.extra as u32,
            ino: key.c,
        },
        kind => Privilege::Unknown {
            kind,
            b: key.b,
            c: key.c,
        },
    }
}

#[must_use]
pub fn hold_id(pending: &Pending) -> HoldId {
    HoldId(pending.id)
}

/// IPv4 where it is mapped.
#[must_use]
pub fn address(hi: u64, lo: u64, port: u16) -> SocketAddr {
    let ip = Ipv6Addr::from_bits(u128::from(hi) << 64 | u128::from(lo));
    SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)
}
