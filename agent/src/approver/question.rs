//! One question's task: puts the request, waits for the decision, hands its bytes over.
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use syshold_protocol::{
    DecisionId, LATE_APPROVAL_MS, MAX_ENVELOPE, Request, RequestId, RequestState,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::client::Event;
use super::http::Cause;
use super::wire::{CALL, Report, Wire};

/// An answer "not yet" that comes sooner is not followed by another poll before this is over.
const POLL_GAP: Duration = Duration::from_secs(1);
/// How long before the end of the hold an unreachable gateway is given up.
const MARGIN: Duration = Duration::from_secs(1);

/// One question.
pub(super) struct Question {
    wire: Arc<Wire>,
    events: mpsc::Sender<Event>,
    id: RequestId,
    need: u32,
    envelope: Vec<u8>,
    give_up_at: Instant,
    /// No late approval after this.
    over_at: Instant,
    /// The gateway may have the request: a withdrawal must be told.
    sent: bool,
    /// The hold is over and the gateway was there then: a late approval is waited for.
    late: bool,
    trouble: Option<Cause>,
    /// The last `have` and `need` the driver heard.
    told: Option<(u32, u32)>,
    backoff: Backoff,
}

/// The question has ended, and the driver knows.
struct Ended;

impl Question {
    pub(super) fn new(
        wire: Arc<Wire>,
        events: mpsc::Sender<Event>,
        request: &Request,
        envelope: Vec<u8>,
        left: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            wire,
            events,
            id: request.request_id,
            need: request.quorum,
            envelope,
            give_up_at: now + left.saturating_sub(MARGIN.min(left / 4)),
            over_at: now + left + Duration::from_millis(LATE_APPROVAL_MS),
            sent: false,
            late: false,
            trouble: None,
            told: None,
            backoff: Backoff::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        withdrawn: oneshot::Receiver<()>,
        mut again: mpsc::UnboundedReceiver<Option<DecisionId>>,
    ) {
        let wire = Arc::clone(&self.wire);
        let _open = wire.open();
        tokio::select! {
            biased;
            word = withdrawn => if word.is_ok() && self.sent {
                Wire::report(&wire, Report {
                    method: Method::DELETE,
                    path: self.path(),
                    body: None,
                });
            },
            Ended = self.pursue(&mut again) => {}
        }
    }

    fn path(&self) -> String {
        format!("/v1/requests/{}", self.id)
    }

    async fn pursue(&mut self, again: &mut mpsc::UnboundedReceiver<Option<DecisionId>>) -> Ended {
        let mut after = None;
        loop {
            if let Err(ended) = self.put().await {
                return ended;
            }
            // Until the gateway does not know the request (any more).
            while let Some(polled) = self.poll(after).await {
                let step = match polled {
                    Ok(Polled::Waiting(state, since)) => self.waiting(state, since).await,
                    Ok(Polled::Decision(envelope)) => {
                        self.tell(Event::Answer {
                            id: self.id,
                            envelope,
                        })
                        .await;
                        match again.recv().await {
                            None => return Ended,
                            Some(None) => self.pause(None).await,
                            Some(decided) => {
                                after = decided;
                                Ok(())
                            }
                        }
                    }
                    Err((cause, asked)) => self.failed(cause, asked).await,
                };
                if let Err(ended) = step {
                    return ended;
                }
            }
            if let Err(ended) = self.pause(None).await {
                return ended;
            }
        }
    }

    /// Until the gateway has the request.
    async fn put(&mut self) -> Result<(), Ended> {
        let path = self.path();
        loop {
            let limit = self.limit(CALL);
            self.sent = true;
            let sent = self.wire.put(&path, self.envelope.clone(), limit).await;
            match sent {
                Ok(answer) if matches!(answer.status.as_u16(), 200 | 201) => {
                    self.backoff.reset();
                    self.well(0, self.need).await;
                    return Ok(());
                }
                // Other bytes under this id, too large, or not a request it understands: the
                // same bytes will be refused again.
                Ok(answer) if matches!(answer.status.as_u16(), 409 | 413 | 422) => {
                    return Err(self.give_up(answer.refused()).await);
                }
                Ok(answer) => {
                    let cause = self.wire.wrong(&answer);
                    self.failed(cause, answer.retry_after).await?;
                }
                Err(cause) => self.failed(cause, None).await?,
            }
        }
    }

    /// One long-poll. None: the gateway has no such request.
    async fn poll(
        &mut self,
        after: Option<DecisionId>,
    ) -> Option<Result<Polled, (Cause, Option<Duration>)>> {
        let path = format!("{}/decision", self.path());
        let query = after.map_or_else(String::new, |after| format!("&after={after}"));
        // In trouble the end of the hold must not pass unnoticed inside a poll.
        let within = |limit| match self.trouble {
            Some(_) => self.limit(limit),
            None => limit,
        };
        let since = Instant::now();
        let polled = self.wire.poll(&path, &query, within).await;
        let answer = match polled {
            Ok(answer) => answer,
            Err(cause) => return Some(Err((cause, None))),
        };
        let wire = &self.wire;
        Some(match answer.status {
            StatusCode::OK if answer.body.len() <= MAX_ENVELOPE => {
                Ok(Polled::Decision(answer.body))
            }
            StatusCode::OK => Err((wire.malformed("a decision of more than 64 KiB"), None)),
            StatusCode::ACCEPTED => match serde_json::from_slice(&answer.body) {
                Ok(state) => Ok(Polled::Waiting(state, since)),
                Err(_) => Err((wire.malformed("a 202 without the request's state"), None)),
            },
            StatusCode::NOT_FOUND if answer.is_problem() => return None,
            _ => Err((wire.wrong(&answer), answer.retry_after)),
        })
    }

    async fn waiting(&mut self, state: RequestState, since: Instant) -> Result<(), Ended> {
        self.backoff.reset();
        self.well(state.have, state.need).await;
        self.sleep_until(since + POLL_GAP).await
    }

    /// The gateway is there.
    async fn well(&mut self, have: u32, need: u32) {
        let recovered = self.trouble.take().is_some();
        self.late |= Instant::now() >= self.give_up_at;
        if recovered || self.told != Some((have, need)) {
            self.told = Some((have, need));
            let id = self.id;
            self.tell(Event::Waiting { id, have, need }).await;
        }
    }

    async fn failed(&mut self, cause: Cause, asked: Option<Duration>) -> Result<(), Ended> {
        // All was well when the hold ended: this trouble is about a late approval only.
        self.late |=
            self.trouble.is_none() && self.told.is_some() && Instant::now() >= self.give_up_at;
        let news = self
            .trouble
            .as_ref()
            .is_none_or(|old| !old.same_kind(&cause));
        self.trouble = Some(cause.clone());
        if news {
            let id = self.id;
            self.tell(Event::Trouble { id, cause }).await;
        }
        self.pause(asked).await
    }

    async fn pause(&mut self, asked: Option<Duration>) -> Result<(), Ended> {
        let pause = self.backoff.next(asked);
        let now = Instant::now();
        let mut wake = now + pause;
        if !self.late && self.trouble.is_some() && wake >= self.give_up_at {
            // One last try a moment before the end, if there is time for one.
            let last = self
                .give_up_at
                .checked_sub(MARGIN)
                .filter(|last| *last > now + MARGIN);
            wake = last.unwrap_or(self.give_up_at);
        }
        self.sleep_until(wake).await
    }

    async fn sleep_until(&mut self, wake: Instant) -> Result<(), Ended> {
        sleep_until(wake.min(self.over_at)).await;
        let now = Instant::now();
        if now >= self.over_at {
            return Err(Ended);
        }
        match &self.trouble {
            Some(cause) if !self.late && now >= self.give_up_at => {
                let cause = cause.clone();
                Err(self.give_up(cause).await)
            }
            _ => Ok(()),
        }
    }

    async fn give_up(&mut self, cause: Cause) -> Ended {
        let id = self.id;
        self.tell(Event::GivenUp { id, cause }).await;
        Ended
    }

    /// At most until the end of the hold, while that is still to come.
    fn limit(&self, most: Duration) -> Duration {
        let left = self.give_up_at.saturating_duration_since(Instant::now());
        if self.late || left.is_zero() {
            most
        } else {
            most.min(left)
        }
    }

    async fn tell(&self, event: Event) {
        // Only a driver that is going away does not listen, and then nobody is held by us.
        let _ = self.events.send(event).await;
    }
}

enum Polled {
    Decision(Vec<u8>),
    Waiting(RequestState, Instant),
}
