//! What process trees have read, for those who are asked afterwards: which file, when, and who had
//! allowed it. The kernel decides by a process's marks alone; this only explains them. Bounded,
//! and forgotten with the last process of a tree.
use std::collections::{HashMap, HashSet};

use syshold_protocol::ids::{RequestId, Subject, UnixMs};
use syshold_protocol::request::{MAX_READS, Reading};

use crate::request::Classes;

/// Readings kept of one tree; beyond it those in the middle go.
const MOST: usize = 64;
/// Trees kept; then no more are added, and requests say so by naming classes without readings.
const MOST_TREES: usize = 8192;
/// Longest text shown of a path, in characters.
const LONGEST: usize = 300;

/// A tree of governed processes: its agent's name, and the process it began with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tree {
    pub(super) agent: String,
    pub(super) root: u32,
}

/// One read that went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) classes: Classes,
    pub(super) what: String,
    pub(super) pid: u32,
    pub(super) program: String,
    pub(super) at: UnixMs,
    /// The rule that allowed it or had it asked; None: one in the kernel, which is not told.
    pub(super) rule: Option<String>,
    pub(super) request: Option<RequestId>,
    pub(super) approved_by: Vec<Subject>,
}

#[derive(Debug, Default)]
struct List {
    reads: Vec<Read>,
    dropped: u32,
}

#[derive(Debug, Default)]
pub(super) struct Readings(HashMap<Tree, List>);

impl Readings {
    pub(super) fn remember(&mut self, tree: Tree, mut read: Read) {
        read.what = shortened(&read.what);
        if self.0.len() >= MOST_TREES && !self.0.contains_key(&tree) {
            return;
        }
        let list = self.0.entry(tree).or_default();
        // The same file by the same process under the same approval says nothing new.
        let same = |old: &Read| {
            Read {
                at: read.at,
                ..old.clone()
            } == read
        };
        if list.reads.iter().any(same) {
            return;
        }
        list.reads.push(read);
        if list.reads.len() > MOST {
            // The first ones say where it began, the last ones what is fresh.
            list.reads.remove(MOST / 2);
            list.dropped += 1;
        }
    }

    /// What the tree, or its whole agent, has read of `classes`: the oldest and the newest of it, in
    /// the order of time; and how many more there were.
    pub(super) fn of(&self, tree: &Tree, whole_agent: bool, classes: Classes) -> (Vec<&Read>, u32) {
        let lists = self
            .0
            .iter()
            .filter(|(other, _)| *other == tree || whole_agent && other.agent == tree.agent);
        let (mut reads, mut more) = (Vec::new(), 0_u32);
        for (_, list) in lists {
            reads.extend(
                list.reads
                    .iter()
                    .filter(|read| read.classes.0 & classes.0 != 0),
            );
            more = more.saturating_add(list.dropped);
        }
        reads.sort_by_key(|read| read.at);
        while reads.len() > MAX_READS {
            reads.remove(MAX_READS / 2);
            more = more.saturating_add(1);
        }
        (reads, more)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets trees without a process. An agent that shares what it has read never forgets it, so
    /// its readings stay as long as there are few.
    pub(super) fn keep(&mut self, alive: &HashSet<u32>, shares: impl Fn(&str) -> bool) {
        let most = MOST_TREES / 2;
        let many = self.0.len() > most;
        self.0
            .retain(|tree, _| alive.contains(&tree.root) || !many && shares(&tree.agent));
    }
}

impl Read {
    /// As requests carry it; `names` are those of its classes.
    pub(super) fn reading(&self, names: Vec<String>) -> Reading {
        Reading {
            what: self.what.clone(),
            classes: names,
            pid: self.pid,
            program: self.program.clone(),
            at: self.at,
            rule: self.rule.clone(),
            request_id: self.request,
            approved_by: self.approved_by.clone(),
        }
    }
}

/// A path keeps its beginning and its end.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= LONGEST {
        return text.to_owned();
    }
    let head = text.chars().take(LONGEST / 2);
    let tail = text.chars().skip(count - LONGEST / 2);
    head.chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(at: u64, class: u64) -> Read {
        Read {
            classes: Classes(class),
            what: format!("/srv/{at}"),
            pid: 7,
            program: "cat".to_owned(),
            at: UnixMs::new(at),
            rule: None,
            request: None,
            approved_by: Vec::new(),
        }
    }

    fn tree(agent: &str, root: u32) -> Tree {
        Tree {
            agent: agent.to_owned(),
            root,
        }
    }

    fn told(
        readings: &Readings,
        tree: &Tree,
        whole_agent: bool,
        classes: u64,
    ) -> (Vec<String>, u32) {
        let (reads, more) = readings.of(tree, whole_agent, Classes(classes));
        (reads.iter().map(|read| read.what.clone()).collect(), more)
    }

    #[test]
    fn a_tree_is_told_what_it_has_read_and_no_other_tree_is() {
        let mut readings = Readings::default();
        readings.remember(tree("a", 1), read(3, 1));
        readings.remember(tree("a", 1), read(2, 2));
        readings.remember(tree("a", 2), read(1, 1));
        readings.remember(tree("b", 1), read(4, 1));
        // The same again, later, is nothing new.
        let again = Read {
            at: UnixMs::new(9),
            ..read(3, 1)
        };
        readings.remember(tree("a", 1), again);
        let paths = |list: &[&str]| {
            list.iter()
                .map(|path| (*path).to_owned())
                .collect::<Vec<_>>()
        };
        let one = tree("a", 1);
        assert_eq!(
            told(&readings, &one, false, 3),
            (paths(&["/srv/2", "/srv/3"]), 0)
        );
        assert_eq!(told(&readings, &one, false, 2), (paths(&["/srv/2"]), 0));
        let all = paths(&["/srv/1", "/srv/2", "/srv/3"]);
        assert_eq!(told(&readings, &one, true, 3), (all, 0));
        assert_eq!(told(&readings, &tree("a", 9), false, 3), (vec![], 0));
    }

    #[test]
    fn a_tree_is_forgotten_with_its_last_process() {
        let mut readings = Readings::default();
        readings.remember(tree("a", 1), read(1, 1));
        readings.remember(tree("a", 2), read(2, 1));
        readings.remember(tree("shares", 3), read(3, 1));
        readings.keep(&HashSet::from([2]), |agent| agent == "shares");
        assert!(told(&readings, &tree("a", 1), false, 1).0.is_empty());
        assert_eq!(told(&readings, &tree("a", 2), false, 1).0.len(), 1);
        assert_eq!(told(&readings, &tree("shares", 3), false, 1).0.len(), 1);
        readings.keep(&HashSet::new(), |_| false);
        assert!(readings.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_says_what_is_left_out() {
        let mut readings = Readings::default();
        for at in 0..1000 {
            readings.remember(tree("a", 1), read(at, 1));
        }
        let (paths, more) = told(&readings, &tree("a", 1), false, 1);
        assert_eq!((paths.len(), more as usize), (MAX_READS, 1000 - MAX_READS));
        assert_eq!(
            (paths[0].as_str(), paths[MAX_READS - 1].as_str()),
            ("/srv/0", "/srv/999")
        );
        for root in 0..20_000 {
            readings.remember(tree("a", root), read(1, 1));
        }
        assert_eq!(readings.0.len(), MOST_TREES);
        let long = Read {
            what: "ü".repeat(5000),
            ..read(1, 1)
        };
        readings.remember(tree("a", 1), long);
        let longest = readings
            .0
            .values()
            .flat_map(|list| &list.reads)
            .map(|read| read.what.chars().count());
        assert_eq!(longest.max(), Some(LONGEST + 1));
    }
}
