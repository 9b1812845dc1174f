//! Deadlines in order. Cancelling and finding the next one cost O(log n).
use std::collections::BTreeMap;
use std::sync::Arc;

use super::grants::Subject;
use super::key::Key;
use super::types::Now;
use crate::request::HoldId;
use syshold_protocol::ids::RequestId;

/// A timer that is set: when, and which of those at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerId(Now, u64);

#[derive(Debug)]
pub(super) enum Timer {
    /// Nobody decided about this hold in time.
    Hold(HoldId),
    /// Too late for a late approval, too.
    Late(RequestId),
    Grant(Subject, Arc<Key>),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerId, Timer>,
    next: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Now, timer: Timer) -> TimerId {
        let id = TimerId(at, self.next);
        self.next += 1;
        self.set.insert(id, timer);
        id
    }

    pub(super) fn cancel(&mut self, id: TimerId) {
        self.set.remove(&id);
    }

    pub(super) fn next(&self) -> Option<Now> {
        self.set.first_key_value().map(|(id, _)| id.0)
    }

    pub(super) fn pop_due(&mut self, now: Now) -> Option<Timer> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.set.len()
    }
}
