//! Why a hold stops waiting, and the decision leaf that says so.
use std::sync::Arc;

use syshold_protocol::ids::RequestId;

use super::types::{Action, Approval, By, Cause, Decision, Granted, Verdict};
use crate::request::HoldId;
use crate::rules::{Fallback, Reason};

/// The approval behind a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    /// None: nobody was asked; it was ordered.
    pub(super) request: Option<RequestId>,
    pub(super) granted: Option<Granted>,
    pub(super) approval: Arc<Approval>,
}

/// Why a hold stops waiting.
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) by: By,
    pub(super) cause: Cause,
    pub(super) basis: Option<Basis>,
}

impl Ruling {
    pub(super) fn policy(verdict: Verdict) -> Self {
        Self {
            verdict,
            by: By::Policy,
            cause: Cause::Rule,
            basis: None,
        }
    }

    pub(super) fn approved(basis: Basis) -> Self {
        Self {
            verdict: Verdict::Allow,
            by: By::Human,
            cause: Cause::Approved,
            basis: Some(basis),
        }
    }

    pub(super) fn grant(basis: Basis, cause: Cause) -> Self {
        Self {
            verdict: Verdict::Allow,
            by: By::Grant,
            cause,
            basis: Some(basis),
        }
    }

    pub(super) fn fallback(fallback: Fallback, by: By, cause: Cause) -> Self {
        let verdict = match fallback {
            Fallback::Allow => Verdict::Allow,
            Fallback::Deny => Verdict::Deny,
        };
        Self {
            verdict,
            by,
            cause,
            basis: None,
        }
    }

    pub(super) fn error(cause: Cause) -> Self {
        Self {
            verdict: Verdict::Deny,
            by: By::Error,
            cause,
            basis: None,
        }
    }

    pub(super) fn record(&self, hold: HoldId, reason: Reason) -> Action {
        let basis = self.basis.as_ref();
        Action::Record {
            hold,
            decision: Decision {
                verdict: self.verdict,
                by: self.by,
                cause: self.cause,
                reason,
                request: basis.and_then(|basis| basis.request),
                granted: basis.and_then(|basis| basis.granted),
                approval: basis.map(|basis| Arc::clone(&basis.approval)),
            },
        }
    }
}
