//! What a host that polls is told.
use syshold_protocol::{DecisionId, HostId, RequestId, RequestPhase, RequestState, UnixMs};

use super::{Desk, DeskError, ruling};
use crate::store::{Transaction, due, requests, unrecorded};

/// What a host is told about a decision.
#[derive(Debug)]
pub enum Look {
    Unknown,
    Open(RequestState),
    /// The envelope.
    Decided(Vec<u8>),
    /// Decided, and not yet in the ledger.
    Unrecorded,
}

impl Desk {
    /// Where a request of `host` stands. A decision of the id `after` counts as none yet.
    pub async fn look(
        &self,
        id: RequestId,
        host: HostId,
        after: Option<DecisionId>,
        now: UnixMs,
    ) -> Result<Look, DeskError> {
        // Thousands look again and again, and hardly ever is there something to settle before.
        let whose = host.clone();
        let found = self
            .store
            .run(move |tx| {
                if due::is_any(tx, now)? || unrecorded::is_behind(tx)? {
                    return Ok(None);
                }
                look(tx, id, &whose, after).map(Some)
            })
            .await?;
        if let Some(found) = found {
            return Ok(found);
        }
        self.settle(now).await?;
        self.store.run(move |tx| look(tx, id, &host, after)).await
    }
}

fn look(
    tx: &Transaction<'_>,
    id: RequestId,
    host: &HostId,
    after: Option<DecisionId>,
) -> Result<Look, DeskError> {
    let Some(filed) = requests::by_id(tx, id)?.filter(|filed| filed.request.host_id == *host)
    else {
        return Ok(Look::Unknown);
    };
    let made = requests::decision(tx, id)?;
    let open = filed.phase == RequestPhase::Late;
    match made {
        Some(made) if !made.recorded => Ok(Look::Unrecorded),
        Some(made) if Some(made.decision.decision_id) != after || !open => {
            Ok(Look::Decided(made.envelope))
        }
        _ => Ok(Look::Open(ruling::state(tx, &filed)?)),
    }
}
