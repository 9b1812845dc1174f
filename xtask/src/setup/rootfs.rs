//! The root file system of the test machines: one for all kernels, made by mmdebstrap.
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::layout::{Pins, vm_cache, workspace};
use crate::setup::image;
use crate::sh;

pub(crate) fn ready(pins: &Pins) -> Result<PathBuf> {
    let customize = workspace().join("tests/init/customize");
    let script = std::fs::read(&customize)
        .with_context(|| format!("cannot read {}", customize.display()))?;
    let key = sh::key([serde_json::to_string(&pins.rootfs)?.as_bytes(), &script]);
    let path = vm_cache().join(format!("rootfs-{key}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    let what = format!(
        "root file system of {} ({} packages and what they need)",
        pins.rootfs.suite,
        pins.rootfs.packages.len()
    );
    sh::step("setup", &what, || {
        let work = vm_cache().join("rootfs.d");
        sh::run(
            sh::as_root("rm")?
                .args(["-rf", "--one-file-system"])
                .arg(&work),
        )?;
        std::fs::create_dir_all(vm_cache())?;
        let options = vm_cache().join("apt-options");
        std::fs::write(&options, apt::acquire_options()?)?;
        let mut mmdebstrap = sh::as_root("mmdebstrap")?;
        mmdebstrap.args(["--variant=minbase", "--architectures=amd64"]);
        mmdebstrap.arg(format!("--include={}", pins.rootfs.packages.join(",")));
        mmdebstrap.arg(format!("--aptopt={}", options.display()));
        for part in ["man", "doc", "info", "locale", "lintian"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{part}/*"));
        }
        mmdebstrap.arg(format!("--customize-hook={}", customize.display()));
        mmdebstrap
            .arg(&pins.rootfs.suite)
            .arg(&work)
            .arg(apt::source_line(&pins.rootfs.suite, false)?.trim());
        sh::run(&mut mmdebstrap)?;
        image::from_dir(
            sh::as_root(&image::mkfs()?.display().to_string())?.env("LC_ALL", "C"),
            &work,
            &path,
            512,
        )?;
        sh::run(
            sh::as_root("rm")?
                .args(["-rf", "--one-file-system"])
                .arg(&work),
        )
    })?;
    if !path.exists() {
        bail!("{} was not made", path.display());
    }
    Ok(path)
}
