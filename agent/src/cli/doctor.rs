//! `syshold doctor`: what this host has and lacks, with the fix for each lack.
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Output};
use super::show::{self, BAD, FAINT, GOOD, safe, styled};
use super::{Outcome, status};
use crate::approver::gateway::{Gateway, STATE_DIR};
use crate::control::{Call, Reply};

/// The oldest kernel whose features are known to be enough.
const OLDEST: (u32, u32) = (6, 1);

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            ok: true,
            found: found.into(),
            fix: None,
        }
    }

    /// The error names its fix.
    fn failed(what: &'static str, error: &dyn std::error::Error) -> Self {
        Self {
            what,
            ok: false,
            found: error.to_string(),
            fix: None,
        }
    }

    fn bad(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what,
            ok: false,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

pub(super) fn run(socket: &Path, args: &DoctorArgs) -> Outcome {
    let mut checks = vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        lsm(&read("/sys/kernel/security/lsm")),
        there(
            "BTF",
            "/sys/kernel/btf/vmlinux",
            "use a distribution kernel, or build it with CONFIG_DEBUG_INFO_BTF=y",
        ),
        there(
            "cgroup v2",
            "/sys/fs/cgroup/cgroup.controllers",
            "boot with `systemd.unified_cgroup_hierarchy=1` on the kernel command line",
        ),
        enrolment(Path::new(STATE_DIR)),
    ];
    checks.extend(daemon(socket));
    let all_good = checks.iter().all(|check| check.ok);
    if args.json {
        show::json(&checks)?;
    } else {
        print(&checks)?;
    }
    Ok(if all_good {
        ExitCode::SUCCESS
    } else {
        Exit::Failure.into()
    })
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Check::good("kernel", release),
        _ => Check::bad(
            "kernel",
            release,
            format!("install Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
    }
}

fn lsm(list: &str) -> Check {
    if list.split(',').any(|name| name == "bpf") {
        return Check::good("BPF LSM", list);
    }
    let wanted = if list.is_empty() {
        "landlock,lockdown,yama,integrity,apparmor,bpf".to_owned()
    } else {
        format!("{list},bpf")
    };
    Check::bad(
        "BPF LSM",
        if list.is_empty() {
            "no list at /sys/kernel/security/lsm"
        } else {
            list
        },
        format!(
            "add `lsm={wanted}` to GRUB_CMDLINE_LINUX in /etc/default/grub, run `update-grub`, reboot"
        ),
    )
}

fn there(what: &'static str, path: &str, fix: &str) -> Check {
    if Path::new(path).exists() {
        Check::good(what, path)
    } else {
        Check::bad(what, format!("{path} is not there"), fix)
    }
}

fn enrolment(state: &Path) -> Check {
    const WHAT: &str = "enrolment";
    match Gateway::load(state) {
        Ok((gateway, _)) => Check::good(WHAT, format!("{} as {}", gateway.url, gateway.host_id)),
        Err(e) if state.exists() && fs::read_dir(state).is_err() => {
            Check::bad(WHAT, e.to_string(), "run `syshold doctor` as root")
        }
        Err(e) => Check::failed(WHAT, &e),
    }
}

fn daemon(socket: &Path) -> Vec<Check> {
    const WHAT: &str = "daemon";
    let status = match call_once(socket, &Call::Status) {
        Ok(Reply::Status(status)) => status,
        Ok(_) => return vec![Check::failed(WHAT, &DaemonError::Other)],
        Err(e) => return vec![Check::failed(WHAT, &e)],
    };
    let problems = status::problems(&status);
    if problems.is_empty() {
        return vec![Check::good(
            WHAT,
            format!("version {}, enforcing", safe(&status.version)),
        )];
    }
    problems
        .into_iter()
        .map(|problem| {
            Check::bad(
                WHAT,
                problem,
                "see `syshold status` and `journalctl -u sysholdd`",
            )
        })
        .collect()
}

fn print(checks: &[Check]) -> Result<(), Output> {
    let mut page = String::new();
    for check in checks {
        let mark = if check.ok {
            styled(GOOD, "ok  ")
        } else {
            styled(BAD, "FAIL")
        };
        page.push_str(&format!(
            "{mark} {:10} {}\n",
            check.what,
            safe(&check.found)
        ));
        if let Some(fix) = &check.fix {
            page.push_str(&format!("     {} {fix}\n", styled(FAINT, "fix:      ")));
        }
    }
    show::print(&page)
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        for good in ["6.1.0-18-amd64", "6.12.41+deb13-amd64", "7.2.0", "10.0"] {
            assert!(kernel(good).ok, "{good}");
        }
        for bad in ["6.0.19", "5.15.0-100-generic", "", "garbage", "6"] {
            let check = kernel(bad);
            assert!(!check.ok && check.fix.is_some(), "{bad}");
        }
    }

    #[test]
    fn the_fix_for_a_missing_lsm_keeps_the_others() {
        assert!(lsm("lockdown,yama,bpf").ok);
        let check = lsm("lockdown,yama,apparmor,bpfx");
        assert!(!check.ok);
        assert!(
            check
                .fix
                .unwrap()
                .contains("lsm=lockdown,yama,apparmor,bpfx,bpf")
        );
    }
}
