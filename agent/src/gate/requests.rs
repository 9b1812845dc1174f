//! The questions that are with people, and the holds that joined each.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::key::Key;
use super::timers::TimerId;
use super::types::{Answer, Process};
use crate::request::HoldId;
use syshold_protocol::ids::{DecisionId, RequestId};

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) key: Arc<Key>,
    pub(super) phase: Phase,
    /// Holds that wait for the answer, in the order they joined.
    pub(super) joined: BTreeMap<u64, HoldId>,
    /// The hold people are shown.
    pub(super) shown: Shown,
    /// An approval of it was taken back: none counts any more, in whatever order they come.
    pub(super) revoked: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) hold: HoldId,
    /// None: it has ended, or runs another program than the one people were shown.
    pub(super) process: Option<Process>,
    pub(super) session: Option<Process>,
    /// How many waited when it was asked.
    pub(super) waiting: u32,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The request leaf is being committed. An answer can overtake the news that it is.
    Asking {
        early: Option<Answer>,
    },
    Open,
    /// Every hold expired; a late approval is still of use.
    Late(TimerId),
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    by_id: HashMap<RequestId, Asked>,
    /// Where the next identical hold joins.
    joinable: HashMap<Arc<Key>, RequestId>,
    /// Requests that show a process, or something in its session.
    showing: HashMap<Process, HashSet<RequestId>>,
    late: usize,
    next_place: u64,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn late(&self) -> usize {
        self.late
    }

    pub(super) fn find(&self, id: RequestId) -> Option<&Asked> {
        self.by_id.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: RequestId) -> Option<&mut Asked> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn joinable(&self, key: &Arc<Key>) -> Option<RequestId> {
        self.joinable.get(key).copied()
    }

    /// Joins the request that asks the same, unless it is full.
    pub(super) fn join(
        &mut self,
        key: &Arc<Key>,
        hold: HoldId,
        most: usize,
    ) -> Option<(RequestId, u64)> {
        let id = *self.joinable.get(key)?;
        let asked = self.by_id.get_mut(&id)?;
        if asked.joined.len() >= most {
            return None;
        }
        let place = self.next_place;
        self.next_place += 1;
        asked.joined.insert(place, hold);
        Some((id, place))
    }

    /// A new request with its first hold; identical ones join it from now on.
    pub(super) fn open(&mut self, id: RequestId, key: Arc<Key>, shown: Shown) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.joinable.insert(Arc::clone(&key), id);
        let asked = Asked {
            key,
            phase: Phase::Asking { early: None },
            joined: BTreeMap::from([(place, shown.hold)]),
            shown,
            revoked: false,
        };
        self.by_id.insert(id, asked);
        self.show(id, shown);
        place
    }

    /// What people are shown from now on; nothing they said before counts.
    pub(super) fn show(&mut self, id: RequestId, shown: Shown) {
        let Some(asked) = self.by_id.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut asked.shown, shown);
        asked.phase = Phase::Asking { early: None };
        self.unshow(id, before);
        for process in [shown.process, shown.session].into_iter().flatten() {
            self.showing.entry(process).or_default().insert(id);
        }
    }

    /// A process is gone: a grant to it, or to the session it was the root of, is void.
    pub(super) fn end(&mut self, process: Process) {
        for id in self.showing.remove(&process).into_iter().flatten() {
            if let Some(Asked { shown, .. }) = self.by_id.get_mut(&id) {
                shown.process = shown.process.filter(|shown| *shown != process);
                shown.session = shown.session.filter(|shown| *shown != process);
            }
        }
    }

    /// No approval of that request counts any more, nor that decision, should it wait for the
    /// request's leaf.
    pub(super) fn revoke(&mut self, decision: DecisionId, request: RequestId) {
        for (id, asked) in &mut self.by_id {
            let waits = match &asked.phase {
                Phase::Asking { early: Some(early) } => early.approval.decision_id == decision,
                _ => false,
            };
            asked.revoked |= waits || *id == request;
        }
    }

    /// The request when nobody is left in it.
    pub(super) fn leave(&mut self, id: RequestId, place: u64) -> Option<&mut Asked> {
        let asked = self.by_id.get_mut(&id)?;
        asked.joined.remove(&place)?;
        asked.joined.is_empty().then_some(asked)
    }

    /// Nothing joins it any more; only a late approval is awaited.
    pub(super) fn keep_for_late(&mut self, id: RequestId, timer: TimerId) {
        self.close_door(id);
        if let Some(asked) = self.by_id.get_mut(&id) {
            asked.phase = Phase::Late(timer);
            self.late += 1;
        }
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Asked> {
        self.close_door(id);
        let asked = self.by_id.remove(&id)?;
        self.late -= usize::from(matches!(asked.phase, Phase::Late(_)));
        self.unshow(id, asked.shown);
        Some(asked)
    }

    pub(super) fn all_late(&self) -> Vec<RequestId> {
        let late = |(id, asked): (&RequestId, &Asked)| {
            matches!(asked.phase, Phase::Late(_)).then_some(*id)
        };
        self.by_id.iter().filter_map(late).collect()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Asked> {
        self.by_id.values()
    }

    #[cfg(test)]
    pub(super) fn showing(&self) -> usize {
        self.showing.values().map(HashSet::len).sum()
    }

    fn unshow(&mut self, id: RequestId, shown: Shown) {
        for process in [shown.process, shown.session].into_iter().flatten() {
            if let Some(ids) = self.showing.get_mut(&process) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.showing.remove(&process);
                }
            }
        }
    }

    fn close_door(&mut self, id: RequestId) {
        if let Some(asked) = self.by_id.get(&id)
            && self.joinable.get(&asked.key) == Some(&id)
        {
            self.joinable.remove(&asked.key);
        }
    }
}
