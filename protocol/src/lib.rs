//! What host and gateway say to each other, as types: no clock, no socket, no file.
//!
//! Public API, by module:
//! - [`ids`]: the small newtypes ([`RequestId`], [`Digest`], [`UnixMs`], [`Wide`], [`Subject`] …).
//! - [`request`]: [`Request`], the facts of a hold; [`Outcome`]; [`RequestState`], the 202 answer.
//! - [`decision`]: [`Decision`], [`Grant`], [`Approver`], [`Scope`].
//! - [`dsse`]: [`dsse::seal`] and [`dsse::open`], keys, and [`dsse::Payload`] for the three payload types.
//! - [`accept`](mod@accept): [`accept()`], the host's whole check of a decision.
//! - [`passkey`]: a person's own WebAuthn signature on an approval.
//! - [`revocation`]: approvals that were taken back, as a host hears of them.
//! - [`break_glass`]: an order signed by two offline keys, for when the gateway cannot be asked.
//! - [`display`]: what an approver may be shown, escaped and cut.
//! - [`problem`], [`enrol`]: the error body and the enrolment call.
//! - [`log`]: how a host's ledger is known to the gateway that witnesses it.
//!
//! Units: every time is [`UnixMs`], milliseconds since 1970 UTC; a name that ends in `_s` or `_ms`
//! is a duration. 64-bit integers that may pass 2^53 are [`Wide`], decimal strings in JSON.
//! There are no floats. Unknown fields are refused everywhere but in the DSSE envelope itself.
#![forbid(unsafe_code)]

pub mod accept;
pub mod break_glass;
pub mod canonical;
pub mod decision;
pub mod display;
pub mod dsse;
pub mod enrol;
pub mod ids;
pub mod log;
pub mod passkey;
pub mod problem;
pub mod request;
pub mod revocation;
pub mod taint;

pub use accept::{Accepted, Outstanding, Refusal, Ruling, accept};
pub use decision::{
    Approver, Assurance, Channel, Decision, DecisionVerdict, Grant, Lifespan, Scope,
};
pub use dsse::{PinnedKeys, PublicKey, SigningKey};
pub use enrol::{EnrolRequest, EnrolResponse, EnrolToken};
pub use ids::{BootId, DecisionId, Digest, HostId, Nonce, RequestId, Subject, UnixMs, Wide};
pub use log::{LogClaim, LogState};
pub use passkey::{Pin, Proof, Statement};
pub use problem::Problem;
pub use request::{
    Action, ActionKind, ActionObject, Agent, Ancestor, Data, Exec, LedgerRef, Outcome,
    OutcomeResult, PolicyRef, Process, Request, RequestPhase, RequestState, Risk,
};
pub use revocation::{Revocation, Revocations};
pub use taint::{Reading, Taint};

/// The protocol version that requests and decisions carry in `v`.
pub const VERSION: u32 = 1;
/// The largest envelope either side reads.
pub const MAX_ENVELOPE: usize = 64 * 1024;
/// How long after the hold's end an approval may still come, as a single-use grant for a retry.
pub const LATE_APPROVAL_MS: u64 = 30 * 60 * 1000;
