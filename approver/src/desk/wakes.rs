//! Who waits for a request, and pages that are open: both look again when something changed, here or
//! at another gateway.
use std::sync::{Arc, PoisonError, Weak};

use syshold_protocol::{HostId, RequestId};
use tokio::sync::{Notify, watch};

use super::Desk;
use crate::store::Change;

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Request(RequestId),
    /// What is taken back of that host's approvals.
    Revocations(HostId),
}

impl Desk {
    /// Wakes when something about the request has changed. Take it before looking.
    pub fn watch(&self, id: RequestId) -> Arc<Notify> {
        self.watch_topic(Topic::Request(id))
    }

    /// Wakes when an approval of that host was taken back. Take it before looking.
    pub fn watch_host(&self, host: HostId) -> Arc<Notify> {
        self.watch_topic(Topic::Revocations(host))
    }

    fn watch_topic(&self, topic: Topic) -> Arc<Notify> {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = wakes.get(&topic).and_then(Weak::upgrade) {
            return wake;
        }
        if wakes.len() >= 256 && wakes.len().is_power_of_two() {
            wakes.retain(|_, wake| wake.strong_count() > 0);
        }
        let wake = Arc::new(Notify::new());
        wakes.insert(topic, Arc::downgrade(&wake));
        wake
    }

    /// Another replica changed something.
    pub fn heard(&self, change: Change) {
        self.touch();
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let woken: Vec<_> = match change {
            Change::Of(id) => wakes.remove(&Topic::Request(id)).into_iter().collect(),
            Change::Revoked(host) => wakes
                .remove(&Topic::Revocations(host))
                .into_iter()
                .collect(),
            Change::Any => wakes.drain().map(|(_, wake)| wake).collect(),
        };
        for wake in woken.iter().filter_map(Weak::upgrade) {
            wake.notify_waiters();
        }
    }

    /// Changes whenever anything does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Open pages look again.
    pub(super) fn touch(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn wake(&self, id: RequestId) {
        self.changes.add(id);
        self.touch();
        self.wake_topic(&Topic::Request(id));
    }

    pub(super) fn wake_host(&self, host: HostId) {
        self.wake_topic(&Topic::Revocations(host));
    }

    fn wake_topic(&self, topic: &Topic) {
        let wake = self
            .wakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(topic);
        if let Some(wake) = wake.and_then(|wake| wake.upgrade()) {
            wake.notify_waiters();
        }
    }
}
