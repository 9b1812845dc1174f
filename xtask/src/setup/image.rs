//! Disk images out of directories, without loop mounts.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

pub(crate) fn mkfs() -> Result<PathBuf> {
    sh::on_path("mkfs.ext4").context("no mkfs.ext4: install e2fsprogs")
}

/// Writes an ext4 image that holds `dir`, with `spare` MiB of room. `mkfs` runs as whoever may read it all.
pub(crate) fn from_dir(mkfs: &mut Command, dir: &Path, image: &Path, spare: u64) -> Result<()> {
    let used = sh::output(Command::new("du").args(["-sm", "--apparent-size"]).arg(dir));
    let used = used?
        .split_whitespace()
        .next()
        .and_then(|mib| mib.parse::<u64>().ok())
        .context("du said no number")?;
    let partial = image.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let size = format!("{}M", used + used / 4 + spare);
    // No journal, no reserve, no lazy initialisation: the image is written once and thrown away at the end.
    let options = [
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=0,root_owner=0:0",
        "-d",
    ];
    sh::run(mkfs.args(options).arg(dir).arg(&partial).arg(size))?;
    std::fs::rename(&partial, image).with_context(|| format!("cannot write {}", image.display()))
}
