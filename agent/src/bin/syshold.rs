//! The command line.
use std::process::ExitCode;

fn main() -> ExitCode {
    syshold_agent::cli::main()
}
