//! The policy's answer to a request. Pure: no clock, socket, file or lock.
//!
//! First match wins; where an object has several data classes, or a syscall several actions,
//! the strictest answer counts (deny over ask over allow).
use std::time::Duration;

use syshold_protocol::decision::Scope;

/// What the policy says.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Allow(Reason),
    Deny(Reason),
    Ask(Reason, Terms),
}

/// Which rule answered, for the ledger and the approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The rule's name, or "default" / "built-in".
    pub rule: String,
    /// One sentence for people.
    pub why: String,
}

/// How an ask rule wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Approver group; None: the gateway's default.
    pub approvers: Option<String>,
    pub scopes: Vec<Scope>,
    /// Distinct people who must approve.
    pub quorum: u32,
    /// How long the syscall is held.
    pub hold: Duration,
    pub on_timeout: Fallback,
    pub on_unreachable: Fallback,
}

/// What happens to a hold that nobody decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Deny,
    Allow,
}
