//! The one thread that writes. It owns all the state there is:
//!
//! ```text
//!            a commit fails                       reopened, checked, gap leaf written
//!   Good ───────────────────▶ Broken ───────────────────────────────────────────────▶ Good
//!    ▲                         │  ▲
//!    │ ballast restored,       │  │ the ballast is used up too
//!    │ gap leaf written        ▼  │
//!    └────────────────────── Degraded   (disk full: ballast released, degraded leaf written;
//!                                        only leaves that release nothing are taken)
//! ```
//! A batch is everything that waited: one transaction, one fsync, then the answers. Each draft of a
//! batch that fails is answered with the error and counted; the count is in the next `gap` leaf.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{oneshot, watch};

use crate::ballast::Ballast;
use crate::chain::{LeafHash, Tail, leaf_hash};
use crate::clock::{self, ClockSource, Now, Stamp};
use crate::handle::{AppendError, Committed, Health, HostName, Options};
use crate::leaf::{Draft, Kind};
use crate::store::{self, CommitError, OpenError, Row, Store};

/// One draft and where its answer goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) draft: Draft,
    pub(crate) reply: oneshot::Sender<Result<Committed, AppendError>>,
}

/// The most leaves in one transaction.
const BATCH: usize = 512;
/// How often a broken or degraded ledger is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Writer {
    path: PathBuf,
    host: HostName,
    boot_id: String,
    clock: Option<ClockSource>,
    ballast: Ballast,
    overflowed: Arc<AtomicU64>,
    health: watch::Sender<Health>,
    state: State,
    /// The last leaf that was acknowledged or found at a check.
    tail: Tail,
    lost: u64,
    /// Leaves found after a failure that nobody was told of: in the ledger, but never acted upon.
    unacknowledged: Option<(u64, u64)>,
    /// Held for its lock.
    _lock: File,
}

enum State {
    Good(Store),
    Degraded {
        store: Store,
        cause: Arc<str>,
        retry_at: Instant,
    },
    Broken {
        cause: Arc<str>,
        retry_at: Instant,
    },
}

impl Writer {
    pub(crate) fn open(
        path: &Path,
        host: HostName,
        options: Options,
        overflowed: Arc<AtomicU64>,
        health: watch::Sender<Health>,
    ) -> Result<Self, OpenError> {
        let lock = store::lock(path)?;
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let boot_id = clock::boot_id().map_err(io)?;
        let bytes = options.ballast_bytes;
        let ballast = Ballast::new(path.with_extension("ballast"), bytes);
        ballast.ensure().map_err(|source| OpenError::Ballast {
            path: ballast.path().to_owned(),
            bytes,
            source,
        })?;
        let store = Store::open(path, || genesis(&host, &boot_id, options.clock.as_ref()))?;
        let tail = store.tail()?;
        let state = State::Good(store);
        Ok(Self {
            path: path.to_owned(),
            host,
            boot_id,
            clock: options.clock,
            ballast,
            overflowed,
            health,
            state,
            tail,
            lost: 0,
            unacknowledged: None,
            _lock: lock,
        })
    }

    /// Writes batches until every sender is gone.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        loop {
            match self.receive(jobs) {
                Ok(job) => batch.push(job),
                Err(RecvTimeoutError::Timeout) => {
                    self.try_again();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            batch.extend(jobs.try_iter().take(BATCH - 1));
            self.try_again();
            self.write(std::mem::take(&mut batch));
        }
    }

    /// Sleeps until a draft comes; only an ailing ledger also wakes by itself.
    fn receive(&self, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        match &self.state {
            State::Good(_) => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            State::Degraded { .. } | State::Broken { .. } => jobs.recv_timeout(RETRY),
        }
    }

    /// The normal way of a batch.
    fn write(&mut self, batch: Vec<Job>) {
        let (batch, refused): (Vec<Job>, Vec<Job>) = match &self.state {
            State::Good(_) => (batch, Vec::new()),
            State::Degraded { .. } => batch.into_iter().partition(|job| !job.draft.releases()),
            State::Broken { .. } => (Vec::new(), batch),
        };
        self.refuse(refused);
        if batch.is_empty() {
            return;
        }
        let mut rows = Rows::after(&self.tail);
        match self.rows_for(&mut rows, &batch) {
            Ok(places) => {
                let committed = self.commit(&rows);
                self.answer(batch, places, committed);
            }
            Err(error) => {
                let cause: Arc<str> = error.to_string().into();
                self.lost += batch.len() as u64;
                batch
                    .into_iter()
                    .for_each(|job| reply(job, Err(AppendError::Store(Arc::clone(&cause)))));
            }
        }
    }

    /// Encodes the batch, and before it what the ledger has to say itself.
    fn rows_for(
        &self,
        rows: &mut Rows,
        batch: &[Job],
    ) -> Result<Vec<Result<Committed, AppendError>>, clock::ClockError> {
        let now = Now::read()?;
        if let Some(step) = now.jump(&self.tail.now, self.tail.boot_id == self.boot_id) {
            let from = clock::format(self.tail.now.t);
            let draft = Draft::new(Kind::Clock).field("step", &json!({"from": from, "ms": step}));
            let _own = self.encode(rows, &draft, now);
        }
        let overflowed = self.overflowed.swap(0, Ordering::Relaxed);
        if overflowed > 0 {
            let _own = self.encode(rows, &gap(overflowed, "the queue was full", None), now);
        }
        Ok(batch
            .iter()
            .map(|job| self.encode(rows, &job.draft, now))
            .collect())
    }

    fn encode(&self, rows: &mut Rows, draft: &Draft, now: Now) -> Result<Committed, AppendError> {
        let clock = self.clock.as_ref().and_then(|source| source());
        let stamp = Stamp {
            t: now.t,
            t_boot: now.t_boot,
            boot_id: &self.boot_id,
            clock,
            host: self.host.as_str(),
        };
        let body = draft.encode(rows.tail.idx + 1, rows.tail.hash, &stamp)?;
        Ok(rows.push(body, now, &self.boot_id))
    }

    /// One transaction. After a failure the state is no longer good, and nothing of it is acknowledged.
    fn commit(&mut self, rows: &Rows) -> Result<(), AppendError> {
        let store = match &mut self.state {
            State::Good(store) | State::Degraded { store, .. } => store,
            State::Broken { cause, .. } => return Err(AppendError::Store(Arc::clone(cause))),
        };
        if rows.rows.is_empty() {
            return Ok(());
        }
        match store.commit(&self.tail, &rows.rows) {
            Ok(()) => {
                self.tail = rows.tail.clone();
                Ok(())
            }
            Err(error) => {
                let cause: Arc<str> = error.to_string().into();
                let full = error.disk_full();
                // Closes the connection: what is in its cache is not to be trusted any more.
                self.become_broken(&cause, Instant::now());
                self.recover(full);
                Err(AppendError::Store(cause))
            }
        }
    }

    fn answer(
        &mut self,
        batch: Vec<Job>,
        places: Vec<Result<Committed, AppendError>>,
        committed: Result<(), AppendError>,
    ) {
        for (job, place) in batch.into_iter().zip(places) {
            match (place, &committed) {
                (Err(own), _) => reply(job, Err(own)),
                (Ok(place), Ok(())) => reply(job, Ok(place)),
                (Ok(_), Err(error)) => {
                    self.lost += 1;
                    reply(job, Err(error.clone()));
                }
            }
        }
        // A ledger that recovered at once says what it lost before anything else is written.
        if self.lost > 0 {
            self.settle();
        }
    }

    fn refuse(&mut self, refused: Vec<Job>) {
        let error = match &self.state {
            State::Good(_) => return,
            State::Degraded { cause, .. } => AppendError::Degraded(Arc::clone(cause)),
            State::Broken { cause, .. } => AppendError::Store(Arc::clone(cause)),
        };
        self.lost += refused.len() as u64;
        refused
            .into_iter()
            .for_each(|job| reply(job, Err(error.clone())));
    }

    /// Once a second, when not good: back to where leaves can be written.
    fn try_again(&mut self) {
        match &self.state {
            State::Good(_) => {}
            State::Broken { retry_at, .. } if Instant::now() >= *retry_at => {
                self.recover(false);
                self.settle();
            }
            State::Degraded { retry_at, .. } if Instant::now() >= *retry_at => self.settle(),
            State::Broken { .. } | State::Degraded { .. } => {}
        }
    }

    /// Broken → Good or Degraded: reopen, check, and go on after what is really there.
    fn recover(&mut self, full: bool) {
        let State::Broken { cause, .. } = &self.state else {
            return;
        };
        let cause = Arc::clone(cause);
        let full = full || self.ballast.disk_full();
        if full {
            // Without it there is nothing to release, and reopening may still work.
            let _missing = self.ballast.release();
        }
        match self.reopened() {
            Ok((store, tail)) => {
                if tail.idx > self.tail.idx {
                    let first = self
                        .unacknowledged
                        .map_or(self.tail.idx + 1, |(first, _)| first);
                    self.unacknowledged = Some((first, tail.idx));
                }
                self.tail = tail;
                let retry_at = Instant::now() + RETRY;
                if full || self.ballast.restore().is_err() {
                    self.state = State::Degraded {
                        store,
                        cause: Arc::clone(&cause),
                        retry_at,
                    };
                    self.health.send_replace(Health::Degraded {
                        cause: cause.to_string(),
                    });
                    let draft =
                        Draft::new(Kind::Degraded).field("degraded", &json!({"cause": *cause}));
                    let _best_effort = self.own_leaf(&draft);
                } else {
                    self.state = State::Good(store);
                    self.health.send_replace(Health::Good);
                }
            }
            Err(error) => self.become_broken(&error.into(), Instant::now() + RETRY),
        }
    }

    /// The file again, with every leaf that was ever acknowledged still in it.
    fn reopened(&self) -> Result<(Store, Tail), String> {
        let store = Store::reopen(&self.path).map_err(|error| error.to_string())?;
        let tail = store.tail().map_err(|error| error.to_string())?;
        match store.hash_at(self.tail.idx) {
            Ok(Some(hash)) if hash == self.tail.hash.0 => Ok((store, tail)),
            Ok(_) => Err(format!(
                "leaf {}, which was acknowledged, is gone or changed: the file was replaced",
                self.tail.idx
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes the gap leaf that ends a failure; a degraded ledger first needs its ballast back.
    fn settle(&mut self) {
        if let State::Degraded { retry_at, .. } = &mut self.state {
            *retry_at = Instant::now() + RETRY;
            if self.ballast.restore().is_err() {
                return;
            }
        }
        let gap = gap(
            self.lost,
            "the ledger could not be written",
            self.unacknowledged,
        );
        if self.lost > 0 && self.own_leaf(&gap).is_err() {
            return;
        }
        self.lost = 0;
        self.unacknowledged = None;
        match std::mem::replace(
            &mut self.state,
            State::Broken {
                cause: "settling".into(),
                retry_at: Instant::now(),
            },
        ) {
            State::Good(store) | State::Degraded { store, .. } => {
                self.state = State::Good(store);
                self.health.send_replace(Health::Good);
            }
            broken @ State::Broken { .. } => self.state = broken,
        }
    }

    /// A leaf of the ledger's own. A failure leaves it broken, to be tried again later.
    fn own_leaf(&mut self, draft: &Draft) -> Result<(), CommitError> {
        let store = match &mut self.state {
            State::Good(store) | State::Degraded { store, .. } => store,
            State::Broken { .. } => return Err(CommitError::Busy),
        };
        let mut rows = Rows::after(&self.tail);
        let Ok(now) = Now::read() else {
            return Err(CommitError::Busy);
        };
        let clock = self.clock.as_ref().and_then(|source| source());
        let stamp = Stamp {
            t: now.t,
            t_boot: now.t_boot,
            boot_id: &self.boot_id,
            clock,
            host: self.host.as_str(),
        };
        let Ok(body) = draft.encode(rows.tail.idx + 1, rows.tail.hash, &stamp) else {
            return Err(CommitError::Busy);
        };
        rows.push(body, now, &self.boot_id);
        match store.commit(&self.tail, &rows.rows) {
            Ok(()) => {
                self.tail = rows.tail;
                Ok(())
            }
            Err(error) => {
                self.become_broken(&error.to_string().into(), Instant::now() + RETRY);
                Err(error)
            }
        }
    }

    fn become_broken(&mut self, cause: &Arc<str>, retry_at: Instant) {
        self.state = State::Broken {
            cause: Arc::clone(cause),
            retry_at,
        };
        self.health.send_replace(Health::Broken {
            cause: cause.to_string(),
        });
    }
}

/// The rows of a transaction, chained as they are pushed.
struct Rows {
    rows: Vec<Row>,
    tail: Tail,
}

impl Rows {
    fn after(tail: &Tail) -> Self {
        Self {
            rows: Vec::new(),
            tail: tail.clone(),
        }
    }

    fn push(&mut self, body: String, now: Now, boot_id: &str) -> Committed {
        let (idx, hash) = (self.tail.idx + 1, leaf_hash(body.as_bytes()));
        self.rows.push(Row { idx, body, hash });
        self.tail = Tail {
            idx,
            hash,
            now,
            boot_id: boot_id.to_owned(),
        };
        Committed { idx, hash }
    }
}

/// `unacknowledged` leaves are in the chain, but whoever drafted them was told that they are not.
fn gap(lost: u64, cause: &str, unacknowledged: Option<(u64, u64)>) -> Draft {
    let mut gap = json!({"lost": lost, "cause": cause});
    if let Some((from, to)) = unacknowledged {
        gap["unacknowledged"] = json!({"from": from, "to": to});
    }
    Draft::new(Kind::Gap).field("gap", &gap)
}

fn genesis(host: &HostName, boot_id: &str, clock: Option<&ClockSource>) -> Result<Row, OpenError> {
    let now = Now::read().map_err(|error| OpenError::Genesis(error.to_string()))?;
    let clock = clock.and_then(|source| source());
    let stamp = Stamp {
        t: now.t,
        t_boot: now.t_boot,
        boot_id,
        clock,
        host: host.as_str(),
    };
    let draft = Draft::new(Kind::Genesis).field(
        "software",
        &concat!("syshold-ledger ", env!("CARGO_PKG_VERSION")),
    );
    let body = draft
        .encode(0, LeafHash::NONE, &stamp)
        .map_err(|error| OpenError::Genesis(error.to_string()))?;
    let hash = leaf_hash(body.as_bytes());
    Ok(Row { idx: 0, body, hash })
}

/// Whoever asked may have gone.
fn reply(job: Job, answer: Result<Committed, AppendError>) {
    let _gone = job.reply.send(answer);
}
