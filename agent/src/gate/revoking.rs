//! Approvals that people took back.
//!
//! Nothing is released for it, and nothing waits less for it: it ends what an approval goes on
//! granting, and denies what was approved and is not let go yet. What is let go stays let go.
use syshold_protocol::ids::{DecisionId, RequestId};

use super::Gate;
use super::pending::State;
use super::ruling::Basis;
use super::types::{Action, By, Cause, Decision, Verdict};
use crate::request::HoldId;

impl Gate {
    /// From here on nothing is released on the strength of that decision. The leaf of a hold may
    /// be on its way to the ledger, and say that it was approved: that is true, and another
    /// follows ([`Self::record_revoked`]). An order is not the gateway's to take back.
    pub(super) fn revoked(&mut self, decision: DecisionId, request: RequestId) {
        self.requests.revoke(decision, request);
        self.grants.revoke(decision, &mut self.timers);
        self.recent.revoke(decision);
        for held in self.pending.iter_mut() {
            if let State::Recording {
                verdict: verdict @ Verdict::Allow,
                basis: Some(basis),
                revoked,
                ..
            } = &mut held.state
                && basis.is_of(decision)
            {
                *verdict = Verdict::Deny;
                *revoked = true;
            }
        }
    }

    /// The first leaf of a hold whose approval was taken back meanwhile is committed: now the one
    /// that it is denied by. False: no such hold.
    pub(super) fn record_revoked(&mut self, id: HoldId) -> bool {
        let Some(held) = self.pending.find_mut(id) else {
            return false;
        };
        let request = held.request();
        let State::Recording { revoked, .. } = &mut held.state else {
            return false;
        };
        if !std::mem::take(revoked) {
            return false;
        }
        self.out.push(Action::Record {
            hold: id,
            decision: Decision {
                verdict: Verdict::Deny,
                by: By::Withdrawn,
                cause: Cause::Revoked,
                reason: held.reason.clone(),
                request,
                granted: None,
                approval: None,
            },
        });
        true
    }

    /// An approval that was taken back before it came. Its question is closed at the gateway, so
    /// whoever waited for it is asked about anew.
    pub(super) fn refuse_revoked(&mut self, request: RequestId) {
        self.counts.refused += 1;
        let waited = self.close(request);
        self.ask_again(waited);
    }
}

impl Basis {
    /// Whether people gave it by that decision.
    fn is_of(&self, decision: DecisionId) -> bool {
        self.request.is_some() && self.approval.decision_id == decision
    }
}
