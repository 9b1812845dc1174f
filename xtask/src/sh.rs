//! Running other programs: every failure names the command and shows what it said.
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

/// A line of progress on stderr, so that stdout stays free for results.
pub(crate) fn say(what: &str, detail: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{what:>10}  {detail}");
}

/// A step that takes a while: says that it starts, and how long it took.
pub(crate) fn step<T>(what: &str, detail: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what, detail);
    let start = Instant::now();
    let result = work().with_context(|| format!("{what}: {detail}"))?;
    let seconds = start.elapsed().as_secs_f32();
    if seconds > 2.0 {
        say(what, format_args!("{detail}: done in {seconds:.0} s"));
    }
    Ok(result)
}

/// Runs quietly; what the command printed is shown only when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs quietly and returns stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !out.status.success() {
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let tail: Vec<&str> = said.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!(
            "{} failed ({}):\n{}",
            shown(command),
            out.status,
            tail.join("\n")
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // /sbin is not on every user's PATH, and mkfs and depmod live there.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// The command as root: as it is for root, by sudo for others.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if on_path("sudo").is_none() {
        bail!(
            "`{program}` must run as root and there is no sudo: run `cargo xtask setup` once as root"
        );
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    Ok(sudo)
}

/// The key of a cache: the same inputs give the same twelve characters.
pub(crate) fn key<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part.as_ref());
    }
    hex(&hash.finalize()[..6])
}

pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below `dir`, sorted, but for build output.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_symlink() || path.is_file() {
            files.push(path);
        } else if path.file_name() != Some(OsStr::new("target")) {
            files.extend(files_below(&path)?);
        }
    }
    files.sort();
    Ok(files)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
