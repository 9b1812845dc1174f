//! Where requests wait and are decided. One way through:
//! filed → answered (compare-and-set) → decision signed → ledger → handed out.
//!
//! Both listeners call this and nothing else; what an answer means is in [`crate::judge`].
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::{
    Approver, Assurance, Channel, Decision, DecisionId, Digest, HostId, Outcome, Request,
    RequestId, RequestPhase, RequestState, SigningKey, UnixMs,
};
use tokio::sync::Notify;

use crate::evidence::{Evidence, EvidenceError};
use crate::judge::{Answer, Refusal, Step};
use crate::render::Rendered;
use crate::store::people::Account;
use crate::store::requests::{self, Filed, Filing, Room, Unrecorded};
use crate::store::{Store, StoreError};

mod ruling;

/// The one that decides.
#[expect(missing_debug_implementations, reason = "holds the signing key")]
pub struct Desk {
    pub store: Store,
    key: Arc<SigningKey>,
    evidence: Evidence,
    /// One at a time, so that no decision gets two leaves.
    recording: tokio::sync::Mutex<()>,
    wakes: Mutex<HashMap<RequestId, Weak<Notify>>>,
    max_pending: u32,
}

/// Who answers, and how we know.
#[derive(Debug, Clone)]
pub struct Voice {
    pub account: Account,
    pub channel: Channel,
    pub assurance: Assurance,
    pub reason: Option<String>,
}

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
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("there is no such request")]
    Unknown,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("decided already")]
    Decided,
    #[error("too many outcomes for one request")]
    TooManyOutcomes,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
}

impl Desk {
    /// A desk over that store.
    pub fn new(store: Store, key: SigningKey, evidence: Evidence, max_pending: u32) -> Self {
        let wakes = Mutex::new(HashMap::new());
        Self {
            store,
            key: Arc::new(key),
            evidence,
            recording: tokio::sync::Mutex::new(()),
            wakes,
            max_pending,
        }
    }

    /// Files a request whose signature was checked.
    pub async fn file(
        &self,
        request: Request,
        sha256: Digest,
        envelope: Vec<u8>,
        now: UnixMs,
    ) -> Result<Filing, DeskError> {
        let (most, id) = (self.max_pending, request.request_id);
        let filing: Filing = self
            .store
            .run(move |tx| requests::file(tx, &request, sha256, &envelope, most, now))
            .await?;
        if matches!(filing, Filing::New | Filing::Known) {
            self.record(id).await?;
        }
        Ok(filing)
    }

    /// One person's answer.
    pub async fn answer(
        &self,
        id: RequestId,
        voice: Voice,
        answer: Answer,
        now: UnixMs,
    ) -> Result<Step, DeskError> {
        self.settle(now).await?;
        let key = Arc::clone(&self.key);
        let step = self
            .store
            .run(move |tx| ruling::decide(tx, id, &voice, answer, &key, now))
            .await?;
        if step != Step::Count {
            self.record(id).await?;
        }
        self.wake(id);
        Ok(step)
    }

    /// The host takes a request back: nobody waits for it any more.
    pub async fn withdraw(
        &self,
        id: RequestId,
        host: HostId,
        now: UnixMs,
    ) -> Result<(), DeskError> {
        let key = Arc::clone(&self.key);
        self.store
            .run(move |tx| ruling::withdraw(tx, id, &host, &key, now))
            .await?;
        self.record(id).await?;
        self.wake(id);
        Ok(())
    }

    /// What became of a request on its host.
    pub async fn outcome(
        &self,
        outcome: Outcome,
        sha256: Digest,
        now: UnixMs,
    ) -> Result<(), DeskError> {
        let id = outcome.request_id;
        self.record(id).await?;
        let _one = self.recording.lock().await;
        let (host, result) = (outcome.host_id.clone(), outcome.clone());
        let seen = self
            .store
            .run(move |tx| {
                let filed = requests::by_id(tx, id)?
                    .filter(|filed| filed.request.host_id == host)
                    .ok_or(DeskError::Unknown)?;
                match requests::outcome_room(tx, id, sha256)? {
                    Room::Free => Ok(Some((filed, requests::decision(tx, id)?.is_some()))),
                    Room::Known => Ok(None),
                    Room::Full => Err(DeskError::TooManyOutcomes),
                }
            })
            .await?;
        let Some((filed, decided)) = seen else {
            return Ok(());
        };
        // What nobody decided has no decision whose outcome it could be.
        if decided {
            self.evidence.outcome(&filed, &result).await?;
        }
        self.store
            .run(move |tx| requests::add_outcome(tx, &outcome, sha256, now))
            .await?;
        self.wake(id);
        Ok(())
    }

    /// Where a request of `host` stands. A decision of the id `after` counts as none yet.
    pub async fn look(
        &self,
        id: RequestId,
        host: HostId,
        after: Option<DecisionId>,
        now: UnixMs,
    ) -> Result<Look, DeskError> {
        self.settle(now).await?;
        self.store
            .run(move |tx| {
                let Some(filed) =
                    requests::by_id(tx, id)?.filter(|filed| filed.request.host_id == host)
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
            })
            .await
    }

    /// One request, for people.
    pub async fn sheet(&self, id: RequestId, now: UnixMs) -> Result<Option<Sheet>, DeskError> {
        self.settle(now).await?;
        self.store
            .run(move |tx| {
                requests::by_id(tx, id)?
                    .map(|filed| ruling::sheet(tx, filed))
                    .transpose()
            })
            .await
    }

    /// The newest requests in one of `phases` (none given: in any), for people.
    pub async fn sheets(
        &self,
        phases: Vec<RequestPhase>,
        most: u32,
        now: UnixMs,
    ) -> Result<Vec<Sheet>, DeskError> {
        self.settle(now).await?;
        self.store
            .run(move |tx| {
                requests::list(tx, &phases, most)?
                    .into_iter()
                    .map(|filed| ruling::sheet(tx, filed))
                    .collect()
            })
            .await
    }

    /// Ends what time has ended, and brings to the ledger what it does not have.
    pub async fn settle(&self, now: UnixMs) -> Result<(), DeskError> {
        let key = Arc::clone(&self.key);
        let (ended, behind) = self
            .store
            .run(move |tx| {
                let due = requests::due(tx, now)?;
                due.iter()
                    .try_for_each(|filed| ruling::expire(tx, filed, &key, now))?;
                let ended: Vec<_> = due.iter().map(|filed| filed.request.request_id).collect();
                Ok::<_, DeskError>((ended, !requests::unrecorded(tx)?.is_empty()))
            })
            .await?;
        // Whoever records already records this too.
        if behind && let Ok(_one) = self.recording.try_lock() {
            self.record_all(None).await?;
        }
        ended.into_iter().for_each(|id| self.wake(id));
        Ok(())
    }

    /// Wakes when something about the request has changed. Take it before looking.
    pub fn watch(&self, id: RequestId) -> Arc<Notify> {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = wakes.get(&id).and_then(Weak::upgrade) {
            return wake;
        }
        if wakes.len() >= 256 && wakes.len().is_power_of_two() {
            wakes.retain(|_, wake| wake.strong_count() > 0);
        }
        let wake = Arc::new(Notify::new());
        wakes.insert(id, Arc::downgrade(&wake));
        wake
    }

    fn wake(&self, id: RequestId) {
        let wake = self
            .wakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Some(wake) = wake.and_then(|wake| wake.upgrade()) {
            wake.notify_waiters();
        }
    }

    /// Ledger first, then `recorded`: a crash between the two repeats a leaf, it never hands out what
    /// has none. Everything that waits goes into one commit; what no leaf can hold stands in nobody's
    /// way but that of its own request, `mine`.
    async fn record(&self, mine: RequestId) -> Result<(), DeskError> {
        let _one = self.recording.lock().await;
        self.record_all(Some(mine)).await
    }

    async fn record_all(&self, mine: Option<RequestId>) -> Result<(), DeskError> {
        loop {
            let Unrecorded {
                requests,
                decisions,
            } = self.store.run(requests::unrecorded).await?;
            let mut queued = Vec::new();
            for filed in requests {
                let id = filed.request.request_id;
                queued.push((id, None, self.evidence.request(&filed).await));
            }
            for (filed, made) in decisions {
                let leaf = self
                    .evidence
                    .decision(&filed, &made.decision, &made.envelope);
                let decision = Some(made.decision.decision_id);
                queued.push((filed.request.request_id, decision, leaf.await));
            }
            let mut recorded = Vec::new();
            let (mut mistake, mut failed) = (None, 0_usize);
            for (id, decision, leaf) in queued {
                let leaf = match leaf {
                    Ok(pending) => pending.await.map_err(EvidenceError::from),
                    Err(error) => Err(error),
                };
                match leaf {
                    Ok(_) => recorded.push((id, decision)),
                    Err(error) => {
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
            let more = !recorded.is_empty();
            self.store
                .run(move |tx| requests::set_recorded(tx, &recorded))
                .await?;
            if let Some(mistake) = mistake {
                return Err(mistake.into());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Records the stop.
    pub async fn close(&self) {
        self.evidence.stop().await;
    }
}
