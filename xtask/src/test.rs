//! `test`: unit tests on this machine, then the cases of `tests/` on every kernel.
use std::fmt;
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
    /// Every case on every kernel, also those that one is enough for
    #[arg(long)]
    all: bool,
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
    /// Machines that run at the same time [default: one for every processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop a machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

/// Lines of a failed test's own output that the end of a run repeats.
const TOLD_LINES: usize = 12;

#[derive(Debug, Default, Clone)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Machines that were started once more.
    again: usize,
    /// What failed: its name, then the end of its output.
    failures: Vec<Vec<String>>,
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
    let jobs = arguments.jobs.unwrap_or(processors).clamp(1, kernels.len());
    for (name, outcome) in on_every_kernel(&machine, &built, arguments, jobs) {
        let cases = outcome.unwrap_or_else(|error| {
            println!("not ok {name}: {error:#}");
            Tally::broken(format!("{name}: {error:#}"))
        });
        tally.add(cases);
    }
    // Told again, on the stream that a log of errors keeps: an hour of lines went by since.
    for failure in &tally.failures {
        eprintln!("error: test failed: {}", failure.join("\n    "));
    }
    // A skip hides what was not tested: visible here, an error in CI.
    let mut good = tally.failed == 0;
    if tally.skipped > 0 {
        println!("{} skipped", tally.skipped);
        good &= std::env::var_os("CI").is_none();
    }
    if tally.again > 0 {
        println!("{} started once more after an oops of int3", tally.again);
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
            ..Tally::default()
        });
    }
    if !out.status.success() && tally.failed == 0 {
        tally.add(Tally::broken("cargo test did not compile, or died".into()));
    }
    let told = text.lines().filter(|line| {
        (line.starts_with("test ") && line.ends_with("FAILED")) || line.contains("panicked at")
    });
    tally
        .failures
        .extend(told.map(|line| vec![line.to_owned()]));
    Ok(tally)
}

/// One after the other, every `of`th from the `number`th on.
#[derive(Debug, Clone, Copy)]
struct Share {
    number: usize,
    of: usize,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// What one machine runs.
#[derive(Debug, Clone)]
struct Part {
    kernel: KernelFiles,
    /// Of the cases that one kernel is enough for.
    deal: Share,
    /// Of the kernel's cases.
    part: Share,
}

impl Part {
    fn name(&self) -> String {
        let kernel = &self.kernel.pin.name;
        match self.part.of {
            1 => kernel.clone(),
            _ => format!("{kernel}-{}", self.part.number),
        }
    }
}

/// Kernels that do not divide among the machines would leave processors idle at the end: then
/// each kernel's cases are divided. A filter names few cases, which stay together.
fn parts(kernels: &[KernelFiles], arguments: &Arguments, jobs: usize) -> Vec<Part> {
    let chosen = !arguments.filter.is_empty();
    let even = kernels.len().is_multiple_of(jobs);
    let of = if even || chosen { 1 } else { jobs };
    let whole = Share { number: 1, of: 1 };
    let mut parts = Vec::new();
    for (kernel, turn) in kernels.iter().zip(1..) {
        let deal = Share {
            number: turn,
            of: kernels.len(),
        };
        let deal = if arguments.all || chosen { whole } else { deal };
        parts.extend((1..=of).map(|number| Part {
            kernel: kernel.clone(),
            deal,
            part: Share { number, of },
        }));
    }
    parts
}

type Outcomes = Vec<(String, Result<Tally>)>;

fn on_every_kernel(
    machine: &Machine,
    built: &Built,
    arguments: &Arguments,
    jobs: usize,
) -> Outcomes {
    let (give, take) = mpsc::channel();
    for part in parts(&machine.kernels, arguments, jobs) {
        let _ = give.send(part);
    }
    drop(give);
    let queue = Mutex::new(take);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(part) = queue.lock().ok().and_then(|queue| queue.try_recv().ok()) {
                    let outcome = on_kernel(machine, built, &part, arguments, false);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((part.name(), outcome));
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
    part: &Part,
    arguments: &Arguments,
    again: bool,
) -> Result<Tally> {
    let name = part.name();
    let release = &part.kernel.release;
    sh::say("test", format_args!("kernel {name} ({release})"));
    let out = vm_cache().join("out").join(&name);
    let _ = std::fs::remove_dir_all(&out);
    let mut command = vec!["env".to_owned()];
    command.extend(arguments.set.iter().cloned());
    command.extend(["python3", "-u", "/share/run.py"].map(str::to_owned));
    command.push(format!("--deal={}", part.deal));
    command.push(format!("--part={}", part.part));
    command.extend(arguments.filter.iter().cloned());
    let mut job = Job::new(part.kernel.clone(), command);
    job.share = Some(workspace().join("tests"));
    job.out = Some(out.clone());
    job.limit = Duration::from_secs(arguments.limit);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let lines = Lines {
        prefix: name.clone(),
        partial: Vec::new(),
        failing: false,
        tally: Arc::clone(&tally),
    };
    let outcome = vm::run(
        machine,
        built,
        &job,
        Box::new(lines),
        Box::new(std::io::stderr()),
    );
    let mut tally = tally
        .lock()
        .map_or_else(|broken| broken.into_inner().clone(), |tally| tally.clone());
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) if !machine.qemu.kvm && !again && is_of_qemu(&format!("{error:#}")) => {
            println!("{name}: {error:#}");
            println!("{name}: an oops of int3 under emulation; once more, from the start");
            // What failed until then has failed.
            (tally.passed, tally.again) = (0, 1);
            tally.add(on_kernel(machine, built, part, arguments, true)?);
            return Ok(tally);
        }
        // What was seen until then counts.
        Err(error) => {
            println!("not ok {name}: {error:#}");
            tally.add(Tally::broken(format!("{name}: {error:#}")));
            return Ok(tally);
        }
    };
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

/// As far as we know: with two emulated processors QEMU drops translated code before the guest's store lands: one that
/// runs meanwhile may keep the old instruction. A kernel that patches itself, as ours does with every
/// program that is attached, then now and then dies of an int3 that is no longer there.
fn is_of_qemu(console: &str) -> bool {
    console.contains("Oops: int3")
}

/// Shows the runner's lines with the kernel's name before them, and counts.
struct Lines {
    prefix: String,
    partial: Vec<u8>,
    /// The last test's line said that it failed: what follows is its output.
    failing: bool,
    tally: Arc<Mutex<Tally>>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            println!("{:>6} {}", self.prefix, line.trim_end());
            let Ok(mut tally) = self.tally.lock() else {
                continue;
            };
            tally.passed += usize::from(line.starts_with("ok "));
            tally.failed += usize::from(line.starts_with("not ok "));
            tally.skipped += usize::from(line.starts_with("skip "));
            let detail = line.strip_prefix('#');
            self.failing = line.starts_with("not ok ") || (self.failing && detail.is_some());
            if let (true, Some(detail), Some(told)) =
                (self.failing, detail, tally.failures.last_mut())
            {
                if told.len() > TOLD_LINES {
                    told.remove(1);
                }
                told.push(detail.trim().to_owned());
            } else if let Some(test) = line.strip_prefix("not ok ") {
                tally
                    .failures
                    .push(vec![format!("{} {}", self.prefix, test.trim_end())]);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

impl Tally {
    /// One failure that no test's line tells of.
    fn broken(why: String) -> Self {
        Self {
            failed: 1,
            failures: vec![vec![why]],
            ..Self::default()
        }
    }

    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
        self.again += more.again;
        self.failures.extend(more.failures);
    }
}
