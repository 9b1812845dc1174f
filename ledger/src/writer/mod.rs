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

mod batch;
mod upkeep;

use batch::{Rows, gap, genesis, step};
pub use upkeep::{Redaction, UpkeepError};

use crate::ballast::Ballast;
use crate::chain::Tail;
use crate::clock::{self, ClockSource, Now};
use crate::handle::{AppendError, Committed, Health, HostName, Options, Published};
use crate::keys::Keys;
use crate::leaf::{Draft, Kind};
use crate::note::VerifierKey;
use crate::store::{self, CommitError, Head, OpenError, Store};
use crate::tree::Frontier;

/// One draft and where its answer goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) draft: Draft,
    pub(crate) reply: oneshot::Sender<Result<Committed, AppendError>>,
}

/// What the writer is asked to do.
pub(crate) enum Order {
    Append(Job),
    /// Anything but an append; it answers for itself.
    Upkeep(Box<dyn FnOnce(&mut Writer) + Send>),
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
    keys: Keys,
    /// An epoch ends when the tree passes a multiple of this many leaves.
    epoch_leaves: u64,
    openable: Vec<String>,
    /// The latest checkpoint, once it is on disk.
    published: watch::Sender<Option<Published>>,
    /// The size of the latest checkpoint, unless it has to be kept.
    replaceable: Option<u64>,
    /// The last leaf that was acknowledged or found at a check, and the tree up to it.
    tail: Tail,
    edge: Frontier,
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
        published: watch::Sender<Option<Published>>,
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
        let mut new_keys = None;
        let origin = upkeep::new_origin(&host);
        let store = Store::open(path, || {
            let keys = new_keys.insert(Keys::create(path, &origin)?);
            genesis(&host, &boot_id, options.clock.as_ref(), keys)
        })?;
        let head = store.head()?;
        let keyless = head.checkpoint.is_none();
        let keys = match new_keys {
            Some(keys) => keys,
            None if keyless => Keys::create(path, &origin)?,
            None => Keys::load(path)?,
        };
        let mut writer = Self {
            path: path.to_owned(),
            host,
            boot_id,
            clock: options.clock,
            ballast,
            overflowed,
            health,
            state: State::Good(store),
            keys,
            epoch_leaves: options.epoch_leaves.max(1),
            openable: options.openable,
            published,
            replaceable: None,
            tail: head.tail.clone(),
            edge: head.edge.clone(),
            lost: 0,
            unacknowledged: None,
            _lock: lock,
        };
        if keyless {
            writer.introduce_keys()?;
        } else {
            writer.settle_keys(&head)?;
        }
        Ok(writer)
    }

    /// The log's public key.
    pub(crate) fn identity(&self) -> VerifierKey {
        self.keys.identity.verifier()
    }

    /// Writes batches until every sender is gone.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let first = match self.receive(orders) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => {
                    self.try_again();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batch = Vec::new();
            let mut upkeep = None;
            for order in std::iter::once(first).chain(orders.try_iter()) {
                match order {
                    Order::Append(job) => batch.push(job),
                    Order::Upkeep(work) => upkeep = Some(work),
                }
                if batch.len() == BATCH || upkeep.is_some() {
                    break;
                }
            }
            self.try_again();
            let before = self.edge.size();
            self.write(batch);
            if before / self.epoch_leaves != self.edge.size() / self.epoch_leaves {
                // The old key stays good; the next epoch's end is another chance.
                let _next_time = self.rotate();
            }
            if let Some(work) = upkeep {
                work(&mut self);
            }
        }
    }

    /// Sleeps until an order comes; only an ailing ledger also wakes by itself.
    fn receive(&self, orders: &Receiver<Order>) -> Result<Order, RecvTimeoutError> {
        match &self.state {
            State::Good(_) => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            State::Degraded { .. } | State::Broken { .. } => orders.recv_timeout(RETRY),
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
        let mut rows = Rows::after(&self.tail, &self.edge);
        match self.rows_for(&mut rows, &batch) {
            Ok(places) => {
                let committed = self.commit(rows);
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
        if let Some(ms) = now.jump(&self.tail.now, self.tail.boot_id == self.boot_id) {
            let _own = self.encode(rows, &step(&self.tail, ms), now);
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

    /// One transaction. After a failure the state is no longer good, and nothing of it is acknowledged.
    fn commit(&mut self, mut rows: Rows) -> Result<(), AppendError> {
        if rows.batch.rows.is_empty() {
            return Ok(());
        }
        rows.seal(&self.keys);
        rows.batch.replaces = self.replaceable;
        let store = match &mut self.state {
            State::Good(store) | State::Degraded { store, .. } => store,
            State::Broken { cause, .. } => return Err(AppendError::Store(Arc::clone(cause))),
        };
        match store.commit(&self.tail, &rows.batch) {
            Ok(()) => {
                self.advance(rows);
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

    /// After COMMIT, and never before: the checkpoint may be shown to others now.
    fn advance(&mut self, rows: Rows) {
        self.tail = rows.tail;
        self.edge = rows.edge;
        if let Some((size, note)) = rows.batch.checkpoint {
            self.replaceable = Some(size);
            self.published.send_replace(Some(Published {
                size,
                note: note.into(),
            }));
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
            Ok((store, head)) => {
                if head.tail.idx > self.tail.idx {
                    let first = self
                        .unacknowledged
                        .map_or(self.tail.idx + 1, |(first, _)| first);
                    self.unacknowledged = Some((first, head.tail.idx));
                }
                self.tail = head.tail;
                self.edge = head.edge;
                self.replaceable = None;
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
    fn reopened(&mut self) -> Result<(Store, Head), String> {
        let store = Store::reopen(&self.path).map_err(|error| error.to_string())?;
        match store.hash_at(self.tail.idx) {
            Ok(Some(hash)) if hash == self.tail.hash.0 => {}
            Ok(_) => {
                return Err(format!(
                    "leaf {}, which was acknowledged, is gone or changed: the file was replaced",
                    self.tail.idx
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
        let head = store.head().map_err(|error| error.to_string())?;
        self.settle_keys(&head).map_err(|error| error.to_string())?;
        Ok((store, head))
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
        let (Ok(now), mut rows) = (Now::read(), Rows::after(&self.tail, &self.edge)) else {
            return Err(CommitError::Busy);
        };
        if self.encode(&mut rows, draft, now).is_err() {
            return Err(CommitError::Busy);
        }
        self.commit_own(rows)
    }

    /// The same with what else it writes.
    fn commit_own(&mut self, mut rows: Rows) -> Result<(), CommitError> {
        rows.seal(&self.keys);
        rows.batch.replaces = self.replaceable;
        let store = match &mut self.state {
            State::Good(store) | State::Degraded { store, .. } => store,
            State::Broken { .. } => return Err(CommitError::Busy),
        };
        match store.commit(&self.tail, &rows.batch) {
            Ok(()) => {
                self.advance(rows);
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

/// Whoever asked may have gone.
fn reply(job: Job, answer: Result<Committed, AppendError>) {
    let _gone = job.reply.send(answer);
}
