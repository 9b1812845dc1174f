//! `redact`, `prune` and `rotate-key`: what changes the ledger's files, and is recorded in it.
use std::path::Path;

use jiff::Timestamp;

use super::args::Known;
use super::{CliError, print, trust};
use crate::handle::{HostName, Ledger};
use crate::prune;
use crate::reader::Reader;
use crate::writer::Redaction;

fn open(db: &Path) -> Result<Ledger, CliError> {
    // One that is not there is not made.
    Reader::open(db)?;
    Ok(Ledger::open(db, HostName::of_this_machine()?)?)
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

pub(super) fn redact(db: &Path, idx: u64, paths: &[String], reason: &str) -> Result<(), CliError> {
    let redacted = open(db)?.redact(Redaction {
        idx,
        paths: paths.to_vec(),
        reason: reason.to_owned(),
        by: person(),
    })?;
    print(&format!(
        "redacted for good; leaf {} says so\n",
        redacted.idx
    ))
}

pub(super) fn prune(db: &Path, keep: u32, known: &Known, dry_run: bool) -> Result<(), CliError> {
    let proof = trust::check(db, known)?;
    let witnesses = known.trust()?.witnesses;
    let reader = Reader::open(db)?;
    let plan = prune::plan(&reader, &proof, Timestamp::now(), keep, &witnesses)?;
    drop(reader);
    let (leaves, to) = (plan.leaves, plan.to);
    if dry_run {
        return print(&format!(
            "{leaves} leaves would go; leaf {to} would be the first\n"
        ));
    }
    let pruned = open(db)?.prune(plan, person())?;
    print(&format!(
        "{leaves} leaves are gone, leaf {to} is the first; leaf {} says so\n",
        pruned.idx
    ))
}

pub(super) fn rotate(db: &Path) -> Result<(), CliError> {
    let rotated = open(db)?.rotate_key_now()?;
    print(&format!("a new epoch begins after leaf {}\n", rotated.idx))
}
