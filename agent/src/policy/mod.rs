//! The policy file: parsed into types that cannot be wrong.
//!
//! `load` reads the file, `raw` takes its keys and texts, `build` makes the [`Policy`] of them
//! (with `govern`, `approver`, `break_glass`, `exceptions`, `built_in`, `rule`, `run`, `text`), `lint` warns; `compile` makes
//! the kernel's copy, `places` keeps bits where they were on a reload. What a policy answers is in
//! `rules`.
mod approver;
mod break_glass;
mod build;
mod built_in;
mod class;
mod compile;
mod error;
mod exceptions;
mod glob;
mod govern;
mod lint;
mod load;
mod places;
mod raw;
mod rule;
mod run;
mod selftest;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syshold_protocol::decision::{Assurance, Scope};
use syshold_protocol::ids::{Digest, Subject};
use syshold_protocol::{Pin, PublicKey};

pub use self::class::{Class, Home, Kind, Root};
pub(crate) use self::compile::DNS_PORT;
pub use self::compile::{KernelTables, compile};
pub use self::error::{PolicyError, Problem, Problems, Severity};
pub use self::exceptions::{Exceptions, Socket};
pub use self::glob::{Glob, GlobError, Names as PathNames, Split};
pub use self::load::{load, parse};
pub use self::run::{Run, Words};
pub use self::selftest::{SELFTEST, SelftestError};
pub use self::target::{Cidr, Ports, Target, TargetError};
use crate::names::HostName;
use crate::request::{Action, Actions, AgentId, Classes};
use crate::rules::{Fallback, Terms};

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
    passkeys: Vec<(Subject, Pin)>,
    break_glass: Vec<(Subject, PublicKey)>,
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
    /// What one of its processes has read, all of them have.
    pub shared_taint: bool,
    pub exceptions: Exceptions,
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

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// Its line in the file, for people.
    pub line: usize,
    agents: u64,
    pub actions: Actions,
    /// None: anywhere. For listen the process's own address.
    pub to: Option<Vec<Target>>,
    /// Which protected files; all of them unless the rule says which.
    pub data: Classes,
    /// Only for processes that have read one of these; none: for all.
    pub after: Classes,
    /// Which programs, with what arguments; for exec only.
    pub run: Option<Run>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    Ask(Terms),
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

    /// `[[protect]]`, built-in sets and programs of rules, see [`Class::bit`].
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    #[must_use]
    pub fn class(&self, bit: usize) -> Option<&Class> {
        self.classes.iter().find(|class| class.bit as usize == bit)
    }

    /// Of protected data; programs have none that would say more than their paths.
    pub fn class_names(&self, classes: Classes) -> impl Iterator<Item = &str> {
        classes
            .iter()
            .filter_map(|bit| self.class(bit))
            .filter(|class| class.kind != Kind::Programs)
            .map(|class| class.name.as_str())
    }

    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// `[[approver]]`: whose keys this host believes, each key with its person.
    #[must_use]
    pub fn passkeys(&self) -> &[(Subject, Pin)] {
        &self.passkeys
    }

    /// `[[break_glass]]`: whose offline keys sign orders; empty: there are none.
    #[must_use]
    pub fn break_glass(&self) -> &[(Subject, PublicKey)] {
        &self.break_glass
    }

    /// The groups that rules ask about that agent, or those of `named` do; each once. What the
    /// gateway asks when none is named is not among them.
    #[must_use]
    pub fn groups_asked(&self, agent: AgentId, named: &[String]) -> Vec<String> {
        let mut groups: Vec<String> = self
            .rules
            .iter()
            .filter(|rule| rule.agent_bits() & 1 << agent.0 != 0)
            .filter(|rule| named.is_empty() || named.contains(&rule.name))
            .filter_map(|rule| match &rule.verdict {
                Verdict::Ask(terms) => terms.approvers.clone(),
                Verdict::Allow | Verdict::Deny => None,
            })
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
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

    /// What the kernel watches, each path once. `homes` are the home folders of this host.
    #[must_use]
    pub fn roots(&self, homes: &[PathBuf]) -> Vec<Root> {
        let mut roots: BTreeMap<PathBuf, Root> = BTreeMap::new();
        for root in self.classes.iter().flat_map(|class| class.roots(homes)) {
            roots
                .entry(root.path.clone())
                .and_modify(|known| known.join(&root))
                .or_insert(root);
        }
        roots.into_values().collect()
    }

    /// Whether a path that is not there is worth a word: what is built in names more than any host
    /// has.
    #[must_use]
    pub fn expects(&self, root: &Path) -> bool {
        self.classes
            .iter()
            .filter(|class| !class.built_in)
            .any(|class| class.globs.iter().any(|glob| glob.split().root == root))
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
            let hits = self.classes.iter().filter(|class| class.means(&names));
            Classes(hits.fold(all.0, |bits, class| bits | class.bits().0))
        })
    }

    /// Which of the kernel's glob `candidates` a file really has; a path that ends in a slash is a
    /// folder that moves with all it holds. A candidate goes only if the
    /// path lies below the class's roots and no pattern means it: a path that another mount or
    /// chroot made says nothing.
    #[must_use]
    pub fn settle_globs(&self, candidates: Classes, path: &str) -> Classes {
        let meant = self.classes_of_path(path);
        let Some(names) = PathNames::of(path.as_bytes()) else {
            return candidates;
        };
        let below = |bit: usize| {
            let globs = self.class(bit).map(|class| &class.globs);
            globs.is_some_and(|globs| globs.iter().any(|glob| glob.may_match_below(&names)))
        };
        let kept = candidates.iter().filter(|&bit| {
            meant.0 & (1 << bit) != 0
                || path.ends_with('/') && below(bit)
                || self
                    .class(bit)
                    .is_none_or(|class| !class.globs.iter().any(|glob| glob.has_root_above(&names)))
        });
        Classes(kept.fold(0, |bits, bit| bits | 1 << bit))
    }

    /// A bit for each agent there is.
    pub(crate) fn all_agents(&self) -> u64 {
        lowest_bits(self.agents.len())
    }

    pub(crate) fn all_classes(&self) -> Classes {
        self.classes_of(|_| true)
    }

    pub(crate) fn classes_of(&self, which: impl Fn(&Class) -> bool) -> Classes {
        let classes = self.classes.iter().filter(|class| which(class));
        Classes(classes.fold(0, |bits, class| bits | class.bits().0))
    }

    /// Classes that are remembered once they were read. Every program reads some configuration: that
    /// counts only where a rule asks for it.
    #[must_use]
    pub fn taints(&self) -> Classes {
        Classes(self.asked_after().0 | self.classes_of(|class| class.kind == Kind::Data).0)
    }

    /// Classes that some rule names in `after`.
    #[must_use]
    pub fn asked_after(&self) -> Classes {
        Classes(self.rules.iter().fold(0, |bits, rule| bits | rule.after.0))
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

fn default_terms(host: &Host, failure: Failure) -> Terms {
    Terms {
        approvers: None,
        scopes: vec![Scope::Once, Scope::Process],
        quorum: 1,
        assurance: Assurance::Chat,
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
