//! What a governed process is trying to do, in the words the rest of the agent uses.
//!
//! A [`Request`] is made from kernel facts only (the PENDING entry); what `/proc` adds for the
//! people who read it is in `enrich`. Nothing here knows about time, files or sockets.
use std::fmt;
use std::net::{IpAddr, SocketAddr};

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
    /// IPv4-mapped IPv6 addresses are IPv4 here.
    Socket {
        cookie: u64,
        transport: Transport,
        to: SocketAddr,
    },
    File {
        dev: u32,
        ino: u64,
        generation: u64,
        path: Option<String>,
    },
    /// A name about to be created in the directory `ino`.
    NewFile {
        dev: u32,
        ino: u64,
        name_hash: u64,
        path: Option<String>,
    },
}

impl Object {
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
        }
    }

    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Socket { to, .. } => Some(to.ip()),
            Self::File { .. } | Self::NewFile { .. } => None,
        }
    }
}

/// What is asked of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub agent: AgentId,
    pub actions: Actions,
    pub object: Object,
    pub classes: Classes,
}
