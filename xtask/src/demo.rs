//! `demo`: an agent reads customer data and posts it out, and you are asked.
//!
//! On this host when its kernel can load BPF LSM programs and we may, else on a test machine.
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::build::{self, Built};
use crate::layout::{Pins, workspace};
use crate::vm::{self, Job};
use crate::{setup, sh};

/// The demo's word for "not on this machine".
const UNAVAILABLE: i32 = 69;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Answers for you: approve or deny
    #[arg(long, value_parser = ["approve", "deny"])]
    answer: Option<String>,
    /// Use a test machine even if this host could do it
    #[arg(long)]
    vm: bool,
    /// Show what the last build made
    #[arg(long)]
    no_build: bool,
    /// The test machine's kernel, of tests/kernels.toml
    #[arg(long, default_value = "6.12")]
    kernel: String,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    setup::packages()?;
    let built = if arguments.no_build {
        build::last(false)?
    } else {
        build::all(false)?
    };
    let hindrance = if arguments.vm {
        Some("you said --vm".to_owned())
    } else {
        hindrance()
    };
    match hindrance {
        Some(why) => sh::say("demo", format_args!("on a test machine: {why}")),
        None => {
            let status = on_this_host(arguments, &built)?;
            if status != UNAVAILABLE {
                return Ok(exit_code(status));
            }
            sh::say("demo", "on a test machine, then");
        }
    }
    on_a_machine(arguments, &built)
}

/// Why this host cannot run it, as far as can be seen without trying.
fn hindrance() -> Option<String> {
    let lsm = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !lsm.trim().split(',').any(|name| name == "bpf") {
        return Some("this kernel has no BPF LSM".into());
    }
    for (path, what) in [
        ("/sys/kernel/btf/vmlinux", "BTF"),
        ("/sys/fs/cgroup/cgroup.controllers", "cgroup v2"),
    ] {
        if !Path::new(path).exists() {
            return Some(format!("this host has no {what}"));
        }
    }
    sh::on_path("python3")
        .is_none()
        .then(|| "this host has no python3".into())
}

fn on_this_host(arguments: &Arguments, built: &Built) -> Result<i32> {
    let programs = built
        .programs
        .first()
        .and_then(|program| program.parent())
        .context("no programs were built")?;
    sh::say("demo", "on this host; it leaves nothing behind");
    let mut demo = sh::as_root("python3")?;
    demo.arg(workspace().join("tests/init/demo"))
        .args(words(arguments))
        .arg("--programs")
        .arg(programs);
    let status = demo.status().context("cannot run the demo")?;
    Ok(status.code().unwrap_or(1))
}

fn on_a_machine(arguments: &Arguments, built: &Built) -> Result<ExitCode> {
    let pins = Pins::load()?;
    let machine = setup::machine(&pins, &[pins.kernel(&arguments.kernel)?], false)?;
    let kernel = machine
        .kernels
        .first()
        .context("a kernel was asked for")?
        .clone();
    let command = ["/usr/lib/syshold-vm/demo", "--peer", "198.51.100.1"].map(str::to_owned);
    let mut job = Job::new(
        kernel,
        command.into_iter().chain(words(arguments)).collect(),
    );
    job.interactive = arguments.answer.is_none();
    job.limit = Duration::from_secs(if job.interactive { 3600 } else { 600 });
    ensure!(
        !job.interactive || terminal(),
        "nobody to ask: run it in a terminal, or with --answer approve or deny"
    );
    sh::say("demo", format_args!("booting Linux {}", job.kernel.release));
    let outcome = vm::run(
        &machine,
        built,
        &job,
        Box::new(std::io::stdout()),
        Box::new(std::io::stderr()),
    )?;
    Ok(exit_code(outcome.status))
}

fn words(arguments: &Arguments) -> Vec<String> {
    arguments
        .answer
        .iter()
        .flat_map(|answer| ["--answer".to_owned(), answer.clone()])
        .collect()
}

fn terminal() -> bool {
    Command::new("tty")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn exit_code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
