//! A request as people see it, and by what right each of them may answer it.
use std::sync::Arc;

use syshold_protocol::{Approver, Decision, Digest, Outcome, UnixMs};

use crate::render::Rendered;
use crate::roster::{self, Roster, Standing};
use crate::store::notices::Notice;
use crate::store::people::Account;
use crate::store::requests::Filed;
use crate::store::revocations::Revoked;

/// A request with all that is known about it, for people.
#[derive(Debug, Clone)]
pub struct Sheet {
    pub filed: Filed,
    pub rendered: Rendered,
    pub rendered_sha256: Digest,
    pub votes: Vec<Approver>,
    pub have: u32,
    pub decision: Option<Decision>,
    pub outcome: Option<Outcome>,
    /// Who took the approval back.
    pub revoked: Option<Revoked>,
    /// Which channels were told.
    pub notices: Vec<Notice>,
    /// Fallback groups that were told, and when.
    pub escalated: Vec<(String, UnixMs)>,
    /// Whom it is with, in words; `None`: anybody.
    pub asked: Option<String>,
    pub(crate) roster: Arc<Roster>,
    pub(super) delegations: Arc<Vec<(Account, String, UnixMs)>>,
    pub(super) at: UnixMs,
}

impl Sheet {
    /// By what right `who` may answer; `None`: by none.
    pub fn standing(&self, who: &Account) -> Option<Standing> {
        let now = roster::Now {
            at: self.at,
            delegations: &self.delegations,
            received_at: self.filed.received_at,
        };
        self.roster.standing(&self.filed.request, who, &now)
    }
}
