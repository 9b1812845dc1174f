//! What the ledger does not have yet: nobody is given it before.
use syshold_protocol::{DecisionId, RequestId};

use super::requests::{Filed, MADE, Made, SELECT, by_id, filed, made, raw, raw_made};
use super::{StoreError, Transaction};

/// Whether there is anything that the ledger does not have yet.
pub fn is_behind(tx: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM request WHERE recorded = 0 AND keeper = ?1)
         OR EXISTS (SELECT 1 FROM decision WHERE recorded = 0 AND keeper = ?1)";
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
}

/// So many of each at a time.
const ROUND: usize = 256;

impl Unrecorded {
    /// Whether there may be more of them.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= ROUND || self.decisions.len() >= ROUND
    }
}

/// See [`Unrecorded`].
pub fn unrecorded(tx: &Transaction<'_>) -> Result<Unrecorded, StoreError> {
    let (mut requests, mut decisions) = (Vec::new(), Vec::new());
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
    }
    Ok(Unrecorded {
        requests,
        decisions,
    })
}

/// The ledger has these: requests, and decisions, which may now be handed out.
pub fn set_recorded(
    tx: &Transaction<'_>,
    recorded: &[(RequestId, Option<DecisionId>)],
) -> Result<(), StoreError> {
    for (request, decision) in recorded {
        match decision {
            Some(decision) => tx.execute(
                "UPDATE decision SET recorded = 1, keeper = ?2 WHERE decision_id = ?1",
                (decision.to_string(), tx.keeper()),
            )?,
            None => tx.execute(
                "UPDATE request SET recorded = 1, keeper = ?2 WHERE request_id = ?1",
                (request.to_string(), tx.keeper()),
            )?,
        };
    }
    Ok(())
}
