//! Who is governed and what is protected, from the policy's names to what the kernel compares:
//! cgroup ids, user ids, inodes. Anything that cannot be told yet (a unit that does not run, a
//! root that is not there) is looked for again.
mod reach;
mod roots;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::User;
use syshold_abi::{InodeKey, Place, Root};

use crate::kernel::{Kernel, KernelError, Tables};
use crate::park::{CGROUP_ROOT, CHILD};
use crate::policy::{KernelTables, Policy, Selector};
use crate::request::AgentId;

/// What was enrolled, and what could not be.
#[derive(Debug, Default)]
pub struct Governing {
    compiled: Option<KernelTables>,
    enrolled: Enrolled,
    missing: Vec<String>,
    /// What is enrolled beside the policy's own roots, see [`roots`].
    beside: Vec<(roots::Enrol, Option<Seen>)>,
    links: Vec<(roots::Enrol, Option<Seen>)>,
}

/// The inodes behind the policy's paths, at the last look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Enrolled {
    roots: BTreeMap<PathBuf, Seen>,
    exes: BTreeMap<PathBuf, Seen>,
    cgroups: BTreeMap<u64, u32>,
    /// Of sockets that agents may reach.
    folders: BTreeMap<PathBuf, Seen>,
    sockets: BTreeMap<PathBuf, u64>,
    devices: BTreeMap<u32, u64>,
}

/// A path's inode as the kernel side knows it; `stat` tells cheaply whether it is still the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    key: InodeKey,
    dev: u64,
    ino: u64,
    /// There a folder gets another number once nobody has it in use, and `stat` does not tell.
    overlay: bool,
}

impl Governing {
    /// Policy paths and names that match nothing on this host, for `status`.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Everything the kernel is to enforce.
    pub fn tables(
        &mut self,
        kernel: &mut Kernel,
        policy: &Policy,
        compiled: KernelTables,
    ) -> Tables {
        self.missing.clear();
        self.enrolled = self.look(kernel, policy);
        self.beside = self.enrol_all(kernel, beside(policy));
        let meant = |path: &Path| policy.classes_of_path(&path.to_string_lossy()).0;
        let links = roots::linked_below(&policy.roots(&reach::homes()), meant, &mut self.missing);
        self.links = self.enrol_all(kernel, links);
        let tables = self.assemble(policy, &compiled);
        self.compiled = Some(compiled);
        tables
    }

    /// Looks again: a root that was replaced, a program that was upgraded, a unit that started.
    pub fn refresh(&mut self, kernel: &mut Kernel, policy: &Policy) {
        if self.unchanged(policy) && self.overlays_unchanged(kernel) {
            return;
        }
        let Some(compiled) = self.compiled.take() else {
            return;
        };
        let tables = self.tables(kernel, policy, compiled);
        tracing::info!("protected roots, programs or cgroups changed: enrolled anew");
        if let Err(error) = kernel.enforce(&tables) {
            tracing::error!(%error, "the new roots could not be put in force; the old ones stay");
        }
    }

    fn enrol_all(
        &mut self,
        kernel: &mut Kernel,
        found: Vec<roots::Enrol>,
    ) -> Vec<(roots::Enrol, Option<Seen>)> {
        let seen = |enrol: roots::Enrol| {
            let seen = self.enrol(kernel, &enrol.path);
            (enrol, seen)
        };
        found.into_iter().map(seen).collect()
    }

    fn unchanged(&self, policy: &Policy) -> bool {
        let same = |path: &Path, seen: Option<&Seen>| match (fs::metadata(path), seen) {
            (Ok(now), Some(seen)) => now.dev() == seen.dev && now.ino() == seen.ino,
            (Err(_), None) => true,
            _ => false,
        };
        let now = beside(policy);
        let known = |(enrol, (old, seen)): (&roots::Enrol, &(roots::Enrol, Option<Seen>))| {
            enrol.path == old.path && same(&enrol.path, seen.as_ref())
        };
        if now.len() != self.beside.len() || !now.iter().zip(&self.beside).all(known) {
            return false;
        }
        policy
            .roots(&reach::homes())
            .iter()
            .all(|root| same(&root.path, self.enrolled.roots.get(&root.path)))
            && exes(policy).all(|(path, _)| same(path, self.enrolled.exes.get(path)))
            && reach::sockets(policy) == self.enrolled.sockets
            && folders(&self.enrolled.sockets)
                .all(|path| same(path, self.enrolled.folders.get(path)))
            && reach::devices(policy, &mut Vec::new()) == self.enrolled.devices
    }

    fn overlays_unchanged(&self, kernel: &mut Kernel) -> bool {
        let named = [
            &self.enrolled.roots,
            &self.enrolled.exes,
            &self.enrolled.folders,
        ];
        let named = named.into_iter().flatten();
        let named = named.map(|(path, seen)| (path, *seen));
        let beside = self.beside.iter().chain(&self.links);
        let beside = beside.filter_map(|(enrol, seen)| Some((&enrol.path, (*seen)?)));
        named
            .chain(beside)
            .filter(|(_, seen)| seen.overlay)
            .all(|(path, seen)| kernel.enrol(path).is_ok_and(|key| key == seen.key))
    }

    fn look(&mut self, kernel: &mut Kernel, policy: &Policy) -> Enrolled {
        let mut enrolled = Enrolled::default();
        for root in policy.roots(&reach::homes()) {
            if !policy.expects(&root.path) && !root.path.exists() {
                continue;
            }
            if let Some(seen) = self.enrol(kernel, &root.path) {
                enrolled.roots.insert(root.path, seen);
            }
        }
        for (path, _) in exes(policy) {
            if let Some(seen) = self.enrol(kernel, path) {
                enrolled.exes.insert(path.to_owned(), seen);
            }
        }
        enrolled.cgroups = cgroups(policy);
        enrolled.sockets = reach::sockets(policy);
        for (socket, agents) in &enrolled.sockets {
            let Some(folder) = socket.parent() else {
                continue;
            };
            if !reach::is_expected(*agents) && !folder.exists() {
                continue;
            }
            if !enrolled.folders.contains_key(folder)
                && let Some(seen) = self.enrol(kernel, folder)
            {
                enrolled.folders.insert(folder.to_owned(), seen);
            }
        }
        enrolled.devices = reach::devices(policy, &mut self.missing);
        enrolled
    }

    fn enrol(&mut self, kernel: &mut Kernel, path: &Path) -> Option<Seen> {
        let found = fs::metadata(path).map_err(|source| KernelError::Open {
            path: path.to_owned(),
            source,
        });
        match found.and_then(|meta| Ok((kernel.enrol(path)?, meta))) {
            Ok((key, meta)) => Some(Seen {
                key,
                dev: meta.dev(),
                ino: meta.ino(),
                overlay: statfs(path)
                    .is_ok_and(|found| found.filesystem_type() == OVERLAYFS_SUPER_MAGIC),
            }),
            Err(error) => {
                tracing::warn!(%error, "not there yet; looked for again every few seconds");
                self.missing.push(error.to_string());
                None
            }
        }
    }

    fn assemble(&mut self, policy: &Policy, compiled: &KernelTables) -> Tables {
        let mut roots: HashMap<InodeKey, Root> = HashMap::new();
        for root in policy.roots(&reach::homes()) {
            if let Some(seen) = self.enrolled.roots.get(&root.path) {
                roots
                    .entry(seen.key)
                    .and_modify(|known| join(known, &root.to_abi()))
                    .or_insert_with(|| root.to_abi());
            }
        }
        for (enrol, seen) in self.beside.iter().chain(&self.links) {
            let Some(seen) = seen else { continue };
            // A link on the way can be replaced, too. It is on the file system of its folder.
            let link = self
                .link_at(&enrol.path)
                .filter(|_| enrol.root.leads_to != 0);
            for key in [Some(seen.key), link].into_iter().flatten() {
                roots
                    .entry(key)
                    .and_modify(|known| join(known, &enrol.root))
                    .or_insert(enrol.root);
            }
        }
        let mut users = Vec::new();
        let mut cgroup_names = Vec::new();
        for (agent, selector) in selectors(policy) {
            match selector {
                Selector::User(name) => match uid_of(name) {
                    Some(uid) => users.push((uid, agent.0)),
                    None => self.missing.push(format!("no user `{name}` on this host")),
                },
                Selector::Unit(name) => cgroup_names.push((name.clone(), agent.0)),
                Selector::Cgroup(path) => cgroup_names.push((path.clone(), agent.0)),
                Selector::Exe(_) => {}
            }
        }
        Tables {
            net: compiled.net.clone(),
            path: compiled.path.clone(),
            agents: compiled.agents.clone(),
            devices: self.enrolled.devices.iter().map(pair).collect(),
            unix_sockets: self.unix_sockets(policy),
            roots: roots.into_iter().collect(),
            exes: exes(policy)
                .filter_map(|(path, agent)| Some((self.enrolled.exes.get(path)?.key, agent.0)))
                .collect(),
            users,
            cgroups: self.enrolled.cgroups.iter().map(pair).collect(),
            cgroup_names,
        }
    }

    /// The symbolic link at a path, if it is one, and its folder is enrolled.
    fn link_at(&self, path: &Path) -> Option<InodeKey> {
        let meta = fs::symlink_metadata(path).ok()?;
        let folder = path.parent()?;
        let (_, seen) = self.beside.iter().find(|(enrol, _)| enrol.path == folder)?;
        meta.is_symlink().then_some(InodeKey {
            ino: meta.ino(),
            ..(*seen)?.key
        })
    }

    fn unix_sockets(&self, policy: &Policy) -> Vec<(Place, u64)> {
        let mut places = reach::abstract_sockets(policy);
        for (socket, agents) in &self.enrolled.sockets {
            let folder = socket
                .parent()
                .and_then(|path| self.enrolled.folders.get(path));
            if let Some(place) = folder.and_then(|seen| reach::place(seen.key, socket)) {
                *places.entry(place).or_insert(0) |= agents;
            }
        }
        places.into_iter().collect()
    }

    /// Governs what runs already. A process that cannot be read any more is gone.
    pub fn seed(&self, kernel: &mut Kernel, policy: &Policy) {
        let users: HashMap<u32, AgentId> = selectors(policy)
            .filter_map(|(agent, selector)| match selector {
                Selector::User(name) => Some((uid_of(name)?, agent)),
                _ => None,
            })
            .collect();
        let by_exe: HashMap<(u64, u64), AgentId> = exes(policy)
            .filter_map(|(path, agent)| {
                let seen = self.enrolled.exes.get(path)?;
                Some(((seen.dev, seen.ino), agent))
            })
            .collect();
        let own = std::process::id();
        let parents = parents();
        let mut found: BTreeMap<u32, AgentId> = BTreeMap::new();
        for &pid in parents.keys().filter(|pid| **pid != own) {
            let agent = agent_by_cgroup(pid, &self.enrolled.cgroups)
                .or_else(|| {
                    let exe = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
                    by_exe.get(&(exe.dev(), exe.ino())).copied()
                })
                .or_else(|| {
                    users
                        .get(&fs::metadata(format!("/proc/{pid}")).ok()?.uid())
                        .copied()
                });
            if let Some(agent) = agent {
                found.insert(pid, agent);
            }
        }
        // Descendants of the governed are governed; the nearest ancestor says by whom.
        for &pid in parents.keys().filter(|pid| **pid != own) {
            let mut at = pid;
            for _ in 0..64 {
                if let Some(agent) = found.get(&at).copied().or_else(|| kernel.governs(at)) {
                    found.insert(pid, agent);
                    break;
                }
                match parents.get(&at) {
                    Some(&parent) if parent > 1 => at = parent,
                    _ => break,
                }
            }
        }
        for (pid, agent) in found {
            let Some(start_ns) = start_ns(pid) else {
                continue;
            };
            if let Err(error) = kernel.govern(pid, start_ns, agent) {
                tracing::error!(%error, pid, "a running process could not be governed");
            }
        }
    }
}

fn pair<K: Copy, V: Copy>((key, value): (&K, &V)) -> (K, V) {
    (*key, *value)
}

fn folders(sockets: &BTreeMap<PathBuf, u64>) -> impl Iterator<Item = &Path> {
    sockets.keys().filter_map(|socket| socket.parent())
}

fn beside(policy: &Policy) -> Vec<roots::Enrol> {
    let own = roots::own();
    let named = policy.roots(&reach::homes());
    let protected: Vec<_> = named
        .iter()
        .map(|root| (root.path.as_path(), root.to_abi()))
        .chain(own.iter().map(|own| (own.path.as_path(), own.root)))
        .filter(|(path, _)| path.exists())
        .collect();
    let ways = roots::on_the_way(protected.iter().map(|(path, root)| (*path, root)));
    let mounts = roots::mounted(&named);
    own.into_iter().chain(ways).chain(mounts).collect()
}

/// A name filter cannot be narrower than what any of two patterns means.
fn join(known: &mut Root, other: &Root) {
    known.classes |= other.classes;
    known.leads_to |= other.leads_to;
    let same = known.suffix == other.suffix && known.mask == other.mask;
    if other.glob_classes != 0 && known.glob_classes != 0 && !same {
        known.mask = [0; 2];
        known.min_len = 0;
    } else if known.glob_classes == 0 {
        known.suffix = other.suffix;
        known.mask = other.mask;
        known.min_len = other.min_len;
    }
    known.glob_classes |= other.glob_classes;
}

fn selectors(policy: &Policy) -> impl Iterator<Item = (AgentId, &Selector)> {
    (0..)
        .map(AgentId)
        .zip(policy.agents())
        .flat_map(|(id, agent)| agent.selectors.iter().map(move |selector| (id, selector)))
}

fn exes(policy: &Policy) -> impl Iterator<Item = (&Path, AgentId)> {
    selectors(policy).filter_map(|(agent, selector)| match selector {
        Selector::Exe(path) => Some((path.as_path(), agent)),
        _ => None,
    })
}

fn uid_of(name: &str) -> Option<u32> {
    match name.parse() {
        Ok(uid) => Some(uid),
        Err(_) => User::from_name(name)
            .ok()
            .flatten()
            .map(|user| user.uid.as_raw()),
    }
}

/// Ids of the governed cgroups that exist: on cgroup v2 an id is the folder's inode number.
fn cgroups(policy: &Policy) -> BTreeMap<u64, u32> {
    let mut units = HashMap::new();
    let mut found = BTreeMap::new();
    for (agent, selector) in selectors(policy) {
        match selector {
            Selector::Unit(name) => {
                units.insert(name.as_str(), agent.0);
            }
            Selector::Cgroup(path) => {
                let path = Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'));
                if let Ok(folder) = fs::metadata(path) {
                    found.insert(folder.ino(), agent.0);
                }
            }
            Selector::User(_) | Selector::Exe(_) => {}
        }
    }
    if units.is_empty() {
        return found;
    }
    let mut folders = vec![PathBuf::from(CGROUP_ROOT)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || entry.file_name() == CHILD {
                continue;
            }
            let agent = entry
                .file_name()
                .to_str()
                .and_then(|name| units.get(name).copied());
            match (agent, entry.metadata()) {
                (Some(agent), Ok(meta)) => {
                    found.insert(meta.ino(), agent);
                }
                _ => folders.push(entry.path()),
            }
        }
    }
    found
}

/// The nearest governed cgroup at or above a process's.
fn agent_by_cgroup(pid: u32, cgroups: &BTreeMap<u64, u32>) -> Option<AgentId> {
    if cgroups.is_empty() {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut folder = Path::new(CGROUP_ROOT).join(path);
    while folder.starts_with(CGROUP_ROOT) {
        if let Ok(meta) = fs::metadata(&folder)
            && let Some(agent) = cgroups.get(&meta.ino())
        {
            return Some(AgentId(*agent));
        }
        if !folder.pop() {
            break;
        }
    }
    None
}

/// Every process and its parent.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.ppid)))
        .collect()
}

fn stat(pid: u32) -> Option<crate::enrich::parse::Stat> {
    crate::enrich::parse::stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// `start_boottime` as far as /proc tells it: rounded down to clock ticks, as everyone who
/// compares it rounds too.
#[must_use]
pub fn start_ns(pid: u32) -> Option<u64> {
    const NS_PER_TICK: u64 = 10_000_000;
    Some(stat(pid)?.start_ticks * NS_PER_TICK)
}
