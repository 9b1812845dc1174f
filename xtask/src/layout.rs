//! Where things are: the workspace, the caches, and what `tests/kernels.toml` pins.
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

pub(crate) fn workspace() -> PathBuf {
    // Cargo says it anew at each run; a shared target directory may hold another tree's program.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().unwrap_or(&xtask).to_owned()
}

/// Cargo's target directory: the user may have moved it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Everything about virtual machines that can be made again.
pub(crate) fn vm_cache() -> PathBuf {
    target().join("vm")
}

/// The eBPF object that the daemon's build script embeds.
pub(crate) fn bpf_object() -> PathBuf {
    workspace().join("target/bpf/syshold.bpf.o")
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    pub(crate) rootfs: Rootfs,
    pub(crate) qemu: Qemu,
    #[serde(rename = "kernel")]
    pub(crate) kernels: Vec<Kernel>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rootfs {
    pub(crate) suite: String,
    pub(crate) packages: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Qemu {
    pub(crate) at_least: u32,
    pub(crate) suite: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) suite: String,
    pub(crate) packages: Vec<String>,
    pub(crate) hooks: Vec<String>,
    pub(crate) lacks: Vec<String>,
}

impl Pins {
    pub(crate) fn load() -> Result<Self> {
        let path = workspace().join("tests/kernels.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
    }

    /// The kernels asked for, all of them when none is named.
    pub(crate) fn select(&self, names: &[String]) -> Result<Vec<Kernel>> {
        if names.is_empty() {
            return Ok(self.kernels.clone());
        }
        names.iter().map(|name| self.kernel(name)).collect()
    }

    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel> {
        let found = self.kernels.iter().find(|kernel| kernel.name == name);
        let Some(kernel) = found else {
            let known: Vec<&str> = self
                .kernels
                .iter()
                .map(|kernel| kernel.name.as_str())
                .collect();
            bail!(
                "no kernel {name} in tests/kernels.toml: use one of {}",
                known.join(", ")
            );
        };
        Ok(kernel.clone())
    }
}
