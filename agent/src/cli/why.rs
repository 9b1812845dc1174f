//! `syshold why`: what the calling user's agents were denied, and what to do now. It reads a file that
//! the daemon left, so a governed process may use it.
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::failure::{Exit, Failure};
use super::show::{self, BAD, FAINT, NOTE, STRONG, safe, styled};
use crate::driver::why::{Denial, FOLDER, File};

/// Longer than any file the daemon writes.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// Of that agent only
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Of that process only
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// How many, newest first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum WhyError {
    #[error("nothing of yours was denied since the daemon started")]
    Nothing,
    #[error("{path}: {source}; run as the user the agent runs as")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} does not read; are `syshold` and the daemon the same version?")]
    Garbled(PathBuf),
}

impl Failure for WhyError {
    fn exit(&self) -> Exit {
        Exit::Failure
    }
}

pub(super) fn run(args: &WhyArgs) -> Outcome {
    let mut denials = all(Path::new(FOLDER), args.agent.as_deref())?;
    denials.retain(|denial| args.pid.is_none_or(|pid| pid == denial.pid));
    denials.sort_by(|one, other| other.at.cmp(&one.at));
    denials.truncate(args.count);
    if denials.is_empty() {
        return Err(WhyError::Nothing.into());
    }
    for denial in &denials {
        if args.json {
            show::json(denial)?;
        } else {
            show::print(&text(denial))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn all(folder: &Path, agent: Option<&str>) -> Result<Vec<Denial>, WhyError> {
    let name = format!("{}.json", nix::unistd::getuid());
    let agents = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut denials = Vec::new();
    for entry in agents {
        if agent.is_some_and(|agent| entry.file_name() != agent) {
            continue;
        }
        let path = entry.path().join(&name);
        let mut bytes = Vec::new();
        let read =
            fs::File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(WhyError::Read { path, source }),
        }
        let file: File =
            serde_json::from_slice(&bytes).map_err(|_| WhyError::Garbled(path.clone()))?;
        denials.extend(file.denials);
    }
    Ok(denials)
}

fn text(denial: &Denial) -> String {
    let mut lines = vec![format!(
        "{} {} {} ({}, {})",
        styled(BAD, &safe(&denial.cause)),
        safe(&denial.action),
        styled(STRONG, &safe(&denial.object)),
        safe(&denial.program),
        denial.pid,
    )];
    if !denial.rule.is_empty() {
        let rule = format!("rule {}: {}", denial.rule, denial.why);
        lines.push(styled(FAINT, &safe(&rule)));
    }
    if let Some(reason) = &denial.reason {
        lines.push(format!("reason: {}", safe(reason)));
    }
    lines.push(styled(NOTE, &safe(&denial.advice)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_for_this_user_is_read_and_rubbish_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(all(&dir.path().join("not-there"), None).unwrap().is_empty());
        let mine = dir.path().join("bot");
        fs::create_dir(&mine).unwrap();
        let path = mine.join(format!("{}.json", nix::unistd::getuid()));
        let denial = r#"{"at":"2026","agent":"bot","pid":7,"program":"cat","action":"read","object":"/a","cause":"denied","rule":"r","why":"w","advice":"x","retry":false}"#;
        fs::write(&path, format!(r#"{{"v":1,"denials":[{denial}]}}"#)).unwrap();
        let read = all(dir.path(), None).unwrap();
        assert_eq!((read.len(), read[0].pid), (1, 7));
        assert!(all(dir.path(), Some("other")).unwrap().is_empty());
        assert!(text(&read[0]).contains("rule r: w"));
        fs::write(&path, "{").unwrap();
        assert!(matches!(all(dir.path(), None), Err(WhyError::Garbled(_))));
    }
}
