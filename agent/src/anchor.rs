//! This host's ledger before its witness, the gateway.
//!
//! ```text
//! start ─▶ claim, compare ──ok──▶ (the daemon starts) ─▶ wait ──nudged, or a minute──▶ submit ─▶ keep
//!           │  ▲ again later       ▲                                                     │ 409, 422
//!           │  └── unreachable     └──────────────────── ok ── claim, compare ◀──────────┘
//!           └──▶ alarm: E_ROLLBACK, E_FORK; nothing may be released
//! ```
//! A checkpoint is shown after its commit and never before; a cosignature counts when the pinned key
//! made it for this very checkpoint. What the gateway says it saw counts when this ledger's own key
//! signed it: it can be wrong about nothing but leaves that are gone.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::json;
use syshold_ledger::note::{Checkpoint, Note, Role, VerifierKey, parse_checkpoint};
use syshold_ledger::{Draft, Finding, Kind, Ledger, Published, Reader, witness};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::approver::{Log, Told};

/// Leaves that no round trip shows wait no longer than this.
const EVERY: Duration = Duration::from_secs(60);
/// Between two submissions, whoever asks.
const GAP: Duration = Duration::from_secs(1);
/// Between two tries, at most: 1 s, doubling.
const AGAIN: Duration = Duration::from_secs(10);
/// Longest answer that can be a size, or lines of cosignatures.
const MAX_TEXT: usize = 16 * 1024;

/// How the ledger stands before its witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It was compared with what the witness saw, and nothing is missing.
    pub compared: bool,
    /// Leaves below this one were seen, at that time.
    pub cosigned: Option<(u64, Timestamp)>,
    /// Why the newest leaves are not; it is tried again.
    pub trouble: Option<String>,
    /// Leaves are gone, or others: with the fix. Nothing is tried again.
    pub alarm: Option<String>,
}

/// The witness's key that the enrolment left is none.
#[derive(Debug, thiserror::Error)]
#[error("the enrolment names no witness's key; run `syshold enrol --again`")]
pub struct NoWitness;

/// The handle. Dropping it ends the task.
#[derive(Debug)]
pub struct Anchor {
    nudge: Arc<Notify>,
    standing: watch::Receiver<Standing>,
    published: watch::Receiver<Option<Published>>,
}

impl Anchor {
    /// Compares at once, then goes on by itself; shows nothing before the first commit of this run.
    pub fn start(log: Log, ledger: Ledger, path: PathBuf) -> Result<Self, NoWitness> {
        let key: Option<VerifierKey> = log.witness().parse().ok();
        let witness = key
            .filter(|key| key.role() == Role::Witness)
            .ok_or(NoWitness)?;
        let nudge = log.round_trip();
        let (told, standing) = watch::channel(Standing::default());
        let published = ledger.published();
        let task = Task {
            log: log.clone(),
            published: published.clone(),
            ledger,
            path,
            witness,
            nudge: Arc::clone(&nudge),
            seen: None,
        };
        log.spawn(async move {
            tokio::select! {
                () = told.closed() => {}
                alarm = task.run(&told) => {
                    tracing::error!("{alarm}");
                    told.send_modify(|standing| standing.alarm = Some(alarm));
                }
            }
        });
        Ok(Self {
            nudge,
            standing,
            published,
        })
    }

    /// The newest leaves are to be shown soon, as with every request and outcome.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Until the ledger was compared, or cannot be for now. Err: the alarm.
    pub async fn compared(&mut self, limit: Duration) -> Result<(), String> {
        let known = |standing: &Standing| {
            standing.compared || standing.alarm.is_some() || standing.trouble.is_some()
        };
        // Whoever cannot be asked in time is asked again later.
        let late = timeout(limit, self.standing.wait_for(known)).await;
        drop(late);
        match self.standing().alarm {
            Some(alarm) => Err(alarm),
            None => Ok(()),
        }
    }

    /// Waits for an alarm, for ever if there is none.
    pub async fn alarm(&mut self) -> String {
        let found = self
            .standing
            .wait_for(|standing| standing.alarm.is_some())
            .await;
        match found.map(|standing| standing.alarm.clone()) {
            Ok(Some(alarm)) => alarm,
            _ => std::future::pending().await,
        }
    }

    /// Shows what is there, unless that takes too long: nothing more will be written.
    pub async fn last(&mut self, limit: Duration) {
        let size = self.published.borrow().as_ref().map_or(0, |last| last.size);
        if !self.standing().compared || self.standing().trouble.is_some() {
            return;
        }
        self.nudge();
        let done = |standing: &Standing| {
            let seen = standing.cosigned.map_or(0, |(size, _)| size);
            seen >= size || standing.trouble.is_some()
        };
        let _unseen = timeout(limit, self.standing.wait_for(done)).await;
    }
}

struct Task {
    log: Log,
    ledger: Ledger,
    path: PathBuf,
    witness: VerifierKey,
    nudge: Arc<Notify>,
    published: watch::Receiver<Option<Published>>,
    /// What the witness cosigned last.
    seen: Option<Checkpoint>,
}

enum Wrong {
    Trouble(String),
    Alarm(String),
}

fn trouble(error: impl std::fmt::Display) -> Wrong {
    Wrong::Trouble(error.to_string())
}

impl Task {
    /// Ends with an alarm only.
    async fn run(mut self, told: &watch::Sender<Standing>) -> String {
        let (mut compared, mut tries) = (false, 0_u32);
        loop {
            let done = if compared {
                self.catch_up(told).await
            } else {
                self.begin(told).await.map(|()| compared = true)
            };
            match done {
                Ok(()) => {
                    told.send_if_modified(|standing| standing.trouble.take().is_some());
                    tries = 0;
                }
                Err(Wrong::Alarm(alarm)) => return alarm,
                Err(Wrong::Trouble(text)) => {
                    if told.borrow().trouble.is_none() {
                        tracing::warn!("the newest leaves were not witnessed: {text}");
                    }
                    told.send_modify(|standing| standing.trouble = Some(text));
                    sleep(AGAIN.min(GAP * 2_u32.saturating_pow(tries))).await;
                    tries += 1;
                    continue;
                }
            }
            let soonest = Instant::now() + GAP;
            tokio::select! {
                () = self.nudge.notified() => sleep_until(soonest).await,
                () = sleep(EVERY) => {}
            }
        }
    }

    /// The comparison, and a leaf that says who witnesses.
    async fn begin(&mut self, told: &watch::Sender<Standing>) -> Result<(), Wrong> {
        self.compare(told).await?;
        // The daemon's own first leaf comes first, and does not come when it refuses to start.
        let first = self.published.wait_for(Option::is_some).await;
        drop(first.map_err(trouble)?);
        let said = json!({
            "witness": self.witness.to_string(),
            "seen": self.seen.as_ref().map(|seen| seen.size),
        });
        let leaf = Draft::new(Kind::Anchor).field("anchor", &said);
        self.ledger.append(leaf).await.map_err(trouble)?;
        self.nudge.notify_one();
        Ok(())
    }

    /// With what the witness cosigned last.
    async fn compare(&mut self, told: &watch::Sender<Standing>) -> Result<(), Wrong> {
        let path = self.path.clone();
        let latest = blocking(move || Reader::open(&path)?.checkpoint()).await?;
        let (note, _) = latest.ok_or_else(|| trouble("the ledger has no checkpoint yet"))?;
        let key = self.ledger.identity().to_string();
        let answer = self.log.claim(key, note.to_string()).await;
        let seen = match answer.map_err(trouble)? {
            Told::Seen(seen) => seen,
            Told::Other(text) => {
                return Err(Wrong::Alarm(format!(
                    "E_ROLLBACK: this ledger, {}, is not the one that the gateway has witnessed; {text}",
                    self.path.display()
                )));
            }
        };
        let seen = seen.map(|raw| self.own(&raw)).transpose()?;
        if let Some((checkpoint, _)) = &seen {
            let (path, witnessed) = (self.path.clone(), checkpoint.clone());
            let found = blocking(move || Reader::open(&path)?.against(&witnessed)).await?;
            if let Some(finding) = found {
                return Err(Wrong::Alarm(self.alarm(&finding)));
            }
        }
        told.send_modify(|standing| {
            standing.compared = true;
            standing.cosigned = seen.as_ref().map(|(seen, at)| (seen.size, *at));
        });
        self.seen = seen.map(|(checkpoint, _)| checkpoint);
        Ok(())
    }

    /// A checkpoint that this ledger signed and its witness cosigned, and when.
    fn own(&self, raw: &str) -> Result<(Checkpoint, Timestamp), Wrong> {
        let (note, checkpoint) = parse_checkpoint(raw).map_err(trouble)?;
        let by = |key: &VerifierKey| {
            let mut lines = note.signatures.iter();
            lines.find_map(|line| line.verify(key, &note.text))
        };
        match (by(self.ledger.identity()), by(&self.witness)) {
            (Some(_), Some(at)) => Ok((checkpoint, time(at))),
            _ => Err(trouble(
                "the gateway says it saw what this ledger and the pinned witness did not sign",
            )),
        }
    }

    fn alarm(&self, finding: &Finding) -> String {
        format!(
            "{finding}; the gateway has witnessed what is not in {path} any more: put the newest copy of it and its keys back, or, if that is lost, move what is here away as evidence and run `syshold-approver hosts new-ledger` on the gateway",
            path = self.path.display()
        )
    }

    /// Shows the newest leaves, if the witness has not seen them.
    async fn catch_up(&mut self, told: &watch::Sender<Standing>) -> Result<(), Wrong> {
        for _ in 0..3 {
            let Some(latest) = self.published.borrow().clone() else {
                return Ok(());
            };
            let old = self.seen.as_ref().map_or(0, |seen| seen.size);
            if latest.size <= old {
                return Ok(());
            }
            let (path, shown) = (self.path.clone(), latest.clone());
            let submission = blocking(move || Reader::open(&path)?.submission(old, &shown)).await?;
            let answer = self.log.add_checkpoint(submission.to_string()).await;
            let answer = answer.map_err(trouble)?;
            match answer.status {
                StatusCode::OK => {
                    let text = text(&answer.body)?;
                    return self.keep(&latest, text, told).await;
                }
                // It saw more than we know, or nothing: ask what, and look whether we have it.
                StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => {
                    self.compare(told).await?;
                }
                _ => return Err(trouble(answer.refused())),
            }
        }
        Err(trouble(
            "the gateway does not cosign what continues what it saw",
        ))
    }

    /// The cosignature goes into the ledger, with the checkpoint it is of.
    async fn keep(
        &mut self,
        latest: &Published,
        text: &str,
        told: &watch::Sender<Standing>,
    ) -> Result<(), Wrong> {
        let cosigned = |line| witness::accept(&latest.note, line, &self.witness);
        let note: Note = text
            .lines()
            .find_map(cosigned)
            .ok_or_else(|| trouble("what came back is not the pinned witness's cosignature"))?;
        let at = note
            .signatures
            .iter()
            .find_map(|line| line.verify(&self.witness, &note.text));
        let (_, checkpoint) = parse_checkpoint(&latest.note).map_err(trouble)?;
        self.ledger.cosigned(note).await.map_err(trouble)?;
        self.seen = Some(checkpoint);
        let cosigned = at.map(|at| (latest.size, time(at)));
        told.send_modify(|standing| standing.cosigned = cosigned);
        Ok(())
    }
}

fn text(body: &[u8]) -> Result<&str, Wrong> {
    let body = body.get(..MAX_TEXT).unwrap_or(body);
    std::str::from_utf8(body).map_err(trouble)
}

fn time(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Reads the ledger off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, syshold_ledger::ProveError> + Send + 'static,
) -> Result<T, Wrong> {
    let done = tokio::task::spawn_blocking(work).await.map_err(trouble)?;
    done.map_err(trouble)
}
