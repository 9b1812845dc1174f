//! What makes two holds the same question.
use std::fmt;
use std::net::SocketAddr;

use syshold_protocol::ids::Digest;

use crate::request::{Actions, AgentId, Classes, Object, Privilege, Request, Transport};
use crate::rules::Reason;

/// Holds with the same key share a request, and an approval of one may cover the other.
///
/// Kernel facts, not what a path looks like; the rule, so that what one rule's approvers said
/// never answers for another's; the policy, because indices mean nothing in the next one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) policy: u64,
    pub(super) agent: AgentId,
    pub(super) rule: String,
    actions: Actions,
    classes: Classes,
    /// What the rule looks at of what was read before: an approval after one set was read says
    /// nothing of another.
    taint: Classes,
    /// Of what is run: another command line is another question.
    argv: Option<Digest>,
    pub(super) object: Place,
}

/// An object without what differs between two tries at the same thing: the socket's cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Address(Transport, SocketAddr),
    File {
        dev: u32,
        ino: u64,
        generation: u64,
        onto: u64,
    },
    /// The path tells names apart whose hashes are equal.
    NewFile {
        dev: u32,
        ino: u64,
        name_hash: u64,
        path: Option<String>,
    },
    Unix {
        dev: u32,
        ino: u64,
        name_hash: u64,
    },
    Privilege(Privilege),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(Transport::Tcp, to) => write!(f, "tcp://{to}"),
            Self::Address(Transport::Udp, to) => write!(f, "udp://{to}"),
            Self::File { dev, ino, .. } => write!(f, "inode {ino} on device {dev:#x}"),
            Self::NewFile {
                path: Some(path), ..
            } => f.write_str(path),
            Self::NewFile { dev, ino, .. } => {
                write!(f, "new file in inode {ino} on device {dev:#x}")
            }
            Self::Unix {
                dev,
                ino,
                name_hash,
            } => write!(
                f,
                "unix socket {name_hash:016x} in inode {ino} on device {dev:#x}"
            ),
            Self::Privilege(privilege) => privilege.fmt(f),
        }
    }
}

impl Key {
    pub(super) fn new(policy: u64, request: &Request, reason: &Reason) -> Self {
        let object = match &request.object {
            Object::Socket { transport, to, .. } => Place::Address(*transport, *to),
            &Object::File {
                dev,
                ino,
                generation,
                onto,
                ..
            } => Place::File {
                dev,
                ino,
                generation,
                onto,
            },
            Object::NewFile {
                dev,
                ino,
                name_hash,
                path,
            } => Place::NewFile {
                dev: *dev,
                ino: *ino,
                name_hash: *name_hash,
                path: path.clone(),
            },
            &Object::Unix {
                dev,
                ino,
                name_hash,
            } => Place::Unix {
                dev,
                ino,
                name_hash,
            },
            &Object::Privilege(privilege) => Place::Privilege(privilege),
        };
        Self {
            policy,
            agent: request.agent,
            rule: reason.rule.clone(),
            actions: request.actions,
            classes: request.classes,
            taint: reason.taint,
            argv: request.exec.as_ref().map(|exec| exec.argv_sha256),
            object,
        }
    }
}

/// The cookie of the object's socket. None for everything else, which is asked about every time,
/// and for a socket the kernel gave none: nothing tells it from another.
pub(super) fn cookie(object: &Object) -> Option<u64> {
    match object {
        &Object::Socket { cookie, .. } if cookie != 0 => Some(cookie),
        _ => None,
    }
}
