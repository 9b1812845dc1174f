//! `syshold-approver`: see [`syshold_approver::cli`].
use std::process::ExitCode;

use clap::Parser as _;
use syshold_approver::cli::{Args, run};

fn main() -> ExitCode {
    // In every profile, as the shipped one: a task that ended would leave its part undone.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
    run(Args::parse())
}
