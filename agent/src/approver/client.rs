//! Questions to the gateway: one task each, that puts the request, waits for the decision and
//! hands its bytes over, through whatever the network does meanwhile.
//!
//! ```text
//! ask ─▶ PUT ──201/200──▶ long-poll ──200──▶ Answer ─▶ (the driver's word) ─▶ done
//!         ▲ │ back-off      ▲ │ 202: Waiting              │
//!         └─┘               └─┘ back-off ◀──── again ─────┘
//!         ▲────── 404 ────────┘                     withdraw: DELETE, at any time
//! ```
//! After an answer the task pauses until the driver has judged it: [`Approver::done`], or
//! [`Approver::again`]. A gateway that cannot be reached when the hold is about to end is given
//! up a moment before ([`Event::GivenUp`]), so that the cause is not mistaken for a timeout.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use syshold_protocol::break_glass::Notice;
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::{DecisionId, Digest, Outcome, Request, RequestId, SigningKey, UnixMs};
use tokio::sync::{mpsc, oneshot};

use super::gateway::Gateway;
use super::http::{Cause, SetUpError};
use super::log::Log;
use super::question::Question;
use super::revocations::{Heard, Revocations};
use super::wire::{Report, Said, Wire};

/// What the driver hears of its questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Whatever the gateway sent as its decision, unread: it must pass `accept`.
    Answer { id: RequestId, envelope: Vec<u8> },
    /// The gateway has the request; `have` of `need` people have approved.
    Waiting { id: RequestId, have: u32, need: u32 },
    /// It is being tried again. Sent once for each kind of trouble, not for each try.
    Trouble { id: RequestId, cause: Cause },
    /// It will not be tried again.
    GivenUp { id: RequestId, cause: Cause },
    /// Whatever the gateway sent as the approvals taken back after number `since`, unread: it must
    /// pass `revocation::accept`. Nothing more comes before [`Approver::heard`].
    Revoked { since: u64, envelope: Vec<u8> },
}

/// What is known about the gateway, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Health {
    pub last_ok: Option<Timestamp>,
    /// None: the last call was answered as it should be (or none was made yet).
    pub trouble: Option<Cause>,
}

/// The client. Nothing here waits; dropping it ends every task and withdraws nothing, so that
/// a daemon that restarts finds its questions where they were.
#[derive(Debug)]
pub struct Approver {
    wire: Arc<Wire>,
    events: mpsc::Sender<Event>,
    questions: HashMap<RequestId, Handle>,
    /// Questions at the last pruning, so that pruning stays rare.
    pruned_at: usize,
    heard: mpsc::Sender<Heard>,
    /// Dropped: nobody asks any more what is taken back.
    _listening: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Handle {
    /// Dropped: the question is settled.
    withdraw: oneshot::Sender<()>,
    again: mpsc::UnboundedSender<Option<DecisionId>>,
}

impl Approver {
    /// Its tasks run on the tokio runtime that this is called in, whoever calls the other methods.
    /// Tries the gateway once, for [`Self::health`].
    pub fn start(
        gateway: Gateway,
        key: SigningKey,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, SetUpError> {
        let wire = Arc::new(Wire::new(gateway, key)?);
        let (heard, word) = mpsc::channel(1);
        let (listening, over) = oneshot::channel();
        wire.spawn(Revocations::new(Arc::clone(&wire), events.clone()).run(word, over));
        let approver = Self {
            wire,
            events,
            questions: HashMap::new(),
            pruned_at: 0,
            heard,
            _listening: listening,
        };
        approver.probe();
        Ok(approver)
    }

    /// Asks, and gives the digest that a decision must name. Asking the same request again
    /// (after a restart) is the same question to the gateway.
    pub fn ask(&mut self, request: &Request) -> Result<Digest, CanonicalError> {
        let sealed = self.wire.seal(request)?;
        let left = Duration::from_millis(request.hold_until.since(now_ms()));
        let (withdraw, withdrawn) = oneshot::channel();
        let (again, next) = mpsc::unbounded_channel();
        let question = Question::new(
            Arc::clone(&self.wire),
            self.events.clone(),
            request,
            sealed.envelope,
            left,
        );
        self.prune();
        self.questions
            .insert(request.request_id, Handle { withdraw, again });
        self.wire.spawn(question.run(withdrawn, next));
        self.wire.round_trip.notify_one();
        Ok(sealed.payload_sha256)
    }

    /// The answer counts: the question is settled.
    pub fn done(&mut self, id: RequestId) {
        self.questions.remove(&id);
    }

    /// The answer does not settle it: wait for another one. `after` names an accepted decision
    /// (such as `expired`) that must not be the answer again.
    pub fn again(&mut self, id: RequestId, after: Option<DecisionId>) {
        if let Some(handle) = self.questions.get(&id) {
            // A task that has ended needs no word.
            let _ = handle.again.send(after);
        }
    }

    /// Nobody needs the answer any more.
    pub fn withdraw(&mut self, id: RequestId) {
        if let Some(handle) = self.questions.remove(&id) {
            let _ = handle.withdraw.send(());
        }
    }

    /// [`Event::Revoked`] was looked at.
    pub fn heard(&self, word: Heard) {
        // One word for each event: there is room, unless the task is gone with its runtime.
        let _ = self.heard.try_send(word);
    }

    /// Withdraws what an earlier daemon asked: nobody waits for that answer any more.
    pub fn take_back(&self, id: RequestId) {
        Wire::report(
            &self.wire,
            Report {
                method: Method::DELETE,
                path: format!("/v1/requests/{id}"),
                body: None,
            },
        );
    }

    /// Tells the gateway what became of a request; people see it there.
    pub fn outcome(&self, outcome: Outcome) {
        let path = format!("/v1/requests/{}/outcome", outcome.request_id);
        Wire::report(
            &self.wire,
            Report {
                method: Method::POST,
                path,
                body: Some(Said::Outcome(Box::new(outcome))),
            },
        );
        self.wire.round_trip.notify_one();
    }

    /// Tells the gateway, and by it everybody concerned, that the glass was broken here.
    pub fn break_glass(&self, notice: Notice) {
        Wire::report(
            &self.wire,
            Report {
                method: Method::POST,
                path: "/v1/break-glass".to_owned(),
                body: Some(Said::BreakGlass(Box::new(notice))),
            },
        );
    }

    /// Asks the gateway how it is, in the background; the result is in [`Self::health`].
    pub fn probe(&self) {
        let wire = Arc::clone(&self.wire);
        self.wire.spawn(async move { wire.probe().await });
    }

    /// The way to the witness of this host's ledger.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::new(&self.wire)
    }

    #[must_use]
    pub fn health(&self) -> Health {
        self.wire.health().clone()
    }

    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.wire.gateway
    }

    /// Forgets tasks that ended by themselves.
    fn prune(&mut self) {
        if self.questions.len() > 2 * self.pruned_at + 64 {
            self.questions
                .retain(|_, handle| !handle.withdraw.is_closed());
            self.pruned_at = self.questions.len();
        }
    }
}

pub(super) fn now_ms() -> UnixMs {
    std::time::SystemTime::now().into()
}
