//! The holds that nothing has been released for yet, and those that have.
//!
//! [`Pending::take`] is the only maker of a [`ReleaseRight`], and it removes the hold: a hold
//! is released once or never.
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::key::Key;
use super::ruling::Basis;
use super::timers::TimerId;
use super::types::{Hold, Now, Verdict};
use crate::request::HoldId;
use crate::rules::{Reason, Terms};
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::RequestId;

/// The right to publish a verdict for one hold. Neither copied nor made anywhere else.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct ReleaseRight(HoldId);

impl ReleaseRight {
    #[must_use]
    pub const fn id(&self) -> HoldId {
        self.0
    }
}

/// A hold and how far it is.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) hold: Hold,
    pub(super) reason: Reason,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// People are asked.
    Waiting(Waiting),
    /// Decided; the decision leaf is being committed.
    Recording {
        verdict: Verdict,
        basis: Option<Basis>,
        key: Option<Arc<Key>>,
        /// The approval was taken back while its leaf was being committed: one that denies has to
        /// follow.
        revoked: bool,
    },
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) key: Arc<Key>,
    pub(super) terms: Terms,
    pub(super) request: RequestId,
    /// Its place among the holds that joined the request.
    pub(super) place: u64,
    pub(super) until: Now,
    pub(super) timer: TimerId,
}

impl Held {
    /// The approval of a single use that allows it, if that is why it goes on.
    pub(super) fn single_use(&self) -> Option<(&Arc<Key>, &Basis)> {
        match &self.state {
            State::Recording {
                verdict: Verdict::Allow,
                basis: Some(basis),
                key: Some(key),
                ..
            } if basis
                .granted
                .is_some_and(|granted| granted.lifespan == Lifespan::Single) =>
            {
                Some((key, basis))
            }
            _ => None,
        }
    }

    pub(super) fn request(&self) -> Option<RequestId> {
        match &self.state {
            State::Waiting(waiting) => Some(waiting.request),
            State::Recording { basis, .. } => basis.as_ref().and_then(|basis| basis.request),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    holds: HashMap<HoldId, Held>,
    waiting: usize,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.holds.len()
    }

    /// How many of them people are asked about.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn insert(&mut self, held: Held) {
        if let Entry::Vacant(vacant) = self.holds.entry(held.hold.id) {
            self.waiting += usize::from(matches!(held.state, State::Waiting(_)));
            vacant.insert(held);
        }
    }

    pub(super) fn find(&self, id: HoldId) -> Option<&Held> {
        self.holds.get(&id)
    }

    pub(super) fn find_waiting(&self, id: HoldId) -> Option<&Waiting> {
        match &self.holds.get(&id)?.state {
            State::Waiting(waiting) => Some(waiting),
            State::Recording { .. } => None,
        }
    }

    /// Another request speaks for it now.
    pub(super) fn rejoin(&mut self, id: HoldId, request: RequestId, place: u64) {
        if let Some(Held {
            state: State::Waiting(waiting),
            ..
        }) = self.holds.get_mut(&id)
        {
            waiting.request = request;
            waiting.place = place;
        }
    }

    /// Ends the wait of a hold; None when it does not wait.
    pub(super) fn decide(
        &mut self,
        id: HoldId,
        verdict: Verdict,
        basis: Option<Basis>,
    ) -> Option<(Waiting, &Reason)> {
        let held = self.holds.get_mut(&id)?;
        let State::Waiting(waiting) = &held.state else {
            return None;
        };
        let recording = State::Recording {
            verdict,
            basis,
            key: Some(Arc::clone(&waiting.key)),
            revoked: false,
        };
        self.waiting -= 1;
        match std::mem::replace(&mut held.state, recording) {
            State::Waiting(waiting) => Some((waiting, &held.reason)),
            State::Recording { .. } => None,
        }
    }

    /// Removes a hold: the only way to the right to release it.
    pub(super) fn take(&mut self, id: HoldId) -> Option<(Held, ReleaseRight)> {
        let held = self.holds.remove(&id)?;
        self.waiting -= usize::from(matches!(held.state, State::Waiting(_)));
        Some((held, ReleaseRight(id)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.holds.values()
    }

    pub(super) fn find_mut(&mut self, id: HoldId) -> Option<&mut Held> {
        self.holds.get_mut(&id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.holds.values_mut()
    }
}

/// Released holds whose end the kernel has not told yet, and the last ones it has: a late or
/// repeated event about them starts nothing. Full: the oldest is forgotten.
#[derive(Debug)]
pub(super) struct Settled {
    open: BTreeMap<u64, Released>,
    turn_of: HashMap<HoldId, u64>,
    next_turn: u64,
    told: HashSet<HoldId>,
    told_in_order: VecDeque<HoldId>,
    most: usize,
}

#[derive(Debug)]
pub(super) struct Released {
    pub(super) id: HoldId,
    pub(super) verdict: Verdict,
    pub(super) request: Option<RequestId>,
    pub(super) held_at: Now,
}

impl Settled {
    pub(super) fn new(most: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            turn_of: HashMap::new(),
            next_turn: 0,
            told: HashSet::new(),
            told_in_order: VecDeque::new(),
            most,
        }
    }

    pub(super) fn contains(&self, id: HoldId) -> bool {
        self.turn_of.contains_key(&id) || self.told.contains(&id)
    }

    /// Returns the hold that is forgotten for it without its end being known.
    pub(super) fn insert(&mut self, released: Released) -> Option<Released> {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turn_of.insert(released.id, turn);
        self.open.insert(turn, released);
        if self.open.len() <= self.most {
            return None;
        }
        let (_, oldest) = self.open.pop_first()?;
        self.turn_of.remove(&oldest.id);
        self.tell(oldest.id);
        Some(oldest)
    }

    /// The released hold, the first time its end is told.
    pub(super) fn end(&mut self, id: HoldId) -> Option<Released> {
        let released = self.open.remove(&self.turn_of.remove(&id)?)?;
        self.tell(id);
        Some(released)
    }

    fn tell(&mut self, id: HoldId) {
        if self.told.insert(id) {
            self.told_in_order.push_back(id);
        }
        if self.told_in_order.len() > self.most
            && let Some(oldest) = self.told_in_order.pop_front()
        {
            self.told.remove(&oldest);
        }
    }
}
