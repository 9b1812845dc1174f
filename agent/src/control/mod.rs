//! The local control socket: its words and its door.
//!
//! A client writes one line, a [`Call`] in JSON, and reads lines, each a [`Reply`], until
//! [`Reply::End`]; a connection that closes before that was cut short. The door knows who is
//! calling ([`Peer`], from the kernel) and passes that on with the call; whether the caller may
//! have what it asks for is the driver's to say, because only the driver knows who is governed.
mod door;
mod words;

pub use door::{Answers, Asked, Door, Error, Peer, listen};
pub use words::{
    Agent, Call, Canary, Counts, Gateway, Hold, Hook, Kernel, Lack, Ledger, Over, Parking, Policy,
    Refusal, Refused, Reply, Seen, Selftest, SelftestReport, State, Status, Witness,
};

pub const SOCKET: &str = "/run/syshold/control.sock";
/// In the state folder: why the daemon refused to start, or to go on.
pub const REFUSED: &str = "refused";
/// Members may call; without this group only root may.
pub const GROUP: &str = "syshold";
