//! What the writer does besides appending: keys and epochs.
use std::sync::Arc;
use std::time::Instant;

use rand_core::{OsRng, RngCore as _};
use serde_json::json;

use super::batch::{Rows, introduction};
use super::{RETRY, State, Writer};
use crate::chain::{Code, Finding, hex};
use crate::clock::Now;
use crate::handle::{AppendError, Committed, HostName};
use crate::keys::KeysError;
use crate::leaf::{Draft, Kind};
use crate::note::{Checkpoint, Note, NoteError, Signature};
use crate::prune::Plan;
use crate::store::{Batch, CommitError, Head, OpenError, Store};

/// Why upkeep was not done.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Note(NoteError),
    #[error(
        "done, and recorded in leaf {0}; but somebody reads the ledger, so the old bytes are still in its log: they go once nobody does and the daemon is started again"
    )]
    Lingers(u64),
    #[error("leaf {idx} has nothing to redact in {path}: it is not a commitment, or was redacted")]
    NotOpen { idx: u64, path: String },
    #[error("a checkpoint of {0} leaves that is not of this ledger")]
    Foreign(u64),
}

impl From<CommitError> for UpkeepError {
    fn from(error: CommitError) -> Self {
        AppendError::Store(error.to_string().into()).into()
    }
}

/// What is to be made unreadable for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redaction {
    pub idx: u64,
    /// Such as `process.argv`; none for all of the leaf's commitments.
    pub paths: Vec<String>,
    pub reason: String,
    /// Who ordered it.
    pub by: String,
}

/// A name that no other ledger has: two of a host, one after the other, are two logs.
pub(super) fn new_origin(host: &HostName) -> String {
    let mut random = [0; 6];
    OsRng.fill_bytes(&mut random);
    format!("{host}/syshold-ledger/{}", hex(&random))
}

impl Writer {
    /// The first epoch of a ledger from before there were keys.
    pub(super) fn introduce_keys(&mut self) -> Result<(), OpenError> {
        let draft = Draft::new(Kind::KeyRotate).field("keys", &introduction(&self.keys));
        self.own_leaf(&draft)
            .map_err(|error| OpenError::Genesis(error.to_string()))?;
        self.keep_checkpoint();
        Ok(())
    }

    /// Finds out which key is the one of the current epoch, and finishes a rotation that a crash
    /// interrupted.
    pub(super) fn settle_keys(&mut self, head: &Head) -> Result<(), OpenError> {
        let Some((note, _)) = &head.checkpoint else {
            return Ok(());
        };
        let identity = self.keys.identity.verifier();
        if !note
            .signatures
            .iter()
            .any(|line| line.verify(&identity, &note.text).is_some())
        {
            return Err(OpenError::Tampered {
                path: self.path.clone(),
                finding: Finding::new(
                    Code::CkptSig,
                    head.tail.idx,
                    format!("a checkpoint signed by {identity}"),
                    "one that is not",
                ),
            });
        }
        let expected = match &head.epoch {
            Some(introduced) => introduced.clone(),
            None => self.keys.epoch_of(note).ok_or_else(|| KeysError::Epoch {
                path: self.path.with_extension("epoch"),
                expected: "the one that signed its latest checkpoint".to_owned(),
            })?,
        };
        Ok(self.keys.settle(&expected)?)
    }

    /// The next epoch: a `key_rotate` leaf, under a checkpoint that the old key signs last.
    pub(crate) fn rotate(&mut self) -> Result<Committed, UpkeepError> {
        let previous = self.keys.epoch.verifier();
        let next = self.keys.prepare_next()?;
        let keys = json!({"epoch": next.to_string(), "previous": previous.to_string()});
        self.own_leaf(&Draft::new(Kind::KeyRotate).field("keys", &keys))?;
        let committed = Committed {
            idx: self.tail.idx,
            hash: self.tail.hash,
        };
        self.keep_checkpoint();
        if let Err(error) = self.keys.settle(&next) {
            // Signing on with the old key would be an epoch of its own.
            self.become_broken(&error.to_string().into(), Instant::now() + RETRY);
            return Err(error.into());
        }
        Ok(committed)
    }

    /// Deletes openings of a leaf: the `redact` leaf that says so and the deletion are one
    /// transaction. No `paths`: all of them.
    pub(crate) fn redact(&mut self, what: &Redaction) -> Result<Committed, UpkeepError> {
        let there = self
            .with_store(|store| store.opened(what.idx).map_err(CommitError::from))
            .map_err(UpkeepError::from)?;
        let paths = if what.paths.is_empty() {
            there.clone()
        } else {
            what.paths.clone()
        };
        if let Some(missing) = paths.iter().find(|path| !there.contains(path)) {
            return Err(UpkeepError::NotOpen {
                idx: what.idx,
                path: missing.clone(),
            });
        }
        if paths.is_empty() {
            let path = "any field".to_owned();
            return Err(UpkeepError::NotOpen {
                idx: what.idx,
                path,
            });
        }
        let said = json!({
            "idx": what.idx, "paths": paths, "reason": what.reason, "by": what.by,
        });
        let gone = paths.into_iter().map(|path| (what.idx, path)).collect();
        self.leaf_and(Draft::new(Kind::Redact).field("redact", &said), |batch| {
            batch.redacted = gone;
        })
    }

    /// Deletes the leaves that a plan names, with the `prune` leaf that says so.
    pub(crate) fn prune(&mut self, plan: &Plan, by: &str) -> Result<Committed, UpkeepError> {
        let mut said = plan.said.clone();
        said["by"] = by.into();
        let to = plan.to;
        self.leaf_and(Draft::new(Kind::Prune).field("prune", &said), |batch| {
            batch.pruned = Some(to);
        })
    }

    /// A leaf of the ledger's own with what it speaks of, in one transaction; nothing of what goes
    /// is left in the log.
    fn leaf_and(
        &mut self,
        draft: Draft,
        more: impl FnOnce(&mut Batch),
    ) -> Result<Committed, UpkeepError> {
        let now = Now::read().map_err(|error| AppendError::Store(error.to_string().into()))?;
        let mut rows = Rows::after(&self.tail, &self.edge);
        let committed = self.encode(&mut rows, &draft, now)?;
        more(&mut rows.batch);
        self.commit_own(rows)?;
        match self.with_store(Store::forget) {
            Ok(()) => Ok(committed),
            Err(_) => Err(UpkeepError::Lingers(committed.idx)),
        }
    }

    fn with_store<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, CommitError>,
    ) -> Result<T, CommitError> {
        match &self.state {
            State::Good(store) | State::Degraded { store, .. } => work(store),
            State::Broken { .. } => Err(CommitError::Busy),
        }
    }

    /// Stores a cosigned checkpoint, if it is one of this very tree.
    pub(crate) fn keep_cosigned(&mut self, note: &Note) -> Result<(), UpkeepError> {
        let checkpoint: Checkpoint = note.text.parse().map_err(UpkeepError::Note)?;
        let identity = self.keys.identity.verifier();
        let ours = |line: &Signature| line.verify(&identity, &note.text).is_some();
        if !note.signatures.iter().any(ours) || checkpoint.size > self.edge.size() {
            return Err(UpkeepError::Foreign(checkpoint.size));
        }
        let batch = Batch {
            checkpoint: Some((checkpoint.size, note.to_string())),
            ..Batch::default()
        };
        self.commit_aside(&batch)?;
        if self.replaceable == Some(checkpoint.size) {
            self.keep_checkpoint();
        }
        Ok(())
    }

    /// Writes what is no leaf, such as a cosigned checkpoint; never on the space that was kept back
    /// for denials.
    fn commit_aside(&mut self, batch: &Batch) -> Result<(), AppendError> {
        let store = match &mut self.state {
            State::Good(store) => store,
            State::Degraded { cause, .. } => return Err(AppendError::Degraded(Arc::clone(cause))),
            State::Broken { cause, .. } => return Err(AppendError::Store(Arc::clone(cause))),
        };
        store.commit(&self.tail, batch).map_err(|error| {
            let cause: Arc<str> = error.to_string().into();
            self.become_broken(&cause, Instant::now());
            self.recover(error.disk_full());
            AppendError::Store(cause)
        })
    }

    /// The latest checkpoint stays where it is when the next one is written.
    fn keep_checkpoint(&mut self) {
        self.replaceable = None;
    }
}
