//! `build`: the eBPF object first, then the programs that carry it.
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::layout::{bpf_object, target, workspace};
use crate::{setup, sh, toolchain};

pub(crate) const PROGRAMS: [&str; 3] = ["sysholdd", "syshold", "syshold-approver"];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Optimised, as shipped; test machines take the profile that builds fast
    #[arg(long)]
    release: bool,
    /// The eBPF object alone
    #[arg(long)]
    ebpf: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Built {
    /// What is shipped.
    pub(crate) programs: Vec<PathBuf>,
    /// What test cases and measurements run: the programs of crate `tests`.
    pub(crate) helpers: Vec<PathBuf>,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.ebpf {
        ebpf()?;
        sh::say("build", bpf_object().display());
        return Ok(ExitCode::SUCCESS);
    }
    for program in all(arguments.release)?.programs {
        sh::say("build", program.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn all(release: bool) -> Result<Built> {
    ebpf()?;
    programs(release)
}

/// Compiles agent-ebpf unless nothing it is made of has changed.
pub(crate) fn ebpf() -> Result<()> {
    let source = workspace().join("agent-ebpf");
    let toolchain = setup::compiler()?;
    let mut parts = vec![toolchain.key().into_bytes()];
    for file in sh::files_below(&source)? {
        parts.push(file.display().to_string().into_bytes());
        parts.push(std::fs::read(&file)?);
    }
    let key = sh::key(parts);
    let object = bpf_object();
    let stamp = object.with_extension("key");
    if object.exists() && std::fs::read_to_string(&stamp).is_ok_and(|had| had == key) {
        return Ok(());
    }
    sh::step(
        "build",
        &format!("eBPF programs, by {}", toolchain.describe()),
        || {
            let mut cargo = toolchain.cargo()?;
            cargo.current_dir(&source).args([
                "build",
                "--release",
                "--locked",
                "-Z",
                "build-std=core",
                "--target",
                "bpfel-unknown-none",
            ]);
            cargo
                .arg("--message-format=json-render-diagnostics")
                .arg("--target-dir")
                .arg(target().join("bpf/build"));
            if !source.join("Cargo.lock").exists() {
                bail!("agent-ebpf/Cargo.lock is missing");
            }
            let made = executables(&mut cargo)?;
            let [program] = &made[..] else {
                bail!("agent-ebpf made {} programs, not one", made.len())
            };
            std::fs::create_dir_all(object.parent().context("the object has a directory")?)?;
            // Only a changed object makes the daemon's build script run again.
            if std::fs::read(&object).ok() != Some(std::fs::read(program)?) {
                let partial = object.with_extension("partial");
                std::fs::copy(program, &partial)?;
                std::fs::rename(&partial, &object)?;
            }
            Ok(std::fs::write(&stamp, key)?)
        },
    )
}

fn programs(release: bool) -> Result<Built> {
    let mut cargo = toolchain::clean_command("cargo");
    cargo.current_dir(workspace()).args([
        "build",
        "-p",
        "syshold-agent",
        "-p",
        "syshold-approver",
        "-p",
        "syshold-tests",
        "--bins",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    if release {
        cargo.arg("--release");
    }
    sh::say(
        "build",
        if release {
            "programs (release)"
        } else {
            "programs"
        },
    );
    let made = executables(&mut cargo)?;
    let shipped = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| PROGRAMS.iter().any(|program| name == *program))
    };
    let (programs, helpers) = made.into_iter().partition(shipped);
    Ok(Built { programs, helpers })
}

/// Runs cargo with its messages on stderr, and returns the programs it made or found fresh.
fn executables(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    let out = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("cargo could not build it ({}): see above", out.status);
    }
    let mut made = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(path) = message["executable"].as_str() {
            made.push(PathBuf::from(path));
        }
    }
    Ok(made)
}
