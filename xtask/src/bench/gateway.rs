//! `bench gateway`: one gateway, the real program, under the load of many hosts, on this very machine.
//! `approver/examples/load` is the load; its hosts run here too, so they take their share of the processors.
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::layout::{target, workspace};
use crate::{sh, toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many hosts
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    hosts: u32,
    /// How many of their requests wait at once
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    waiting: u32,
    /// How many of these are decided and timed
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    decisions: u32,
    /// How many requests a day has, each asked, answered and reported on
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    day: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { hosts, waiting, .. } = arguments;
    sh::say(
        "bench",
        format_args!("a gateway, {hosts} hosts, {waiting} requests that wait"),
    );
    let mut build = toolchain::clean_command("cargo");
    build
        .current_dir(workspace())
        .args(["build", "--release", "--quiet"])
        .args(["--package", "syshold-approver"])
        .args(["--bin", "syshold-approver", "--example", "load"]);
    sh::run(&mut build)?;
    let built = target().join("release");
    // Each host has a connection of its own, which has two ends here.
    let mut load = Command::new("sh");
    load.args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$@\"", "load"])
        .arg(built.join("examples/load"))
        .arg("--gateway")
        .arg(built.join("syshold-approver"));
    for (name, count) in [
        ("--hosts", hosts),
        ("--waiting", waiting),
        ("--decisions", &arguments.decisions),
        ("--day", &arguments.day),
    ] {
        load.args([name, &count.to_string()]);
    }
    if arguments.json {
        load.arg("--json");
    }
    let status = load.status().context("cannot start the load")?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
