//! The client of the remote approver: enrolment, questions, answers, outcomes.
//!
//! Everything here is about getting bytes to the gateway and back. Whether an answer counts is
//! `syshold_protocol::accept`'s to say, called by the driver: nothing in this module ever
//! reads a verdict, so nothing in it can turn a bad answer into an approval.
mod backoff;
pub mod client;
pub mod enrol;
pub mod gateway;
pub mod http;
mod log;
mod question;
mod revocations;
mod wire;

pub use client::{Approver, Event};
pub use gateway::Gateway;
pub use http::Cause;
pub use log::{Log, Told};
pub use revocations::Heard;
