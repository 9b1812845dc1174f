//! Where things belong on a host: one layout for archives and for test machines.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build::Built;
use crate::layout::workspace;
use crate::sh;

/// What is shipped, below `root`: programs, units and the group; what people read goes to `DOCS`. Nothing in
/// /etc: an archive that is unpacked again must not replace anyone's policy.
pub(crate) fn shipped(built: &Built, root: &Path) -> Result<()> {
    for program in &built.programs {
        let folder = match program.file_name().and_then(|name| name.to_str()) {
            Some("sysholdd") => "usr/sbin",
            // Nobody's command: `syshold selftest` runs it.
            Some("syshold-bypass") => "usr/lib/syshold",
            _ => "usr/bin",
        };
        place(program, &root.join(folder), 0o755)?;
    }
    for file in sh::files_below(&workspace().join("config"))? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".service") {
            place(&file, &root.join("usr/lib/systemd/system"), 0o644)?;
        } else if let Some(what) = name.strip_suffix(".sysusers.conf") {
            let placed = place(&file, &root.join("usr/lib/sysusers.d"), 0o644)?;
            fs::rename(&placed, placed.with_file_name(format!("{what}.conf")))?;
        } else {
            place(&file, &root.join(DOCS), 0o644)?;
        }
    }
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        place(&workspace().join(file), &root.join(DOCS), 0o644)?;
    }
    for file in sh::files_below(&workspace().join("docs"))? {
        match file.extension().and_then(|kind| kind.to_str()) {
            Some("md") => place(&file, &root.join(DOCS).join("docs"), 0o644)?,
            Some("8") => place(&file, &root.join("usr/share/man/man8"), 0o644)?,
            _ => continue,
        };
    }
    Ok(())
}

const DOCS: &str = "usr/share/doc/syshold";

/// Copies a file into a directory, which is made if need be.
pub(crate) fn place(file: &Path, dir: &Path, mode: u32) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let to = dir.join(file.file_name().context("a file has a name")?);
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    Ok(to)
}
