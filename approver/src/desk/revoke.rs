//! Approvals that people take back.
use std::sync::Arc;

use syshold_protocol::{HostId, RequestId, Revocations, UnixMs};

use super::{Desk, DeskError, Voice, ruling};
use crate::store::StoreError;
use crate::store::revocations::{self, Revoked};

impl Desk {
    /// Takes an approval back; who says why in `voice.reason`. A second time changes nothing, and
    /// gives what was said the first time. The host is told once the ledger has it.
    pub async fn revoke(
        &self,
        id: RequestId,
        voice: Voice,
        now: UnixMs,
    ) -> Result<Revoked, DeskError> {
        self.settle(now).await?;
        let roster = Arc::clone(&self.roster);
        let (revoked, new) = self
            .store
            .run(move |tx| ruling::revoke(tx, id, &voice, &roster, now))
            .await?;
        if new {
            tracing::info!(%id, by = %revoked.by.subject, "an approval was taken back");
            self.metrics.revoked();
        }
        // Also what an earlier try left without a leaf.
        let recorded = self.record(id).await;
        self.wake(id);
        recorded.map(|()| revoked)
    }

    /// What a host that has heard of `since` has not heard of; recorded, all of it.
    pub async fn revocations(
        &self,
        host: HostId,
        since: u64,
        now: UnixMs,
    ) -> Result<Revocations, DeskError> {
        let list: Result<_, StoreError> = self
            .store
            .run(move |tx| revocations::list(tx, &host, since, now))
            .await;
        Ok(list?)
    }
}
