//! `redact`, `prune`, `review` and `rotate-key`: what changes the ledger's files, and is recorded in it. Only
//! one process writes a ledger, so a daemon that runs is asked to do it, with [`Work`]; without one
//! the command opens the ledger itself. `export`, `report` and `evidence` only read: a daemon that
//! runs is told before anything leaves, and without one nothing is written.
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::{Command, Known, LedgerArgs, Only};
use super::trust::{self, Knows};
use super::{CliError, print};
use crate::handle::{HostName, Ledger};
use crate::leaf::{Draft, Kind};
use crate::prune;
use crate::reader::Reader;
use crate::verify::{Trust, verify_with};
use crate::writer::{Redaction, UpkeepError};

/// What the writer of a ledger is asked to do, as it is also said to a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    Redact {
        idx: u64,
        /// None: every field that the leaf commits to.
        fields: Vec<String>,
        reason: String,
    },
    Prune {
        keep_days: u32,
        knows: Knows,
    },
    Review {
        note: String,
        from: u64,
        /// None: the newest leaf.
        to: Option<u64>,
    },
    RotateKey,
    /// Something of the ledger is about to leave it.
    Export {
        /// `jsonl`, `csv`, `ocsf`, `report` or `evidence`.
        format: String,
        /// Which leaves, in the words of the command line.
        query: String,
        /// And those that come.
        follow: bool,
    },
}

/// What one export may say of itself, in bytes.
const MOST_QUERY: usize = 2000;

/// Why it was not done, for people.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WorkError(#[from] CliError);

impl Work {
    /// The work among the commands; None: it only reads, or names a file with `--db`.
    pub fn of(args: &LedgerArgs) -> Result<Option<Self>, WorkError> {
        if args.db.is_some() {
            return Ok(None);
        }
        Ok(match &args.command {
            Command::Redact { idx, field, reason } => Some(Self::Redact {
                idx: *idx,
                fields: field.clone(),
                reason: reason.clone(),
            }),
            Command::Prune {
                keep,
                trust,
                dry_run: false,
            } => Some(Self::Prune {
                keep_days: *keep,
                knows: trust.resolve()?,
            }),
            Command::Review { note, from, to } => Some(Self::review(note, *from, *to)),
            Command::RotateKey => Some(Self::RotateKey),
            Command::Export {
                format,
                follow,
                only,
            } => Some(Self::export(format.as_str(), only, *follow)?),
            Command::Report { only, .. } => Some(Self::export("report", only, false)?),
            Command::Evidence { only, .. } => Some(Self::export("evidence", only, false)?),
            _ => None,
        })
    }

    /// Whether it only notes down what the caller does.
    pub fn is_notice(&self) -> bool {
        matches!(self, Self::Export { .. })
    }

    fn export(format: &str, only: &Only, follow: bool) -> Result<Self, CliError> {
        let words = only.query(Timestamp::now())?.text();
        // Four bytes a character at most.
        let query = words.chars().take(MOST_QUERY / 4).collect();
        Ok(Self::Export {
            format: format.to_owned(),
            query,
            follow,
        })
    }

    /// Does it, and says what was done. Takes as long as a check of the whole ledger to prune; not in
    /// async code.
    pub fn carry_out(&self, ledger: &Ledger, db: &Path, by: &str) -> Result<String, WorkError> {
        Ok(self.done(ledger, db, by)?)
    }

    pub(super) fn review(note: &str, from: u64, to: Option<u64>) -> Self {
        let note = note.to_owned();
        Self::Review { note, from, to }
    }

    fn done(&self, ledger: &Ledger, db: &Path, by: &str) -> Result<String, CliError> {
        match self {
            Self::Redact {
                idx,
                fields,
                reason,
            } => {
                let redacted = ledger.redact(Redaction {
                    idx: *idx,
                    paths: fields.clone(),
                    reason: reason.clone(),
                    by: by.to_owned(),
                })?;
                Ok(format!(
                    "redacted for good; leaf {} says so\n",
                    redacted.idx
                ))
            }
            Self::Prune { keep_days, knows } => {
                let plan = planned(db, *keep_days, &knows.trust()?)?;
                let (leaves, to) = (plan.leaves, plan.to);
                let pruned = ledger.prune(plan, by.to_owned())?;
                Ok(format!(
                    "{leaves} leaves are gone, leaf {to} is the first; leaf {} says so\n",
                    pruned.idx
                ))
            }
            Self::Review { note, from, to } => {
                let reader = Reader::open(db)?;
                let last = reader.size()?.saturating_sub(1);
                let to = to.unwrap_or(last);
                if let Some(idx) = [*from, to].into_iter().find(|idx| *idx > last) {
                    return Err(CliError::NoSuchLeaf { idx, last });
                }
                if *from > to {
                    return Err(CliError::NoRange { from: *from, to });
                }
                // What was reviewed stays provable when leaves of it are pruned.
                let root = reader.root(to + 1)?.to_string();
                let said = json!({"from": from, "to": to, "root": root, "note": note, "by": by});
                let leaf = Draft::new(Kind::Review).field("review", &said);
                let reviewed = ledger.append(leaf).wait().map_err(UpkeepError::from)?;
                Ok(format!(
                    "leaves {from} to {to} are reviewed; leaf {} says so\n",
                    reviewed.idx
                ))
            }
            Self::Export {
                format,
                query,
                follow,
            } => {
                if format.len() > MOST_QUERY || query.len() > MOST_QUERY {
                    return Err(CliError::LongQuery);
                }
                let reader = Reader::open(db)?;
                let size = reader.size()?;
                // What it was taken from, to be told from what was made up later.
                let root = reader.root(size)?.to_string();
                let mut said = json!({
                    "format": format, "query": query, "size": size, "root": root, "by": by,
                });
                if *follow {
                    said["follow"] = true.into();
                }
                let leaf = Draft::new(Kind::Export).field("export", &said);
                let noted = ledger.append(leaf).wait().map_err(UpkeepError::from)?;
                Ok(format!("the export is noted; leaf {} says so\n", noted.idx))
            }
            Self::RotateKey => {
                let rotated = ledger.rotate_key_now()?;
                Ok(format!("a new epoch begins after leaf {}\n", rotated.idx))
            }
        }
    }
}

/// What would go, of a ledger that proves itself.
fn planned(db: &Path, keep: u32, trust: &Trust) -> Result<prune::Plan, CliError> {
    let proof = verify_with(db, trust, |_, _| {})?;
    let reader = Reader::open(db)?;
    let now = Timestamp::now();
    Ok(prune::plan(&reader, &proof, now, keep, &trust.witnesses)?)
}

/// Who runs this, as far as it can be told: sudo says for whom.
fn person() -> String {
    let user = || {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
        Some(user.name)
    };
    std::env::var("SUDO_USER")
        .ok()
        .or_else(user)
        .unwrap_or_else(|| nix::unistd::getuid().to_string())
}

/// Without a daemon.
pub(super) fn alone(db: &Path, work: &Work) -> Result<(), CliError> {
    // One that is not there is not made.
    Reader::open(db)?;
    let ledger = Ledger::open(db, HostName::of_this_machine()?)?;
    print(&work.done(&ledger, db, &person())?)
}

pub(super) fn prune(db: &Path, keep: u32, known: &Known, dry_run: bool) -> Result<(), CliError> {
    if !dry_run {
        let knows = known.resolve()?;
        let work = Work::Prune {
            keep_days: keep,
            knows,
        };
        return alone(db, &work);
    }
    let proof = trust::check(db, known)?;
    let witnesses = known.trust()?.witnesses;
    let reader = Reader::open(db)?;
    let plan = prune::plan(&reader, &proof, Timestamp::now(), keep, &witnesses)?;
    print(&format!(
        "{} leaves would go; leaf {} would be the first\n",
        plan.leaves, plan.to
    ))
}
