//! What the daemon reads: its policy, /proc of governed processes, calls on its socket.
use syshold_agent::control;
use syshold_agent::enrich::parse;
use syshold_agent::names::{self, HostName};
use syshold_agent::policy::{self, Glob, PathNames};

/// A policy is right, or every problem names its place in the file.
pub(crate) fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match policy::parse(text, "agent.toml") {
        Ok(policy) => {
            assert!(policy.roots(&[]).iter().all(|root| root.path.is_absolute()));
            let _classes = policy.classes_of_path("/srv/pii/customers.csv");
        }
        Err(error) => assert!(error.to_string().contains("agent.toml"), "{error}"),
    }
    let _names = text
        .lines()
        .filter_map(|line| line.parse::<HostName>().ok())
        .count();
    let _servers = names::parse_resolv_conf(text);
}

pub(crate) fn policies() -> Vec<Vec<u8>> {
    let shipped = include_bytes!("../../config/agent.toml");
    vec![shipped.to_vec(), uncommented(shipped)]
}

/// The examples of a configuration, too.
pub(crate) fn uncommented(shipped: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(shipped);
    let setting = |line: &str| line.contains('=') || line.starts_with('[');
    let lines = text
        .lines()
        .map(|line| match line.strip_prefix('#').map(str::trim_start) {
            Some(bare) if setting(bare) => bare,
            _ => line,
        });
    lines
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .into_bytes()
}

/// A glob, and below it a path. What matches lies where the kernel looks for it.
pub(crate) fn glob(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let (Some(pattern), Some(path)) = (lines.next(), lines.next()) else {
        return;
    };
    let Ok(glob) = Glob::parse(&String::from_utf8_lossy(pattern)) else {
        return;
    };
    assert!(glob.split().root.is_absolute());
    let Some(names) = PathNames::of(path) else {
        return;
    };
    if glob.matches(&names) {
        // What the kernel looks at before anybody matches the whole of it.
        assert!(glob.has_root_above(&names), "matches outside its root");
        let suffix = glob.split().suffix;
        assert!(
            path.ends_with(b"/") || path.ends_with(&suffix),
            "matches without its suffix"
        );
    }
}

pub(crate) fn globs() -> Vec<Vec<u8>> {
    [
        "/srv/pii\n/srv/pii/a",
        "/home/*/exports/*.csv\n/home/a/exports/b.csv",
        "/srv/**/x?/*.db\n/srv/a/b/xy/c.db",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// Files of /proc/PID, whose names and arguments the process itself chooses.
pub(crate) fn proc(data: &[u8]) {
    let _stat = parse::stat(data);
    let _euid = parse::euid(data);
    assert!(parse::cgroup(data).is_none_or(|path| path.first() == Some(&b'/')));
    let _login = parse::loginuid(data);
    let _user = parse::user_name(data, 0);
    let _file = parse::fdinfo(data);
    let _mounts = parse::mounts_of(data, 32).count();
    let nuls = data.iter().filter(|byte| **byte == 0).count();
    assert!(parse::argv(data).len() <= nuls + 1);
    let _unit = parse::unit(&String::from_utf8_lossy(data));
}

pub(crate) fn procs() -> Vec<Vec<u8>> {
    let files: [&[u8]; 6] = [
        b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 42 0 0\n",
        b"Name:\tcat\nUid:\t1000\t1000\t1000\t1000\n",
        b"0::/system.slice/bot.service\n",
        b"pos:\t0\nflags:\t0100000\nmnt_id:\t35\nino:\t77\n",
        b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
        b"python3\0a.py\0",
    ];
    files.map(<[u8]>::to_vec).into()
}

/// One line of the control socket. What is understood is said again in the same way.
pub(crate) fn control(data: &[u8]) {
    if let Ok(call) = serde_json::from_slice::<control::Call>(data) {
        let again = serde_json::to_vec(&call).expect("JSON");
        assert_eq!(
            serde_json::from_slice::<control::Call>(&again).ok(),
            Some(call)
        );
    }
    let _reply = serde_json::from_slice::<control::Reply>(data);
}

pub(crate) fn calls() -> Vec<Vec<u8>> {
    [
        r#"{"call":"status"}"#,
        r#"{"call":"holds","follow":true}"#,
        r#"{"call":"govern","agent":"bot"}"#,
        r#"{"call":"break_glass","order":"{}"}"#,
        r#"{"call":"selftest","approved":[80]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_policy_is_one() {
        let text = String::from_utf8(policies().swap_remove(0)).unwrap();
        policy::parse(&text, "agent.toml").unwrap();
    }
}
