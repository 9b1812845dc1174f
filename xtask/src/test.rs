//! `test`: unit tests on this machine, then the cases of `tests/` on every kernel.
use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::build::{self, Built};
use crate::layout::{Pins, vm_cache, workspace};
use crate::setup::kernel::KernelFiles;
use crate::setup::{self, Machine};
use crate::vm::{self, Job};
use crate::{sh, toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only cases whose name (`file::test`) contains one of these
    filter: Vec<String>,
    /// Only this kernel of tests/kernels.toml; can be repeated
    #[arg(long)]
    kernel: Vec<String>,
    /// Skip the unit tests
    #[arg(long)]
    vm_only: bool,
    /// Install what the last build made
    #[arg(long)]
    no_build: bool,
    /// Machines get optimised programs: for long runs
    #[arg(long)]
    release: bool,
    /// For the cases' environment, such as `STRESS_SECONDS=3600`; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Machines that run at the same time [default: one for every two processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop a machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    limit: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    setup::packages()?;
    let pins = Pins::load()?;
    let kernels = pins.select(&arguments.kernel)?;
    // Fetching and compiling share nothing.
    let (machine, built, mut tally) = std::thread::scope(|scope| -> Result<_> {
        let machine = scope.spawn(|| setup::machine(&pins, &kernels, false));
        let built = if arguments.no_build {
            build::last(arguments.release)?
        } else {
            build::all(arguments.release)?
        };
        let tally = if arguments.vm_only {
            Tally::default()
        } else {
            unit_tests()?
        };
        let machine = machine
            .join()
            .map_err(|_| anyhow::anyhow!("setting up the machines panicked"))??;
        Ok((machine, built, tally))
    })?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments
        .jobs
        .unwrap_or(processors / 2)
        .clamp(1, kernels.len());
    for (kernel, outcome) in on_every_kernel(&machine, &built, arguments, jobs) {
        let cases = outcome.unwrap_or_else(|error| {
            println!("not ok {kernel}: {error:#}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        tally.add(cases);
    }
    // A skip hides what was not tested: visible here, an error in CI.
    let mut good = tally.failed == 0;
    if tally.skipped > 0 {
        println!("{} skipped", tally.skipped);
        good &= std::env::var_os("CI").is_none();
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `cargo test` for the whole workspace, its own output shown.
fn unit_tests() -> Result<Tally> {
    let mut cargo = toolchain::clean_command("cargo");
    cargo
        .current_dir(workspace())
        .args(["test", "--workspace", "--no-fail-fast"]);
    let out = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&out.stdout);
    print!("{text}");
    let mut tally = Tally::default();
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let count = |what: &str| -> usize {
            let before = line.split(what).next().unwrap_or_default();
            before
                .split_whitespace()
                .next_back()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default()
        };
        tally.add(Tally {
            passed: count(" passed"),
            failed: count(" failed"),
            skipped: count(" ignored"),
        });
    }
    if !out.status.success() && tally.failed == 0 {
        // It did not compile, or died.
        tally.failed = 1;
    }
    Ok(tally)
}

type Outcomes = Vec<(String, Result<Tally>)>;

fn on_every_kernel(
    machine: &Machine,
    built: &Built,
    arguments: &Arguments,
    jobs: usize,
) -> Outcomes {
    let (give, take) = mpsc::channel();
    for kernel in &machine.kernels {
        let _ = give.send(kernel.clone());
    }
    drop(give);
    let queue = Mutex::new(take);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(kernel) = queue.lock().ok().and_then(|queue| queue.try_recv().ok()) {
                    let name = kernel.pin.name.clone();
                    let outcome = on_kernel(machine, built, kernel, arguments);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((name, outcome));
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_default()
}

fn on_kernel(
    machine: &Machine,
    built: &Built,
    kernel: KernelFiles,
    arguments: &Arguments,
) -> Result<Tally> {
    let name = kernel.pin.name.clone();
    sh::say("test", format_args!("kernel {} ({})", name, kernel.release));
    let out = vm_cache().join("out").join(&name);
    let _ = std::fs::remove_dir_all(&out);
    let mut command = vec!["env".to_owned()];
    command.extend(arguments.set.iter().cloned());
    command.extend(["python3", "-u", "/share/run.py"].map(str::to_owned));
    let mut job = Job::new(kernel, command);
    job.command.extend(arguments.filter.iter().cloned());
    job.share = Some(workspace().join("tests"));
    job.out = Some(out.clone());
    job.limit = Duration::from_secs(arguments.limit);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let lines = Lines {
        prefix: name.clone(),
        partial: Vec::new(),
        tally: Arc::clone(&tally),
    };
    let outcome = vm::run(
        machine,
        built,
        &job,
        Box::new(lines),
        Box::new(std::io::stderr()),
    )?;
    let tally = tally
        .lock()
        .map_or_else(|broken| *broken.into_inner(), |tally| *tally);
    sh::say(
        "test",
        format_args!(
            "kernel {name}: up in {:.1} s; logs and ledger in {}",
            outcome.boot_seconds,
            out.display()
        ),
    );
    let silent = tally.passed + tally.failed == 0;
    anyhow::ensure!(
        !silent && (outcome.status != 0) == (tally.failed > 0),
        "the runner ended with status {} after {} tests",
        outcome.status,
        tally.passed + tally.failed
    );
    Ok(tally)
}

/// Shows the runner's lines with the kernel's name before them, and counts.
struct Lines {
    prefix: String,
    partial: Vec<u8>,
    tally: Arc<Mutex<Tally>>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            println!("{:>5} {}", self.prefix, line.trim_end());
            if let Ok(mut tally) = self.tally.lock() {
                tally.passed += usize::from(line.starts_with("ok "));
                tally.failed += usize::from(line.starts_with("not ok "));
                tally.skipped += usize::from(line.starts_with("skip "));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

impl Tally {
    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}
