//! `syshold doctor`: what this host has and lacks, with the fix for each lack.
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Outcome;
use super::daemon::{DaemonError, call_once};
use super::failure::{Exit, Output};
use super::show::{self, BAD, FAINT, GOOD, NOTE, safe, styled};
use crate::approver::gateway::{Gateway, STATE_DIR};
use crate::control::{self, Call, Reply};
use crate::kernel::clock_state;

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

    /// Good enough, but could be better.
    fn note(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            ok: true,
            ..Self::bad(what, found, fix)
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
            "bpffs",
            "/sys/fs/bpf",
            "mount it: `mount -t bpf bpf /sys/fs/bpf`, or let systemd do it",
        ),
        there(
            "cgroup v2",
            "/sys/fs/cgroup/cgroup.controllers",
            "boot with `systemd.unified_cgroup_hierarchy=1` on the kernel command line",
        ),
        ftrace(&read("/proc/sys/kernel/ftrace_enabled")),
        clock(clock_state()),
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

/// Off, the kernel calls none of the programs that are attached.
fn ftrace(switch: &str) -> Check {
    const WHAT: &str = "ftrace";
    match switch {
        "" => Check::good(WHAT, "no switch on this kernel"),
        "0" => Check::bad(
            WHAT,
            "kernel.ftrace_enabled is 0, so no program of the BPF LSM runs",
            "run `sysctl kernel.ftrace_enabled=1`, and look in /etc/sysctl.d for who turned it off",
        ),
        _ => Check::good(WHAT, "kernel.ftrace_enabled is 1"),
    }
}

/// A clock that nobody sets enforces as well as any; its times prove less.
fn clock(state: Option<(bool, u64)>) -> Check {
    const WHAT: &str = "clock";
    match state {
        Some((true, error_us)) => {
            Check::good(WHAT, format!("synchronised, within {} ms", error_us / 1000))
        }
        _ => Check::note(
            WHAT,
            "not synchronised, and the ledger says so with every time",
            "run `timedatectl set-ntp true`, or any other time service",
        ),
    }
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
    let mut checks = vec![
        Check::good(WHAT, format!("version {}", safe(&status.version))),
        canary(&status.canary),
    ];
    checks.extend(hooks(&status.kernel));
    checks.push(waiting(&status.parking));
    checks.push(ledger(&status.ledger));
    checks.push(gateway(status.gateway.as_ref()));
    checks.extend(status.policy.problem.as_ref().map(|problem| {
        Check::bad(
            "policy",
            format!("the file was not taken: {}", safe(problem)),
            "correct it and run `syshold reload`; `syshold policy check` says what is wrong",
        )
    }));
    checks
}

fn canary(canary: &control::Canary) -> Check {
    const WHAT: &str = "canary";
    match (canary.ok, &canary.problem) {
        (true, _) => Check::good(WHAT, "every hook saw the daemon's last proof"),
        (false, problem) => Check::bad(
            WHAT,
            problem
                .as_deref()
                .map_or_else(|| "no proof yet".to_owned(), safe),
            "if ftrace is on, run `systemctl restart sysholdd`, which attaches every hook anew",
        ),
    }
}

fn hooks(kernel: &control::Kernel) -> Vec<Check> {
    const WHAT: &str = "hooks";
    let gone: Vec<_> = kernel.hooks.iter().filter(|hook| !hook.attached).collect();
    let proven = kernel.hooks.iter().filter(|hook| hook.live).count();
    let mut checks = vec![if gone.is_empty() {
        Check::good(
            WHAT,
            format!("{} attached, {proven} of them live", kernel.hooks.len()),
        )
    } else {
        let names: Vec<_> = gone.iter().map(|hook| safe(&hook.name)).collect();
        Check::bad(
            WHAT,
            format!("not attached any more: {}", names.join(", ")),
            "run `systemctl restart sysholdd`, and find out who removed its pins from /sys/fs/bpf/syshold",
        )
    }];
    checks.extend(kernel.lacks.iter().map(|lack| {
        let text = format!(
            "this kernel has no {}; covered by {}",
            safe(&lack.name),
            safe(&lack.covered_by)
        );
        Check::good(WHAT, text)
    }));
    checks
}

fn waiting(parking: &control::Parking) -> Check {
    const WHAT: &str = "waiting";
    match &parking.why {
        None => Check::good(WHAT, safe(&parking.mode)),
        Some(why) => Check::note(
            WHAT,
            format!("{}: {}", safe(&parking.mode), safe(why)),
            "held threads wait all the same, but the whole process stops; give agents a cgroup without controllers below it (`Delegate=yes` and no `subtree_control`)",
        ),
    }
}

fn ledger(ledger: &control::Ledger) -> Check {
    const WHAT: &str = "ledger";
    let place = safe(&ledger.path.to_string_lossy());
    if ledger.ok {
        return Check::good(WHAT, format!("{place}, {} leaves", ledger.leaves));
    }
    let why = ledger.problem.as_deref().unwrap_or("it cannot be written");
    Check::bad(
        WHAT,
        format!("{place}: {}, so held calls are denied", safe(why)),
        "make room on its file system, or mend its permissions; `syshold ledger verify` reads it",
    )
}

fn gateway(gateway: Option<&control::Gateway>) -> Check {
    const WHAT: &str = "gateway";
    match gateway {
        None => Check::bad(
            WHAT,
            "this host is not enrolled, so what must be asked is denied",
            "run `syshold enrol`, then `systemctl restart sysholdd`",
        ),
        Some(gateway) if gateway.reachable => Check::good(WHAT, safe(&gateway.url)),
        Some(gateway) => {
            let why = gateway.trouble.as_deref().unwrap_or("no answer yet");
            Check::bad(
                WHAT,
                format!("{}: {}", safe(&gateway.url), safe(why)),
                "see that the gateway runs and that this host may connect to it",
            )
        }
    }
}

fn print(checks: &[Check]) -> Result<(), Output> {
    let mut page = String::new();
    for check in checks {
        let mark = match (check.ok, &check.fix) {
            (true, None) => styled(GOOD, "ok  "),
            (true, Some(_)) => styled(NOTE, "note"),
            (false, _) => styled(BAD, "FAIL"),
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
    fn a_switch_that_is_off_fails_and_a_clock_that_nobody_sets_is_noted() {
        assert!(ftrace("1").ok && ftrace("").ok);
        assert!(!ftrace("0").ok && ftrace("0").fix.is_some());
        assert!(clock(Some((true, 4000))).fix.is_none());
        for state in [None, Some((false, 16_000_000))] {
            let check = clock(state);
            assert!(check.ok && check.fix.is_some());
        }
    }

    #[test]
    fn what_is_not_attached_fails_and_what_is_lacking_says_what_covers_it() {
        let hook = |attached| control::Hook {
            name: "file_open".to_owned(),
            attached,
            live: attached,
        };
        let kernel = |attached| control::Kernel {
            release: "6.1".to_owned(),
            hooks: vec![hook(attached)],
            lacks: vec![control::Lack {
                name: "uring_allowed".to_owned(),
                covered_by: crate::kernel::covered_by("uring_allowed").to_owned(),
            }],
        };
        let good = hooks(&kernel(true));
        assert!(good.iter().all(|check| check.ok), "{good:?}");
        assert!(
            good[1].found.contains("inode_init_security_anon"),
            "{good:?}"
        );
        let bad = hooks(&kernel(false));
        assert!(!bad[0].ok && bad[0].found.contains("file_open"), "{bad:?}");
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
