//! Signed calls to the gateway, and what they tell about its health.
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use reqwest::{Client, Method, StatusCode, Url};
use syshold_protocol::break_glass::Notice;
use syshold_protocol::canonical::CanonicalError;
use syshold_protocol::dsse::{self, Payload, Sealed};
use syshold_protocol::{Outcome, SigningKey, VERSION};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::client::{Health, now_ms};
use super::gateway::Gateway;
use super::http::{self, Answer, Cause, DSSE, SetUpError};

/// Longest wait of one long-poll; proxies cut idle connections at 30 or 60 s.
const WAIT: Duration = Duration::from_secs(25);
/// On top of the wait of a long-poll.
const GRACE: Duration = Duration::from_secs(10);
/// Long-polls open at once; with more questions than that each one waits less.
const POLLS: usize = 400;
/// A call that does not wait for people.
pub(super) const CALL: Duration = Duration::from_secs(15);
/// How long withdrawals and outcomes are tried.
const REPORT_FOR: Duration = Duration::from_secs(600);
/// How long a notice of break-glass is.
const NOTICE_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Reports on their way; further ones are only in the ledger.
const MAX_REPORTS: usize = 1024;
/// … of which this many are on the wire.
const REPORTS_AT_ONCE: usize = 16;

/// What all tasks share.
pub(super) struct Wire {
    pub(super) gateway: Gateway,
    key: SigningKey,
    calls: Client,
    /// A client of its own: a full connection of long-polls must not delay a withdrawal.
    polls: Client,
    health: Mutex<Health>,
    /// Questions that are open.
    questions: AtomicUsize,
    seats: Semaphore,
    reports: AtomicUsize,
    /// Reports are being dropped, and it was said.
    overflowing: AtomicBool,
    reporting: Semaphore,
    /// Calls are made about a request: the ledger can go along.
    pub(super) round_trip: Arc<Notify>,
    /// Where calls are made and signed: not on the driver's thread, whoever asks for them.
    runtime: Handle,
}

/// Something to tell the gateway that nobody waits for.
pub(super) struct Report {
    pub(super) method: Method,
    pub(super) path: String,
    /// Signed where it is sent.
    pub(super) body: Option<Said>,
}

pub(super) enum Said {
    Outcome(Box<Outcome>),
    BreakGlass(Box<Notice>),
}

impl Said {
    fn seal(&self, wire: &Wire) -> Result<Sealed, CanonicalError> {
        match self {
            Self::Outcome(outcome) => wire.seal(outcome.as_ref()),
            Self::BreakGlass(notice) => wire.seal(notice.as_ref()),
        }
    }

    /// How long it is tried. That the glass was broken is news for days, and often while the
    /// gateway is away.
    fn patience(said: Option<&Self>) -> Duration {
        match said {
            Some(Self::BreakGlass(_)) => NOTICE_FOR,
            Some(Self::Outcome(_)) | None => REPORT_FOR,
        }
    }
}

impl Wire {
    pub(super) fn new(gateway: Gateway, key: SigningKey) -> Result<Self, SetUpError> {
        Ok(Self {
            calls: http::pinned(&gateway)?,
            polls: http::pinned(&gateway)?,
            gateway,
            key,
            health: Mutex::default(),
            questions: AtomicUsize::new(0),
            seats: Semaphore::new(POLLS),
            reports: AtomicUsize::new(0),
            overflowing: AtomicBool::new(false),
            reporting: Semaphore::new(REPORTS_AT_ONCE),
            round_trip: Arc::default(),
            runtime: Handle::current(),
        })
    }

    /// Runs a task beside the driver.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(super) fn seal<T: Payload>(&self, value: &T) -> Result<Sealed, CanonicalError> {
        dsse::seal(value, &self.key)
    }

    /// Counts an open question for as long as the result lives.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.questions.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    pub(super) async fn probe(&self) {
        let sent = self
            .send(&self.calls, Method::GET, "/v1/health", None, CALL)
            .await;
        match sent {
            Ok(answer) if answer.status != StatusCode::NO_CONTENT => {
                self.wrong(&answer);
            }
            // `send` has noted it.
            Ok(_) | Err(_) => {}
        }
    }

    pub(super) async fn put(
        &self,
        path: &str,
        envelope: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, Cause> {
        self.send(&self.calls, Method::PUT, path, Some(envelope), limit)
            .await
    }

    /// One long-poll, when its turn comes. `within`: gives the whole call less time.
    pub(super) async fn poll(
        &self,
        path: &str,
        query: &str,
        within: impl FnOnce(Duration) -> Duration,
    ) -> Result<Answer, Cause> {
        // Never closed, so this only waits.
        let _seat = self.seats.acquire().await;
        let wait = self.wait().as_secs();
        let path = format!("{path}?wait={wait}{query}");
        let limit = within(Duration::from_secs(wait) + GRACE);
        self.send(&self.polls, Method::GET, &path, None, limit)
            .await
    }

    /// One long-poll that is not about a question: it takes no seat from those that are.
    pub(super) async fn listen(&self, path: &str) -> Result<Answer, Cause> {
        let path = format!("{path}&wait={}", WAIT.as_secs());
        self.send(&self.polls, Method::GET, &path, None, WAIT + GRACE)
            .await
    }

    /// Sends until the gateway has it or will never have it.
    pub(super) fn report(this: &Arc<Self>, report: Report) {
        if this.reports.fetch_add(1, Ordering::Relaxed) >= MAX_REPORTS {
            this.reports.fetch_sub(1, Ordering::Relaxed);
            // Said once, until the gateway keeps up again: a storm must not fill the journal, too.
            if !this.overflowing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    path = report.path,
                    "too many reports wait for the gateway; this one and those that follow are only in the ledger"
                );
            }
            return;
        }
        let wire = Arc::clone(this);
        this.spawn(async move {
            wire.deliver(report).await;
            if wire.reports.fetch_sub(1, Ordering::Relaxed) <= MAX_REPORTS / 2 {
                wire.overflowing.store(false, Ordering::Relaxed);
            }
        });
    }

    async fn deliver(&self, report: Report) {
        let until = Instant::now() + Said::patience(report.body.as_ref());
        let body = match report.body.map(|said| said.seal(self)).transpose() {
            Ok(sealed) => sealed.map(|sealed| sealed.envelope),
            Err(error) => {
                return tracing::warn!(%error, path = report.path, "a report cannot be signed");
            }
        };
        let mut backoff = Backoff::new();
        while Instant::now() < until {
            let seat = self.reporting.acquire().await;
            let method = report.method.clone();
            let sent = self
                .send(&self.calls, method, &report.path, body.clone(), CALL)
                .await;
            drop(seat);
            let asked = match sent {
                Ok(answer) if !again_later(answer.status) => return,
                Ok(answer) => answer.retry_after,
                Err(_) => None,
            };
            tokio::time::sleep(backoff.next(asked)).await;
        }
    }

    /// One call, signed by its body if at all, that says nothing about how the gateway is.
    pub(super) async fn quiet(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
        limit: Duration,
    ) -> Result<Answer, Cause> {
        let url = self.url(path)?;
        http::send(&self.calls, (method, url), &[], body, limit).await
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
        let sealed = self
            .seal(&call)
            .map_err(|_| Cause::Malformed("our own call cannot be signed"))?;
        Ok(BASE64.encode(sealed.envelope))
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

    pub(super) fn wrong(&self, answer: &Answer) -> Cause {
        let cause = if answer.status.is_success() || answer.status.is_redirection() {
            Cause::Malformed("a status that does not belong to this call")
        } else {
            answer.refused()
        };
        self.health().trouble = Some(cause.clone());
        cause
    }

    pub(super) fn malformed(&self, what: &'static str) -> Cause {
        let cause = Cause::Malformed(what);
        self.health().trouble = Some(cause.clone());
        cause
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open question.
pub(super) struct Open(Arc<Wire>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.questions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
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
