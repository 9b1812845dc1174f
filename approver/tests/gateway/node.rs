//! A node that comes from PyPI, and what others wrote for it from npm, installed once under `target/`.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::python::python;

pub(crate) fn node() -> PathBuf {
    python().with_file_name("node")
}

/// Where `program` lies, beside the packages that it imports.
pub(crate) fn beside(name: &str, program: &str, packages: &[&str]) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (file, ready) = (dir.join("main.mjs"), dir.join("ready"));
    std::fs::create_dir_all(&dir).unwrap();
    // Not again and again: the node of another test may be reading it.
    if !std::fs::read_to_string(&file).is_ok_and(|before| before == program) {
        std::fs::write(&file, program).unwrap();
    }
    let made = packages.join(" ");
    if std::fs::read_to_string(&ready).is_ok_and(|before| before == made) {
        return file;
    }
    let done = Command::new(python().with_file_name("npm"))
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
        .arg("--prefix")
        .arg(&dir)
        .args(packages)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "needs npm's registry: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    std::fs::write(ready, made).unwrap();
    file
}
