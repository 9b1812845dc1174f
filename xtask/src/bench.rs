//! `bench`: what Syshold costs, in guest instructions, beside a bare run and beside small peers.
//!
//! Machines count instructions for time, so figures repeat within a percent on any computer. The
//! measuring program, `measure` of crate `tests`, prints one JSON object a line: a [`Figure`].
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::layout::Pins;
use crate::setup;
use crate::vm::{self, Job};
use crate::{build, sh};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this kernel of tests/kernels.toml; can be repeated
    #[arg(long)]
    kernel: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Stop a machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

/// One row of the table for one subject: `bare`, `syshold`, or a peer's name.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    row: String,
    subject: String,
    instructions: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    release: String,
    figures: Vec<Figure>,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    setup::packages()?;
    let pins = Pins::load()?;
    let machine = setup::machine(&pins, &pins.select(&arguments.kernel)?, false)?;
    let built = build::all(true)?;
    let mut reports = Vec::new();
    for kernel in &machine.kernels {
        sh::say(
            "bench",
            format_args!("kernel {} ({})", kernel.pin.name, kernel.release),
        );
        // For some seconds after boot background work inflates what is measured.
        let mut job = Job::new(
            kernel.clone(),
            ["bash", "-c", "sleep 30; exec measure"]
                .map(str::to_owned)
                .to_vec(),
        );
        job.icount = true;
        job.limit = Duration::from_secs(arguments.limit);
        let lines = Collect::default();
        let outcome = vm::run(
            &machine,
            &built,
            &job,
            Box::new(lines.clone()),
            Box::new(std::io::stderr()),
        )?;
        ensure!(
            outcome.status == 0,
            "measuring on kernel {} ended with status {}",
            kernel.pin.name,
            outcome.status
        );
        reports.push(Report {
            kernel: kernel.pin.name.clone(),
            release: kernel.release.clone(),
            figures: lines.figures()?,
        });
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        reports.iter().for_each(print);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    let mut subjects: Vec<&str> = Vec::new();
    let mut rows: Vec<&str> = Vec::new();
    let mut cells = BTreeMap::new();
    for figure in &report.figures {
        if !subjects.contains(&figure.subject.as_str()) {
            subjects.push(&figure.subject);
        }
        if !rows.contains(&figure.row.as_str()) {
            rows.push(&figure.row);
        }
        cells.insert(
            (figure.row.as_str(), figure.subject.as_str()),
            figure.instructions,
        );
    }
    let width = rows.iter().map(|row| row.len()).max().unwrap_or_default();
    println!(
        "\nKernel {}: guest instructions, and what is added to the bare run",
        report.release
    );
    print!("{:width$}", "");
    subjects.iter().for_each(|subject| print!(" {subject:>20}"));
    println!();
    for row in rows {
        print!("{row:width$}");
        let bare = cells.get(&(row, "bare"));
        for subject in &subjects {
            let cell = match (cells.get(&(row, *subject)), bare) {
                (None, _) => "-".to_owned(),
                (Some(count), Some(bare)) if *subject != "bare" => {
                    format!("{count:.0} ({:+.0})", count - bare)
                }
                (Some(count), _) => format!("{count:.0}"),
            };
            print!(" {cell:>20}");
        }
        println!();
    }
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
