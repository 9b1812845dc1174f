//! The command line against a control socket: what it prints, and the code it ends with.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod break_glass;
mod ledger;
mod verbs;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use syshold_agent::control::{self, Asked, Door};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A door whose driver is the test.
struct Daemon {
    dir: TempDir,
    _door: Door,
}

impl Daemon {
    fn start(answer: impl Fn(Asked) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (to_driver, mut asked) = mpsc::channel(8);
        let door = control::listen(&dir.path().join("control.sock"), to_driver).unwrap();
        tokio::spawn(async move {
            while let Some(next) = asked.recv().await {
                answer(next);
            }
        });
        Self { dir, _door: door }
    }

    async fn syshold(&self, args: &[&str]) -> Output {
        syshold(&self.dir.path().join("control.sock"), args).await
    }
}

async fn syshold(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syshold"));
    command
        .arg("--socket")
        .arg(socket)
        .args(args)
        .env_remove("SYSHOLD_GATEWAY")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
