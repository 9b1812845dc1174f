//! Approvals that people take back: one task that asks for them as long as the daemon runs, and
//! hands over what it gets. It starts from 0 at every start: what came before means nothing to a
//! daemon that has granted nothing yet, and so nothing that comes between is missed.
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::client::Event;
use super::http::Cause;
use super::wire::Wire;

/// A list that comes sooner is not followed by another poll before this is over.
const POLL_GAP: Duration = Duration::from_millis(200);
/// How soon a gateway that knows no revocations is asked again: it may have been updated.
const RARELY: Duration = Duration::from_secs(5 * 60);

/// What the driver made of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It counts; what follows that number is next.
    Since(u64),
    /// It does not. Asked again from that number, after a pause.
    Refused(u64),
}

/// The task.
pub(super) struct Revocations {
    wire: Arc<Wire>,
    events: mpsc::Sender<Event>,
    since: u64,
    backoff: Backoff,
    /// What was said last about trouble: each kind is said once.
    trouble: Option<Cause>,
}

impl Revocations {
    pub(super) fn new(wire: Arc<Wire>, events: mpsc::Sender<Event>) -> Self {
        Self {
            wire,
            events,
            since: 0,
            backoff: Backoff::new(),
            trouble: None,
        }
    }

    /// Until `over`, or until the driver is gone.
    pub(super) async fn run(mut self, word: mpsc::Receiver<Heard>, over: oneshot::Receiver<()>) {
        tokio::select! {
            _ = over => {}
            () = self.listen(word) => {}
        }
    }

    async fn listen(&mut self, mut word: mpsc::Receiver<Heard>) {
        loop {
            let begun = Instant::now();
            let path = format!("/v1/revocations?since={}", self.since);
            let (cause, asked) = match self.wire.listen(&path).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let event = Event::Revoked {
                        since: self.since,
                        envelope: answer.body,
                    };
                    if self.events.send(event).await.is_err() {
                        return;
                    }
                    match word.recv().await {
                        None => return,
                        Some(Heard::Since(next)) => {
                            self.well();
                            self.since = next;
                            sleep_until(begun + POLL_GAP).await;
                        }
                        Some(Heard::Refused(next)) => {
                            self.since = next;
                            sleep(self.backoff.next(None)).await;
                        }
                    }
                    continue;
                }
                // The gateway itself, and not something on the way to it, that is away for a moment.
                Ok(answer) if answer.status == StatusCode::NOT_FOUND && answer.is_problem() => {
                    self.say(answer.refused());
                    sleep(RARELY).await;
                    continue;
                }
                Ok(answer) => (self.wire.wrong(&answer), answer.retry_after),
                Err(cause) => (cause, None),
            };
            self.say(cause);
            sleep(self.backoff.next(asked)).await;
        }
    }

    fn well(&mut self) {
        self.backoff.reset();
        if self.trouble.take().is_some() {
            tracing::info!("the gateway tells again which approvals are taken back");
        }
    }

    fn say(&mut self, cause: Cause) {
        let known = self
            .trouble
            .as_ref()
            .is_some_and(|old| old.same_kind(&cause));
        if !known {
            tracing::warn!(%cause, "not told which approvals are taken back: grants go on until their end");
        }
        self.trouble = Some(cause);
    }
}
