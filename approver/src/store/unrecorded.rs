//! What the ledger does not have yet: nobody is given it before.
use syshold_protocol::{DecisionId, HostId, RequestId};

use super::requests::{Filed, MADE, Made, SELECT, by_id, filed, made, raw, raw_made};
use super::revocations::{self, Revoked};
use super::{StoreError, Transaction};

/// Whether there is anything that the ledger does not have yet.
pub fn is_behind(tx: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM request WHERE recorded = 0 AND keeper = ?1)
         OR EXISTS (SELECT 1 FROM decision WHERE recorded = 0 AND keeper = ?1)
         OR EXISTS (SELECT 1 FROM revocation WHERE n IS NULL AND keeper = ?1)";
    for keeper in tx.keeps()? {
        if tx.one(sql, [keeper], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the ledger does not have yet, oldest first.
#[derive(Debug)]
pub struct Unrecorded {
    pub requests: Vec<Filed>,
    pub decisions: Vec<(Filed, Made)>,
    pub revocations: Vec<(Filed, Made, Revoked)>,
}

/// What a leaf is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Request(RequestId),
    Decision(RequestId, DecisionId),
    /// Of that host.
    Revocation(RequestId, DecisionId, HostId),
}

impl About {
    /// The request that it is about in the end.
    pub fn request(&self) -> RequestId {
        match self {
            Self::Request(id) | Self::Decision(id, _) | Self::Revocation(id, ..) => *id,
        }
    }
}

/// So many of each at a time.
const ROUND: usize = 256;

impl Unrecorded {
    /// Whether there may be more of them.
    pub fn is_full(&self) -> bool {
        let most = self.requests.len().max(self.decisions.len());
        most.max(self.revocations.len()) >= ROUND
    }
}

/// See [`Unrecorded`].
pub fn unrecorded(tx: &Transaction<'_>) -> Result<Unrecorded, StoreError> {
    let (mut requests, mut decisions, mut revocations) = (Vec::new(), Vec::new(), Vec::new());
    for keeper in tx.keeps()? {
        let sql = format!(
            "{SELECT} WHERE recorded = 0 AND keeper = ?1 ORDER BY received_at LIMIT {ROUND}"
        );
        for row in tx.all(&sql, [keeper], raw(tx))? {
            requests.push(filed(row)?);
        }
        let sql = format!("{MADE} WHERE recorded = 0 AND keeper = ?1 ORDER BY seq LIMIT {ROUND}");
        for row in tx.all(&sql, [keeper], raw_made(tx))? {
            let made = made(row)?;
            let id = made.decision.request_id;
            let filed = by_id(tx, id)?.ok_or(StoreError::Corrupt("decision"))?;
            decisions.push((filed, made));
        }
        revocations.extend(revocations::unrecorded(tx, keeper, ROUND)?);
    }
    Ok(Unrecorded {
        requests,
        decisions,
        revocations,
    })
}

/// The ledger has these: decisions and revocations may now be handed out.
pub fn set_recorded(tx: &Transaction<'_>, recorded: &[About]) -> Result<(), StoreError> {
    for about in recorded {
        let (sql, id) = match about {
            About::Revocation(_, decision, _) => {
                revocations::set_recorded(tx, *decision)?;
                continue;
            }
            About::Decision(_, decision) => (
                "UPDATE decision SET recorded = 1, keeper = ?2 WHERE decision_id = ?1",
                decision.to_string(),
            ),
            About::Request(request) => (
                "UPDATE request SET recorded = 1, keeper = ?2 WHERE request_id = ?1",
                request.to_string(),
            ),
        };
        tx.execute(sql, (id, tx.keeper()))?;
    }
    Ok(())
}
