//! `syshold ledger`: what changes the ledger is done by the daemon, when one runs; what leaves it is
//! noted by the daemon first.
use std::path::Path;
use std::process::ExitCode;

use syshold_ledger::cli::{LedgerArgs, Work};

use super::daemon::{DaemonError, call};
use super::failure::{Exit, Failure};
use super::{Outcome, show};
use crate::control::{Call, Reply};

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NoWork(#[from] syshold_ledger::cli::WorkError);

impl Failure for NoWork {
    fn exit(&self) -> Exit {
        Exit::Failure
    }
}

pub(super) fn run(socket: &Path, args: &LedgerArgs) -> Outcome {
    let Some(work) = Work::of(args).map_err(NoWork)? else {
        return Ok(syshold_ledger::cli::run(args));
    };
    let notice = work.is_notice();
    // A prune begins with a check of the whole ledger.
    let answer = call(socket, &Call::Ledger { work })
        .and_then(super::daemon::Replies::patient)
        .and_then(|mut replies| replies.next().unwrap_or(Err(DaemonError::Cut)));
    match answer {
        // Of what is printed next nothing may be ours.
        Ok(Reply::Done { .. }) if notice => Ok(syshold_ledger::cli::run(args)),
        Ok(Reply::Done { text }) => {
            show::print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(_) => Err(DaemonError::Other.into()),
        // Then nobody else writes it, and its lock says so if somebody does.
        Err(DaemonError::NotRunning { .. } | DaemonError::RefusesToRun(_)) => {
            Ok(syshold_ledger::cli::run(args))
        }
        Err(error) => Err(error.into()),
    }
}
