//! What the writer does besides appending: keys and epochs.
use std::time::Instant;

use rand_core::{OsRng, RngCore as _};
use serde_json::json;

use super::batch::introduction;
use super::{RETRY, Writer};
use crate::chain::{Code, Finding, hex};
use crate::handle::{AppendError, Committed, HostName};
use crate::keys::KeysError;
use crate::leaf::{Draft, Kind};
use crate::note::{Checkpoint, Note, NoteError, Signature};
use crate::store::{Batch, CommitError, Head, OpenError};

/// Why upkeep was not done.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Note(NoteError),
    #[error("a checkpoint of {0} leaves that is not of this ledger")]
    Foreign(u64),
}

impl From<CommitError> for UpkeepError {
    fn from(error: CommitError) -> Self {
        AppendError::Store(error.to_string().into()).into()
    }
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

    /// The latest checkpoint stays where it is when the next one is written.
    fn keep_checkpoint(&mut self) {
        self.replaceable = None;
    }
}
