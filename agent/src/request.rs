//! What a governed process is trying to do, in the words the rest of the agent uses.
//!
//! A [`Request`] is made from kernel facts only (the PENDING entry); what `/proc` adds for the
//! people who read it is in `enrich`. Nothing here knows about time, files or sockets.
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use syshold_protocol::display::lossless;
use syshold_protocol::ids::Digest;

use crate::capabilities;

/// Index of an agent (`[[govern]]`) in the running policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(pub u32);

/// A hold's identity: unique since boot, given by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(pub u64);

/// One thing a rule can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Connect,
    Send,
    Listen,
    Read,
    Write,
    Delete,
    Exec,
    Privilege,
}

impl Action {
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Send,
        Self::Listen,
        Self::Read,
        Self::Write,
        Self::Delete,
        Self::Exec,
        Self::Privilege,
    ];

    /// Its bit in `syshold_abi::action`; the order of [`Self::ALL`] is the order of the bits.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Listen => "listen",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Exec => "exec",
            Self::Privilege => "privilege",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The actions of one syscall: opening for reading and writing is both at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actions(pub u32);

impl Actions {
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL
            .into_iter()
            .filter(move |action| self.0 & action.bit() != 0)
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(action.bit())
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, action) in self.iter().enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            write!(f, "{action}")?;
        }
        Ok(())
    }
}

/// Data classes (`[[protect]]`) as bits; bit i is the policy's class i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Classes(pub u64);

impl Classes {
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |i| self.0 & (1 << i) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A kernel object, as the hook saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// IPv4-mapped IPv6 addresses are IPv4 here. For listen, `to` is the socket's own address.
    Socket {
        cookie: u64,
        transport: Transport,
        to: SocketAddr,
    },
    File {
        dev: u32,
        ino: u64,
        generation: u64,
        /// A hash of the new place of a rename or link; else 0.
        onto: u64,
        path: Option<String>,
    },
    /// A name about to be created in the directory `ino`.
    NewFile {
        dev: u32,
        ino: u64,
        name_hash: u64,
        path: Option<String>,
    },
    /// A listening unix socket, by its folder and name; all 0 but the hash: an abstract name.
    Unix {
        dev: u32,
        ino: u64,
        name_hash: u64,
    },
    Privilege(Privilege),
}

/// A change of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// setuid and its kin.
    User { uid: u32, gid: u32 },
    /// capset: the effective capabilities that are new.
    Capabilities(u64),
    /// A program with set-user-id, set-group-id or file capabilities.
    Program { uid: u32, dev: u32, ino: u64 },
    /// A kind of later kernel programs.
    Unknown { kind: u64, b: u64, c: u64 },
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid: 0, .. } => f.write_str("become user 0 (root)"),
            Self::User { uid, gid } => write!(f, "become user {uid}, group {gid}"),
            Self::Capabilities(bits) => {
                let names: Vec<_> = capabilities::names(*bits).collect();
                write!(f, "gain {}", names.join(", "))
            }
            Self::Program { uid, dev, ino } => write!(
                f,
                "run, as user {uid}, the program with inode {ino} on device {dev:#x}"
            ),
            Self::Unknown { kind, b, c } => write!(f, "gain a privilege of kind {kind} ({b}, {c})"),
        }
    }
}

/// What execve would run, as far as it can be told while the thread is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// The program's name first.
    pub argv: Vec<Vec<u8>>,
    /// All arguments were read, and none was cut.
    pub whole: bool,
    /// Of the arguments, each with a NUL behind it; of arguments that are not known a random one,
    /// so that nobody's approval is taken for them.
    pub argv_sha256: Digest,
    /// Of the program's file.
    pub sha256: Option<Digest>,
}

impl Object {
    /// Where it is moved or linked to is part of what people see.
    pub fn goes_to(&mut self, onto: Option<String>) {
        let (Self::File { path, .. } | Self::NewFile { path, .. }) = self else {
            return;
        };
        if let (Some(path), Some(onto)) = (path, onto) {
            *path = format!("{path} → {onto}");
        }
    }

    /// The object as an approver and the policy name it; identical holds share it.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Socket {
                transport: Transport::Tcp,
                to,
                ..
            } => format!("tcp://{to}"),
            Self::Socket {
                transport: Transport::Udp,
                to,
                ..
            } => format!("udp://{to}"),
            Self::File {
                path: Some(path), ..
            }
            | Self::NewFile {
                path: Some(path), ..
            } => path.clone(),
            Self::File { dev, ino, .. } => format!("inode {ino} on device {dev:#x}"),
            Self::NewFile { dev, ino, .. } => format!("new file in inode {ino} on device {dev:#x}"),
            Self::Unix {
                ino: 0, name_hash, ..
            } => format!("unix socket with the abstract name {name_hash:016x}"),
            Self::Unix {
                dev,
                ino,
                name_hash,
            } => format!("unix socket {name_hash:016x} in inode {ino} on device {dev:#x}"),
            Self::Privilege(privilege) => privilege.to_string(),
        }
    }

    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Socket { to, .. } => Some(to.ip()),
            Self::File { .. } | Self::NewFile { .. } | Self::Unix { .. } | Self::Privilege(_) => {
                None
            }
        }
    }
}

/// What is asked of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub agent: AgentId,
    pub actions: Actions,
    pub object: Object,
    /// Of the object.
    pub classes: Classes,
    /// What the process, or its agent, has read before.
    pub taint: Classes,
    /// For exec; None: it is not known what would be run.
    pub exec: Option<Arc<Exec>>,
}

impl Request {
    /// What is tried, in one line: a command with its arguments, or the object.
    #[must_use]
    pub fn label(&self) -> String {
        let argv = self.exec.iter().flat_map(|exec| &exec.argv);
        let argv: Vec<_> = argv.map(|argument| lossless(argument)).collect();
        let object = self.object.label();
        if argv.is_empty() {
            object
        } else {
            format!("{object}: {}", argv.join(" "))
        }
    }
}
