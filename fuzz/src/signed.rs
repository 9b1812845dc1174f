//! What is signed: decisions, revocations, orders, passkeys. The signatures are good; nothing else
//! need be.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use syshold_protocol::decision::{Approver, Assurance, Decision, DecisionVerdict, Grant, Scope};
use syshold_protocol::dsse::{self, Payload};
use syshold_protocol::ids::{DecisionId, Digest, HostId, Subject, UnixMs};
use syshold_protocol::revocation::Revocations;
use syshold_protocol::{
    Outstanding, PublicKey, Request, Ruling, accept, break_glass, passkey, revocation,
};

const NOW: UnixMs = UnixMs::new(1_700_000_020_000);
const OWNER: &str = "alice@example.com";
const LAUNCHER: &str = "carol@example.com";
const RP: &str = "approver.example.com";
const CHALLENGE: [u8; 32] = [5; 32];

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn public(byte: u8) -> PublicKey {
    PublicKey::from_bytes(key(byte).verifying_key().as_bytes()).expect("a key of full order")
}

/// A DSSE envelope whose signatures hold, whatever the payload is.
fn envelope<T: Payload>(payload: &[u8], keys: &[u8]) -> Vec<u8> {
    let signed = dsse::pae(T::TYPE, payload);
    let signatures: Vec<Value> = keys
        .iter()
        .map(|&byte| {
            let signature = key(byte).sign(&signed).to_bytes();
            json!({"keyid": public(byte).keyid().to_string(), "sig": BASE64.encode(signature)})
        })
        .collect();
    json!({"payloadType": T::TYPE, "payload": BASE64.encode(payload), "signatures": signatures})
        .to_string()
        .into_bytes()
}

fn subject(text: &str) -> Subject {
    text.parse().expect("a subject")
}

/// The gateway's own fixture.
pub(crate) fn sample() -> Request {
    let text = include_str!("../../approver/tests/gateway/request.json");
    serde_json::from_str(text).expect("a request")
}

fn outstanding() -> Outstanding {
    let request = sample();
    let bytes = serde_json::to_vec(&request).unwrap_or_default();
    Outstanding {
        request_sha256: Digest::of(&bytes),
        allowed_scopes: request.allowed_scopes.clone(),
        max_ttl_s: request.max_ttl_s,
        quorum: 1,
        owner: request.agent.owner.clone(),
        launched_by: request.agent.launched_by.clone(),
        assurance: Assurance::Token,
        passkeys: Vec::new(),
        request,
    }
}

/// An approval never comes from whom it is about, nor reaches further than was asked.
pub(crate) fn decision(data: &[u8]) {
    let asked = outstanding();
    let envelope = envelope::<Decision>(data, &[1]);
    let Ok(accepted) = accept(&envelope, &asked, &public(1).into(), NOW, &|_| false) else {
        return;
    };
    let told = &accepted.decision;
    assert_eq!(told.request_id, asked.request.request_id);
    assert_eq!(told.request_sha256, asked.request_sha256);
    assert_eq!(told.nonce, asked.request.nonce);
    let Ruling::Allow(allowance) = accepted.ruling else {
        return;
    };
    assert!(told.verdict.approves());
    let own = [OWNER, LAUNCHER].map(subject);
    assert!(
        told.approvers
            .iter()
            .any(|approver| !own.contains(&approver.subject))
    );
    assert!(
        allowance
            .objects
            .iter()
            .all(|object| *object == asked.request.action.object)
    );
    assert!(allowance.ttl_ms <= syshold_protocol::LATE_APPROVAL_MS);
}

pub(crate) fn decisions() -> Vec<Vec<u8>> {
    ["once", "process", "10m"]
        .map(approval)
        .into_iter()
        .chain([denial()])
        .collect()
}

fn approval(scope: &str) -> Vec<u8> {
    let scope: Scope = scope.parse().expect("a scope");
    let asked = outstanding();
    let issued_at = UnixMs::new(1_700_000_019_000);
    let object = asked.request.action.object.clone();
    let grant = scope.grant(vec![object], issued_at, asked.request.waiting);
    made(&asked, DecisionVerdict::Approve, Some(grant))
}

fn denial() -> Vec<u8> {
    made(&outstanding(), DecisionVerdict::Deny, None)
}

fn person(name: &str) -> Approver {
    serde_json::from_value(json!({
        "subject": name, "channel": "cli", "assurance": "token", "at": 1_700_000_018_000_u64,
        "reason": "looks right"
    }))
    .expect("an approver")
}

fn made(asked: &Outstanding, verdict: DecisionVerdict, grant: Option<Grant>) -> Vec<u8> {
    let request = &asked.request;
    let decision = Decision {
        v: 1,
        decision_id: "01938d5e-7000-7000-8000-000000000001"
            .parse()
            .expect("an id"),
        request_id: request.request_id,
        request_sha256: asked.request_sha256,
        host_id: request.host_id.clone(),
        nonce: request.nonce,
        verdict,
        grant,
        approvers: vec![person("dave@example.com")],
        policy_sha256: request.policy.sha256,
        rendered_sha256: Some(Digest::of(b"shown")),
        issued_at: UnixMs::new(1_700_000_019_000),
        ledger: None,
    };
    serde_json::to_vec(&decision).expect("JSON")
}

fn host() -> HostId {
    "web-1".parse().expect("a host")
}

/// Numbers only grow, and no list is longer than a leaf can keep.
pub(crate) fn revocations(data: &[u8]) {
    let (host_id, keys) = (host(), public(1).into());
    let terms = revocation::Terms {
        host_id: &host_id,
        keys: &keys,
        since: 1,
    };
    let Ok(accepted) = revocation::accept(&envelope::<Revocations>(data, &[1]), &terms) else {
        return;
    };
    let numbers: Vec<u64> = accepted.entries.iter().map(|entry| entry.n).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next));
    assert!(
        numbers
            .iter()
            .all(|&n| n > terms.since && n <= accepted.since)
    );
}

pub(crate) fn lists() -> Vec<Vec<u8>> {
    let list = |entries: Vec<revocation::Revocation>| {
        let latest = 1 + entries.len() as u64;
        serde_json::to_vec(&Revocations {
            v: 1,
            host_id: host(),
            since: 1,
            entries,
            latest,
            issued_at: NOW,
        })
        .expect("JSON")
    };
    let one = revocation::Revocation {
        n: 2,
        decision_id: "01938d5e-7000-7000-8000-000000000001"
            .parse()
            .expect("an id"),
        request_id: sample().request_id,
        by: person("dave@example.com"),
    };
    vec![list(vec![]), list(vec![one])]
}

/// Two people, neither of them the agent's own, and for a bounded time.
pub(crate) fn break_glass(data: &[u8]) {
    let host_id = host();
    let people = [("bob@example.com", 2), ("dave@example.com", 3), (OWNER, 4)];
    let keys = people.map(|(name, byte)| (subject(name), public(byte)));
    let terms = break_glass::Terms {
        host_id: &host_id,
        keys: &keys,
    };
    let own = |_: &str, who: &Subject| *who == subject(OWNER);
    // The first byte says who signs: no signature at all is among them.
    let (pick, payload) = data.split_first().unwrap_or((&0, &[]));
    let signers: Vec<u8> = (2..=4).filter(|byte| pick >> (byte - 2) & 1 == 1).collect();
    let envelope = envelope::<break_glass::Order>(payload, &signers);
    let unused = |_: &DecisionId| false;
    let Ok(accepted) = break_glass::accept(&envelope, &terms, NOW, &unused, &own) else {
        return;
    };
    assert_eq!(accepted.signers.len(), 2);
    assert!(!accepted.signers.contains(&subject(OWNER)));
    assert!(accepted.ttl_ms <= break_glass::MAX_MS);
}

pub(crate) fn orders() -> Vec<Vec<u8>> {
    let order = json!({
        "v": 1, "order_id": "01938d5e-7000-7000-8000-000000000001", "host_id": "web-1",
        "agent": "support-bot", "rules": ["egress"], "reason": "the gateway is down",
        "from": 1_700_000_019_000_u64, "until": 1_700_000_919_000_u64
    });
    [3_u8, 1, 7]
        .map(|signers| [&[signers], order.to_string().as_bytes()].concat())
        .into()
}

/// Authenticator data, then client data behind two bytes with the first one's length.
pub(crate) fn passkey(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (authenticator, client) =
        rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    if let Ok(registered) = passkey::register(authenticator, client, &CHALLENGE, RP) {
        assert_eq!(registered.pin.rp_id(), RP);
        let text = registered.pin.to_string();
        assert_eq!(text.parse(), Ok(registered.pin));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _refused = text.parse::<passkey::Pin>();
    }
}

pub(crate) fn registrations() -> Vec<Vec<u8>> {
    let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(CHALLENGE);
    let client = json!({"type": "webauthn.create", "challenge": challenge, "origin": format!("https://{RP}")}).to_string();
    let Digest(site) = Digest::of(RP.as_bytes());
    // Present, verified, attested (WebAuthn 6.1); then AAGUID, the credential's id, its COSE key.
    let head = [&site[..], &[0x45, 0, 0, 0, 1], &[0; 16], &[0, 4], b"cred"].concat();
    let ed25519 = [0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, 32];
    let authenticator = [&head[..], &ed25519, key(7).verifying_key().as_bytes()].concat();
    let length = u16::try_from(authenticator.len())
        .expect("short")
        .to_be_bytes();
    vec![[&length[..], &authenticator, client.as_bytes()].concat()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that is refused at the first check would hide everything behind it.
    #[test]
    fn the_seeds_are_accepted() {
        let keys = public(1).into();
        for seed in decisions() {
            let envelope = envelope::<Decision>(&seed, &[1]);
            accept(&envelope, &outstanding(), &keys, NOW, &|_| false).unwrap();
        }
        let host_id = host();
        for seed in lists() {
            let terms = revocation::Terms {
                host_id: &host_id,
                keys: &keys,
                since: 1,
            };
            revocation::accept(&envelope::<Revocations>(&seed, &[1]), &terms).unwrap();
        }
        let (length, rest) = registrations()[0]
            .split_first_chunk::<2>()
            .map(|(l, r)| (*l, r.to_vec()))
            .unwrap();
        let (data, client) = rest.split_at(usize::from(u16::from_be_bytes(length)));
        passkey::register(data, client, &CHALLENGE, RP).unwrap();
        let people = [("bob@example.com", 2), ("dave@example.com", 3)];
        let keys = people.map(|(name, byte)| (subject(name), public(byte)));
        let terms = break_glass::Terms {
            host_id: &host_id,
            keys: &keys,
        };
        let order = envelope::<break_glass::Order>(&orders()[0][1..], &[2, 3]);
        break_glass::accept(&order, &terms, NOW, &|_| false, &|_, _| false).unwrap();
    }
}
