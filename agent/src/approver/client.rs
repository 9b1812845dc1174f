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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Client, Method, StatusCode, Url};
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::{
    DecisionId, Digest, LATE_APPROVAL_MS, MAX_ENVELOPE, Outcome, Request, RequestId, RequestState,
    SigningKey, UnixMs, VERSION, dsse,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::gateway::Gateway;
use super::http::{self, Answer, Cause, DSSE, SetUpError};

/// Longest wait of one long-poll; proxies cut idle connections at 30 or 60 s.
const WAIT: Duration = Duration::from_secs(25);
/// Long-polls open at once; with more questions than that each one waits less.
const POLLS: usize = 100;
/// A call that does not wait for people.
const CALL: Duration = Duration::from_secs(15);
/// On top of the wait of a long-poll.
const GRACE: Duration = Duration::from_secs(10);
/// An answer "not yet" that comes sooner is not followed by another poll before this is over.
const POLL_GAP: Duration = Duration::from_secs(1);
/// How long before the end of the hold an unreachable gateway is given up.
const MARGIN: Duration = Duration::from_secs(1);
/// How long withdrawals and outcomes are tried.
const REPORT_FOR: Duration = Duration::from_secs(600);
/// Outcomes on their way at once; further ones are only in the ledger.
const MAX_REPORTS: usize = 1024;
/// … of which this many are on the wire.
const REPORTS_AT_ONCE: usize = 16;

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
    shared: Arc<Shared>,
    questions: HashMap<RequestId, Handle>,
    /// Questions at the last pruning, so that pruning stays rare.
    pruned_at: usize,
}

#[derive(Debug)]
struct Handle {
    /// Dropped: the question is settled.
    withdraw: oneshot::Sender<()>,
    again: mpsc::UnboundedSender<Option<DecisionId>>,
}

/// What all tasks share.
struct Shared {
    gateway: Gateway,
    key: SigningKey,
    calls: Client,
    /// A client of its own: a full connection of long-polls must not delay a withdrawal.
    polls: Client,
    events: mpsc::Sender<Event>,
    health: Mutex<Health>,
    questions: AtomicUsize,
    seats: Semaphore,
    reports: AtomicUsize,
    reporting: Semaphore,
}

impl Approver {
    /// Needs a tokio runtime. Tries the gateway once, for [`Self::health`].
    pub fn start(
        gateway: Gateway,
        key: SigningKey,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, SetUpError> {
        let shared = Shared {
            calls: http::pinned(&gateway)?,
            polls: http::pinned(&gateway)?,
            gateway,
            key,
            events,
            health: Mutex::default(),
            questions: AtomicUsize::new(0),
            seats: Semaphore::new(POLLS),
            reports: AtomicUsize::new(0),
            reporting: Semaphore::new(REPORTS_AT_ONCE),
        };
        let approver = Self {
            shared: Arc::new(shared),
            questions: HashMap::new(),
            pruned_at: 0,
        };
        approver.probe();
        Ok(approver)
    }

    /// Asks, and gives the digest that a decision must name. Asking the same request again
    /// (after a restart) is the same question to the gateway.
    pub fn ask(&mut self, request: &Request) -> Result<Digest, CanonicalError> {
        let sealed = dsse::seal(request, &self.shared.key)?;
        let left = Duration::from_millis(request.hold_until.since(now_ms()));
        let now = Instant::now();
        let (withdraw, withdrawn) = oneshot::channel();
        let (again, next) = mpsc::unbounded_channel();
        let question = Question {
            shared: Arc::clone(&self.shared),
            id: request.request_id,
            need: request.quorum,
            envelope: sealed.envelope,
            give_up_at: now + left.saturating_sub(MARGIN.min(left / 4)),
            over_at: now + left + Duration::from_millis(LATE_APPROVAL_MS),
            sent: false,
            late: false,
            trouble: None,
            told: None,
            backoff: Backoff::new(),
        };
        self.prune();
        self.questions
            .insert(request.request_id, Handle { withdraw, again });
        tokio::spawn(question.run(withdrawn, next));
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

    /// Tells the gateway what became of a request; people see it there.
    pub fn outcome(&self, outcome: &Outcome) -> Result<(), CanonicalError> {
        let sealed = dsse::seal(outcome, &self.shared.key)?;
        let path = format!("/v1/requests/{}/outcome", outcome.request_id);
        Shared::report(
            &self.shared,
            Report {
                method: Method::POST,
                path,
                body: Some(sealed.envelope),
            },
        );
        Ok(())
    }

    /// Asks the gateway how it is, in the background; the result is in [`Self::health`].
    pub fn probe(&self) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let sent = shared
                .send(&shared.calls, Method::GET, "/v1/health", None, CALL)
                .await;
            match sent {
                Ok(answer) if answer.status != StatusCode::NO_CONTENT => {
                    shared.wrong(&answer);
                }
                // `send` has noted it.
                Ok(_) | Err(_) => {}
            }
        });
    }

    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health().clone()
    }

    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.shared.gateway
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

/// One question.
struct Question {
    shared: Arc<Shared>,
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
    async fn run(
        mut self,
        withdrawn: oneshot::Receiver<()>,
        mut again: mpsc::UnboundedReceiver<Option<DecisionId>>,
    ) {
        let shared = Arc::clone(&self.shared);
        shared.questions.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            word = withdrawn => if word.is_ok() && self.sent {
                Shared::report(&shared, Report {
                    method: Method::DELETE,
                    path: format!("/v1/requests/{}", self.id),
                    body: None,
                });
            },
            Ended = self.pursue(&mut again) => {}
        }
        shared.questions.fetch_sub(1, Ordering::Relaxed);
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
        let path = format!("/v1/requests/{}", self.id);
        loop {
            let limit = self.limit(CALL);
            self.sent = true;
            let body = Some(self.envelope.clone());
            let sent = self
                .shared
                .send(&self.shared.calls, Method::PUT, &path, body, limit)
                .await;
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
                    let cause = self.shared.wrong(&answer);
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
        let shared = Arc::clone(&self.shared);
        // Never closed, so this only waits.
        let _seat = shared.seats.acquire().await;
        let wait = shared.wait().as_secs();
        let mut path = format!("/v1/requests/{}/decision?wait={wait}", self.id);
        if let Some(after) = after {
            path.push_str(&format!("&after={after}"));
        }
        let limit = Duration::from_secs(wait) + GRACE;
        // In trouble the end of the hold must not pass unnoticed inside a poll.
        let limit = match self.trouble {
            Some(_) => self.limit(limit),
            None => limit,
        };
        let since = Instant::now();
        let polled = shared
            .send(&shared.polls, Method::GET, &path, None, limit)
            .await;
        let answer = match polled {
            Ok(answer) => answer,
            Err(cause) => return Some(Err((cause, None))),
        };
        Some(match answer.status {
            StatusCode::OK if answer.body.len() <= MAX_ENVELOPE => {
                Ok(Polled::Decision(answer.body))
            }
            StatusCode::OK => Err((shared.malformed("a decision of more than 64 KiB"), None)),
            StatusCode::ACCEPTED => match serde_json::from_slice(&answer.body) {
                Ok(state) => Ok(Polled::Waiting(state, since)),
                Err(_) => Err((shared.malformed("a 202 without the request's state"), None)),
            },
            StatusCode::NOT_FOUND if answer.is_problem() => return None,
            _ => Err((shared.wrong(&answer), answer.retry_after)),
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
            tracing::warn!(request = %id, error = %cause, "the gateway does not answer as it should");
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
        let _ = self.shared.events.send(event).await;
    }
}

enum Polled {
    Decision(Vec<u8>),
    Waiting(RequestState, Instant),
}

/// Something to tell the gateway that nobody waits for.
struct Report {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
}

impl Shared {
    /// Sends until the gateway has it or will never have it.
    fn report(this: &Arc<Self>, report: Report) {
        if this.reports.fetch_add(1, Ordering::Relaxed) >= MAX_REPORTS {
            this.reports.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(
                path = report.path,
                "too many reports wait for the gateway; this one is only in the ledger"
            );
            return;
        }
        let shared = Arc::clone(this);
        tokio::spawn(async move {
            let until = Instant::now() + REPORT_FOR;
            let mut backoff = Backoff::new();
            while Instant::now() < until {
                let seat = shared.reporting.acquire().await;
                let sent = shared
                    .send(
                        &shared.calls,
                        report.method.clone(),
                        &report.path,
                        report.body.clone(),
                        CALL,
                    )
                    .await;
                drop(seat);
                let asked = match sent {
                    Ok(answer) if !again_later(answer.status) => break,
                    Ok(answer) => answer.retry_after,
                    Err(_) => None,
                };
                tokio::time::sleep(backoff.next(asked)).await;
            }
            shared.reports.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// One call, signed: by its body, or by the `Syshold-Auth` header where it has none.
    async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<Answer, Cause> {
        let mut headers = Vec::new();
        if body.is_none() {
            headers.push(("Syshold-Auth", self.auth(&method, path)?));
        }
        let url = self.url(path)?;
        let body = body.map(|bytes| (DSSE, bytes));
        let sent = http::send(client, (method, url), &headers, body, limit).await;
        match &sent {
            Ok(answer) if answer.status.is_success() => self.fine(),
            Ok(_) => {}
            Err(cause) => self.health().trouble = Some(cause.clone()),
        }
        sent
    }

    fn auth(&self, method: &Method, path: &str) -> Result<String, Cause> {
        let call = dsse::Call {
            v: VERSION,
            host_id: self.gateway.host_id.clone(),
            method: method.to_string(),
            path: path.to_owned(),
            at: now_ms(),
        };
        let sealed = dsse::seal(&call, &self.key)
            .map_err(|_| Cause::Malformed("our own call cannot be signed"))?;
        Ok(base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            sealed.envelope,
        ))
    }

    fn url(&self, path: &str) -> Result<Url, Cause> {
        self.gateway
            .url
            .call(path)
            .ok_or(Cause::Malformed("our own call has no address"))
    }

    /// How long to wait in one poll: less when there are more questions than seats.
    fn wait(&self) -> Duration {
        let questions = self.questions.load(Ordering::Relaxed).max(1);
        let share = u32::try_from(questions.div_ceil(POLLS)).unwrap_or(u32::MAX);
        (WAIT / share).max(Duration::from_secs(1))
    }

    fn fine(&self) {
        *self.health() = Health {
            last_ok: Some(Timestamp::now()),
            trouble: None,
        };
    }

    fn wrong(&self, answer: &Answer) -> Cause {
        let cause = if answer.status.is_success() || answer.status.is_redirection() {
            Cause::Malformed("a status that does not belong to this call")
        } else {
            answer.refused()
        };
        self.health().trouble = Some(cause.clone());
        cause
    }

    fn malformed(&self, what: &'static str) -> Cause {
        let cause = Cause::Malformed(what);
        self.health().trouble = Some(cause.clone());
        cause
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

fn again_later(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

fn now_ms() -> UnixMs {
    std::time::SystemTime::now().into()
}
