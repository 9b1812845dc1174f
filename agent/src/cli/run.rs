//! `syshold run`: this process becomes governed, and only then turns into the command.
//!
//! It stays one process from the shell's child to the command, so the terminal, job control and
//! the exit status are the command's own. Where systemd is there, it moves into a scope of its
//! own with a delegated cgroup first, so that parking threads disturbs nothing else.
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Failure};
use crate::control::{Call, Reply};
use crate::driver::why::FOLDER;
use crate::enrich::parse;

/// For systemd to move this process after it has agreed to.
const SCOPE: Duration = Duration::from_secs(2);

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
    if !args.no_scope {
        // Without one, threads wait below the present cgroup: `syshold status` says how.
        enter_scope(&args.agent);
    }
    let why = Path::new(FOLDER).join(&args.agent);
    match call_once(socket, &Call::Govern { agent: args.agent }).map_err(RunError::from)? {
        Reply::Governed { .. } => {}
        _ => return Err(RunError::from(DaemonError::Other).into()),
    }
    let mut words = args.command.into_iter();
    let command = words.next().unwrap_or_default();
    let source = Command::new(&command)
        .args(words)
        // Where it finds out why something failed, and what to do instead.
        .env("SYSHOLD_WHY", why)
        .exec();
    Err(RunError::Exec { command, source }.into())
}

/// Has systemd move this very process into a scope with a delegated cgroup, and waits for it:
/// once governed, its threads must not be moved while they are parked.
fn enter_scope(agent: &str) {
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let pid = std::process::id().to_string();
    let unit = format!("syshold-{agent}-{pid}.scope");
    let mut call = Command::new("busctl");
    if !nix::unistd::geteuid().is_root() {
        call.arg("--user");
    }
    call.args(["call", "--quiet", "--timeout=5"])
        .args(["org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit"])
        .args(["ssa(sv)a(sa(sv))", &unit, "fail", "4"])
        .args(["PIDs", "au", "1", &pid])
        .args(["Description", "s", &format!("Syshold: agent {agent}")])
        .args(["Delegate", "b", "true"])
        .args(["CollectMode", "s", "inactive-or-failed", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !call.status().is_ok_and(|status| status.success()) {
        return;
    }
    let until = Instant::now() + SCOPE;
    while Instant::now() < until && !in_unit(&unit) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn in_unit(unit: &str) -> bool {
    let text = std::fs::read("/proc/self/cgroup").unwrap_or_default();
    parse::cgroup(&text).is_some_and(|path| path.ends_with(unit.as_bytes()))
}
