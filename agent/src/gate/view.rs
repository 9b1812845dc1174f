//! What `status` and `holds` show of the gate; nothing here changes it.
use super::key::Place;
use super::pending::State;
use super::{Gate, Hold, Now, Subject, Verdict};
use crate::request::HoldId;
use crate::rules::Reason;
use syshold_protocol::ids::{DecisionId, RequestId};

/// A pending hold.
#[derive(Clone, Copy, Debug)]
pub struct HoldView<'a> {
    pub hold: &'a Hold,
    pub reason: &'a Reason,
    pub request: Option<RequestId>,
    /// When it expires, while it waits.
    pub until: Option<Now>,
    /// What was decided, while that is being recorded.
    pub decided: Option<Verdict>,
}

/// A grant that has uses left.
#[derive(Clone, Copy, Debug)]
pub struct GrantView<'a> {
    pub subject: Subject,
    pub rule: &'a str,
    pub object: &'a Place,
    pub request: Option<RequestId>,
    /// The approval that it comes from.
    pub decision: DecisionId,
    pub uses_left: Option<u32>,
    pub ends: Now,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Holds that are not released.
    pub pending: usize,
    /// Those of them that people are asked about.
    pub waiting: usize,
    pub requests: usize,
    pub grants: usize,
    /// Answers that were not accepted, since the start.
    pub refused: u64,
    /// Holds put off to a later sweep because too many were pending.
    pub put_off: u64,
    /// Approvals not kept because there were too many.
    pub grants_dropped: u64,
}

impl Gate {
    /// A hold that is not released.
    #[must_use]
    pub fn hold(&self, id: HoldId) -> Option<&Hold> {
        self.pending.find(id).map(|held| &held.hold)
    }

    /// How many holds wait for this request's answer now.
    #[must_use]
    pub fn waiting(&self, request: RequestId) -> Option<usize> {
        self.requests.find(request).map(|asked| asked.joined.len())
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            pending: self.pending.len(),
            waiting: self.pending.waiting(),
            requests: self.requests.len(),
            grants: self.grants.len(),
            ..self.counts
        }
    }

    pub fn holds(&self) -> impl Iterator<Item = HoldView<'_>> {
        self.pending.iter().map(|held| {
            let (until, decided) = match &held.state {
                State::Waiting(waiting) => (Some(waiting.until), None),
                State::Recording { verdict, .. } => (None, Some(*verdict)),
            };
            HoldView {
                hold: &held.hold,
                reason: &held.reason,
                request: held.request(),
                until,
                decided,
            }
        })
    }

    pub fn grants(&self) -> impl Iterator<Item = GrantView<'_>> {
        self.grants.iter().map(|(subject, key, grant)| GrantView {
            subject,
            rule: &key.rule,
            object: &key.object,
            request: grant.basis.request,
            decision: grant.basis.approval.decision_id,
            uses_left: grant.left,
            ends: grant.ends,
        })
    }
}
