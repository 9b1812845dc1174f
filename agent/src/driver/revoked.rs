//! Approvals that people took back: checked, queued for the ledger, carried out, in this order and
//! in one go. Its leaf stands before every leaf that follows from it; a ledger that cannot take it
//! keeps no grant alive.
use std::collections::{HashSet, VecDeque};

use syshold_ledger::{Draft, Kind};
use syshold_protocol::display::escape;
use syshold_protocol::ids::{DecisionId, RequestId};
use syshold_protocol::revocation::{self, Refusal, Revocation, Terms};

use super::{Driver, compose};
use crate::approver::Heard;
use crate::gate;

/// Decision ids that are remembered. A decision is bound to an outstanding request, too.
const REMEMBERED: usize = 65_536;

/// Decision ids, the newest of them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    ids: HashSet<DecisionId>,
    order: VecDeque<DecisionId>,
}

impl Remembered {
    pub(super) fn contains(&self, id: &DecisionId) -> bool {
        self.ids.contains(id)
    }

    /// False: it was there.
    pub(super) fn insert(&mut self, id: DecisionId) -> bool {
        let new = self.ids.insert(id);
        if new {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        new
    }
}

impl FromIterator<DecisionId> for Remembered {
    fn from_iter<T: IntoIterator<Item = DecisionId>>(ids: T) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.insert(id);
        }
        all
    }
}

impl Driver {
    /// Whatever the gateway sent counts only if this host finds every check in order.
    pub(super) fn revocations(&mut self, since: u64, envelope: &[u8]) {
        let Some(approver) = &self.approver else {
            return;
        };
        let gateway = approver.gateway();
        let terms = Terms {
            host_id: &gateway.host_id,
            keys: &gateway.gateway_keys,
            since,
        };
        let word = match revocation::accept(envelope, &terms) {
            Ok(accepted) => {
                self.revocations_refused = false;
                for entry in &accepted.entries {
                    self.revoke(entry, envelope);
                }
                Heard::Since(accepted.since)
            }
            Err(refusal) => {
                self.refuse_revocations(&refusal);
                let forgot = matches!(refusal, Refusal::Shrunk { .. });
                Heard::Refused(if forgot { 0 } else { since })
            }
        };
        if let Some(approver) = &self.approver {
            approver.heard(word);
        }
    }

    /// Said and recorded once, until a list counts again.
    fn refuse_revocations(&mut self, refusal: &Refusal) {
        if std::mem::replace(&mut self.revocations_refused, true) {
            return;
        }
        tracing::error!(%refusal, "what the gateway says is taken back does not count: asked again");
        let cause = format!("revocations refused: {refusal}");
        self.record_aside(Draft::new(Kind::Degraded).field("revocations", &cause));
    }

    fn revoke(&mut self, entry: &Revocation, envelope: &[u8]) {
        let (decision, request) = (entry.decision_id, entry.request_id);
        if !self.revoked.insert(decision) {
            return;
        }
        let grants: Vec<_> = self
            .gate
            .grants()
            .filter(|grant| grant.decision == decision)
            .collect();
        // What an earlier daemon was given ended with it: nothing is left to take back.
        let known = !grants.is_empty()
            || self.used.contains(&decision)
            || self.gate.waiting(request).is_some();
        if !known {
            tracing::debug!(%decision, "an approval of before this start was taken back");
            return;
        }
        let leaf = compose::revoked_leaf(entry, grants.iter(), envelope);
        let reason = escape(entry.by.reason.as_deref().unwrap_or_default());
        tracing::warn!(
            %decision,
            %request,
            reason,
            grants = grants.len(),
            "an approval was taken back by {}: {reason}",
            escape(entry.by.subject.as_str()),
        );
        self.record_aside(leaf);
        self.gate_step(gate::Input::Revoked { decision, request });
    }

    /// An approval that was taken back before it came here, perhaps under the name of another
    /// request: the gate is told which one it is.
    pub(super) fn refuse_revoked(&mut self, request: RequestId, decision: DecisionId) {
        tracing::error!(%request, %decision, "an approval was taken back before it came: asked again");
        let cause = format!("approval {decision} was taken back before it came");
        self.record_aside(compose::refusal_leaf(request, &cause));
        self.gate_step(gate::Input::Revoked { decision, request });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_newest_are_remembered_and_memory_is_bounded() {
        let id = |n: usize| DecisionId(Uuid::from_u128(n as u128));
        let mut remembered = Remembered::default();
        assert!(remembered.insert(id(0)));
        assert!(!remembered.insert(id(0)), "it was there");
        for n in 1..=REMEMBERED {
            assert!(remembered.insert(id(n)));
        }
        assert!(!remembered.contains(&id(0)), "the oldest is forgotten");
        assert!(remembered.contains(&id(1)) && remembered.contains(&id(REMEMBERED)));
        let sizes = (remembered.ids.len(), remembered.order.len());
        assert_eq!(sizes, (REMEMBERED, REMEMBERED));
    }
}
