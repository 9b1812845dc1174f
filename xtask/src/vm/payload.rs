//! The disk that a run adds to the shared root file system: Syshold freshly built, the job, the share.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::Built;
use crate::layout::workspace;
use crate::vm::Job;
use crate::{install, sh};

/// Writes the payload as a tar; the guest unpacks it over its root before systemd starts.
pub(crate) fn write(job: &Job, built: &Built, run_dir: &Path) -> Result<PathBuf> {
    let stage = run_dir.join("payload");
    let dir = |name: &str| -> Result<PathBuf> {
        let path = stage.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    let init = workspace().join("tests/init");
    let vm = dir("usr/lib/syshold-vm")?;
    for file in sh::files_below(&init)? {
        let name = file.file_name().context("a file has a name")?;
        let to = match file.extension().and_then(|ext| ext.to_str()) {
            Some("service" | "target") => dir("etc/systemd/system")?.join(name),
            _ => vm.join(name),
        };
        fs::copy(&file, to)?;
    }
    symlink(
        "../syshold-vm.service",
        dir("etc/systemd/system/syshold-vm.target.wants")?.join("syshold-vm.service"),
    )?;
    if !built.programs.is_empty() {
        install_syshold(built, &stage)?;
    }

    let state = dir("var/lib/syshold-vm")?;
    let cmd: Vec<u8> = job
        .command
        .iter()
        .flat_map(|word| [word.as_bytes(), b"\0"].concat())
        .collect();
    fs::write(state.join("cmd"), cmd)?;
    fs::write(
        state.join("kernel.json"),
        serde_json::to_string(&job.kernel.pin)?,
    )?;
    let mut env = format!("VM_KERNEL={}\n", job.kernel.pin.name);
    if let Some(policy) = &job.policy {
        fs::copy(policy, state.join("policy.toml"))
            .with_context(|| format!("cannot read {}", policy.display()))?;
        env += &format!("VM_POLICY=1\nVM_ANSWER={}\n", job.answer);
    }
    if job.out.is_some() {
        env += "VM_OUT=1\n";
    }
    if job.interactive {
        env += "VM_INTERACTIVE=1\n";
        let (rows, cols) = terminal_size();
        env += &format!("VM_ROWS={rows}\nVM_COLS={cols}\n");
        let drop_in = dir("etc/systemd/system/syshold-vm.service.d")?.join("tty.conf");
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt220".into());
        let tty =
            "StandardInput=tty-force\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/hvc0";
        fs::write(
            drop_in,
            format!("[Service]\n{tty}\nEnvironment=TERM={term}\n"),
        )?;
    }
    if job.share.is_some() {
        env += "VM_CWD=/share\n";
    }
    fs::write(state.join("env"), env)?;

    let payload = run_dir.join("payload.tar");
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--file",
    ])
    .arg(&payload);
    // The root directory itself stays out: its mode is the image's.
    let tops: Vec<_> = fs::read_dir(&stage)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    sh::run(tar.arg("-C").arg(&stage).args(tops))?;
    if let Some(share) = &job.share {
        let mut tar = Command::new("tar");
        tar.args([
            "--append",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--exclude=./target",
            "--exclude-vcs",
            "--transform=s,^\\.,share,",
            "--file",
        ]);
        sh::run(tar.arg(&payload).arg("-C").arg(share).arg("."))
            .with_context(|| format!("cannot copy {}", share.display()))?;
    }
    fs::remove_dir_all(&stage)?;
    Ok(payload)
}

/// Syshold as a host has it, the default configuration in place, and what test cases run.
fn install_syshold(built: &Built, stage: &Path) -> Result<()> {
    install::shipped(built, stage)?;
    for name in ["agent.toml", "approver.toml"] {
        install::place(
            &workspace().join("config").join(name),
            &stage.join("etc/syshold"),
            0o644,
        )?;
    }
    for program in &built.helpers {
        install::place(program, &stage.join("usr/lib/syshold-tests"), 0o755)?;
    }
    Ok(())
}

fn terminal_size() -> (u16, u16) {
    let said = Command::new("stty")
        .arg("size")
        .stdin(std::process::Stdio::inherit())
        .output();
    let said = said
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default();
    let mut words = said.split_whitespace().filter_map(|word| word.parse().ok());
    match (words.next(), words.next()) {
        (Some(rows), Some(cols)) if rows > 0 && cols > 0 => (rows, cols),
        _ => (24, 80),
    }
}
