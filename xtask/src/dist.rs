//! `dist`: one archive with what a host needs, and its checksum.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::layout::{target, workspace};
use crate::{build, sh};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn verb(_: &Arguments) -> Result<ExitCode> {
    let built = build::all(true)?;
    let name = format!(
        "syshold-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let dist = target().join("dist");
    let stage = dist.join(&name);
    let _ = fs::remove_dir_all(&stage);
    for program in &built.programs {
        let to = place(&stage, "bin", program)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    for (dir, from) in [("config", "config"), ("docs", "docs")] {
        for file in sh::files_below(&workspace().join(from))? {
            let inner = file
                .strip_prefix(workspace().join(from))?
                .parent()
                .map(|parent| format!("{dir}/{}", parent.display()))
                .unwrap_or(dir.into());
            place(&stage, inner.trim_end_matches('/'), &file)?;
        }
    }
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        place(&stage, ".", &workspace().join(file))?;
    }
    let archive = dist.join(format!("{name}.tar.gz"));
    // Same commit, same bytes: sorted, nobody's, and as old as the commit.
    let time = sh::output(Command::new("git").current_dir(workspace()).args([
        "log",
        "-1",
        "--format=@%ct",
    ]))?;
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u+rw,go-w",
        "--use-compress-program=gzip -9n",
    ]);
    tar.arg(format!("--mtime={}", time.trim()))
        .arg("--file")
        .arg(&archive)
        .arg("-C")
        .arg(&dist)
        .arg(&name);
    sh::run(&mut tar)?;
    let sums = format!("{}  {name}.tar.gz\n", sh::sha256_file(&archive)?);
    fs::write(dist.join(format!("{name}.tar.gz.sha256")), &sums)?;
    fs::remove_dir_all(&stage)?;
    sh::say("dist", archive.display());
    print!("{sums}");
    Ok(ExitCode::SUCCESS)
}

fn place(stage: &Path, dir: &str, file: &Path) -> Result<std::path::PathBuf> {
    let dir = stage.join(dir);
    fs::create_dir_all(&dir)?;
    let to = dir.join(file.file_name().context("a file has a name")?);
    fs::copy(file, &to).with_context(|| format!("cannot pack {}", file.display()))?;
    Ok(to)
}
