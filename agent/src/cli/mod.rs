//! The command line, `syshold`: one enum of verbs, a file for each.
mod approvals;
mod break_glass;
mod daemon;
mod doctor;
mod enrol;
mod failure;
mod holds;
mod ledger;
mod people;
mod policy;
mod reload;
mod run;
mod selftest;
mod show;
mod status;
mod why;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control;
use failure::Failure;

/// Holds the syscalls of AI agents until a person has decided.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line, 69 the daemon or the gateway is not there,
/// 77 no permission, 78 wrong configuration.
#[derive(Debug, Parser)]
#[command(name = "syshold", version, arg_required_else_help = true)]
struct Cli {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", default_value = control::SOCKET, hide = true)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Verb {
    /// Run a command as a governed agent
    Run(run::RunArgs),
    /// Show what the daemon enforces; exit code 1 when something is wrong
    Status(status::StatusArgs),
    /// List the syscalls that are held
    Holds(holds::HoldsArgs),
    /// List and answer what agents ask for, at the gateway
    Approvals(approvals::ApprovalsArgs),
    /// Let an agent through for minutes by an order of two people with offline keys
    BreakGlass(break_glass::BreakGlassArgs),
    /// Say why something of yours was denied, and what to do now; for agents, too
    Why(why::WhyArgs),
    /// Check and explain a policy file
    Policy(policy::PolicyArgs),
    /// Read and prove the ledger
    Ledger(syshold_ledger::cli::LedgerArgs),
    /// Enrol this host with a gateway
    Enrol(enrol::EnrolArgs),
    /// Make the daemon read its policy again
    Reload(reload::ReloadArgs),
    /// Check that this host has what Syshold needs, and say how to fix what is missing
    Doctor(doctor::DoctorArgs),
    /// Attack this host in every way that is known, and show that nothing comes through
    Selftest(selftest::SelftestArgs),
}

/// The command line of `syshold`, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let socket = &cli.socket;
    let result = match cli.verb {
        Verb::Run(args) => run::run(socket, args),
        Verb::Status(args) => status::run(socket, &args),
        Verb::Holds(args) => holds::run(socket, &args),
        Verb::Approvals(args) => approvals::run(socket, args),
        Verb::BreakGlass(args) => break_glass::run(socket, args),
        Verb::Why(args) => why::run(&args),
        Verb::Policy(args) => Ok(policy::run(args)),
        Verb::Ledger(args) => ledger::run(socket, &args),
        Verb::Enrol(args) => enrol::run(args),
        Verb::Reload(args) => reload::run(socket, &args),
        Verb::Doctor(args) => doctor::run(socket, &args),
        Verb::Selftest(args) => selftest::run(socket, &args),
    };
    match result {
        Ok(code) => code,
        Err(failure) if failure.is_silent() => failure.exit().into(),
        Err(failure) => {
            // With nobody to read it, the exit code has to do.
            let _ = writeln!(anstream::stderr(), "syshold: {failure}");
            failure.exit().into()
        }
    }
}

type Outcome = Result<ExitCode, Box<dyn Failure>>;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_commands_own() {
        let cli = Cli::try_parse_from([
            "syshold", "run", "--agent", "bot", "--", "ls", "--json", "-x",
        ])
        .unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("{cli:?}")
        };
        assert_eq!(args.command(), ["ls", "--json", "-x"]);
        assert!(Cli::try_parse_from(["syshold", "run", "--agent", "bot"]).is_err());
        assert!(Cli::try_parse_from(["syshold", "run", "--", "ls"]).is_err());
    }
}
