//! `syshold reload`: the daemon reads its policy again, or keeps the one it has.
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::daemon::{DaemonError, call_once};
use super::{Outcome, show};
use crate::control::{Call, Reply};

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(socket: &Path, args: &ReloadArgs) -> Outcome {
    match call_once(socket, &Call::Reload)? {
        Reply::Reloaded { policy } if args.json => show::json(&policy)?,
        Reply::Reloaded { policy } => show::print(&format!(
            "{} is in force (sha256 {})",
            show::safe(&policy.path.to_string_lossy()),
            policy.sha256
        ))?,
        _ => return Err(DaemonError::Other.into()),
    }
    Ok(ExitCode::SUCCESS)
}
