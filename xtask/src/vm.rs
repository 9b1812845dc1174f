//! Virtual machines: one boot runs one command under systemd, with Syshold installed.
//!
//! The guest gets four disks (root, modules, payload, out) and three ports (out, err, ctl). It says
//! `up SECONDS` and `status N` on ctl, and turns itself off.
mod payload;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::build::{self, Built};
use crate::layout::{Pins, vm_cache};
use crate::setup::kernel::KernelFiles;
use crate::setup::{self, Machine};
use crate::sh;

/// Generous, because several machines may share few processors.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Without the features that emulation lacks and would warn about.
const EMULATED_CPU: &str = "Haswell,-pcid,-tsc-deadline,-hle,-invpcid,-rtm";
/// Page table isolation throws away everything an emulator knows of memory, twice a system call. Measurements keep it.
const EMULATED_KERNEL: &str = " mitigations=off";
const OUT_DISK_BYTES: u64 = 1 << 30;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// A root shell on a test machine
    Shell(Shell),
    /// One command on a test machine: its output and exit status are passed on
    Exec(Exec),
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    common: Common,
    /// Count instructions for time, on one processor: figures repeat exactly
    #[arg(long)]
    icount: bool,
    /// Bring the ledger, both services' state and the logs back to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop the machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// What to run
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct Common {
    /// A kernel of tests/kernels.toml
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// A directory that is copied to /share
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Start the gateway and sysholdd with this policy first
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Who answers holds under --policy: approve, deny, none or after:SECONDS
    #[arg(long, default_value = "none", value_parser = answer)]
    answer: String,
    /// Install the optimised programs
    #[arg(long)]
    release: bool,
    /// Install what the last build made
    #[arg(long)]
    no_build: bool,
    /// Install no Syshold at all: for looking at the kernel alone
    #[arg(long, conflicts_with = "policy")]
    bare: bool,
}

pub(crate) struct Job {
    pub(crate) kernel: KernelFiles,
    pub(crate) command: Vec<String>,
    pub(crate) share: Option<PathBuf>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) policy: Option<PathBuf>,
    pub(crate) answer: String,
    pub(crate) icount: bool,
    pub(crate) interactive: bool,
    pub(crate) limit: Duration,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    /// Seconds from power-on until systemd reached the command, by the guest's clock.
    pub(crate) boot_seconds: f32,
}

/// Where a run's output goes.
pub(crate) type Sink = Box<dyn Write + Send>;

impl Job {
    /// Runs a command with Syshold installed and nothing started.
    pub(crate) fn new(kernel: KernelFiles, command: Vec<String>) -> Self {
        Self {
            kernel,
            command,
            share: None,
            out: None,
            policy: None,
            answer: "none".into(),
            icount: false,
            interactive: false,
            limit: Duration::from_secs(600),
        }
    }
}

pub(crate) fn verb(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Shell(shell) => start(shell.common, |job| {
            job.interactive = true;
            job.command = vec!["/bin/bash".into(), "--login".into()];
            job.limit = Duration::from_secs(24 * 3600);
        }),
        Verb::Exec(exec) => start(exec.common, |job| {
            job.command = exec.command;
            job.icount = exec.icount;
            job.out = exec.out;
            job.limit = Duration::from_secs(exec.limit);
        }),
    }
}

fn start(common: Common, more: impl FnOnce(&mut Job)) -> Result<ExitCode> {
    setup::packages()?;
    let pins = Pins::load()?;
    let built = match (common.bare, common.no_build) {
        (true, _) => Built::default(),
        (false, true) => build::last(common.release)?,
        (false, false) => build::all(common.release)?,
    };
    let machine = setup::machine(&pins, &pins.select(&[common.kernel])?, false)?;
    let kernel = machine
        .kernels
        .first()
        .context("a kernel was asked for")?
        .clone();
    let mut job = Job::new(kernel, Vec::new());
    job.share = common.share;
    job.policy = common.policy;
    job.answer = common.answer;
    more(&mut job);
    let outcome = run(
        &machine,
        &built,
        &job,
        Box::new(std::io::stdout()),
        Box::new(std::io::stderr()),
    )?;
    sh::say(
        "vm",
        format_args!(
            "kernel {}: up in {:.1} s, exit status {}",
            job.kernel.release, outcome.boot_seconds, outcome.status
        ),
    );
    Ok(ExitCode::from(u8::try_from(outcome.status).unwrap_or(125)))
}

fn answer(word: &str) -> Result<String, String> {
    let timed = word
        .strip_prefix("after:")
        .is_some_and(|seconds| seconds.parse::<u32>().is_ok());
    if timed || ["approve", "deny", "none"].contains(&word) {
        return Ok(word.to_owned());
    }
    Err("use approve, deny, none or after:SECONDS".into())
}

pub(crate) fn run(
    machine: &Machine,
    built: &Built,
    job: &Job,
    stdout: Sink,
    stderr: Sink,
) -> Result<Outcome> {
    let run_dir = run_dir()?;
    let payload = payload::write(job, built, run_dir.path())?;
    let out_disk = run_dir.path().join("out.img");
    if job.out.is_some() {
        std::fs::File::create(&out_disk)?.set_len(OUT_DISK_BYTES)?;
    }
    let mut qemu = command(machine, job, &payload, &out_disk, run_dir.path())?;
    let (events, inbox) = mpsc::channel();
    listen(run_dir.path(), "out", Port::Copy(stdout))?;
    listen(run_dir.path(), "err", Port::Copy(stderr))?;
    listen(run_dir.path(), "ctl", Port::Control(events))?;
    let console = run_dir.path().join("console.log");
    let child = qemu.spawn().context("cannot start QEMU")?;
    let outcome = watch(Guest(child), &inbox, job);
    if let Some(dir) = &job.out {
        std::fs::create_dir_all(dir)?;
        let _ = std::fs::copy(&console, dir.join("console.txt"));
        let unpacked = sh::run(
            Command::new("tar")
                .arg("-xf")
                .arg(&out_disk)
                .arg("--no-same-owner")
                .arg("-C")
                .arg(dir),
        );
        if outcome.is_ok() {
            unpacked.context("the guest left no readable output disk")?;
        }
    }
    outcome.with_context(|| {
        format!(
            "kernel {}; its console ended with:\n{}",
            job.kernel.pin.name,
            tail(&console, 40)
        )
    })
}

/// A directory for this run's disks and ports: ports have short names only there. An interrupted
/// xtask leaves its own behind, so the next one sweeps.
fn run_dir() -> Result<tempfile::TempDir> {
    const PREFIX: &str = "syshold-vm-";
    let ours = std::env::temp_dir();
    for entry in std::fs::read_dir(&ours)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

fn watch(mut guest: Guest, inbox: &mpsc::Receiver<Event>, job: &Job) -> Result<Outcome> {
    let start = Instant::now();
    let mut boot_seconds = None;
    let status = loop {
        let limit = if boot_seconds.is_some() || job.interactive {
            job.limit
        } else {
            // One thread that counts instructions emulates several times slower.
            BOOT_LIMIT.min(job.limit) * if job.icount { 6 } else { 1 }
        };
        let Some(left) = limit.checked_sub(start.elapsed()) else {
            let what = if boot_seconds.is_some() {
                "the command"
            } else {
                "the boot"
            };
            bail!(
                "{what} took longer than {} s: the machine was stopped",
                limit.as_secs()
            );
        };
        match inbox.recv_timeout(left.min(Duration::from_millis(500))) {
            Ok(Event::Up(seconds)) => boot_seconds = Some(seconds),
            Ok(Event::Status(status)) => break status,
            Ok(Event::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => bail!(
                "the machine stopped before the command ended: {}",
                guest.reap()
            ),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(status) = guest.0.try_wait()? {
                    bail!("QEMU ended before the command did: {status}");
                }
            }
        }
    };
    // It turns itself off within moments; what it said on its ports is ours once QEMU is gone.
    for _ in 0..100 {
        if guest.0.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(guest);
    Ok(Outcome {
        status,
        boot_seconds: boot_seconds.unwrap_or_default(),
    })
}

fn command(
    machine: &Machine,
    job: &Job,
    payload: &Path,
    out_disk: &Path,
    run_dir: &Path,
) -> Result<Command> {
    let kernel = &job.kernel;
    let mut qemu = machine.qemu.command();
    // Snapshots are written beside the images: /tmp may be small.
    let scratch = vm_cache().join("scratch");
    std::fs::create_dir_all(&scratch)?;
    qemu.env("TMPDIR", scratch);
    qemu.args([
        "-M",
        "q35",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-m",
        "1536",
    ]);
    if job.icount {
        qemu.args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
            "-smp",
            "1",
            "-cpu",
            EMULATED_CPU,
        ]);
    } else if machine.qemu.kvm {
        qemu.args(["-accel", "kvm", "-cpu", "host", "-smp", "2"]);
    } else {
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            EMULATED_CPU,
            "-smp",
            "2",
        ]);
    }
    qemu.arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&kernel.initramfs);
    let mut append = String::from(
        "console=ttyS0 loglevel=4 panic=-1 systemd.unit=syshold-vm.target systemd.show_status=false systemd.log_level=warning",
    );
    if !job.icount && !machine.qemu.kvm {
        append += EMULATED_KERNEL;
    }
    qemu.arg("-append").arg(append);
    let disk = |qemu: &mut Command, name: &str, path: &Path, options: &str| {
        // A comma in a file name is doubled in QEMU's options.
        let path = path.display().to_string().replace(',', ",,");
        qemu.arg("-drive").arg(format!(
            "file={path},if=none,id={name},format=raw,cache=unsafe,{options}"
        ));
        qemu.arg("-device")
            .arg(format!("virtio-blk-pci,drive={name},serial={name}"));
    };
    disk(&mut qemu, "root", &machine.rootfs, "snapshot=on");
    disk(&mut qemu, "modules", &kernel.modules_disk, "readonly=on");
    disk(&mut qemu, "payload", payload, "readonly=on");
    if job.out.is_some() {
        disk(&mut qemu, "out", out_disk, "snapshot=off");
    }
    qemu.args(["-device", "virtio-serial-pci"]);
    for name in ["out", "err", "ctl"] {
        qemu.arg("-chardev").arg(format!(
            "socket,id={name},path={}",
            run_dir.join(name).display()
        ));
        qemu.arg("-device")
            .arg(format!("virtserialport,chardev={name},name={name}"));
    }
    qemu.arg("-serial")
        .arg(format!("file:{}", run_dir.join("console.log").display()));
    if job.interactive {
        qemu.args([
            "-chardev",
            "stdio,id=tty,signal=off",
            "-device",
            "virtconsole,chardev=tty",
        ]);
    } else {
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
    }
    Ok(qemu)
}

/// A running QEMU: gone when this is dropped.
struct Guest(Child);

impl Guest {
    fn reap(&mut self) -> String {
        let _ = self.0.kill();
        self.0
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.reap();
    }
}

enum Event {
    Up(f32),
    Status(i32),
    Closed,
}

enum Port {
    Copy(Sink),
    Control(mpsc::Sender<Event>),
}

/// Serves one port of the guest until QEMU closes it.
fn listen(run_dir: &Path, name: &str, port: Port) -> Result<()> {
    let listener = UnixListener::bind(run_dir.join(name))
        .with_context(|| format!("cannot make port {name}"))?;
    std::thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        match port {
            Port::Copy(sink) => copy(stream, sink),
            Port::Control(events) => {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let event = match line.split_once(' ') {
                        Some(("up", seconds)) => Event::Up(seconds.parse().unwrap_or_default()),
                        Some(("status", status)) => Event::Status(status.parse().unwrap_or(125)),
                        _ => continue,
                    };
                    let _ = events.send(event);
                }
                let _ = events.send(Event::Closed);
            }
        }
    });
    Ok(())
}

fn copy(mut stream: UnixStream, mut sink: Sink) {
    let mut buffer = [0; 8192];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0
            || sink
                .write_all(&buffer[..count])
                .and_then(|()| sink.flush())
                .is_err()
        {
            break;
        }
    }
}

/// The last lines of a console, or the first ones of what a kernel died of.
fn tail(console: &Path, lines: usize) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let end = all.len().saturating_sub(lines);
    let oops = all.iter().position(|line| line.contains("Oops: "));
    let from = oops.unwrap_or(end).min(end);
    let shown = all.iter().skip(from).take(lines);
    shown.copied().collect::<Vec<_>>().join("\n")
}
