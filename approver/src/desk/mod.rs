//! Where requests wait and are decided. One way through:
//! filed → answered (compare-and-set) → decision signed → ledger → handed out.
//!
//! Both listeners call this and nothing else; what an answer means is in [`crate::judge`].
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use serde_json::Value;
use syshold_ledger::Kind;
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::dsse::{self, Payload, Sealed};
use syshold_protocol::{
    Assurance, Channel, Digest, HostId, Outcome, Proof, Request, RequestId, RequestPhase,
    SigningKey, UnixMs,
};
use tokio::sync::{Notify, watch};

use crate::evidence::{Evidence, EvidenceError};
use crate::judge::{Answer, Refusal, Step};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oidc::Oidc;
use crate::passkeys::Site;
use crate::roster::Roster;
use crate::store::delegations;
use crate::store::due;
use crate::store::history::{self, Past};
use crate::store::people::Account;
use crate::store::report;
use crate::store::requests::{self, Filed, Filing, Room};
use crate::store::unrecorded;
use crate::store::{Store, StoreError};

mod changes;
mod glass;
mod look;
mod record;
mod revoke;
mod ruling;
mod sheet;
mod wakes;

pub use changes::Changes;
pub use look::Look;
pub use sheet::Sheet;
use wakes::Topic;

/// The one that decides.
#[expect(missing_debug_implementations, reason = "holds the signing key")]
pub struct Desk {
    pub store: Store,
    /// Where passkeys belong to; none: they do not work here.
    pub site: Option<Site>,
    pub roster: Arc<Roster>,
    /// Where people sign in beside here.
    pub oidc: Option<Oidc>,
    /// Whether other gateways have this state as well.
    pub shared: bool,
    /// Counts what changed, for pages that are open.
    changed: watch::Sender<u64>,
    key: Arc<SigningKey>,
    evidence: Evidence,
    /// One at a time, so that no decision gets two leaves.
    recording: tokio::sync::Mutex<()>,
    wakes: Mutex<HashMap<Topic, Weak<Notify>>>,
    limits: Limits,
    pub metrics: Metrics,
    /// For channels: the glass was broken somewhere.
    pub alarm: Notify,
    /// For channels: requests of which there is more to say than was said.
    pub changes: Changes,
}

/// Who answers, and how we know.
#[derive(Debug, Clone)]
pub struct Voice {
    pub account: Account,
    pub channel: Channel,
    pub assurance: Assurance,
    pub reason: Option<String>,
    /// The account in a chat that it came from.
    pub chat: Option<ChatUser>,
    /// The person's own signature, checked.
    pub proof: Option<Proof>,
}

/// Somebody in a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatUser {
    pub team_id: String,
    pub user_id: String,
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
    pub fn new(store: Store, key: SigningKey, evidence: Evidence, limits: Limits) -> Self {
        let wakes = Mutex::new(HashMap::new());
        Self {
            store,
            site: None,
            roster: Arc::default(),
            oidc: None,
            shared: false,
            changed: watch::Sender::new(0),
            key: Arc::new(key),
            evidence,
            recording: tokio::sync::Mutex::new(()),
            wakes,
            limits,
            metrics: Metrics::default(),
            alarm: Notify::new(),
            changes: Changes::default(),
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
        let (limits, id) = (self.limits, request.request_id);
        let key = Arc::clone(&self.key);
        let filing: Filing = self
            .store
            .run(move |tx| {
                let filing = requests::file(tx, &request, sha256, &envelope, limits, now)?;
                if filing == Filing::Fatigue {
                    ruling::tired(tx, id, &key, now)?;
                }
                Ok::<_, DeskError>(filing)
            })
            .await?;
        self.metrics.filed(match filing {
            Filing::New => "new",
            Filing::Known => "known",
            Filing::Conflict => "conflict",
            Filing::TooMany => "too_many",
            Filing::Fatigue => "auto_denied",
        });
        if matches!(filing, Filing::New | Filing::Known | Filing::Fatigue) {
            self.record(id).await?;
            self.touch();
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
        let (key, roster) = (Arc::clone(&self.key), Arc::clone(&self.roster));
        let step = self
            .store
            .run(move |tx| ruling::decide(tx, id, &voice, answer, (&key, &roster), now))
            .await?;
        if step != Step::Count {
            self.count(id).await?;
            self.record(id).await?;
        }
        self.wake(id);
        Ok(step)
    }

    async fn count(&self, id: RequestId) -> Result<(), DeskError> {
        let made = self
            .store
            .run(move |tx| {
                Ok::<_, StoreError>((requests::by_id(tx, id)?, requests::decision(tx, id)?))
            })
            .await?;
        if let (Some(filed), Some(made)) = made {
            self.metrics.decided(&made.decision, filed.received_at);
        }
        Ok(())
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
                    Room::Free => Ok(Some((filed, requests::decision(tx, id)?))),
                    Room::Known => Ok(None),
                    Room::Full => Err(DeskError::TooManyOutcomes),
                }
            })
            .await?;
        let Some((filed, decided)) = seen else {
            return Ok(());
        };
        // What nobody decided has no decision whose outcome it could be.
        if let Some(made) = decided {
            if !made.here {
                self.copy(&filed, &made).await?;
            }
            self.evidence.outcome(&filed, &result).await?;
        }
        self.metrics.outcome(&outcome);
        self.store
            .run(move |tx| requests::add_outcome(tx, &outcome, sha256, now))
            .await?;
        self.wake(id);
        Ok(())
    }

    /// One request, for people.
    pub async fn sheet(&self, id: RequestId, now: UnixMs) -> Result<Option<Sheet>, DeskError> {
        self.settle(now).await?;
        let roster = Arc::clone(&self.roster);
        self.store
            .run(move |tx| {
                let delegations = Arc::new(delegations::active(tx, now)?);
                requests::by_id(tx, id)?
                    .map(|filed| ruling::sheet(tx, filed, &roster, &delegations, now))
                    .transpose()
            })
            .await
    }

    /// That a person is shown the whole of a request: no approval is made of it, a report is.
    pub async fn seen(&self, id: RequestId, account: &str, now: UnixMs) {
        let account = account.to_owned();
        let kept = self
            .store
            .run(move |tx| report::seen(tx, id, &account, now))
            .await;
        if let Err(error) = kept {
            tracing::warn!(%id, %error, "who looked is not kept");
        }
    }

    /// The newest requests in one of `phases` (none given: in any), for people.
    pub async fn sheets(
        &self,
        phases: Vec<RequestPhase>,
        most: u32,
        now: UnixMs,
    ) -> Result<Vec<Sheet>, DeskError> {
        self.settle(now).await?;
        let roster = Arc::clone(&self.roster);
        self.store
            .run(move |tx| {
                let delegations = Arc::new(delegations::active(tx, now)?);
                requests::list(tx, &phases, most)?
                    .into_iter()
                    .map(|filed| ruling::sheet(tx, filed, &roster, &delegations, now))
                    .collect()
            })
            .await
    }

    /// The newest requests that hold every one of `words`.
    pub async fn search(
        &self,
        words: Vec<String>,
        most: u32,
        now: UnixMs,
    ) -> Result<Vec<Sheet>, DeskError> {
        let roster = Arc::clone(&self.roster);
        self.store
            .run(move |tx| {
                let delegations = Arc::new(delegations::active(tx, now)?);
                history::search(tx, &words, most)?
                    .into_iter()
                    .map(|filed| ruling::sheet(tx, filed, &roster, &delegations, now))
                    .collect()
            })
            .await
    }

    /// What the agent of `filed` asked before.
    pub async fn before(&self, filed: Filed, most: u32) -> Result<Vec<Past>, DeskError> {
        let found: Result<_, StoreError> = self
            .store
            .run(move |tx| history::before(tx, &filed, most))
            .await;
        Ok(found?)
    }

    /// Ends what time has ended, and brings to the ledger what it does not have.
    pub async fn settle(&self, now: UnixMs) -> Result<(), DeskError> {
        let key = Arc::clone(&self.key);
        let (ended, behind) = self
            .store
            .run(move |tx| {
                let due = due::due(tx, now)?;
                due.iter()
                    .try_for_each(|filed| ruling::expire(tx, filed, &key, now))?;
                let ended: Vec<_> = due.iter().map(|filed| filed.request.request_id).collect();
                Ok::<_, DeskError>((ended, unrecorded::is_behind(tx)?))
            })
            .await?;
        // Whoever records already records this too.
        if behind && let Ok(_one) = self.recording.try_lock() {
            self.record_all(None).await?;
        }
        ended.into_iter().for_each(|id| self.wake(id));
        Ok(())
    }

    /// Signs an answer to a host.
    pub fn seal<T: Payload>(&self, value: &T) -> Result<Sealed, DeskError> {
        Ok(dsse::seal(value, &self.key)?)
    }

    /// Records whose a ledger is.
    pub async fn record_log(&self, said: &Value) -> Result<(), DeskError> {
        Ok(self.evidence.log(Kind::Anchor, said).await?)
    }

    /// Records that a host's ledger is not what the witness saw.
    pub async fn record_log_alarm(&self, said: &Value) -> Result<(), DeskError> {
        Ok(self.evidence.log(Kind::Degraded, said).await?)
    }

    /// Records the stop.
    pub async fn close(&self) {
        self.evidence.stop().await;
    }
}
