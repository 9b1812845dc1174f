//! The text of /proc, read without trusting it: a process chooses its name, its arguments and
//! the names of its cgroups. Pure: bytes in, values out.
use std::str;

/// What `/proc/PID/stat` says that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// As the process named itself, at most 15 bytes.
    pub comm: Vec<u8>,
    pub ppid: u32,
    pub tty: Option<String>,
    /// Clock ticks since boot.
    pub start_ticks: u64,
}

/// The name may hold blanks and brackets; what follows the last bracket is the kernel's.
#[must_use]
pub fn stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let comm = bytes.get(open + 1..close)?.to_vec();
    let rest = str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // Field 3 (state) comes first.
    let mut fields = rest.split_ascii_whitespace();
    let ppid = fields.nth(1)?.parse().ok()?;
    let tty: i32 = fields.nth(2)?.parse().ok()?;
    let start_ticks = fields.nth(14)?.parse().ok()?;
    Some(Stat {
        comm,
        ppid,
        tty: tty_name(tty),
        start_ticks,
    })
}

/// The kernel's device number of a terminal, as people call it.
fn tty_name(device: i32) -> Option<String> {
    let device = u32::try_from(device).ok().filter(|device| *device != 0)?;
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    Some(match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => format!("{major}:{minor}"),
    })
}

/// The effective user of `/proc/PID/status`.
#[must_use]
pub fn euid(status: &[u8]) -> Option<u32> {
    let line = status
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut ids = str::from_utf8(line).ok()?.split_ascii_whitespace();
    ids.nth(1)?.parse().ok()
}

/// The path in the unified hierarchy, of `/proc/PID/cgroup`.
#[must_use]
pub fn cgroup(bytes: &[u8]) -> Option<&[u8]> {
    bytes
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))
        .filter(|path| path.first() == Some(&b'/'))
}

/// The systemd unit a cgroup belongs to. The outermost one counts: what is below it is named by
/// whoever it was delegated to.
#[must_use]
pub fn unit(cgroup: &str) -> Option<&str> {
    let mut parts = cgroup.split('/').filter(|part| !part.is_empty());
    let mut unit = parts.find(|part| !part.ends_with(".slice"))?;
    if unit.starts_with("user@") && unit.ends_with(".service") {
        unit = parts.find(|part| !part.ends_with(".slice")).unwrap_or(unit);
    }
    (unit.ends_with(".service") || unit.ends_with(".scope")).then_some(unit)
}

/// The login user of `/proc/PID/loginuid`; None when nobody logged in.
#[must_use]
pub fn loginuid(bytes: &[u8]) -> Option<u32> {
    let uid: u32 = str::from_utf8(bytes).ok()?.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

/// Arguments of `/proc/PID/cmdline`.
#[must_use]
pub fn argv(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    text.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
}

/// The name of a user in the text of `/etc/passwd`.
#[must_use]
pub fn user_name(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = str::from_utf8(line).ok()?.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == uid && !name.is_empty()).then(|| name.to_owned())
    })
}

/// What `/proc/PID/fdinfo/N` says: the inode and the mount it was opened through.
#[must_use]
pub fn fdinfo(bytes: &[u8]) -> Option<(u64, u64)> {
    let field = |name: &[u8]| {
        let line = bytes
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        str::from_utf8(line).ok()?.trim().parse().ok()
    };
    Some((field(b"ino:")?, field(b"mnt_id:")?))
}

/// The mounts of `/proc/PID/mountinfo` that show the device with the kernel's number `dev`.
pub fn mounts_of(mountinfo: &[u8], dev: u32) -> impl Iterator<Item = u64> {
    let wanted = format!("{}:{}", dev >> 20, dev & 0xf_ffff);
    mountinfo.split(|b| *b == b'\n').filter_map(move |line| {
        // A mount point may hold any bytes; the first three fields are numbers.
        let mut fields = line.split(|b| *b == b' ');
        let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        (fields.nth(1)? == wanted.as_bytes()).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = b"41 (a) S 1 (b) R 40 41 41 34819 41 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 9 9\n";
        let stat = stat(line).unwrap();
        assert_eq!(stat.comm, b"a) S 1 (b");
        assert_eq!((stat.ppid, stat.start_ticks), (40, 777));
        assert_eq!(stat.tty.as_deref(), Some("pts/3"));
    }

    #[test]
    fn our_own_stat_reads() {
        let text = std::fs::read("/proc/self/stat").unwrap();
        let own = stat(&text).unwrap();
        assert_eq!(own.ppid, std::os::unix::process::parent_id());
        assert!(own.start_ticks > 0);
        let status = std::fs::read("/proc/self/status").unwrap();
        assert_eq!(euid(&status), Some(nix::unistd::geteuid().as_raw()));
    }

    #[test]
    fn units_of_cgroups() {
        for (cgroup, expected) in [
            ("/system.slice/bot.service", Some("bot.service")),
            (
                "/system.slice/system-a.slice/a@1.service",
                Some("a@1.service"),
            ),
            // Delegated: the agent itself may name what is below its unit.
            (
                "/system.slice/bot.service/sshd.service",
                Some("bot.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/bot.service/x",
                Some("bot.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                Some("init.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service",
                Some("user@1000.service"),
            ),
            ("/docker/abc", None),
            ("/system.slice", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn arguments_are_cut_and_say_so() {
        assert_eq!(argv(b"a\0\0c\0"), [&b"a"[..], b"", b"c"]);
        assert_eq!(argv(b"a\0b"), [b"a", b"b"]);
        assert!(argv(b"").is_empty());
        assert_eq!(argv(b"\0"), [b""]);
    }

    #[test]
    fn names_and_logins() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbad\n:x:7::\nbot:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("bot"));
        assert_eq!(user_name(passwd, 7), None);
        assert_eq!(loginuid(b"1000"), Some(1000));
        assert_eq!(loginuid(b"4294967295\n"), None);
    }

    #[test]
    fn an_open_file_is_found_through_its_mount() {
        let mounts =
            b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n35 21 0:32 / /a\\040b rw - tmpfs t rw\n";
        assert_eq!(mounts_of(mounts, 8 << 20 | 1).collect::<Vec<_>>(), [21]);
        assert_eq!(mounts_of(mounts, 32).collect::<Vec<_>>(), [35]);
        let info = b"pos:\t0\nflags:\t0100000\nmnt_id:\t35\nino:\t77\n";
        assert_eq!(fdinfo(info), Some((77, 35)));
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..600), n in any::<u32>()) {
            let _ = stat(&bytes);
            let _ = euid(&bytes);
            prop_assert!(cgroup(&bytes).is_none_or(|path| path[0] == b'/'));
            let _ = loginuid(&bytes);
            let _ = user_name(&bytes, n);
            let _ = fdinfo(&bytes);
            let _ = mounts_of(&bytes, n).count();
            let nuls = bytes.iter().filter(|byte| **byte == 0).count();
            prop_assert!(argv(&bytes).len() <= nuls + 1);
            let _ = unit(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn whatever_the_name_the_fields_stand(comm in proptest::collection::vec(any::<u8>(), 0..16), ppid in any::<u32>(), start in any::<u64>()) {
            let mut line = b"7 (".to_vec();
            line.extend(&comm);
            line.extend(format!(") S {ppid} 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n").into_bytes());
            let stat = stat(&line).unwrap();
            prop_assert_eq!(stat.comm, comm);
            prop_assert_eq!(stat.ppid, ppid);
            prop_assert_eq!(stat.start_ticks, start);
            prop_assert_eq!(stat.tty, None);
        }
    }
}
