//! `build`: the eBPF object first, then the programs that carry it.
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::layout::{bpf_object, target, workspace};
use crate::{setup, sh, toolchain};

pub(crate) const PROGRAMS: [&str; 4] =
    ["sysholdd", "syshold", "syshold-approver", "syshold-bypass"];

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
        "syshold-bypass",
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
    let dir = kept(release);
    for program in executables(&mut cargo)? {
        let name = program.file_name().context("a program has a name")?;
        let shipped = PROGRAMS.iter().any(|program| name == *program);
        let copy = dir
            .join(if shipped { "shipped" } else { "helpers" })
            .join(name);
        let built = program.metadata()?.modified()?;
        if copy
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|had| had >= built)
        {
            continue;
        }
        std::fs::create_dir_all(copy.parent().context("a copy has a directory")?)?;
        let partial = copy.with_extension("partial");
        sh::run(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .arg(&partial)
                .arg(&program),
        )?;
        std::fs::rename(&partial, &copy)?;
    }
    last(release)
}

/// What the last build that succeeded made.
pub(crate) fn last(release: bool) -> Result<Built> {
    let dir = kept(release);
    let files = |name: &str| {
        if dir.join(name).is_dir() {
            sh::files_below(&dir.join(name))
        } else {
            Ok(Vec::new())
        }
    };
    let built = Built {
        programs: files("shipped")?,
        helpers: files("helpers")?,
    };
    if built.programs.len() != PROGRAMS.len() {
        bail!(
            "no finished build of {}: run `cargo xtask build`",
            PROGRAMS.join(", ")
        );
    }
    Ok(built)
}

/// Copies without debug information: what machines get and archives hold.
fn kept(release: bool) -> PathBuf {
    target()
        .join("programs")
        .join(if release { "release" } else { "debug" })
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
