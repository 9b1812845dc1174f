//! Packages of a Debian suite that this machine's own apt does not carry.
//!
//! Each suite gets a private apt root: its own lists and an empty dpkg status, so nothing is installed
//! here and apt still checks the index's signature. The mirror and the proxy are the machine's own.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::layout::vm_cache;
use crate::sh;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const INDEX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Suite {
    root: PathBuf,
    name: String,
}

impl Suite {
    /// Fetches the index unless a recent one is there.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let suite = Self {
            root: vm_cache().join("apt").join(name),
            name: name.to_owned(),
        };
        for dir in [
            "etc/apt/preferences.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg",
        ] {
            std::fs::create_dir_all(suite.root.join(dir))?;
        }
        std::fs::write(suite.root.join("var/lib/dpkg/status"), "")?;
        std::fs::write(
            suite.root.join("etc/apt/sources.list"),
            source_line(name, true)?,
        )?;
        let stamp = suite.root.join("updated");
        let age = stamp
            .metadata()
            .and_then(|meta| meta.modified())
            .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if age.is_ok_and(|age| age < INDEX_LIFETIME) {
            return Ok(suite);
        }
        sh::step("setup", &format!("package index of {name}"), || {
            sh::run(suite.apt("apt-get").arg("update").arg("--error-on=any"))?;
            Ok(std::fs::write(&stamp, "")?)
        })?;
        Ok(suite)
    }

    /// The newest package whose name fits the pattern: `*` stands for one version.
    pub(crate) fn newest(&self, pattern: &str) -> Result<String> {
        let prefix = pattern.split('*').next().unwrap_or(pattern);
        let names = sh::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        let newest = names
            .lines()
            .filter(|name| fits(pattern, name))
            .max_by_key(|name| numbers(name));
        newest.map(str::to_owned).with_context(|| {
            format!(
                "no package {pattern} in {}: did the suite move on? See tests/kernels.toml",
                self.name
            )
        })
    }

    /// Downloads the packages alone, or with all they depend on, and unpacks them into `dir`.
    pub(crate) fn unpack(&self, packages: &[String], with_depends: bool, dir: &Path) -> Result<()> {
        let debs = self.root.join("debs");
        let _ = std::fs::remove_dir_all(&debs);
        std::fs::create_dir_all(debs.join("partial"))?;
        let mut get = self.apt("apt-get");
        get.current_dir(&debs)
            .args(["--yes", "--no-install-recommends"]);
        if with_depends {
            get.arg("-o")
                .arg(format!("Dir::Cache::archives={}", debs.display()));
            get.args(["--download-only", "install"]);
        } else {
            get.arg("download");
        }
        sh::run(get.args(packages))?;
        std::fs::create_dir_all(dir)?;
        let files = sh::files_below(&debs)?;
        for deb in files
            .iter()
            .filter(|file| file.extension().is_some_and(|ext| ext == "deb"))
        {
            sh::run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(dir))?;
        }
        Ok(std::fs::remove_dir_all(&debs)?)
    }

    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let shown = sh::output(
            self.apt("apt-cache")
                .args(["show", "--no-all-versions", package]),
        )?;
        let version = shown
            .lines()
            .find_map(|line| line.strip_prefix("Version: "));
        version
            .map(str::to_owned)
            .with_context(|| format!("{package} of {} has no version", self.name))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let root = self.root.display();
        for option in [
            format!("Dir={root}"),
            format!("Dir::State::status={root}/var/lib/dpkg/status"),
            "Dir::Etc::netrc=/etc/apt/auth.conf".into(),
            "Dir::Etc::netrcparts=/etc/apt/auth.conf.d".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            // The cache is the user's: apt's own user cannot write to it.
            "APT::Sandbox::User=".into(),
            "APT::Architecture=amd64".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }
}

/// A sources.list line for a Debian suite at this machine's mirror.
pub(crate) fn source_line(suite: &str, index_only: bool) -> Result<String> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let only = if index_only { " target=Packages" } else { "" };
    Ok(format!(
        "deb [arch=amd64 signed-by={KEYRING}{only}] {} {suite} main\n",
        mirror()?
    ))
}

/// How this machine reaches mirrors (proxies and the like), as apt.conf text.
pub(crate) fn acquire_options() -> Result<String> {
    let dump = sh::output(Command::new("apt-config").args(["dump", "Acquire"]))?;
    let wanted = |line: &&str| {
        [
            "Acquire::http",
            "Acquire::https",
            "Acquire::Check",
            "Acquire::ftp",
        ]
        .iter()
        .any(|key| line.starts_with(key))
    };
    Ok(dump
        .lines()
        .filter(wanted)
        .map(|line| format!("{line}\n"))
        .collect())
}

/// The Debian mirror: the user's word, then this machine's own sources, then debootstrap's default.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("SYSHOLD_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    // Prints one URI an index, fetched or not: 'http://host/debian/dists/SUITE/InRelease' …
    let uris = sh::output(Command::new("apt-get").args(["update", "--print-uris"]))?;
    let debian = [
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "stable",
        "oldstable",
        "testing",
        "unstable",
    ];
    for line in uris.lines() {
        let uri = line
            .trim_start_matches('\'')
            .split('\'')
            .next()
            .unwrap_or_default();
        if let Some((base, rest)) = uri.split_once("/dists/")
            && let Some((suite, "InRelease")) = rest.split_once('/')
            && debian.contains(&suite)
        {
            return Ok(base.to_owned());
        }
    }
    if let Ok(script) = std::fs::read_to_string("/usr/share/debootstrap/scripts/sid")
        && let Some(mirror) = script
            .lines()
            .find_map(|line| line.trim().strip_prefix("default_mirror "))
    {
        return Ok(mirror.trim().to_owned());
    }
    bail!(
        "this machine's apt has no Debian mirror: name one in SYSHOLD_DEBIAN_MIRROR, or install debootstrap, which knows one"
    )
}

fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let version = name
        .strip_prefix(head)
        .and_then(|rest| rest.strip_suffix(tail));
    version.is_some_and(|version| {
        let bare = version.replace("deb", "");
        !bare.is_empty()
            && bare
                .chars()
                .all(|c| c.is_ascii_digit() || ".+~".contains(c))
    })
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_versions_only() {
        let pattern = "linux-image-6.12.*-cloud-amd64";
        assert!(fits(pattern, "linux-image-6.12.107+deb13-cloud-amd64"));
        assert!(fits(pattern, "linux-image-6.12.90+deb12.1-cloud-amd64"));
        assert!(!fits(
            pattern,
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned"
        ));
        assert!(!fits(pattern, "linux-image-6.12.107+deb13-rt-cloud-amd64"));
        assert!(!fits(pattern, "linux-image-6.12.-cloud-amd64"));
    }

    #[test]
    fn the_newest_is_the_highest_number() {
        assert!(numbers("x-6.12.107+deb13") > numbers("x-6.12.94+deb13"));
    }
}
