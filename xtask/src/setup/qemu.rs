//! QEMU: this machine's when it is new enough, else a private copy run with its own libraries.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::apt::Suite;
use crate::layout::{Pins, vm_cache};
use crate::sh;

#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    /// The program and the arguments that come before all others.
    words: Vec<String>,
    pub(crate) kvm: bool,
}

impl Qemu {
    pub(crate) fn command(&self) -> Command {
        // A machine whose xtask was killed would run on for ever.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(&self.words);
        if self.words.len() > 1 {
            command.env(
                "QEMU_MODULE_DIR",
                private_root().join("usr/lib/x86_64-linux-gnu/qemu"),
            );
        }
        command
    }

    fn new(words: Vec<String>) -> Self {
        let mut qemu = Self { words, kvm: false };
        qemu.kvm = qemu.kvm_works();
        qemu
    }

    fn major(&self) -> Option<u32> {
        let text = sh::output(self.command().arg("--version")).ok()?;
        text.split("version ")
            .nth(1)?
            .split('.')
            .next()?
            .parse()
            .ok()
    }

    /// The device node alone says little: it is there in many sandboxes that cannot use it.
    fn kvm_works(&self) -> bool {
        let machine = [
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
            "-S",
            "-monitor",
            "stdio",
        ];
        let Ok(mut child) = self
            .command()
            .args(machine)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
        else {
            return false;
        };
        if let Some(mut stdin) = child.stdin.take() {
            let _ = std::io::Write::write_all(&mut stdin, b"quit\n");
        }
        child.wait().is_ok_and(|status| status.success())
    }
}

/// Finds a QEMU, or unpacks one: no root needed.
pub(crate) fn ready(pins: &Pins) -> Result<Qemu> {
    if let Some(program) = sh::on_path("qemu-system-x86_64") {
        let qemu = Qemu::new(vec![program.display().to_string()]);
        if qemu
            .major()
            .is_some_and(|major| major >= pins.qemu.at_least)
        {
            return Ok(qemu);
        }
    }
    let root = private_root();
    let done = root.join("unpacked");
    let key = sh::key([serde_json::to_string(&pins.qemu)?]);
    if std::fs::read_to_string(&done).is_ok_and(|had| had.trim() == key) {
        return Ok(Qemu::new(private_words()));
    }
    sh::step(
        "setup",
        &format!(
            "QEMU {} or newer, from {}, for this project only",
            pins.qemu.at_least, pins.qemu.suite
        ),
        || {
            let _ = std::fs::remove_dir_all(&root);
            let suite = Suite::open(&pins.qemu.suite)?;
            let package = "qemu-system-x86".to_owned();
            sh::say(
                "setup",
                format_args!("{package} {}", suite.version(&package)?),
            );
            suite.unpack(&[package], true, &root)?;
            let qemu = Qemu {
                words: private_words(),
                kvm: false,
            };
            qemu.major().context("the private QEMU does not run")?;
            Ok(std::fs::write(&done, key)?)
        },
    )?;
    Ok(Qemu::new(private_words()))
}

/// A statically linked busybox for the initramfs.
pub(crate) fn busybox(pins: &Pins) -> Result<PathBuf> {
    let root = vm_cache().join("busybox");
    let find = || {
        ["usr/bin/busybox", "bin/busybox"]
            .iter()
            .map(|name| root.join(name))
            .find(|file| file.is_file())
    };
    if let Some(file) = find() {
        return Ok(file);
    }
    sh::step("setup", "busybox", || {
        Suite::open(&pins.rootfs.suite)?.unpack(&["busybox-static".into()], false, &root)
    })?;
    find().context("busybox-static has no busybox")
}

fn private_root() -> PathBuf {
    vm_cache().join("qemu")
}

fn private_words() -> Vec<String> {
    let root = private_root();
    let root = root.display();
    let lib = format!("{root}/usr/lib/x86_64-linux-gnu");
    [
        format!("{lib}/ld-linux-x86-64.so.2"),
        "--library-path".into(),
        format!("{lib}:{lib}/pulseaudio:{root}/usr/lib"),
        format!("{root}/usr/bin/qemu-system-x86_64"),
        "-L".into(),
        format!("{root}/usr/share/qemu"),
        "-L".into(),
        format!("{root}/usr/share/seabios"),
    ]
    .to_vec()
}
