//! `bench`: what Syshold costs, in guest instructions, beside a bare run and beside small peers.
//!
//! Machines count instructions for time, so figures repeat within a percent on any computer, busy
//! or not. `tests/init/bench` drives a machine and prints one JSON object a line: a [`Figure`].
mod gateway;
mod ledger;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::layout::Pins;
use crate::setup;
use crate::vm::{self, Job};
use crate::{build, sh};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only this kernel of tests/kernels.toml; can be repeated
    #[arg(long)]
    kernel: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// How many holds wait at once
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    holds: u32,
    /// Measure what the last build made
    #[arg(long)]
    no_build: bool,
    /// Stop a machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// What the ledger costs and withstands, on this machine and its disk
    Ledger(ledger::Arguments),
    /// One gateway under load, on this machine: 1,000 hosts, 10,000 waiting requests, a day of requests
    Gateway(gateway::Arguments),
}

/// What the guest found out about one row, for one subject: `bare`, `syshold`, or a peer's name.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct Figure {
    row: String,
    subject: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
enum Found {
    Value {
        unit: String,
        /// The median where there are several.
        value: f64,
        #[serde(flatten)]
        spread: Option<Spread>,
    },
    Missing {
        /// Why.
        missing: String,
    },
}

/// The 10th and the 90th of a hundred.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
struct Spread {
    low: f64,
    high: f64,
    count: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    release: String,
    rows: Vec<table::Line>,
    figures: Vec<Figure>,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.part {
        Some(Part::Ledger(arguments)) => return ledger::verb(arguments),
        Some(Part::Gateway(arguments)) => return gateway::verb(arguments),
        None => {}
    }
    setup::packages()?;
    let pins = Pins::load()?;
    let machine = setup::machine(&pins, &pins.select(&arguments.kernel)?, false)?;
    let built = if arguments.no_build {
        build::last(true)?
    } else {
        build::all(true)?
    };
    let mut reports = Vec::new();
    let mut complete = true;
    for kernel in &machine.kernels {
        let (name, release) = (&kernel.pin.name, &kernel.release);
        sh::say("bench", format_args!("kernel {name} ({release})"));
        let holds = format!("BENCH_HOLDS={}", arguments.holds);
        let command = ["env", &holds, "/usr/lib/syshold-vm/bench"].map(str::to_owned);
        let mut job = Job::new(kernel.clone(), command.to_vec());
        job.icount = true;
        job.limit = Duration::from_secs(arguments.limit);
        let lines = Collect::default();
        let outcome = vm::run(
            &machine,
            &built,
            &job,
            Box::new(lines.clone()),
            Box::new(std::io::stderr()),
        );
        // What was measured until then is worth showing all the same.
        match outcome {
            Ok(outcome) if outcome.status == 0 => {}
            Ok(outcome) => {
                complete = false;
                let status = outcome.status;
                sh::say("error", format_args!("kernel {name}: status {status}"));
            }
            Err(error) => {
                complete = false;
                sh::say("error", format_args!("{error:#}"));
            }
        }
        let figures = lines.figures()?;
        let report = Report {
            kernel: name.clone(),
            release: release.clone(),
            rows: table::lines(&figures),
            figures,
        };
        for line in report.rows.iter().filter(|line| !line.is_measured()) {
            complete = false;
            let title = line.title;
            sh::say(
                "error",
                format_args!("kernel {name}: not measured: {title}"),
            );
        }
        if !arguments.json {
            table::print(&report);
        }
        reports.push(report);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<u8>>>);

impl Collect {
    fn figures(&self) -> Result<Vec<Figure>> {
        let bytes = self
            .0
            .lock()
            .map_or_else(|broken| broken.into_inner().clone(), |bytes| bytes.clone());
        let text = String::from_utf8(bytes).context("the measuring program did not print text")?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}")))
            .collect()
    }
}

impl Write for Collect {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut all) = self.0.lock() {
            all.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
