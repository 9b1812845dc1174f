//! Calls about this host's ledger to the gateway that witnesses it. What the answers mean is not
//! decided here.
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use syshold_protocol::{LogClaim, LogState, Nonce, VERSION, dsse};
use tokio::sync::Notify;
use uuid::Uuid;

use super::client::now_ms;
use super::http::{Answer, Cause, DSSE};
use super::wire::{CALL, Wire};

/// The way to the witness. Clones share it.
#[derive(Clone, Debug)]
pub struct Log(Arc<Wire>);

/// What the gateway says to a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// The last checkpoint it cosigned; none before the first.
    Seen(Option<String>),
    /// It knows this host by another ledger; in its words.
    Other(String),
}

impl Log {
    pub(super) fn new(wire: &Arc<Wire>) -> Self {
        Self(Arc::clone(wire))
    }

    /// The witness's key that was pinned at the enrolment.
    #[must_use]
    pub fn witness(&self) -> &str {
        &self.0.gateway.witness
    }

    /// Told of every request and outcome that goes to the gateway.
    #[must_use]
    pub fn round_trip(&self) -> Arc<Notify> {
        Arc::clone(&self.0.round_trip)
    }

    /// Runs a task where calls are made.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Says which ledger is this host's, and asks how much of it was seen.
    pub async fn claim(&self, key: String, checkpoint: String) -> Result<Told, Cause> {
        let nonce = Nonce(*Uuid::new_v4().as_bytes());
        let host_id = self.0.gateway.host_id.clone();
        let claim = LogClaim {
            v: VERSION,
            host_id: host_id.clone(),
            nonce,
            at: now_ms(),
            key,
            checkpoint,
        };
        let sealed = self
            .0
            .seal(&claim)
            .map_err(|_| Cause::Malformed("our own call cannot be signed"))?;
        let body = Some((DSSE, sealed.envelope));
        let answer = self.0.quiet(Method::PUT, "/v1/log", body, CALL).await?;
        match answer.status {
            StatusCode::OK => {
                let state = dsse::open::<LogState>(&answer.body, &self.0.gateway.gateway_keys)
                    .map_err(|_| Cause::Malformed("what it saw of the ledger is not signed"))?
                    .value;
                if state.v == VERSION && state.nonce == nonce && state.host_id == host_id {
                    Ok(Told::Seen(state.seen))
                } else {
                    Err(Cause::Malformed("what it saw is of another ledger or time"))
                }
            }
            StatusCode::CONFLICT if answer.is_problem() => {
                Ok(Told::Other(answer.refused().to_string()))
            }
            _ => Err(answer.refused()),
        }
    }

    /// C2SP tlog-witness.
    pub async fn add_checkpoint(&self, submission: String) -> Result<Answer, Cause> {
        let body = Some(("text/plain; charset=utf-8", submission.into_bytes()));
        self.0
            .quiet(Method::POST, "/add-checkpoint", body, CALL)
            .await
    }
}
