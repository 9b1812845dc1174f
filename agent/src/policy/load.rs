//! From a file, or its text, to a [`Policy`].
use std::io::Read;
use std::path::Path;

use syshold_protocol::ids::Digest;

use super::error::{Notes, PolicyError};
use super::{Policy, build, raw};

/// Largest policy file read.
const LARGEST: u64 = 1024 * 1024;

/// Reads the policy at `path`.
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    let bytes = read(path).map_err(|source| PolicyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file = path.display().to_string();
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &file),
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes);
            let at = error.valid_up_to();
            let mut notes = Notes::new(&file, &text);
            notes.error(
                &(at..at + 1),
                "this is not UTF-8 text",
                "save the file as UTF-8",
            );
            Err(notes.failed())
        }
    }
}

/// Parses a policy; `file` is how errors call it.
pub fn parse(text: &str, file: &str) -> Result<Policy, PolicyError> {
    let mut notes = Notes::new(file, text);
    let raw = raw::read(text, &mut notes);
    let mut policy = build::policy(&raw, Digest::of(text.as_bytes()), &mut notes);
    policy.warnings = notes.finish()?;
    Ok(policy)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            "a policy has at most 1 MiB",
        ));
    }
    Ok(bytes)
}
