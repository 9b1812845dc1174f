//! Into the ledger, before anybody is given it.
use syshold_protocol::RequestId;

use super::{Desk, DeskError};
use crate::evidence::EvidenceError;
use crate::store::requests::{Filed, Made};
use crate::store::unrecorded::{self, About};

impl Desk {
    /// Ledger first, then `recorded`: a crash between the two repeats a leaf, it never hands out what
    /// has none. Everything that waits goes into one commit; what no leaf can hold stands in nobody's
    /// way but that of its own request, `mine`.
    pub(super) async fn record(&self, mine: RequestId) -> Result<(), DeskError> {
        let _one = self.recording.lock().await;
        self.record_all(Some(mine)).await
    }

    pub(super) async fn record_all(&self, mine: Option<RequestId>) -> Result<(), DeskError> {
        loop {
            let behind = self.store.run(unrecorded::unrecorded).await?;
            // What comes meanwhile, whoever brings it records: nobody waits here for others for ever.
            let full = behind.is_full();
            let mut queued = Vec::new();
            for filed in behind.requests {
                let about = About::Request(filed.request.request_id);
                queued.push((about, self.evidence.request(&filed).await));
            }
            for (filed, made) in behind.decisions {
                let id = filed.request.request_id;
                let known = filed.here || queued.iter().any(|(about, _)| about.request() == id);
                let asked = if known {
                    Ok(())
                } else {
                    self.evidence.asked(&filed).await
                };
                let leaf = match asked {
                    Ok(()) => {
                        self.evidence
                            .decision(&filed, &made.decision, &made.envelope)
                            .await
                    }
                    Err(error) => Err(error),
                };
                queued.push((About::Decision(id, made.decision.decision_id), leaf));
            }
            for (filed, made, revoked) in behind.revocations {
                let id = filed.request.request_id;
                let decision = About::Decision(id, made.decision.decision_id);
                let known = made.here || queued.iter().any(|(about, _)| *about == decision);
                let decided = if known {
                    Ok(())
                } else {
                    self.copy(&filed, &made).await
                };
                let leaf = match decided {
                    Ok(()) => self.evidence.revocation(&filed, &revoked).await,
                    Err(error) => Err(error),
                };
                let about = About::Revocation(id, revoked.decision_id, revoked.host_id);
                queued.push((about, leaf));
            }
            let mut recorded = Vec::new();
            let (mut mistake, mut failed) = (None, 0_usize);
            for (about, leaf) in queued {
                let leaf = match leaf {
                    Ok(pending) => pending.await.map_err(EvidenceError::from),
                    Err(error) => Err(error),
                };
                match leaf {
                    Ok(_) => recorded.push(about),
                    Err(error) => {
                        let id = about.request();
                        if failed == 0 {
                            tracing::error!(%id, %error, "no leaf");
                        }
                        failed += 1;
                        if mine == Some(id) {
                            mistake.get_or_insert(error);
                        }
                    }
                }
            }
            let more = full && !recorded.is_empty();
            let recorded = self
                .store
                .run(move |tx| {
                    unrecorded::set_recorded(tx, &recorded)?;
                    Ok::<_, DeskError>(recorded)
                })
                .await?;
            for about in recorded {
                if let About::Revocation(_, _, host) = about {
                    self.wake_host(host);
                }
            }
            if let Some(mistake) = mistake {
                return Err(mistake.into());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Another gateway's ledger has what this one is to go on from.
    pub(super) async fn copy(&self, filed: &Filed, made: &Made) -> Result<(), EvidenceError> {
        if !filed.here {
            self.evidence.asked(filed).await?;
        }
        let leaf = self
            .evidence
            .decision(filed, &made.decision, &made.envelope);
        leaf.await?.await?;
        Ok(())
    }
}
