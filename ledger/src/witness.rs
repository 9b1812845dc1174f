//! A witness (C2SP tlog-witness): it cosigns a checkpoint only if the tree it saw before is a prefix
//! of the new one. So a log can neither take leaves back nor show two histories to two people.
//!
//! Pure: whoever runs one keeps, for each log, its key and the last checkpoint it cosigned, and
//! stores the new one *before* it hands out the cosignature.
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::note::{
    Checkpoint, Note, NoteError, NoteSigner, Role, Signature, VerifierKey, parse_checkpoint,
};
use crate::tree::{self, TreeHash};

/// The longest proof that is read: of a tree of 2^63 leaves.
const MOST_HASHES: usize = 63;

/// The body of `add-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// How many leaves the witness has seen, as far as the log knows.
    pub old: u64,
    /// That they are a prefix of the checkpoint's.
    pub proof: Vec<TreeHash>,
    /// The signed checkpoint.
    pub note: String,
}

impl fmt::Display for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash.0))?;
        }
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for Submission {
    type Err = Refusal;

    fn from_str(raw: &str) -> Result<Self, Refusal> {
        let (head, note) = raw
            .split_once("\n\n")
            .ok_or(Refusal::Malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(|size| Some((size, size.parse::<u64>().ok()?)))
            .filter(|(text, size)| size.to_string() == *text)
            .map(|(_, size)| size)
            .ok_or(Refusal::Malformed("the first line is `old SIZE`"))?;
        let hash = |line: &str| -> Option<TreeHash> {
            let bytes = BASE64_STANDARD.decode(line).ok()?;
            Some(TreeHash(bytes.try_into().ok()?))
        };
        let proof: Option<Vec<_>> = lines.take(MOST_HASHES + 1).map(hash).collect();
        match proof {
            Some(proof) if proof.len() <= MOST_HASHES => Ok(Self {
                old,
                proof,
                note: note.to_owned(),
            }),
            _ => Err(Refusal::Malformed(
                "a proof is at most 63 lines of a hash in base64",
            )),
        }
    }
}

/// Why a witness does not cosign, with the status that tlog-witness gives it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("the checkpoint is not signed by the log's key")]
    NotSigned,
    #[error("not the log of this key")]
    UnknownLog,
    /// The size of the last checkpoint that was cosigned.
    #[error("the last checkpoint seen has {0} leaves")]
    Conflict(u64),
    #[error("the proof does not show that nothing was taken back")]
    Inconsistent,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::NotSigned => 403,
            Self::UnknownLog => 404,
            Self::Conflict(_) => 409,
            Self::Inconsistent => 422,
        }
    }
}

impl From<NoteError> for Refusal {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Key(why) | NoteError::Note(why) | NoteError::Checkpoint(why) => {
                Self::Malformed(why)
            }
        }
    }
}

/// What a witness gives for a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// To be stored before the cosignature is handed out.
    pub checkpoint: Checkpoint,
    /// The line to answer with.
    pub cosignature: Signature,
}

/// Judges a submission: `log` is the key that the witness knows the log by, `last` the checkpoint
/// of it that it cosigned last, `now` in seconds since 1970.
pub fn cosign(
    signer: &NoteSigner,
    log: &VerifierKey,
    last: Option<&Checkpoint>,
    submission: &Submission,
    now: u64,
) -> Result<Seen, Refusal> {
    if signer.verifier().role() != Role::Witness {
        return Err(Refusal::Malformed("not a witness's key"));
    }
    let (note, checkpoint) = parse_checkpoint(&submission.note)?;
    if checkpoint.origin != log.name() {
        return Err(Refusal::UnknownLog);
    }
    let signed = |line: &Signature| line.verify(log, &note.text).is_some();
    if !note.signatures.iter().any(signed) {
        return Err(Refusal::NotSigned);
    }
    if checkpoint.size == 0 || submission.old > checkpoint.size {
        return Err(Refusal::Malformed("the old size is beyond the checkpoint"));
    }
    let seen = last.map_or(0, |last| last.size);
    if submission.old != seen {
        return Err(Refusal::Conflict(seen));
    }
    if let Some(last) = last {
        if last.size == checkpoint.size && last.root != checkpoint.root {
            return Err(Refusal::Conflict(seen));
        }
        let (old, new) = (last.root, checkpoint.root);
        if !tree::consistent(last.size, old, checkpoint.size, new, &submission.proof) {
            return Err(Refusal::Inconsistent);
        }
    } else if !submission.proof.is_empty() {
        return Err(Refusal::Malformed("a first checkpoint needs no proof"));
    }
    Ok(Seen {
        cosignature: signer.sign(&note.text, now),
        checkpoint,
    })
}

/// The log's side: puts the line that a witness answered with under the checkpoint it was asked
/// for. None when it is not that witness's cosignature of it.
#[must_use]
pub fn accept(raw: &str, line: &str, witness: &VerifierKey) -> Option<Note> {
    let (mut note, _) = parse_checkpoint(raw).ok()?;
    let cosignature = Signature::parse(line.trim_end_matches('\n')).ok()?;
    if witness.role() != Role::Witness {
        return None;
    }
    cosignature.verify(witness, &note.text)?;
    note.signatures.retain(|other| !other.claims(witness));
    note.signatures.push(cosignature);
    Some(note)
}
