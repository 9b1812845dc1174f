//! The ledger: what was decided, durably, before it takes effect, chained so that the past cannot
//! change unseen. Shared by host and gateway.
//!
//! Public API:
//! - [`Ledger::open`] (one writer a file), [`Ledger::append`] a [`Draft`] → [`Pending`], which gives
//!   [`Committed`] only after `COMMIT` has returned: `.await` it, or [`Pending::wait`] outside async.
//!   [`Ledger::health`] is a `watch` of [`Health`]. Dropping the last clone drains the queue.
//! - [`Draft`] and its sections ([`leaf`]): `Draft::new(Kind::Decision).request(id).agent(&…)
//!   .decision(&…)`; anything else with [`Draft::field`].
//! - [`Reader`]: tail, show, scan with a [`Filter`], follow. [`verify`](fn@verify): a [`Report`].
//! - [`cli`]: `syshold ledger tail|show|verify`, to mount as a subcommand: [`cli::LedgerArgs`] and
//!   [`cli::run`].
//!
//! Invariants: the bytes stored are the bytes hashed; a leaf that was acknowledged is on disk; the
//! columns that are queried are computed from the hashed body; after a failed write every draft of
//! the batch fails, and nothing is written again until the file was closed, reopened and checked.
//!
//! A policy named by a leaf (`policy.sha256`) must have its own `policy` leaf before it, a human
//! decision its `request` leaf, an outcome in which the syscall went on its `decision` leaf:
//! `verify` says so otherwise.
#![forbid(unsafe_code)]

mod ballast;
mod canonical;
mod chain;
pub mod cli;
mod clock;
pub mod controls;
pub mod evidence;
mod handle;
mod keys;
pub mod leaf;
pub mod note;
pub mod ocsf;
mod prove;
pub mod prune;
pub mod query;
mod reader;
pub mod record;
pub mod render;
pub mod report;
mod store;
pub mod tree;
mod verify;
pub mod witness;
mod writer;

pub use chain::{Code, Finding};
pub use clock::{ClockSource, ClockState};
pub use handle::{
    AppendError, Committed, Health, HostName, HostNameError, Ledger, Options, Pending, Published,
};
pub use keys::KeysError;
pub use leaf::{Draft, DraftError, Kind};
pub use prove::ProveError;
pub use reader::{Filter, Leaf, ReadError, Reader};
pub use store::OpenError;
pub use tree::{TreeHash, leaf_hash};
pub use verify::{Cosigned, Exit, Report, Trust, verify, verify_with};
pub use writer::{Redaction, UpkeepError};

/// The version that leaves carry in `v`.
pub const LEAF_VERSION: u32 = 1;
/// The longest leaf, in bytes (the limit of tlog-tiles entries).
pub const MAX_LEAF: usize = 65_535;
/// Where a host keeps its ledger.
pub const DEFAULT_PATH: &str = "/var/lib/syshold/ledger.db";
