//! The policy file: parsed into types that cannot be wrong.
//!
//! `load` reads the file, `raw` takes its keys and texts, `build` makes the [`Policy`] of them
//! (with `govern`, `rule`, `text`), `lint` warns; `compile` makes the kernel's copy. What a
//! policy answers is in `rules`.
mod build;
mod compile;
mod error;
mod glob;
mod govern;
mod lint;
mod load;
mod raw;
mod rule;
mod selftest;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use syshold_abi::SUFFIX_LEN;
use syshold_protocol::decision::Scope;
use syshold_protocol::ids::{Digest, Subject};

pub(crate) use self::compile::DNS_PORT;
pub use self::compile::{KernelTables, compile};
pub use self::error::{PolicyError, Problem, Problems, Severity};
pub use self::glob::{Glob, GlobError, Names as PathNames, Split};
pub use self::load::{load, parse};
pub use self::selftest::{SELFTEST, SelftestError};
pub use self::target::{Cidr, Ports, Target, TargetError};
use crate::names::HostName;
use crate::request::{Action, Actions, AgentId, Classes};
use crate::rules::{Fallback, Terms};

/// What this version's kernel programs can hold. A rule about anything else is refused.
pub const ENFORCED: [Action; 4] = [Action::Connect, Action::Send, Action::Read, Action::Write];

/// A policy. Made by [`parse`] only, so what it holds is right: names are unique and known,
/// paths absolute, networks without host bits, every rule enforceable.
#[derive(Clone, Debug)]
pub struct Policy {
    digest: Digest,
    host: Host,
    failure: Failure,
    agents: Vec<Agent>,
    classes: Vec<Class>,
    rules: Vec<Rule>,
    warnings: Vec<Problem>,
}

/// `[host]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub ledger: PathBuf,
    /// How long a syscall is held unless its rule says otherwise.
    pub hold: Duration,
    pub dns: Dns,
    pub log: tracing::Level,
}

/// What governed processes may do with the host's own DNS servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dns {
    /// Look-ups are allowed; whatever they carry out is not seen.
    Allow,
    /// Look-ups go by the rules, as any connection.
    Ask,
}

/// `[failure]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub on_timeout: Fallback,
    pub on_unreachable: Fallback,
    pub on_daemon_loss: Fallback,
}

/// `[[govern]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub name: String,
    /// May not approve what the agent asks for.
    pub owner: Subject,
    pub model: Option<String>,
    /// Empty: only what `syshold run` starts.
    pub selectors: Vec<Selector>,
}

/// How a process is recognised as an agent's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// A systemd unit, with its suffix.
    Unit(String),
    /// A cgroup below the root of the hierarchy; starts with a slash.
    Cgroup(String),
    /// A user's name or number; never root.
    User(String),
    /// A program, by absolute path.
    Exe(PathBuf),
}

/// `[[protect]]`; its place in the list is its bit in [`Classes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// What several of them may share, as "pii".
    pub class: String,
    pub globs: Vec<Glob>,
}

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// Its line in the file, for people.
    pub line: usize,
    agents: u64,
    pub actions: Actions,
    /// None: anywhere.
    pub to: Option<Vec<Target>>,
    /// Which protected files; all of them unless the rule says which.
    pub data: Classes,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    Ask(Terms),
}

/// A folder or file the kernel watches: what all patterns that begin there say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub path: PathBuf,
    /// Classes of everything at and below it.
    pub classes: Classes,
    /// Classes that patterns below it may give; user space decides.
    pub glob_classes: Classes,
    /// What a file's name must end in for those; empty: any name.
    pub suffix: Vec<u8>,
}

impl Policy {
    /// SHA-256 of the file's bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    #[must_use]
    pub fn failure(&self) -> Failure {
        self.failure
    }

    /// By [`AgentId`].
    #[must_use]
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(id.0 as usize)
    }

    /// Ids are places in the file, so they may differ after a reload; names do not.
    #[must_use]
    pub fn agent_id(&self, name: &str) -> Option<AgentId> {
        let index = self.agents.iter().position(|agent| agent.name == name)?;
        u32::try_from(index).ok().map(AgentId)
    }

    /// By bit of [`Classes`].
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    pub fn class_names(&self, classes: Classes) -> impl Iterator<Item = &str> {
        classes
            .iter()
            .filter_map(|bit| self.classes.get(bit))
            .map(|class| class.name.as_str())
    }

    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What is odd, but not wrong.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Host names that rules mention, each once.
    #[must_use]
    pub fn host_names(&self) -> Vec<HostName> {
        let mut names: Vec<HostName> = self
            .rules
            .iter()
            .flat_map(|rule| rule.to.iter().flatten())
            .filter_map(|target| match target {
                Target::Host(name, _) => Some(name.clone()),
                Target::Any(_) | Target::Net(..) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How holds are asked about that no rule speaks of.
    #[must_use]
    pub fn default_terms(&self) -> Terms {
        default_terms(&self.host, self.failure)
    }

    /// What the kernel watches, each path once.
    #[must_use]
    pub fn roots(&self) -> Vec<Root> {
        let mut roots: BTreeMap<PathBuf, Root> = BTreeMap::new();
        for (bit, class) in self.classes.iter().enumerate() {
            let bit = Classes(1 << bit);
            for glob in &class.globs {
                let root = Root::of(glob, bit);
                roots
                    .entry(root.path.clone())
                    .and_modify(|known| known.join(&root))
                    .or_insert(root);
            }
        }
        roots.into_values().collect()
    }

    /// The classes of a path, by name alone. A path that is not absolute, or has `..` in it, may
    /// be any file and so has every class.
    #[must_use]
    pub fn classes_of_path(&self, path: &str) -> Classes {
        // What the kernel says of a file that was removed while it was open.
        let paths = [Some(path), path.strip_suffix(" (deleted)")];
        paths.into_iter().flatten().fold(Classes(0), |all, path| {
            let Some(names) = PathNames::of(path.as_bytes()) else {
                return self.all_classes();
            };
            let bits = self
                .classes
                .iter()
                .enumerate()
                .fold(0, |bits, (bit, class)| {
                    let hit = class.globs.iter().any(|glob| glob.matches(&names));
                    bits | u64::from(hit) << bit
                });
            Classes(all.0 | bits)
        })
    }

    /// Which of the kernel's glob `candidates` a file really has. A candidate goes only if the
    /// path lies below the class's roots and no pattern means it: a path that another mount or
    /// chroot made says nothing.
    #[must_use]
    pub fn settle_globs(&self, candidates: Classes, path: &str) -> Classes {
        let meant = self.classes_of_path(path);
        let Some(names) = PathNames::of(path.as_bytes()) else {
            return candidates;
        };
        let kept = candidates.iter().filter(|&bit| {
            meant.0 & (1 << bit) != 0
                || self
                    .classes
                    .get(bit)
                    .is_none_or(|class| !class.globs.iter().any(|glob| glob.has_root_above(&names)))
        });
        Classes(kept.fold(0, |bits, bit| bits | 1 << bit))
    }

    /// A bit for each agent there is.
    pub(crate) fn all_agents(&self) -> u64 {
        lowest_bits(self.agents.len())
    }

    pub(crate) fn all_classes(&self) -> Classes {
        Classes(lowest_bits(self.classes.len()))
    }
}

impl Rule {
    #[must_use]
    pub fn applies_to(&self, agent: AgentId) -> bool {
        agent.0 < 64 && self.agents & (1 << agent.0) != 0
    }

    #[must_use]
    pub fn covers_action(&self, action: Action) -> bool {
        self.actions.0 & action.bit() != 0
    }

    /// A bit per agent.
    #[must_use]
    pub fn agent_bits(&self) -> u64 {
        self.agents
    }
}

impl Verdict {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask(_) => "ask",
        }
    }
}

impl Root {
    fn of(glob: &Glob, class: Classes) -> Self {
        let split = glob.split();
        let (classes, glob_classes) = if split.remainder.is_empty() {
            (class, Classes(0))
        } else {
            (Classes(0), class)
        };
        Self {
            path: split.root,
            classes,
            glob_classes,
            suffix: split.suffix,
        }
    }

    /// Adds what `other` says of the same folder; also for two paths that turn out to be one.
    pub fn join(&mut self, other: &Self) {
        match (self.glob_classes.0 != 0, other.glob_classes.0 != 0) {
            (false, true) => self.suffix.clone_from(&other.suffix),
            (true, true) if self.suffix != other.suffix => self.suffix.clear(),
            _ => {}
        }
        self.classes.0 |= other.classes.0;
        self.glob_classes.0 |= other.glob_classes.0;
    }

    /// As the kernel reads it: the suffix stands at the end of 16 bytes.
    #[must_use]
    pub fn to_abi(&self) -> syshold_abi::Root {
        let (mut tail, mut mask) = ([0; SUFFIX_LEN], [0; SUFFIX_LEN]);
        let end = tail.iter_mut().zip(&mut mask).rev();
        for ((byte, bits), wanted) in end.zip(self.suffix.iter().rev()) {
            (*byte, *bits) = (*wanted, u8::MAX);
        }
        syshold_abi::Root {
            classes: self.classes.0,
            glob_classes: self.glob_classes.0,
            suffix: words(tail),
            mask: words(mask),
            min_len: self.suffix.len().min(SUFFIX_LEN) as u64,
        }
    }
}

/// Sixteen bytes as two little-endian words.
fn words(bytes: [u8; SUFFIX_LEN]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}

fn default_terms(host: &Host, failure: Failure) -> Terms {
    Terms {
        approvers: None,
        scopes: vec![Scope::Once, Scope::Process],
        quorum: 1,
        hold: host.hold,
        on_timeout: failure.on_timeout,
        on_unreachable: failure.on_unreachable,
    }
}

/// The lowest `count` bits.
fn lowest_bits(count: usize) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
