//! `syshold run`: this process becomes governed, and only then turns into the command.
//!
//! It never forks, so the terminal, job control and the exit status stay the command's own.
//! Where systemd is there, it moves into a scope of its own with a delegated cgroup first, so
//! that parking threads disturbs nothing else in the session.
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Failure};
use crate::control::{Call, Reply};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The agent of the policy (`[[govern]]` with this name) that the command is run as
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Stay in the present cgroup instead of a systemd scope
    #[arg(long)]
    no_scope: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl RunArgs {
    #[cfg(test)]
    pub(super) fn command(&self) -> &[OsString] {
        &self.command
    }
}

/// Nothing was run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("nothing was run: {0}")]
    Daemon(#[from] DaemonError),
    #[error("cannot run {command:?}: {source}")]
    Exec {
        command: OsString,
        source: io::Error,
    },
}

impl Failure for RunError {
    fn exit(&self) -> Exit {
        Exit::NotStarted
    }
}

pub(super) fn run(socket: &Path, args: RunArgs) -> Outcome {
    if !args.no_scope
        && let Ok(own) = std::env::current_exe()
        && let Some(mut scope) = scope(&args.agent)
    {
        // Comes back only if it fails, and it has been tried: go on without a scope.
        let failed = inside(&mut scope, &own, socket, &args).exec();
        eprintln!("syshold: no scope of its own for this command ({failed})");
    }
    match call_once(socket, &Call::Govern { agent: args.agent }).map_err(RunError::from)? {
        Reply::Governed { .. } => {}
        _ => return Err(RunError::from(DaemonError::Other).into()),
    }
    let mut words = args.command.into_iter();
    let command = words.next().unwrap_or_default();
    let source = Command::new(&command).args(words).exec();
    Err(RunError::Exec { command, source }.into())
}

/// This same command line, in the scope.
fn inside<'a>(
    scope: &'a mut Command,
    own: &Path,
    socket: &Path,
    args: &RunArgs,
) -> &'a mut Command {
    scope
        .arg(own)
        .arg("--socket")
        .arg(socket)
        .args(["run", "--no-scope", "--agent", &args.agent, "--"])
        .args(&args.command)
}

/// `systemd-run` with all options, if it is known to work here: it becomes the command in place
/// (`--scope`), so a failure could not be taken back.
fn scope(agent: &str) -> Option<Command> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    // What some versions of systemd-run would expand must arrive as it is.
    const PROBE: &str = "${HOME}%h";
    let tried = systemd_run(agent)
        .args(["--", "printf", "%s", PROBE])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    (tried.status.success() && tried.stdout == PROBE.as_bytes()).then(|| {
        let mut command = systemd_run(agent);
        command.arg("--");
        command
    })
}

fn systemd_run(agent: &str) -> Command {
    let mut command = Command::new("systemd-run");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--user");
    }
    command
        .args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"])
        .arg(format!("--description=Syshold: governed agent {agent}"));
    command
}
