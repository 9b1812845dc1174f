//! `dist`: one archive of what a host needs, to be unpacked at `/`, and its checksum.
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::layout::{target, workspace};
use crate::{build, install, sh, toolchain};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Pack what the last optimised build made
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    let built = if arguments.no_build {
        build::last(true)?
    } else {
        build::all(true)?
    };
    let name = format!(
        "syshold-{}-linux-{}.tar.gz",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let dist = target().join("dist");
    let stage = dist.join("root");
    let _ = fs::remove_dir_all(&stage);
    install::shipped(&built, &stage)?;
    let mut pages = toolchain::clean_command("cargo");
    pages.current_dir(workspace());
    // Optimised like the rest: nothing is compiled twice for it.
    sh::run(
        pages
            .args(["run", "--release", "-p", "syshold-pages", "--"])
            .arg(&stage),
    )?;
    // Same tree, same bytes: sorted, nobody's, and as old as the commit.
    let time = sh::output(Command::new("git").current_dir(workspace()).args([
        "log",
        "-1",
        "--format=@%ct",
    ]))?;
    let archive = dist.join(&name);
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -9n",
    ]);
    tar.arg(format!("--mtime={}", time.trim()))
        .arg("--file")
        .arg(&archive)
        .arg("-C")
        .arg(&stage)
        .arg("usr");
    sh::run(&mut tar)?;
    fs::remove_dir_all(&stage)?;
    let sum = format!("{}  {name}\n", sh::sha256_file(&archive)?);
    fs::write(dist.join(format!("{name}.sha256")), &sum)?;
    sh::say(
        "dist",
        format_args!(
            "{}: `tar -C / -xzf` it, then run systemd-sysusers",
            archive.display()
        ),
    );
    print!("{sum}");
    Ok(ExitCode::SUCCESS)
}
