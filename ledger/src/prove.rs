//! Proofs from a stored ledger, in the forms that others read: C2SP tlog-proof for a leaf, a
//! tlog-witness submission for a checkpoint.
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rusqlite::OptionalExtension as _;

use crate::chain::{Code, Finding};
use crate::handle::Published;
use crate::note::{Checkpoint, Note, parse_checkpoint};
use crate::reader::{ReadError, Reader};
use crate::store;
use crate::tree::{self, Place, TreeHash};
use crate::witness::Submission;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("no checkpoint covers leaf {idx}; the last one is of {size} leaves")]
    NotCovered { idx: u64, size: u64 },
    #[error("the tree lacks its node {0:?}; run `syshold ledger verify`")]
    Missing(Place),
    #[error("the latest checkpoint cannot be read: {0}; run `syshold ledger verify`")]
    Checkpoint(String),
}

impl Reader {
    pub(crate) fn hash(&self, place: Place) -> Result<TreeHash, ProveError> {
        store::hash_at(self.connection(), place)
            .map_err(|source| self.wrong(source))?
            .ok_or(ProveError::Missing(place))
    }

    /// The root over the first `size` leaves.
    pub fn root(&self, size: u64) -> Result<TreeHash, ProveError> {
        tree::root(size, |place| self.hash(place))
    }

    /// The inclusion proof of a leaf, from the leaf upwards.
    pub fn inclusion(&self, idx: u64, size: u64) -> Result<Vec<TreeHash>, ProveError> {
        tree::inclusion(idx, size, |place| self.hash(place))
    }

    /// The proof that the tree of `old` leaves is a prefix of the one of `size`.
    pub fn consistency(&self, old: u64, size: u64) -> Result<Vec<TreeHash>, ProveError> {
        tree::consistency(old, size, |place| self.hash(place))
    }

    /// The latest checkpoint; None in a ledger from before there were any.
    pub fn checkpoint(&self) -> Result<Option<(Note, Checkpoint)>, ProveError> {
        let raw: Option<String> = self
            .connection()
            .query_row(
                "SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(|source| self.wrong(source))?;
        let parse = |raw: String| {
            parse_checkpoint(&raw).map_err(|error| ProveError::Checkpoint(error.to_string()))
        };
        raw.map(parse).transpose()
    }

    /// The first checkpoint that is of at least `size` leaves and cosigned, else the latest one.
    pub fn checkpoint_for(&self, size: u64) -> Result<Option<(Note, Checkpoint)>, ProveError> {
        let mut found = self.checkpoint()?;
        let notes = self.checkpoints_from(size)?;
        for raw in notes {
            let Ok((note, checkpoint)) = parse_checkpoint(&raw) else {
                continue;
            };
            if note
                .signatures
                .iter()
                .any(|line| line.name != checkpoint.origin)
            {
                found = Some((note, checkpoint));
                break;
            }
        }
        Ok(found)
    }

    fn checkpoints_from(&self, size: u64) -> Result<Vec<String>, ProveError> {
        let read = || {
            let mut statement = self
                .connection()
                .prepare_cached("SELECT note FROM checkpoint WHERE size >= ?1 ORDER BY size")?;
            let notes = statement.query_map([size], |row| row.get(0))?;
            notes.collect::<rusqlite::Result<Vec<String>>>()
        };
        Ok(read().map_err(|source| self.wrong(source))?)
    }

    /// A proof that leaf `idx` is in the ledger, to be verified offline with stock tools (C2SP
    /// tlog-proof): against a cosigned checkpoint where there is one.
    pub fn proof(&self, idx: u64) -> Result<String, ProveError> {
        let found = self.checkpoint_for(idx + 1)?;
        let covered = found.as_ref().map_or(0, |(_, checkpoint)| checkpoint.size);
        let Some((note, checkpoint)) = found.filter(|_| covered > idx) else {
            return Err(ProveError::NotCovered { idx, size: covered });
        };
        self.proof_under(idx, &note, checkpoint.size)
    }

    /// The same against this very checkpoint, of `size` leaves.
    pub(crate) fn proof_under(
        &self,
        idx: u64,
        note: &Note,
        size: u64,
    ) -> Result<String, ProveError> {
        let mut text = format!("c2sp.org/tlog-proof@v1\nindex {idx}\n");
        for hash in self.inclusion(idx, size)? {
            text.push_str(&BASE64_STANDARD.encode(hash.0));
            text.push('\n');
        }
        Ok(format!("{text}\n{note}"))
    }

    /// What to send a witness that has seen the first `old` leaves: 0 for one that has seen none.
    pub fn submission(&self, old: u64, latest: &Published) -> Result<Submission, ProveError> {
        Ok(Submission {
            old,
            proof: self.consistency(old, latest.size)?,
            note: latest.note.to_string(),
        })
    }

    /// Compares the ledger with what a witness has seen of it: Some when leaves are missing
    /// (E_ROLLBACK) or are others (E_FORK). Then nothing may be released.
    pub fn against(&self, witnessed: &Checkpoint) -> Result<Option<Finding>, ProveError> {
        let size = self.size()?;
        let what = format!("{} leaves, root {}", witnessed.size, witnessed.root);
        if witnessed.size > size {
            let found = format!("{size} leaves");
            return Ok(Some(Finding::new(Code::Rollback, size, what, found)));
        }
        let root = self.root(witnessed.size)?;
        let finding = || Finding::new(Code::Fork, 0, what, format!("root {root}"));
        Ok((root != witnessed.root).then(finding))
    }
}
