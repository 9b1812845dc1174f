//! `verify`, and what whoever runs it knows from elsewhere.
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use syshold_protocol::PublicKey;

use super::args::Known;
use super::{CliError, complain, print};
use crate::note::{VerifierKey, parse_checkpoint};
use crate::render;
use crate::verify::{Exit, Report, Trust, verify_with};

/// A check that takes longer says how far it is.
const PATIENCE: Duration = Duration::from_millis(700);

/// The same with the contents of files in place of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knows {
    pub key: Option<String>,
    pub witnesses: Vec<String>,
    pub gateway_keys: Vec<String>,
    #[serde(default)]
    pub break_glass_keys: Vec<String>,
    /// A checkpoint.
    pub witnessed: Option<String>,
}

impl Known {
    pub(super) fn resolve(&self) -> Result<Knows, CliError> {
        let all = |list: &[String]| -> Result<Vec<_>, CliError> {
            list.iter().map(|text| or_file(text)).collect()
        };
        Ok(Knows {
            key: self.key.as_deref().map(or_file).transpose()?,
            witnesses: all(&self.witness)?,
            gateway_keys: all(&self.gateway_key)?,
            break_glass_keys: all(&self.break_glass_key)?,
            witnessed: self.witnessed.as_deref().map(read).transpose()?,
        })
    }

    pub(super) fn trust(&self) -> Result<Trust, CliError> {
        self.resolve()?.trust()
    }
}

impl Knows {
    pub(super) fn trust(&self) -> Result<Trust, CliError> {
        let witnessed = self.witnessed.as_deref().map(|raw| {
            parse_checkpoint(raw).map_err(|source| CliError::Key {
                what: "--witnessed".to_owned(),
                source,
            })
        });
        let keys = |what: &'static str, list: &[String]| {
            let key = |text: &String| {
                let wrong = |source| CliError::PublicKey { what, source };
                text.parse::<PublicKey>().map_err(wrong)
            };
            list.iter().map(key).collect::<Result<Vec<_>, _>>()
        };
        Ok(Trust {
            identity: self.key.as_deref().map(key).transpose()?,
            witnesses: self
                .witnesses
                .iter()
                .map(|text| key(text))
                .collect::<Result<_, _>>()?,
            witnessed: witnessed.transpose()?,
            gateway: keys("--gateway-key", &self.gateway_keys)?,
            break_glass: keys("--break-glass-key", &self.break_glass_keys)?,
        })
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })
}

fn key(text: &str) -> Result<VerifierKey, CliError> {
    text.parse().map_err(|source| CliError::Key {
        what: text.to_owned(),
        source,
    })
}

/// A key, or the content of a file with one.
fn or_file(text: &str) -> Result<String, CliError> {
    let path = Path::new(text);
    if path.is_file() {
        Ok(read(path)?.trim().to_owned())
    } else {
        Ok(text.to_owned())
    }
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
