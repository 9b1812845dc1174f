//! `verify`, and what whoever runs it knows from elsewhere.
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::args::Known;
use super::{CliError, complain, print};
use crate::note::{VerifierKey, parse_checkpoint};
use crate::render;
use crate::verify::{Exit, Report, Trust, verify_with};

/// A check that takes longer says how far it is.
const PATIENCE: Duration = Duration::from_millis(700);

impl Known {
    pub(super) fn trust(&self) -> Result<Trust, CliError> {
        let witnessed = self.witnessed.as_deref().map(|path| {
            let raw = read(path)?;
            parse_checkpoint(&raw).map_err(|source| CliError::Key {
                what: path.display().to_string(),
                source,
            })
        });
        Ok(Trust {
            identity: self.key.as_deref().map(key).transpose()?,
            witnesses: self
                .witness
                .iter()
                .map(|text| key(text))
                .collect::<Result<_, _>>()?,
            witnessed: witnessed.transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })
}

/// A key, or the name of a file with one.
fn key(text: &str) -> Result<VerifierKey, CliError> {
    let path = Path::new(text);
    let text = if path.is_file() {
        read(path)?.trim().to_owned()
    } else {
        text.to_owned()
    };
    text.parse()
        .map_err(|source| CliError::Key { what: text, source })
}

/// Verifies, and says on a terminal how far it is.
pub(super) fn check(db: &Path, known: &Known) -> Result<Report, CliError> {
    let trust = known.trust()?;
    let begin = Instant::now();
    let (terminal, mut said) = (io::stderr().is_terminal(), false);
    let report = verify_with(db, &trust, |done, total| {
        if terminal && begin.elapsed() > PATIENCE {
            said = true;
            let percent = (done * 100).checked_div(total).unwrap_or(100);
            // It only decorates.
            let _unseen = write!(io::stderr(), "\r{done} of {total} leaves, {percent} % ");
        }
    });
    if said {
        let _unseen = write!(io::stderr(), "\r{:60}\r", "");
    }
    Ok(report?)
}

pub(super) fn run_verify(db: &Path, known: &Known, json: bool) -> ExitCode {
    let exit = match check(db, known) {
        Ok(report) => {
            let text = if json {
                serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
            } else {
                render::report(&db.display().to_string(), &report)
            };
            if let Err(error) = print(&text) {
                complain(&error);
            }
            report.exit()
        }
        Err(error) => {
            complain(&error);
            Exit::Unreadable
        }
    };
    ExitCode::from(exit as u8)
}
