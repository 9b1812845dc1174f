//! The host's ledger at the gateway, which is its witness: who owns which ledger, and how much of it
//! the witness has seen. Checkpoints themselves go by C2SP tlog-witness, as text.
//!
//! Keys and checkpoints are texts here (C2SP signed-note); the ledger crate reads them.
use serde::{Deserialize, Serialize};

use crate::dsse::Payload;
use crate::ids::{HostId, Nonce, UnixMs};

/// `PUT /v1/log`: this is my ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogClaim {
    pub v: u32,
    pub host_id: HostId,
    /// Repeated in the answer, so that no old answer passes for a new one.
    pub nonce: Nonce,
    pub at: UnixMs,
    /// The ledger's identity key, `name+id+base64`.
    pub key: String,
    /// The latest checkpoint, signed by that key: whoever claims a ledger can write it.
    pub checkpoint: String,
}

impl Payload for LogClaim {
    const TYPE: &'static str = "application/vnd.syshold.log-claim.v1+json";
}

/// 200: what the gateway has seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogState {
    pub v: u32,
    pub host_id: HostId,
    pub nonce: Nonce,
    /// The last checkpoint that it cosigned, with both signatures; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
}

impl Payload for LogState {
    const TYPE: &'static str = "application/vnd.syshold.log-state.v1+json";
}
