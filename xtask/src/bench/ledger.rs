//! `bench ledger`: what the ledger costs on this very machine, then what it withstands. Needs no test
//! machine: the disk is what counts, so the figures are those of the disk below /tmp.
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::layout::workspace;
use crate::{sh, toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many leaves to verify
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    leaves: u64,
    /// Only what it costs
    #[arg(long)]
    costs_only: bool,
}

/// How much of each the tests do here; by themselves they do less.
const MORE: [(&str, &str); 3] = [
    ("SYSHOLD_LEDGER_TEST_KILLS", "1000"),
    ("SYSHOLD_LEDGER_TEST_POSITIONS", "200"),
    ("SYSHOLD_LEDGER_TEST_CLEAN", "1000"),
];

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    let leaves = arguments.leaves.to_string();
    sh::say("bench", format_args!("the ledger, {leaves} leaves"));
    let mut figures = toolchain::clean_command("cargo");
    figures
        .current_dir(workspace())
        .args(["run", "--release", "--quiet", "--package", "syshold-ledger"])
        .args(["--example", "figures", "--", &leaves]);
    let status = figures.status().context("cannot run cargo")?;
    if !status.success() || arguments.costs_only {
        return Ok(done(status.success()));
    }
    sh::say("bench", "what it withstands: the ledger's tests, at length");
    let mut tests = toolchain::clean_command("cargo");
    tests
        .current_dir(workspace())
        .envs(MORE)
        .args(["test", "--release", "--package", "syshold-ledger"])
        .args(["--tests", "--no-fail-fast", "--", "--nocapture"]);
    let output = tests
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    println!();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // Other tests print into the same line.
        if let Some((_, figure)) = line.split_once("figure: ") {
            println!("- {figure}");
        }
    }
    Ok(done(output.status.success()))
}

fn done(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
