//! `syshold-approver`: see [`syshold_approver::cli`].
use std::process::ExitCode;

use syshold_approver::cli::{parse, run};

fn main() -> ExitCode {
    run(parse())
}
