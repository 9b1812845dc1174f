//! `ledger tail | show | verify`, the same in both command lines.
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::reader::{Filter, Leaf, ReadError, Reader};
use crate::verify::{Exit, verify};
use crate::{DEFAULT_PATH, render};

/// Read and prove the ledger.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// The ledger file [default: the one of this installation]
    #[arg(long, global = true, value_name = "PATH")]
    db: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Print the last leaves
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
        lines: u64,
        /// Go on with new leaves as they are committed
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        only: Only,
        /// One leaf a line, exactly as it was hashed
        #[arg(long)]
        json: bool,
    },
    /// Print one leaf in full
    Show {
        /// Its index
        idx: u64,
        /// Exactly as it was hashed
        #[arg(long)]
        json: bool,
    },
    /// Prove that no leaf was changed: exit 0 clean, 1 tampered, 2 warnings only, 3 unreadable
    Verify {
        /// The report as one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Leaves to print.
#[derive(Debug, Clone, Args)]
struct Only {
    /// Only leaves of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only leaves about this agent
    #[arg(long)]
    agent: Option<String>,
    /// Only leaves under this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only decisions with this verdict
    #[arg(long, value_parser = ["allow", "deny"])]
    verdict: Option<String>,
    /// Only leaves of this request
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only leaves of this hold
    #[arg(long, value_name = "ID")]
    hold: Option<String>,
    /// Only what this person decided
    #[arg(long, value_name = "PERSON")]
    approver: Option<String>,
}

/// Runs the command on the host's ledger; prints to standard output, and errors to standard error.
pub fn run(args: &LedgerArgs) -> ExitCode {
    run_at(args, Path::new(DEFAULT_PATH))
}

/// The same on the ledger at `default`, unless the arguments name one.
pub fn run_at(args: &LedgerArgs, default: &Path) -> ExitCode {
    let db = args.db.as_deref().unwrap_or(default);
    let result = match &args.command {
        Command::Tail {
            lines,
            follow,
            only,
            json,
        } => tail(db, *lines, *follow, only, *json),
        Command::Show { idx, json } => show(db, *idx, *json),
        Command::Verify { json } => return run_verify(db, *json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone: `ledger tail | head`.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("there is no leaf {idx}; the last one is {last}")]
    NoSuchLeaf { idx: u64, last: u64 },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

fn tail(db: &Path, lines: u64, follow: bool, only: &Only, json: bool) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let mut filter = only.filter();
    let mut out = anstream::stdout().lock();
    if !json {
        writeln!(out, "{}", render::heading())?;
    }
    let last = if filter == Filter::default() {
        reader.tail(lines)?
    } else {
        last_matching(&reader, &filter, lines)?
    };
    filter.from_idx = last.last().map_or(0, |leaf| leaf.idx + 1);
    for leaf in &last {
        print(&mut out, leaf, json)?;
    }
    if !follow {
        return Ok(out.flush()?);
    }
    let mut result = out.flush();
    reader.follow(&filter, Duration::from_millis(200), |leaf| {
        result = print(&mut out, &leaf, json).and_then(|()| out.flush());
        if result.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(result?)
}

fn last_matching(reader: &Reader, filter: &Filter, lines: u64) -> Result<Vec<Leaf>, ReadError> {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut last = std::collections::VecDeque::new();
    reader.scan(filter, |leaf| {
        last.push_back(leaf);
        if last.len() > lines {
            last.pop_front();
        }
        ControlFlow::Continue(())
    })?;
    Ok(last.into())
}

fn print(out: &mut impl Write, leaf: &Leaf, json: bool) -> io::Result<()> {
    if json {
        writeln!(out, "{}", leaf.body)
    } else {
        writeln!(out, "{}", render::line(leaf))
    }
}

fn show(db: &Path, idx: u64, json: bool) -> Result<(), CliError> {
    let reader = Reader::open(db)?;
    let Some(leaf) = reader.show(idx)? else {
        return Err(CliError::NoSuchLeaf {
            idx,
            last: reader.len()?.saturating_sub(1),
        });
    };
    let mut out = anstream::stdout().lock();
    if json {
        writeln!(out, "{}", leaf.body)?;
    } else {
        write!(out, "{}", render::full(&leaf))?;
    }
    Ok(out.flush()?)
}

fn run_verify(db: &Path, json: bool) -> ExitCode {
    let exit = match verify(db, |_, _| {}) {
        Ok(report) => {
            let text = if json {
                serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
            } else {
                render::report(&db.display().to_string(), &report)
            };
            let mut out = anstream::stdout().lock();
            if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                complain(&CliError::Output(error));
            }
            report.exit()
        }
        Err(error) => {
            complain(&error.into());
            Exit::Unreadable
        }
    };
    ExitCode::from(exit as u8)
}

fn complain(error: &CliError) {
    // Nowhere is left to say that this failed.
    let _unwritten = writeln!(anstream::stderr(), "syshold ledger: {error}");
}

impl Only {
    fn filter(&self) -> Filter {
        Filter {
            from_idx: 0,
            kind: self.kind.clone(),
            request: self.request.clone(),
            hold: self.hold.clone(),
            agent: self.agent.clone(),
            rule: self.rule.clone(),
            verdict: self.verdict.clone(),
            approver: self.approver.clone(),
        }
    }
}
