//! The compiler for the eBPF half: it needs the standard library's source and bpf-linker's LLVM.
//!
//! Two ways lead there: a rustup toolchain with rust-src, or Debian's rustc-web with rust-web-src.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::layout::target;
use crate::{setup, sh};

pub(crate) const BPF_LINKER_VERSION: &str = "0.10.3";
/// bpf-linker 0.10 is made for this LLVM, and uses the compiler's own copy.
const LLVM_MAJOR: &str = "22";
/// Fetch-and-add needs v3, which all kernels since 5.12 have.
const FLAGS: [&str; 3] = ["-Clink-arg=--btf", "-Cdebuginfo=2", "-Ctarget-cpu=v3"];
/// A release with that LLVM: which one a nightly has changes with time.
const RUSTUP_VERSION: &str = "1.95.0";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
/// The first of Debian's with that LLVM is 1.95.
const DEBIAN_MINOR: u32 = 95;

#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    sysroot: PathBuf,
    version: String,
}

impl Toolchain {
    pub(crate) fn describe(&self) -> String {
        format!("{} in {}", self.version, self.sysroot.display())
    }

    /// What the object depends on beside its source.
    pub(crate) fn key(&self) -> String {
        format!(
            "{} {} {}",
            self.describe(),
            BPF_LINKER_VERSION,
            FLAGS.join(" ")
        )
    }

    /// Cargo of this toolchain, set up to build eBPF.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let linker = bpf_linker().context("no bpf-linker: run `cargo xtask setup`")?;
        let mut cargo = clean_command(&self.sysroot.join("bin/cargo").display().to_string());
        cargo
            // Debian's cargo and rustc are not nightlies; rustup's ignore this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                FLAGS
                    .iter()
                    .map(|flag| (*flag).to_owned())
                    .chain([format!("-Clinker={}", linker.display())])
                    .collect::<Vec<_>>()
                    .join("\x1f"),
            )
            .env("LD_LIBRARY_PATH", self.llvm_dir()?);
        Ok(cargo)
    }

    /// A directory with this compiler's LLVM and no other: bpf-linker takes the first it meets.
    fn llvm_dir(&self) -> Result<PathBuf> {
        let library = self.llvm_library()?;
        let dir = target()
            .join("bpf/llvm")
            .join(sh::key([library.display().to_string()]));
        let link = dir.join(library.file_name().context("libLLVM has a name")?);
        if !link.exists() {
            std::fs::create_dir_all(&dir)?;
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&library, &link)?;
        }
        Ok(dir)
    }

    /// The LLVM that rustc itself is linked with.
    fn llvm_library(&self) -> Result<PathBuf> {
        let drivers = ["lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"]
            .iter()
            .flat_map(|dir| {
                let entries = std::fs::read_dir(self.sysroot.join(dir))
                    .into_iter()
                    .flatten()
                    .flatten();
                entries.map(|entry| entry.path()).filter(|path| {
                    path.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with("librustc_driver"))
                })
            });
        for driver in drivers {
            let linked = sh::output(Command::new("ldd").arg(&driver))?;
            let library = linked
                .lines()
                .filter(|line| line.trim().starts_with("libLLVM"))
                .find_map(|line| line.split(" => ").nth(1)?.split(" (").next());
            if let Some(library) = library {
                return Ok(PathBuf::from(library.trim()));
            }
        }
        bail!(
            "{} has no librustc_driver that says which LLVM it uses",
            self.sysroot.display()
        )
    }
}

/// A command without what the outer cargo and rustup put into the environment for us.
pub(crate) fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR"].contains(&&*text)
            || text.starts_with("CARGO_HTTP")
            || text.starts_with("CARGO_NET")
            || text.starts_with("CARGO_REGISTR");
        if (text.starts_with("CARGO") && !kept)
            || [
                "RUSTUP_TOOLCHAIN",
                "RUSTFLAGS",
                "RUSTC",
                "RUSTC_WRAPPER",
                "LD_LIBRARY_PATH",
            ]
            .contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

/// The first compiler that can do it, rustup's before Debian's; or the one that
/// `SYSHOLD_EBPF_SYSROOT` names.
pub(crate) fn find() -> Result<Option<Toolchain>> {
    if let Some(named) = std::env::var_os("SYSHOLD_EBPF_SYSROOT") {
        let sysroot = PathBuf::from(named);
        let text = sysroot.display().to_string();
        let found = usable(sysroot);
        return found.map(Some).with_context(|| {
            format!("SYSHOLD_EBPF_SYSROOT={text} has no rustc with LLVM {LLVM_MAJOR} and rust-src")
        });
    }
    let mut sysroots = Vec::new();
    if sh::on_path("rustup").is_some() {
        let listed =
            sh::output(clean_command("rustup").args(["toolchain", "list"])).unwrap_or_default();
        let names = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        for name in names {
            if let Ok(sysroot) = sh::output(
                clean_command("rustc")
                    .arg(format!("+{name}"))
                    .args(["--print", "sysroot"]),
            ) {
                sysroots.push(PathBuf::from(sysroot.trim()));
            }
        }
    }
    sysroots.push(PathBuf::from("/usr"));
    Ok(sysroots.into_iter().find_map(usable))
}

fn usable(sysroot: PathBuf) -> Option<Toolchain> {
    let rustc = sysroot.join("bin/rustc");
    if !Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists()
        || !sysroot.join("bin/cargo").exists()
    {
        return None;
    }
    let said = sh::output(clean_command(&rustc.display().to_string()).arg("-vV")).ok()?;
    let llvm = said
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    let version = said.lines().next()?.to_owned();
    (llvm.split('.').next() == Some(LLVM_MAJOR)).then_some(Toolchain { sysroot, version })
}

/// rustup's compiler of one fixed version; where rustup or its server is missing, Debian's, when that
/// is new enough.
pub(crate) fn install() -> Result<()> {
    let wanted = [
        "toolchain",
        "install",
        RUSTUP_VERSION,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ];
    let name = format!("rustup: {RUSTUP_VERSION} with rust-src");
    let by_rustup = sh::step("setup", &name, || {
        sh::run(clean_command("rustup").args(wanted))
    });
    if by_rustup.is_ok() {
        return Ok(());
    }
    if debian_minor().is_none_or(|minor| minor < DEBIAN_MINOR) && sh::on_path("apt-get").is_some() {
        // The package lists of a fresh machine are old, or not there.
        sh::run(sh::as_root("apt-get")?.arg("update"))?;
    }
    if debian_minor().is_some_and(|minor| minor >= DEBIAN_MINOR) {
        return setup::install(&DEBIAN_PACKAGES);
    }
    by_rustup.with_context(|| {
        format!(
            "no compiler for eBPF: run `rustup {}`, or install {} (1.{DEBIAN_MINOR} or newer)",
            wanted.join(" "),
            DEBIAN_PACKAGES.join(" ")
        )
    })
}

/// The 1.x of the compiler that apt could install.
fn debian_minor() -> Option<u32> {
    let policy = sh::output(Command::new("apt-cache").args(["policy", DEBIAN_PACKAGES[0]])).ok()?;
    let candidate = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: 1."))?;
    candidate.split('.').next()?.parse().ok()
}

/// bpf-linker in the version we build with: the user's, or the one setup made for this project.
pub(crate) fn bpf_linker() -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let candidates = [
        Some(target().join("tools/bin/bpf-linker")),
        sh::on_path("bpf-linker"),
        cargo_home.map(|home| home.join("bin/bpf-linker")),
    ];
    candidates.into_iter().flatten().find(|path| {
        let said = sh::output(Command::new(path).arg("--version")).unwrap_or_default();
        said.trim() == format!("bpf-linker {BPF_LINKER_VERSION}")
    })
}
