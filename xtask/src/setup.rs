//! `setup`: everything that building and testing need, installed or said exactly. Does nothing twice.
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod qemu;
pub(crate) mod rootfs;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::layout::{Kernel, Pins, target, vm_cache};
use crate::setup::kernel::KernelFiles;
use crate::setup::qemu::Qemu;
use crate::sh;
use crate::toolchain::{self, BPF_LINKER_VERSION};

/// What a program comes from, on Debian and Ubuntu.
const PROGRAMS: [(&str, &str); 15] = [
    ("cc", "gcc"),
    ("chromium", "chromium"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("du", "coreutils"),
    ("faketime", "faketime"),
    ("go", "golang-go"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("openssl", "openssl"),
    ("pdftotext", "poppler-utils"),
    ("strace", "strace"),
    ("strip", "binutils"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Look for newer kernels and fetch them
    #[arg(long)]
    refresh: bool,
}

/// A machine that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) qemu: Qemu,
    pub(crate) rootfs: PathBuf,
    pub(crate) kernels: Vec<KernelFiles>,
}

pub(crate) fn verb(arguments: &Arguments) -> Result<ExitCode> {
    all(arguments.refresh)?;
    Ok(ExitCode::SUCCESS)
}

/// Both halves side by side: one waits for the network and the disk, the other for the processor.
fn all(refresh: bool) -> Result<()> {
    packages()?;
    let pins = Pins::load()?;
    std::thread::scope(|scope| {
        let compiler = scope.spawn(compiler);
        let machine = machine(&pins, &pins.kernels, refresh);
        let compiler = compiler
            .join()
            .map_err(|_| anyhow::anyhow!("setting up the compiler panicked"))??;
        let machine = machine?;
        sh::say(
            "setup",
            format_args!("eBPF is compiled by {}", compiler.describe()),
        );
        sh::say(
            "setup",
            format_args!(
                "kernels: {}",
                machine
                    .kernels
                    .iter()
                    .map(|k| k.release.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        );
        sh::say(
            "setup",
            if machine.qemu.kvm {
                "virtual machines run on KVM"
            } else {
                "no usable KVM here: virtual machines are emulated"
            },
        );
        Ok(())
    })
}

/// QEMU, root file system and the kernels asked for.
pub(crate) fn machine(pins: &Pins, kernels: &[Kernel], refresh: bool) -> Result<Machine> {
    std::fs::create_dir_all(vm_cache())?;
    if refresh {
        let _ = std::fs::remove_dir_all(vm_cache().join("apt"));
    }
    std::thread::scope(|scope| {
        // mmdebstrap brings its own apt; the rest shares private apt roots and goes one after the other.
        let rootfs = scope.spawn(|| rootfs::ready(pins));
        let files = || -> Result<_> {
            let qemu = qemu::ready(pins)?;
            let kernels = kernels
                .iter()
                .map(|pin| kernel::ready(pins, pin, refresh))
                .collect::<Result<Vec<_>>>()?;
            Ok((qemu, kernels))
        };
        let files = files();
        let rootfs = rootfs
            .join()
            .map_err(|_| anyhow::anyhow!("making the root file system panicked"))??;
        let (qemu, kernels) = files?;
        Ok(Machine {
            qemu,
            rootfs,
            kernels,
        })
    })
}

/// Debian packages that this machine lacks.
pub(crate) fn packages() -> Result<()> {
    space()?;
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| sh::on_path(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
        missing.push("debian-archive-keyring");
    }
    // Go's sumdb packages check the ledger's checkpoints and proofs.
    if !Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb").exists() {
        missing.push("golang-golang-x-mod-dev");
    }
    // Two gateways share a database in their tests; its programs are on nobody's PATH.
    let servers = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    if !servers
        .flatten()
        .any(|version| version.path().join("bin/postgres").exists())
    {
        missing.push("postgresql");
    }
    // The gateway's tests run a Slack client, an identity provider and a browser's driver in virtual environments.
    let mut venv = Command::new("python3");
    if !venv
        .args(["-c", "import venv, ensurepip"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    // Debian starts a server of every database that is installed; the tests start their own.
    if missing.contains(&"postgresql") && Path::new("/run/systemd/system").exists() {
        sh::run(sh::as_root("systemctl")?.args(["disable", "--now", "postgresql.service"]))?;
    }
    Ok(())
}

/// A full disk shows as a compiler's or a machine's crash, long after.
fn space() -> Result<()> {
    const WHOLE: u64 = 9;
    let folder = target();
    let least = if folder.join("vm").exists() { 3 } else { 7 };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let mut df = Command::new("df");
    df.args(["--block-size=1G", "--output=avail"]).arg(&folder);
    let said = sh::output(&mut df)?;
    let free = said
        .lines()
        .last()
        .and_then(|free| free.trim().parse().ok());
    let free: u64 = free.with_context(|| format!("`df` said {said:?}"))?;
    let place = folder.display();
    let need = format!("{free} GB are free at {place}; programs, images and machines take {WHOLE}");
    if free < least {
        bail!("{need}: free some, or set CARGO_TARGET_DIR to a larger disk");
    }
    Ok(())
}

pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let Ok(mut apt) = sh::as_root("env") else {
        bail!("missing here: {list}. As root: apt-get install {list}");
    };
    sh::step("setup", &format!("apt packages: {list}"), || {
        let known = sh::output(Command::new("apt-cache").arg("policy").args(packages))?;
        if known.matches("Candidate: ").count() < packages.len()
            || known.contains("Candidate: (none)")
        {
            sh::run(sh::as_root("apt-get")?.arg("update"))?;
        }
        apt.args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
        ]);
        sh::run(apt.args(packages)).with_context(|| format!("missing here: {list}"))
    })
}

/// A compiler for eBPF and bpf-linker.
pub(crate) fn compiler() -> Result<toolchain::Toolchain> {
    let toolchain = match toolchain::find()? {
        Some(found) => found,
        None => {
            toolchain::install()?;
            toolchain::find()?.context("a compiler for eBPF was installed and is not found")?
        }
    };
    if toolchain::bpf_linker().is_none() {
        let root = target().join("tools");
        sh::step("setup", &format!("bpf-linker {BPF_LINKER_VERSION}"), || {
            let mut cargo = toolchain::clean_command("cargo");
            cargo
                .args([
                    "install",
                    "bpf-linker",
                    "--version",
                    BPF_LINKER_VERSION,
                    "--locked",
                    "--root",
                ])
                .arg(root);
            sh::run(&mut cargo)
        })?;
    }
    Ok(toolchain)
}
