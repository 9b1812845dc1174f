//! Checkpoints against the tree: form, signatures, epochs, consistency, cosignatures.
use jiff::Timestamp;
use rusqlite::Connection;

use super::leaves::{Introduced, Seen};
use super::{Cosigned, Report, Trust};
use crate::chain::{Code, Finding};
use crate::clock;
use crate::note::{Checkpoint, Note, Role, Signature, VerifierKey, parse_checkpoint};
use crate::store;
use crate::tree::{self, TreeHash};

/// Leaves this much newer than the last cosignature are warned about, in milliseconds.
const UNANCHORED_MS: i64 = 60 * 60 * 1000;

pub(super) fn check(
    conn: &Connection,
    seen: &Seen,
    trust: &Trust,
    report: &mut Report,
) -> rusqlite::Result<()> {
    let named = seen.keys.iter().find_map(|keys| keys.identity.clone());
    let identity = trust.identity.clone().or(named);
    report.identity_pinned = trust.identity.is_some();
    report.identity = identity.as_ref().map(ToString::to_string);
    report.origin = identity.as_ref().map(|key| key.name().to_owned());
    report.epochs = seen.keys.len() as u64;
    let mut checks = Checks {
        seen,
        identity,
        witnesses: trust.witnesses.iter().chain(&seen.witnesses).collect(),
        pinned: &trust.witnesses,
        good_to: seen.floor,
        last: None,
        cosigned: None,
        report,
    };
    let mut statement = conn.prepare("SELECT size, note FROM checkpoint ORDER BY size")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let size = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
        checks.checkpoint(size, &row.get::<_, String>(1)?);
    }
    checks.epochs(conn)?;
    checks.coverage();
    checks.witnessed(conn, trust)?;
    checks.anchored();
    Ok(())
}

struct Checks<'a> {
    seen: &'a Seen,
    identity: Option<VerifierKey>,
    witnesses: Vec<&'a VerifierKey>,
    /// When there are any, only theirs count: whoever writes the ledger can name others in it.
    pinned: &'a [VerifierKey],
    /// Leaves below this are proven by a checkpoint that holds.
    good_to: u64,
    /// The size of the last checkpoint.
    last: Option<u64>,
    cosigned: Option<(Cosigned, i64)>,
    report: &'a mut Report,
}

impl Checks<'_> {
    /// A finding about a checkpoint: the first leaf that it leaves unproven.
    fn bad(&mut self, code: Code, expected: impl Into<String>, found: impl Into<String>) {
        let idx = self.good_to;
        self.report.add(Finding::new(code, idx, expected, found));
    }

    fn checkpoint(&mut self, size: u64, raw: &str) {
        self.report.checkpoints += 1;
        let what = format!("the checkpoint of {size} leaves");
        let (note, checkpoint) = match parse_checkpoint(raw) {
            Ok(parsed) if parsed.1.size == size => parsed,
            Ok((_, other)) => {
                return self.bad(Code::CkptFormat, what, format!("one of {}", other.size));
            }
            Err(error) => return self.bad(Code::CkptFormat, what, error.to_string()),
        };
        self.last = Some(size);
        let before = self.report.error_count;
        self.signatures(&what, &note, &checkpoint);
        self.root(&what, &checkpoint);
        self.cosignatures(&what, &note, &checkpoint);
        if self.report.error_count == before {
            self.good_to = size;
        }
    }

    fn signatures(&mut self, what: &str, note: &Note, checkpoint: &Checkpoint) {
        let Some(identity) = self.identity.clone() else {
            return self.bad(Code::CkptSig, "an identity key in the ledger", "none");
        };
        if checkpoint.origin != identity.name() {
            self.bad(
                Code::Origin,
                format!("{what}, by {}", identity.name()),
                checkpoint.origin.clone(),
            );
        }
        let made = |key: &VerifierKey| {
            note.signatures
                .iter()
                .any(|line| line.verify(key, &note.text).is_some())
        };
        if !made(&identity) {
            self.bad(
                Code::CkptSig,
                format!("{what} signed by {identity}"),
                signers(note),
            );
        }
        let epoch = epoch_at(&self.seen.keys, checkpoint.size).and_then(|keys| keys.epoch.clone());
        match epoch {
            Some(epoch) => {
                let foreign = note.signatures.iter().find(|line| {
                    line.name == identity.name() && !line.claims(&identity) && !line.claims(&epoch)
                });
                if !made(&epoch) || foreign.is_some() {
                    self.bad(
                        Code::EpochKey,
                        format!("{what} signed by the epoch's key {epoch}"),
                        signers(note),
                    );
                }
            }
            None => self.bad(Code::EpochKey, format!("an epoch key for {what}"), "none"),
        }
    }

    fn root(&mut self, what: &str, checkpoint: &Checkpoint) {
        let size = self.seen.edge.size();
        if self.seen.torn {
            return;
        }
        if checkpoint.size > size {
            return self.bad(Code::Truncated, what, format!("{size} leaves"));
        }
        let Ok(at) = self
            .seen
            .roots
            .binary_search_by_key(&checkpoint.size, |(size, _)| *size)
        else {
            return self.bad(Code::CkptFormat, what, "a size that no tree has");
        };
        let (_, root) = self.seen.roots[at];
        let other = self.seen.other_root.filter(|_| checkpoint.size == size);
        if root != checkpoint.root && other != Some(checkpoint.root) {
            let code = if checkpoint.size == size {
                Code::Root
            } else {
                Code::Inconsistent
            };
            self.bad(
                code,
                format!("{what} with root {}", checkpoint.root),
                root.to_string(),
            );
        }
    }

    fn cosignatures(&mut self, what: &str, note: &Note, checkpoint: &Checkpoint) {
        for witness in self.witnesses.clone() {
            for line in note.signatures.iter().filter(|line| line.claims(witness)) {
                match line.verify(witness, &note.text) {
                    Some(time) if witness.role() == Role::Witness => {
                        let at = i64::try_from(time).unwrap_or(i64::MAX).saturating_mul(1000);
                        let text =
                            Timestamp::from_millisecond(at).map_or("?".to_owned(), clock::format);
                        let cosigned = Cosigned {
                            size: checkpoint.size,
                            witness: witness.name().to_owned(),
                            at: text,
                        };
                        if self.pinned.is_empty() || self.pinned.contains(witness) {
                            self.cosigned = Some((cosigned, at));
                        }
                    }
                    _ => self.bad(
                        Code::Cosig,
                        format!("{what} cosigned by {witness}"),
                        "another signature in its name",
                    ),
                }
            }
        }
    }

    /// Each epoch key is vouched for by the one before: a checkpoint at the size of its leaf.
    fn epochs(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut before: Option<&Introduced> = None;
        for keys in &self.seen.keys {
            let idx = keys.idx;
            let bad =
                |expected: &str, found: String| Finding::new(Code::EpochGap, idx, expected, found);
            if let Some(before) = before {
                if keys.identity.is_some() {
                    let found = "another first epoch".to_owned();
                    self.report.add(bad("one identity key a ledger", found));
                }
                if keys.previous != before.epoch {
                    let found = format!("{:?}", keys.previous);
                    self.report.add(bad("the key before as `previous`", found));
                }
                let there: bool = conn.query_row(
                    "SELECT EXISTS (SELECT 1 FROM checkpoint WHERE size = ?1)",
                    [idx + 1],
                    |row| row.get(0),
                )?;
                if !there {
                    let found = "none".to_owned();
                    self.report
                        .add(bad("a checkpoint under the new key's leaf", found));
                }
            }
            if keys.epoch.is_none() {
                self.report.add(bad("an epoch key", "none".to_owned()));
            }
            before = Some(keys);
        }
        Ok(())
    }

    /// The last checkpoint covers the last leaf: both are written in one transaction.
    fn coverage(&mut self) {
        let size = self.seen.edge.size();
        if self.seen.torn {
            return;
        }
        let expected = format!("a checkpoint of {size} leaves");
        match self.last {
            Some(last) if last >= size => {}
            Some(last) => {
                let found = format!("{last}");
                self.report
                    .add(Finding::new(Code::Root, last.min(size), expected, found));
            }
            None if size > 0 => self.bad(Code::Root, expected, "no checkpoint at all"),
            None => {}
        }
    }

    /// What a witness has seen, when it was asked.
    fn witnessed(&mut self, conn: &Connection, trust: &Trust) -> rusqlite::Result<()> {
        let Some((note, checkpoint)) = &trust.witnessed else {
            return Ok(());
        };
        let size = self.seen.edge.size();
        let what = format!("the {} leaves that the witness has seen", checkpoint.size);
        let signed = self.identity.as_ref().is_some_and(|identity| {
            let by = |line: &Signature| line.verify(identity, &note.text).is_some();
            note.signatures.iter().any(by)
        });
        if !signed {
            let expected = "a witnessed checkpoint that this log signed";
            self.bad(Code::Fork, expected, signers(note));
        } else if checkpoint.size > size {
            let finding = Finding::new(Code::Rollback, size, what.clone(), size.to_string());
            self.report.add(finding);
        } else if !self.seen.torn {
            let mut missing = false;
            let root = tree::root(checkpoint.size, |place| -> rusqlite::Result<TreeHash> {
                let hash = store::hash_at(conn, place)?;
                missing |= hash.is_none();
                Ok(hash.unwrap_or(TreeHash::NONE))
            })?;
            if !missing && root != checkpoint.root {
                let expected = format!("{what}, root {}", checkpoint.root);
                self.bad(Code::Fork, expected, root.to_string());
            }
        }
        self.cosignatures(&what, note, checkpoint);
        Ok(())
    }

    /// Only for who has a witness: a ledger without one says so in every report.
    fn anchored(&mut self) {
        let size = self.seen.edge.size();
        let (covered, at) = match &self.cosigned {
            Some((cosigned, at)) => (cosigned.size, *at),
            None => (self.seen.floor, self.seen.witnessed_ms.unwrap_or(i64::MIN)),
        };
        let kept = self.cosigned.as_ref().map_or(0, |(seen, _)| seen.size);
        if self.seen.floor > 0 && kept <= self.seen.floor {
            let expected = "a cosigned checkpoint of the pruned leaves";
            self.bad(Code::Prune, expected, "none by a witness that is known");
        }
        let late = self.seen.last_ms.saturating_sub(at) > UNANCHORED_MS;
        if !self.witnesses.is_empty() && covered < size && late {
            self.report.warnings.push(Finding::new(
                Code::Unanchored,
                covered,
                "leaves that a witness saw within the hour",
                format!("{} leaves that none has seen", size - covered),
            ));
        }
        self.report.cosigned = self.cosigned.take().map(|(cosigned, _)| cosigned);
    }
}

/// The keys in force for a checkpoint of `size` leaves: the leaf that introduces new ones is still
/// signed by those before, unless it is the first.
fn epoch_at(keys: &[Introduced], size: u64) -> Option<&Introduced> {
    let first = keys.first()?;
    keys.iter()
        .rev()
        .find(|keys| keys.idx + 1 < size)
        .or((first.idx < size).then_some(first))
}

fn signers(note: &Note) -> String {
    let ids: Vec<_> = note
        .signatures
        .iter()
        .map(|line| format!("{}+{:08x}", line.name, line.id))
        .collect();
    format!("signatures of {}", ids.join(", "))
}
