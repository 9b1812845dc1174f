//! `fuzz`: libFuzzer looks for bytes that break a parser, or a promise of one; fuzz/src/lib.rs has the
//! targets.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::layout::{target, workspace};
use crate::{build, sh, toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these targets [default: all]
    target: Vec<String>,
    /// How long to look with each
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// Coverage as cargo-fuzz asks for it. Not its sanitizers: they need a nightly compiler, and what is
/// fuzzed here forbids unsafe code or has next to none.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What one target came to.
#[derive(Debug)]
struct Looked {
    name: String,
    from: String,
    runs: String,
    edges: String,
    /// Where the bytes that broke it are.
    found: Option<String>,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        sh::on_path("c++").is_some(),
        "libFuzzer is C++ and there is no `c++`: install a compiler (Debian: apt install g++)"
    );
    build::ebpf()?;
    let program = compile()?;
    let targets = list(&program)?;
    let unknown = |name: &&String| targets.iter().all(|(known, _)| known != *name);
    if let Some(name) = arguments.target.iter().find(unknown) {
        let names: Vec<&str> = targets.iter().map(|(name, _)| name.as_str()).collect();
        bail!("no target is called {name:?}: {}", names.join(", "));
    }
    let mut failed = 0;
    println!("{:<12} {:>10} {:>6}  bytes from", "target", "runs", "edges");
    for (name, from) in targets {
        if !arguments.target.is_empty() && !arguments.target.contains(&name) {
            continue;
        }
        let one = look(&program, name, from, arguments.seconds)?;
        println!(
            "{:<12} {:>10} {:>6}  {}",
            one.name, one.runs, one.edges, one.from
        );
        if let Some(found) = one.found {
            failed += 1;
            println!("not ok {}: {found}", one.name);
        }
    }
    println!("{failed} broken");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn compile() -> Result<PathBuf> {
    let host = "x86_64-unknown-linux-gnu";
    let folder = target().join("fuzz");
    sh::step("fuzz", "targets, with coverage", || {
        let mut cargo = toolchain::clean_command("cargo");
        cargo
            .current_dir(workspace())
            // What build scripts and macros are made of is not fuzzed.
            .args([
                "build",
                "--locked",
                "-p",
                "syshold-fuzz",
                "--features",
                "libfuzzer",
                "--target",
                host,
            ])
            .arg("--target-dir")
            .arg(&folder)
            .env("RUSTFLAGS", COVERAGE)
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
        sh::run(&mut cargo)
    })?;
    Ok(folder.join(host).join("debug/syshold-fuzz"))
}

fn list(program: &Path) -> Result<Vec<(String, String)>> {
    let said = sh::output(Command::new(program).env("SYSHOLD_FUZZ", "list"))?;
    let pairs = said.lines().filter_map(|line| line.split_once('\t'));
    Ok(pairs
        .map(|(name, from)| (name.to_owned(), from.to_owned()))
        .collect())
}

fn look(program: &Path, name: String, from: String, seconds: u64) -> Result<Looked> {
    let folder = target().join("fuzz").join(&name);
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    sh::say("fuzz", format_args!("{name}, for {seconds} s"));
    let out = Command::new(program)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", folder.display()))
        // A policy may have 1 MiB; what a bug needs is short. A unit of ten seconds is a bug, too.
        .args([
            "-max_len=16384",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .env("SYSHOLD_FUZZ", &name)
        .env("SYSHOLD_FUZZ_SEEDS", &corpus)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let after = |what: &str| {
        let (_, rest) = said.rsplit_once(what)?;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let found = (!out.status.success()).then(|| {
        let panic = said
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        let why: Vec<&str> = panic.take(3).collect();
        let bytes = after("Test unit written to ").unwrap_or_default();
        format!("{bytes} {}", why.join(" "))
    });
    Ok(Looked {
        name,
        from,
        runs: after("stat::number_of_executed_units:").unwrap_or_default(),
        edges: after(" cov: ").unwrap_or_default(),
        found,
    })
}
