//! `cargo xtask`: the verbs with which Syshold is set up, built, shown, tested, measured and packed.
mod apt;
mod bench;
mod build;
mod demo;
mod dist;
mod fuzz;
mod install;
mod layout;
mod setup;
mod sh;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, build, demo, test and measure Syshold"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need, or say what is missing
    Setup(setup::Arguments),
    /// Build the eBPF object, the daemon, the command line and the gateway
    Build(build::Arguments),
    /// Watch an agent being held, and decide
    Demo(demo::Arguments),
    /// Unit tests here, then the cases of tests/ on every kernel
    Test(test::Arguments),
    /// Boot a test machine with the freshly built Syshold
    #[command(subcommand)]
    Vm(vm::Verb),
    /// Measure what Syshold costs, in guest instructions
    Bench(bench::Arguments),
    /// Look for bytes that break a parser, with libFuzzer
    Fuzz(fuzz::Arguments),
    /// Pack programs, units, configuration and documents into target/dist
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::verb(&arguments),
        Verb::Build(arguments) => build::verb(&arguments),
        Verb::Demo(arguments) => demo::verb(&arguments),
        Verb::Test(arguments) => test::verb(&arguments),
        Verb::Vm(verb) => vm::verb(verb),
        Verb::Bench(arguments) => bench::verb(&arguments),
        Verb::Fuzz(arguments) => fuzz::verb(&arguments),
        Verb::Dist(arguments) => dist::verb(&arguments),
    };
    done.unwrap_or_else(|error| {
        sh::say("error", format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}
