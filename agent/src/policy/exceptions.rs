//! What one agent may do that the kernel side otherwise denies outright: named sockets, devices,
//! capabilities, namespaces, tracing.
use std::path::PathBuf;

use syshold_abi::CAPABILITIES_DENIED;

use super::error::{Notes, suggest};
use super::raw::{RawAgent, Text};
use super::text::{list, noted, one_of};
use super::{Glob, GlobError};
use crate::capabilities;

/// Longest abstract name: `sockaddr_un` without its first NUL.
const LONGEST_NAME: usize = 107;
/// Most sockets, and most devices, of one agent.
const MOST: usize = 64;
/// Where the daemon's own sockets are.
const OWN: &str = "/run/syshold";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    pub sockets: Vec<Socket>,
    /// Bits of [`CAPABILITIES_DENIED`].
    pub capabilities: u64,
    /// Character devices.
    pub devices: Vec<Glob>,
    pub user_namespaces: bool,
    pub trace: bool,
}

/// A unix socket on which a program listens that the agent does not govern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    Path(PathBuf),
    /// Without its first NUL.
    Abstract(String),
}

impl Exceptions {
    /// The names of capabilities that are kept.
    pub fn capability_names(&self) -> impl Iterator<Item = &'static str> {
        capabilities::names(self.capabilities)
    }

    /// As `[[govern]]` says them, for people; empty when there are none.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let sockets = self.sockets.iter().map(|socket| match socket {
            Socket::Path(path) => format!("socket {}", path.display()),
            Socket::Abstract(name) => format!("socket @{name}"),
        });
        let capabilities = self.capability_names().map(str::to_owned);
        let devices = self.devices.iter().map(|glob| format!("device {glob}"));
        let words = [
            (self.user_namespaces, "user namespaces"),
            (self.trace, "tracing"),
        ];
        let words = words.iter().filter(|(on, _)| *on);
        sockets
            .chain(devices)
            .chain(capabilities)
            .chain(words.map(|(_, word)| (*word).to_owned()))
            .collect()
    }
}

/// Whether what one process has read counts for the whole agent, and what it may do beside.
pub(super) fn exceptions(raw: &RawAgent, notes: &mut Notes<'_>) -> (bool, Exceptions) {
    let shared = one_of(
        raw.taint.as_ref(),
        &[("process", false), ("agent", true)],
        notes,
    );
    let mut exceptions = Exceptions::default();
    for text in list(raw.sockets.as_ref(), "sockets", notes) {
        exceptions.sockets.extend(socket(text, notes));
    }
    for text in list(raw.devices.as_ref(), "devices", notes) {
        exceptions.devices.extend(device(text, notes));
    }
    let lists = [("sockets", &raw.sockets), ("devices", &raw.devices)];
    for (key, texts) in lists {
        if let Some(texts) = texts.as_ref().filter(|texts| texts.items.len() > MOST) {
            notes.error(
                &texts.span,
                format!("an agent has at most {MOST} {key} of its own"),
                "leave out what it does not need",
            );
        }
    }
    for text in list(raw.capabilities.as_ref(), "capabilities", notes) {
        exceptions.capabilities |= capability(text, notes);
    }
    for text in list(raw.allow.as_ref(), "allow", notes) {
        let words = [("user-namespaces", 0), ("trace", 1)];
        match one_of(Some(text), &words, notes) {
            Some(0) => exceptions.user_namespaces = true,
            Some(_) => exceptions.trace = true,
            None => {}
        }
    }
    (shared.unwrap_or(false), exceptions)
}

fn socket(text: &Text, notes: &mut Notes<'_>) -> Option<Socket> {
    let word = text.get_ref();
    if let Some(name) = word.strip_prefix('@') {
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            notes.error(
                &text.span(),
                format!("`{word}` is not the name of an abstract socket"),
                format!("write `@` and the name, 1 to {LONGEST_NAME} bytes"),
            );
            return None;
        }
        return Some(Socket::Abstract(name.to_owned()));
    }
    let path = noted(text, Glob::parse(word), GlobError::fix, notes)?;
    if !path.is_literal() {
        notes.error(
            &text.span(),
            "a socket is named by its whole path: the kernel compares the folder and the name",
            "write each path, without wildcards; an abstract name begins with `@`",
        );
        return None;
    }
    if path.to_string().starts_with(OWN) {
        notes.error(
            &text.span(),
            "no governed process may reach the daemon, and no policy can lift that",
            "remove it",
        );
        return None;
    }
    if rules_the_host(word) {
        notes.warn(
            &text.span(),
            format!("whoever reaches `{word}` can have the whole host do things, unheld"),
            "leave it out unless that is meant; `syshold status` will show it",
        );
    }
    Some(Socket::Path(PathBuf::from(path.to_string())))
}

/// Programs that do anything for whoever may talk to them.
fn rules_the_host(path: &str) -> bool {
    let names = [
        "docker.sock",
        "podman.sock",
        "containerd.sock",
        "crio.sock",
        "libvirt-sock",
        "lxd",
        "system_bus_socket",
        "systemd/private",
        "snapd.socket",
        "bus",
    ];
    names.iter().any(|name| {
        path.strip_suffix(name)
            .is_some_and(|rest| rest.ends_with('/'))
    })
}

fn device(text: &Text, notes: &mut Notes<'_>) -> Option<Glob> {
    let glob = noted(text, Glob::parse(text.get_ref()), GlobError::fix, notes)?;
    if !glob.split().root.starts_with("/dev") {
        notes.error(
            &text.span(),
            format!("`{glob}` is not a device"),
            "write a path below /dev, such as `/dev/kvm` or `/dev/nvidia*`",
        );
        return None;
    }
    Some(glob)
}

fn capability(text: &Text, notes: &mut Notes<'_>) -> u64 {
    let word = text.get_ref();
    let Some(bit) = capabilities::number(word) else {
        let denied: Vec<&str> = capabilities::names(CAPABILITIES_DENIED).collect();
        let whole = format!("CAP_{}", word.to_uppercase());
        let fix = match capabilities::number(&whole) {
            Some(_) => format!("write `{whole}`"),
            None => suggest(&word.to_uppercase(), "capability", &denied),
        };
        notes.error(
            &text.span(),
            format!("there is no capability `{word}`"),
            fix,
        );
        return 0;
    };
    if CAPABILITIES_DENIED >> bit & 1 == 0 {
        notes.error(
            &text.span(),
            format!("`{word}` is not taken from agents: what a process has of it, it keeps"),
            "remove it",
        );
        return 0;
    }
    notes.warn(
        &text.span(),
        format!("with `{word}` an agent may be able to get around what is held"),
        "leave it out unless that is meant; `syshold status` will show it",
    );
    1 << bit
}
