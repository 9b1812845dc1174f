//! The client of the gateway over real TLS: with the real gateway, and with ones that break,
//! stall and lie. Whatever they send, it never becomes more than bytes for `accept`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod anchor;
mod enrolment;
mod lying;
mod real;
mod revoked;
mod scripted;

use std::collections::HashSet;
use std::time::Duration;

use syshold_agent::approver::{Event, Gateway};
use syshold_protocol::{
    Accepted, Assurance, DecisionId, Digest, HostId, Nonce, Outstanding, Refusal, Request,
    RequestId, UnixMs, accept,
};
use tokio::sync::mpsc;
use uuid::Uuid;

fn now() -> UnixMs {
    std::time::SystemTime::now().into()
}

/// A fresh request that holds for so long.
fn request(host_id: &HostId, hold: Duration) -> Request {
    let mut request: Request = serde_json::from_str(include_str!("request.json")).unwrap();
    request.request_id = RequestId(Uuid::now_v7());
    request.nonce = Nonce(*Uuid::new_v4().as_bytes());
    request.host_id = host_id.clone();
    request.created_at = now();
    request.hold_until = now().plus(u64::try_from(hold.as_millis()).unwrap());
    request
}

/// What the driver does with an answer.
fn judge(
    envelope: &[u8],
    request: &Request,
    sha256: Digest,
    gateway: &Gateway,
) -> Result<Accepted, Refusal> {
    let outstanding = Outstanding {
        request: request.clone(),
        request_sha256: sha256,
        allowed_scopes: request.allowed_scopes.clone(),
        max_ttl_s: request.max_ttl_s,
        quorum: request.quorum,
        owner: request.agent.owner.clone(),
        launched_by: request.agent.launched_by.clone(),
        assurance: Assurance::Token,
        passkeys: Vec::new(),
    };
    let used = HashSet::<DecisionId>::new();
    accept(
        envelope,
        &outstanding,
        &gateway.gateway_keys,
        now(),
        &|id| used.contains(id),
    )
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .unwrap()
        .unwrap()
}
