//! A person's own signature on an approval: a WebAuthn assertion over what was approved.
//!
//! [`Statement`] says what the person agreed to; its digest is the assertion's challenge, so the
//! signature covers the request, what was shown of it and the scope. [`Pin`] is the public key a host
//! (or years later an auditor) believes to be that person's. Nothing here trusts the gateway.
//!
//! The format is that of WebAuthn level 2 (w3.org/TR/webauthn-2, 6.1 and 7.2): signed is
//! `authenticatorData || SHA-256(clientDataJSON)`. No library is used for it: those there are choose
//! the challenge themselves, and here the challenge is the point.
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::decision::Scope;
use crate::dsse;
use crate::ids::{Digest, Nonce, ParseError};

/// The longest clientDataJSON, authenticator data and signature, in bytes.
pub const MAX_CLIENT_DATA: usize = 2048;
/// See [`MAX_CLIENT_DATA`].
pub const MAX_AUTHENTICATOR_DATA: usize = 1024;
const MAX_SIGNATURE: usize = 256;

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

/// What a person agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`crate::VERSION`].
    pub v: u32,
    /// Of the request's payload bytes: it holds the host, the process, the object and a nonce.
    pub request_sha256: Digest,
    /// Of what the person was shown.
    pub rendered_sha256: Digest,
    /// The widest grant the person agreed to.
    pub scope: Scope,
    /// The gateway's own, used once.
    pub nonce: Nonce,
}

impl Statement {
    /// What the challenge is the digest of: DSSE's encoding, so that it is nothing else's digest.
    pub const TYPE: &'static str = "application/vnd.syshold.approval.v1+json";

    /// The challenge to be signed.
    pub fn challenge(&self) -> Result<Digest, CanonicalError> {
        let payload = canonical::to_vec(self)?;
        Ok(Digest::of(&dsse::pae(Self::TYPE, &payload)))
    }
}

/// What travels with an approver in a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    pub scope: Scope,
    pub nonce: Nonce,
    /// Which of the person's keys; counts only where it is pinned.
    pub key: Pin,
    pub assertion: Assertion,
}

/// What `navigator.credentials.get` gave, as base64url without padding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    pub authenticator_data: Bytes,
    pub client_data_json: Bytes,
    pub signature: Bytes,
}

/// A public key and the site it belongs to: `es256:approver.example.com:BASE64URL`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin {
    rp_id: String,
    key: Key,
}

/// The algorithms that authenticators have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// ECDSA on P-256 with SHA-256: the point, uncompressed, without its leading 4.
    Es256([u8; 64]),
    Ed25519([u8; 32]),
}

/// Why an assertion or a registration does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasskeyError {
    #[error("its client data does not parse")]
    ClientData,
    #[error("it was made to {0}")]
    Purpose(&'static str),
    #[error("it signs something else")]
    Challenge,
    #[error("it was made on another site")]
    Origin,
    #[error("it was made inside a frame of another site")]
    CrossOrigin,
    #[error("its authenticator data does not parse")]
    AuthenticatorData,
    #[error("it belongs to another site")]
    OtherSite,
    #[error("nobody was there, or the person was not verified (PIN, finger, face)")]
    NotVerified,
    #[error("it is not signed by that key")]
    Signature,
    #[error("its key is of a kind that is not supported (ES256 and Ed25519 are)")]
    Algorithm,
}

impl Pin {
    /// The site, as WebAuthn names it: a domain.
    pub fn rp_id(&self) -> &str {
        &self.rp_id
    }

    /// SubjectPublicKeyInfo (RFC 5280) in DER: what `openssl pkey -pubin -inform DER` reads.
    pub fn to_spki(&self) -> Vec<u8> {
        match &self.key {
            Key::Es256(point) => [P256_SPKI, point].concat(),
            Key::Ed25519(key) => [ED25519_SPKI, key].concat(),
        }
    }

    /// Whether this key signed exactly `challenge`, on its own site, with the person verified. Gives
    /// the authenticator's signature counter, 0 where it has none.
    pub fn verify(&self, assertion: &Assertion, challenge: &[u8]) -> Result<u32, PasskeyError> {
        let client = &assertion.client_data_json;
        check_client_data(&client.0, "webauthn.get", challenge, &self.rp_id)?;
        let data = AuthenticatorData::parse(&assertion.authenticator_data.0, &self.rp_id)?;
        let Digest(client_hash) = Digest::of(&client.0);
        let signed = [assertion.authenticator_data.0.as_slice(), &client_hash].concat();
        if assertion.signature.0.len() > MAX_SIGNATURE {
            return Err(PasskeyError::Signature);
        }
        self.key.verify(&signed, &assertion.signature.0)?;
        Ok(data.counter)
    }
}

impl Key {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), PasskeyError> {
        let good = match self {
            Self::Es256(point) => {
                let algorithm = &ring::signature::ECDSA_P256_SHA256_ASN1;
                let point = [&[4_u8], point.as_slice()].concat();
                ring::signature::UnparsedPublicKey::new(algorithm, point)
                    .verify(signed, signature)
                    .is_ok()
            }
            Self::Ed25519(key) => VerifyingKey::from_bytes(key)
                .ok()
                .zip(Signature::from_slice(signature).ok())
                .is_some_and(|(key, signature)| key.verify_strict(signed, &signature).is_ok()),
        };
        good.then_some(()).ok_or(PasskeyError::Signature)
    }
}

/// A new key, as its authenticator reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub credential_id: Vec<u8>,
    pub pin: Pin,
    pub counter: u32,
}

/// Reads what `navigator.credentials.create` gave. Attestation is not asked for: who may register a
/// key at all is the gateway's business, and whose key it is the host's own policy says.
pub fn register(
    authenticator_data: &[u8],
    client_data_json: &[u8],
    challenge: &[u8],
    rp_id: &str,
) -> Result<Registered, PasskeyError> {
    check_client_data(client_data_json, "webauthn.create", challenge, rp_id)?;
    let data = AuthenticatorData::parse(authenticator_data, rp_id)?;
    let (credential_id, key) = data.attested().ok_or(PasskeyError::AuthenticatorData)?;
    let key = Key::from_cose(key)?;
    Ok(Registered {
        credential_id: credential_id.to_vec(),
        pin: Pin {
            rp_id: rp_id.to_owned(),
            key,
        },
        counter: data.counter,
    })
}

/// The fixed head of authenticator data (WebAuthn 6.1), checked.
struct AuthenticatorData<'a> {
    counter: u32,
    flags: u8,
    rest: &'a [u8],
}

impl<'a> AuthenticatorData<'a> {
    fn parse(bytes: &'a [u8], rp_id: &str) -> Result<Self, PasskeyError> {
        if bytes.len() > MAX_AUTHENTICATOR_DATA {
            return Err(PasskeyError::AuthenticatorData);
        }
        let (head, rest) = bytes
            .split_first_chunk::<37>()
            .ok_or(PasskeyError::AuthenticatorData)?;
        let (site, flags) = (&head[..32], head[32]);
        if site != Digest::of(rp_id.as_bytes()).0 {
            return Err(PasskeyError::OtherSite);
        }
        if flags & (USER_PRESENT | USER_VERIFIED) != USER_PRESENT | USER_VERIFIED {
            return Err(PasskeyError::NotVerified);
        }
        let counter = u32::from_be_bytes([head[33], head[34], head[35], head[36]]);
        Ok(Self {
            counter,
            flags,
            rest,
        })
    }

    /// The credential's id, and its key with whatever follows.
    fn attested(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.flags & ATTESTED == 0 {
            return None;
        }
        let (_aaguid, rest) = self.rest.split_at_checked(16)?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (id, key) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        (!id.is_empty()).then_some((id, key))
    }
}

impl Key {
    /// CTAP2 demands canonical CBOR, so a key has one spelling and is read by it.
    fn from_cose(bytes: &[u8]) -> Result<Self, PasskeyError> {
        const ES256: &[u8] = &[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32];
        const Y: &[u8] = &[0x22, 0x58, 32];
        const ED25519: &[u8] = &[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, 32];
        if let Some(rest) = bytes.strip_prefix(ES256) {
            let point = rest.split_first_chunk::<32>().and_then(|(x, rest)| {
                let (y, _) = rest.strip_prefix(Y)?.split_first_chunk::<32>()?;
                let mut point = [0; 64];
                point[..32].copy_from_slice(x);
                point[32..].copy_from_slice(y);
                Some(Self::Es256(point))
            });
            return point.ok_or(PasskeyError::Algorithm);
        }
        let key = bytes.strip_prefix(ED25519);
        key.and_then(|rest| rest.first_chunk::<32>())
            .filter(|key| VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak()))
            .map(|key| Self::Ed25519(*key))
            .ok_or(PasskeyError::Algorithm)
    }
}

/// WebAuthn 5.8.1; fields beyond these may come, as the standard says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientData {
    #[serde(rename = "type")]
    purpose: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
}

fn check_client_data(
    bytes: &[u8],
    purpose: &'static str,
    challenge: &[u8],
    rp_id: &str,
) -> Result<(), PasskeyError> {
    if bytes.len() > MAX_CLIENT_DATA {
        return Err(PasskeyError::ClientData);
    }
    let client: ClientData = serde_json::from_slice(bytes).map_err(|_| PasskeyError::ClientData)?;
    if client.purpose != purpose {
        return Err(PasskeyError::Purpose(match client.purpose.as_str() {
            "webauthn.get" => "sign in or approve, not to register a key",
            "webauthn.create" => "register a key, not to sign",
            _ => "do something else",
        }));
    }
    if challenge.is_empty() || BASE64URL.decode(client.challenge).ok().as_deref() != Some(challenge)
    {
        return Err(PasskeyError::Challenge);
    }
    if client.cross_origin {
        return Err(PasskeyError::CrossOrigin);
    }
    if origin_belongs(&client.origin, rp_id) {
        Ok(())
    } else {
        Err(PasskeyError::Origin)
    }
}

/// `https://` and the site itself, at any port.
fn origin_belongs(origin: &str, rp_id: &str) -> bool {
    let Some(rest) = origin.strip_prefix("https://") else {
        return false;
    };
    let (host, port) = rest.split_once(':').unwrap_or((rest, "443"));
    host == rp_id && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// A domain in lower case, as browsers write it; never an address.
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text
            .split('.')
            .next_back()
            .is_some_and(|last| last.bytes().any(|b| b.is_ascii_lowercase()))
}

const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const ED25519_SPKI: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl FromStr for Pin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || {
            let expected = "a passkey such as es256:approver.example.com:BASE64 (`syshold-approver passkeys list` prints them)";
            ParseError::new(expected, text)
        };
        let mut parts = text.splitn(3, ':');
        let (Some(kind), Some(rp_id), Some(key)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let bytes = BASE64URL.decode(key).map_err(|_| wrong())?;
        let key = match kind {
            "es256" => bytes.try_into().ok().map(Key::Es256),
            "ed25519" => bytes
                .try_into()
                .ok()
                .filter(|key| VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak()))
                .map(Key::Ed25519),
            _ => None,
        };
        let key = key.filter(|_| is_domain(rp_id)).ok_or_else(wrong)?;
        Ok(Self {
            rp_id: rp_id.to_owned(),
            key,
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, key) = match &self.key {
            Key::Es256(point) => ("es256", point.as_slice()),
            Key::Ed25519(key) => ("ed25519", key.as_slice()),
        };
        write!(f, "{kind}:{}:{}", self.rp_id, BASE64URL.encode(key))
    }
}

impl TryFrom<String> for Pin {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// Bytes that are base64url without padding in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        BASE64URL
            .decode(&text)
            .map(Self)
            .map_err(|_| ParseError::new("base64url without padding", &text))
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        BASE64URL.encode(bytes.0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
