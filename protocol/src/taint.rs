//! What a process has read before it asks for something.
use serde::{Deserialize, Serialize};

use crate::ids::{RequestId, Subject, UnixMs};
use crate::request::MAX_ITEMS;

/// The most readings in a request: enough to judge by, and it still fits into an envelope.
pub const MAX_READS: usize = 16;

/// What the process, its ancestors or its agent have read. The kernel marks processes by class;
/// the readings explain the marks as far as the host's daemon remembers them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    pub classes: Vec<String>,
    /// Oldest first.
    pub readings: Vec<Reading>,
    /// Readings that are left out.
    pub more: u32,
}

/// One file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub what: String,
    pub classes: Vec<String>,
    pub pid: u32,
    /// The short name of the process.
    pub program: String,
    pub at: UnixMs,
    /// The rule that allowed it or had it asked; absent: a rule that the kernel applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The request in which people approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<Subject>,
}

impl Taint {
    /// Within its bounds, and about something.
    pub(crate) fn is_sound(&self) -> bool {
        let short = |reading: &Reading| {
            reading.classes.len() <= MAX_ITEMS && reading.approved_by.len() <= MAX_ITEMS
        };
        (1..=MAX_ITEMS).contains(&self.classes.len())
            && self.readings.len() <= MAX_READS
            && self.readings.iter().all(short)
    }
}
