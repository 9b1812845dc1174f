//! `ledger …`, the same in both command lines.
mod args;
mod hand_out;
mod keep;
mod read;
mod trust;

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use args::LedgerArgs;
use args::{Command, Form};
pub use keep::{Work, WorkError};
use syshold_protocol::ids::ParseError;

use crate::DEFAULT_PATH;
use crate::evidence::EvidenceError;
use crate::handle::HostNameError;
use crate::note::NoteError;
use crate::prove::ProveError;
use crate::prune::PruneError;
use crate::query::QueryError;
use crate::reader::{ReadError, Reader};
use crate::store::OpenError;
use crate::writer::UpkeepError;

/// Runs the command on the host's ledger; prints to standard output, and errors to standard error.
pub fn run(args: &LedgerArgs) -> ExitCode {
    run_at(args, Path::new(DEFAULT_PATH))
}

/// The same on the ledger at `default`, unless the arguments name one.
pub fn run_at(args: &LedgerArgs, default: &Path) -> ExitCode {
    let db = args.db.as_deref().unwrap_or(default);
    let result = match &args.command {
        Command::Verify { trust, json } => return trust::run_verify(db, trust, *json),
        Command::Tail {
            lines,
            follow,
            only,
            json,
        } => read::tail(db, *lines, *follow, only, *json),
        Command::Query { only, format, json } => {
            let form = if *json { Form::Jsonl } else { *format };
            read::query(db, only, form)
        }
        Command::Show { idx, json } => read::show(db, *idx, *json),
        Command::Prove { idx } => prove(db, *idx),
        Command::Checkpoint => checkpoint(db),
        Command::Snapshot { to } => Reader::open(db)
            .and_then(|reader| reader.snapshot(to))
            .map_err(CliError::Read),
        Command::Export {
            format,
            follow,
            only,
        } => hand_out::export(db, *format, *follow, only),
        Command::Report {
            only,
            trust,
            output,
        } => hand_out::report(db, only, trust, output.as_deref()),
        Command::Evidence {
            only,
            trust,
            output,
        } => hand_out::evidence(db, only, trust, output),
        Command::Redact { idx, field, reason } => keep::alone(
            db,
            &Work::Redact {
                idx: *idx,
                fields: field.clone(),
                reason: reason.clone(),
            },
        ),
        Command::Prune {
            keep,
            trust,
            dry_run,
        } => keep::prune(db, *keep, trust, *dry_run),
        Command::Review { note, from, to } => keep::alone(db, &Work::review(note, *from, *to)),
        Command::RotateKey => keep::alone(db, &Work::RotateKey),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone: `ledger tail | head`.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error @ CliError::Query(_)) => {
            complain(&error);
            ExitCode::from(USAGE)
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

const USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error(transparent)]
    Host(#[from] HostNameError),
    #[error("{what}: {source}")]
    Key { what: String, source: NoteError },
    #[error("{what}: {source}")]
    PublicKey {
        what: &'static str,
        source: ParseError,
    },
    #[error("there is no leaf {idx}; the last one is {last}")]
    NoSuchLeaf { idx: u64, last: u64 },
    #[error("leaf {from} comes after leaf {to}; change --from or --to")]
    NoRange { from: u64, to: u64 },
    #[error("leaf {idx} was pruned; the first one is {first}")]
    Pruned { idx: u64, first: u64 },
    #[error("the words of that query are too long to be noted")]
    LongQuery,
    #[error("the ledger has no checkpoint yet; start the daemon once")]
    NoCheckpoint,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

fn prove(db: &Path, idx: u64) -> Result<(), CliError> {
    let text = Reader::open(db)?.proof(idx)?;
    print(&text)
}

fn checkpoint(db: &Path) -> Result<(), CliError> {
    match Reader::open(db)?.checkpoint()? {
        Some((note, _)) => print(&note.to_string()),
        None => Err(CliError::NoCheckpoint),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn complain(error: &CliError) {
    // Nowhere is left to say that this failed.
    let _unwritten = writeln!(anstream::stderr(), "syshold ledger: {error}");
}
