//! The handle everyone appends through: a bounded queue to the one writer thread, and an answer
//! that comes only after the commit.
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use crate::clock::ClockSource;
use crate::leaf::{Draft, DraftError};
use crate::note::{Note, VerifierKey};
use crate::prune::Plan;
use crate::store::OpenError;
use crate::tree::TreeHash;
use crate::writer::{Job, Order, Redaction, UpkeepError, Writer};

/// The writing end of a ledger. Clones share one writer; the last one dropped waits for the queue
/// to be written.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Taken when dropped.
    queue: Option<SyncSender<Order>>,
    writer: Option<JoinHandle<()>>,
    /// Drafts that found the queue full: the writer records them as a gap.
    overflowed: Arc<AtomicU64>,
    health: watch::Receiver<Health>,
    published: watch::Receiver<Option<Published>>,
    identity: VerifierKey,
}

/// Settings with sensible defaults.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Options {
    /// Space kept back for a full disk.
    pub ballast_bytes: u64,
    /// Drafts that may wait; one more is refused.
    pub queue: usize,
    /// See [`ClockSource`].
    pub clock: Option<ClockSource>,
    /// Leaves in an epoch: then the epoch key is replaced and erased.
    pub epoch_leaves: u64,
    /// Fields that can be redacted later, such as `process.argv` or `approvers.comment`: a leaf
    /// holds a commitment to them, and what opens it is kept beside.
    pub openable: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ballast_bytes: 1 << 20,
            queue: 16_384,
            clock: None,
            epoch_leaves: 1024,
            openable: Vec::new(),
        }
    }
}

/// Whether the ledger can be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Good,
    /// The disk is full: denials are still recorded, on the space kept back; nothing else is.
    Degraded { cause: String },
    /// Nothing can be recorded, so nothing may be released. It is tried again every second.
    Broken { cause: String },
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it with its `genesis` leaf.
    pub fn open(path: &Path, host: HostName) -> Result<Self, OpenError> {
        Self::open_with(path, host, Options::default())
    }

    /// The same with settings.
    pub fn open_with(path: &Path, host: HostName, options: Options) -> Result<Self, OpenError> {
        let (queue, jobs) = sync_channel(options.queue);
        let (health, watched) = watch::channel(Health::Good);
        let overflowed = Arc::new(AtomicU64::new(0));
        let (publish, published) = watch::channel(None);
        let writer = Writer::open(
            path,
            host,
            options,
            Arc::clone(&overflowed),
            health,
            publish,
        )?;
        let identity = writer.identity();
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                queue: Some(queue),
                writer: Some(writer),
                overflowed,
                health: watched,
                published,
                identity,
            }),
        })
    }

    /// Queues a draft. Never blocks; a full queue refuses.
    #[must_use = "a leaf is recorded only when the Pending says so"]
    pub fn append(&self, draft: Draft) -> Pending {
        let (reply, answer) = oneshot::channel();
        let sent = match &self.inner.queue {
            Some(queue) => queue.try_send(Order::Append(Job { draft, reply })),
            None => return Pending(answer),
        };
        match sent {
            Ok(()) => {}
            // The caller reads the refusal from the other end.
            Err(TrySendError::Full(Order::Append(job))) => {
                self.inner.overflowed.fetch_add(1, Ordering::Relaxed);
                let _unread = job.reply.send(Err(AppendError::QueueFull));
            }
            Err(_) => {}
        }
        Pending(answer)
    }

    /// The key that signs all its checkpoints: what others know the ledger by.
    pub fn identity(&self) -> &VerifierKey {
        &self.inner.identity
    }

    /// The latest checkpoint that is on disk, to be shown to a witness. None until the first commit
    /// of this run.
    pub fn published(&self) -> watch::Receiver<Option<Published>> {
        self.inner.published.clone()
    }

    /// Replaces the epoch key and erases the old one. Gives the `key_rotate` leaf.
    pub async fn rotate_key(&self) -> Result<Committed, UpkeepError> {
        self.upkeep(Writer::rotate).await
    }

    /// The same outside async code.
    pub fn rotate_key_now(&self) -> Result<Committed, UpkeepError> {
        self.order(Writer::rotate)?
            .blocking_recv()
            .map_err(|_| AppendError::Closed)?
    }

    /// Makes committed values unreadable for good. Gives the `redact` leaf. Not in async code.
    pub fn redact(&self, what: Redaction) -> Result<Committed, UpkeepError> {
        self.order(move |writer| writer.redact(&what))?
            .blocking_recv()
            .map_err(|_| AppendError::Closed)?
    }

    /// Removes what a plan names; `by` ordered it. Gives the `prune` leaf. Not in async code.
    pub fn prune(&self, plan: Plan, by: String) -> Result<Committed, UpkeepError> {
        self.order(move |writer| writer.prune(&plan, &by))?
            .blocking_recv()
            .map_err(|_| AppendError::Closed)?
    }

    /// Keeps a checkpoint with the cosignature that [`witness::accept`](crate::witness::accept)
    /// found under it.
    pub async fn cosigned(&self, note: Note) -> Result<(), UpkeepError> {
        self.upkeep(move |writer| writer.keep_cosigned(&note)).await
    }

    /// Has the writer do something between two batches.
    async fn upkeep<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, UpkeepError> + Send + 'static,
    ) -> Result<T, UpkeepError> {
        self.order(work)?.await.map_err(|_| AppendError::Closed)?
    }

    fn order<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, UpkeepError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, UpkeepError>>, UpkeepError> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Upkeep(Box::new(move |writer| {
            // Whoever asked may have gone.
            let _gone = reply.send(work(writer));
        }));
        let queue = self.inner.queue.as_ref().ok_or(AppendError::Closed)?;
        queue.try_send(order).map_err(|_| AppendError::QueueFull)?;
        Ok(answer)
    }

    /// Watches whether the ledger can be written.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }
}

/// A draft on its way to the disk.
#[derive(Debug)]
#[must_use = "a leaf is recorded only when this says so"]
pub struct Pending(oneshot::Receiver<Result<Committed, AppendError>>);

impl Pending {
    /// Waits, outside async code.
    pub fn wait(self) -> Result<Committed, AppendError> {
        self.0.blocking_recv().unwrap_or(Err(AppendError::Closed))
    }
}

impl Future for Pending {
    type Output = Result<Committed, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or(Err(AppendError::Closed)))
    }
}

/// A leaf that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub idx: u64,
    pub hash: TreeHash,
}

/// A checkpoint that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How many leaves it is of.
    pub size: u64,
    /// The signed note.
    pub note: Arc<str>,
}

/// Why a draft is not in the ledger. Whatever it says: deny.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error("the draft cannot be a leaf: {0}")]
    Draft(#[from] DraftError),
    #[error("the ledger's queue is full")]
    QueueFull,
    #[error("the disk is full ({0}): only denials are recorded until space is freed")]
    Degraded(Arc<str>),
    #[error("the ledger cannot be written: {0}")]
    Store(Arc<str>),
    #[error("the ledger is closed")]
    Closed,
}

/// The host's name, as leaves carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// A text that is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name (1 to 253 of A-Za-z0-9._-); set one with hostnamectl")]
pub struct HostNameError(String);

impl HostName {
    /// The kernel's name for this machine.
    pub fn of_this_machine() -> Result<Self, HostNameError> {
        let name = nix::unistd::gethostname().map_err(|error| HostNameError(error.to_string()))?;
        name.to_string_lossy().parse()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = HostNameError;
    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let good = (1..=253).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(HostNameError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
