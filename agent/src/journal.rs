//! Each leaf again as a line of the log, a moment after its commit: in the journal with fields that
//! a SIEM can filter on. A copy and no evidence; `SYSHOLD_LEAF` says of which leaf.
//!
//! It reads the ledger, on a thread of its own: a journal that takes no lines delays nobody and
//! loses none, this only falls behind. What a leaf commits to and could be redacted is not copied.
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use syshold_ledger::record::Record;
use syshold_ledger::{Filter, Leaf, Ledger, Published, ReadError, Reader};
use syshold_protocol::display::escape;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

/// How long a leaf waits for others, and for whom it released.
const SOON: Duration = Duration::from_millis(50);
/// Leaves read at once; the ledger's log can be cleared in between.
const MOST: usize = 256;
/// How long the end waits for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// The handle. Dropping it ends the copying.
#[derive(Debug)]
pub struct Journal {
    stop: Option<oneshot::Sender<()>>,
    done: mpsc::Receiver<()>,
}

impl Journal {
    /// Copies what is committed to the ledger at `path` from now on.
    pub fn start(ledger: &Ledger, path: PathBuf) -> io::Result<Self> {
        let mut published = ledger.published();
        // Before anything else of this run is committed.
        let first = Reader::open(&path).and_then(|reader| reader.size());
        let mut next = first.map_err(io::Error::other)?;
        let (stop, mut stopped) = oneshot::channel();
        let (over, done) = mpsc::channel();
        let runtime = Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                loop {
                    let on = runtime.block_on(more(&mut published, &mut stopped));
                    if let Err(error) = copy(&path, &mut next) {
                        tracing::warn!(%error, leaf = next, "leaves are not copied to the log; trying again");
                    }
                    if !on {
                        // Nobody may be waiting for it.
                        let _alone = over.send(());
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            done,
        })
    }

    /// Copies what is left, unless that takes too long.
    pub fn finish(mut self) {
        drop(self.stop.take());
        let _late = self.done.recv_timeout(LAST);
    }
}

/// Until there are leaves to copy. False: these are the last.
async fn more(
    published: &mut watch::Receiver<Option<Published>>,
    stopped: &mut oneshot::Receiver<()>,
) -> bool {
    let committed = async {
        let on = published.changed().await.is_ok();
        sleep(SOON).await;
        on
    };
    tokio::select! {
        on = committed => on,
        _ = stopped => false,
    }
}

/// Every leaf from `next` on.
fn copy(path: &Path, next: &mut u64) -> Result<(), ReadError> {
    let reader = Reader::open(path)?;
    loop {
        let mut leaves = Vec::new();
        let filter = Filter {
            from_idx: *next,
            ..Filter::default()
        };
        reader.scan(&filter, |leaf| {
            leaves.push(leaf);
            match leaves.len() {
                MOST => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        for leaf in &leaves {
            line(leaf);
            *next = leaf.idx + 1;
        }
        if leaves.len() < MOST {
            return Ok(());
        }
    }
}

/// The fields have the names that `syshold ledger query --format csv` has, but for `leaf`.
fn line(leaf: &Leaf) {
    let record = Record::of(leaf);
    let (labels, approvers) = (record.labels.join(" "), record.who());
    let text = summary(&record);
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                leaf = record.idx,
                time = record.t.as_str(),
                kind = record.kind.as_str(),
                agent = said(&record.agent),
                owner = said(&record.owner),
                model = said(&record.model),
                op = said(&record.op),
                object = said(&record.object),
                labels = said(&labels),
                rule = said(&record.rule),
                why = said(&record.why),
                verdict = said(&record.verdict),
                by = said(&record.by),
                cause = said(&record.cause),
                approvers = said(&approvers),
                request = said(&record.request),
                hold = said(&record.hold),
                result = said(&record.result),
                held_ms = record.held_ms,
                detail = said(&record.detail),
                leaf_hash = record.hash.as_str(),
                "{text}"
            )
        };
    }
    match record.kind.as_str() {
        "gap" | "degraded" => say!(warn),
        _ => say!(info),
    }
}

/// A field that a leaf does not have is not sent.
fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What people read of it.
fn summary(record: &Record) -> String {
    let mut text = format!("leaf {}: {}", record.idx, record.kind);
    let approvers = record.who();
    for (word, value) in [
        (" ", &record.verdict),
        (" ", &record.result),
        (" ", &record.op),
        (" of ", &record.object),
        (", agent ", &record.agent),
        (", rule ", &record.rule),
        (", by ", &record.by),
        (": ", &approvers),
    ] {
        if !value.is_empty() {
            text.push_str(word);
            text.push_str(&escape(value));
        }
    }
    text
}

#[cfg(test)]
mod tests;
