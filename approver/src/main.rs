//! `syshold-approver`: see [`syshold_approver::cli`].
use std::process::ExitCode;

use clap::Parser as _;
use syshold_approver::cli::{Args, run};

fn main() -> ExitCode {
    run(Args::parse())
}
