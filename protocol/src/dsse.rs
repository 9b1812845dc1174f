//! DSSE v1 (github.com/secure-systems-lab/dsse) with Ed25519: how host and gateway sign.
//!
//! What is signed is `PAE(payload type, payload)`, so bytes signed as one type never verify as
//! another. Keys are 32 bytes; on disk a private key is an RFC 8410 PKCS#8 PEM, readable by
//! `openssl pkey`; reading and writing the file (mode 0600) is the caller's. The envelope reads
//! back with PyPI's `securesystemslib.dsse.Envelope.from_dict`; its key id is ours (see [`KeyId`]).
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE as BASE64_URL};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use rand_core::OsRng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::MAX_ENVELOPE;
use crate::canonical::{self, CanonicalError};
use crate::decision::Decision;
use crate::ids::{Digest, ParseError};
use crate::request::{Outcome, Request};

/// A type that travels in an envelope, under exactly one payload type.
pub trait Payload: Serialize + DeserializeOwned {
    /// The DSSE payload type.
    const TYPE: &'static str;
}

impl Payload for Request {
    const TYPE: &'static str = "application/vnd.syshold.request.v1+json";
}

impl Payload for Decision {
    const TYPE: &'static str = "application/vnd.syshold.decision.v1+json";
}

impl Payload for Outcome {
    const TYPE: &'static str = "application/vnd.syshold.outcome.v1+json";
}

/// A withdrawal or another call that has nothing to say but who says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub v: u32,
    pub host_id: crate::ids::HostId,
    /// Such as `DELETE`.
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    pub at: crate::ids::UnixMs,
}

impl Payload for Call {
    const TYPE: &'static str = "application/vnd.syshold.call.v1+json";
}

/// Signs the canonical bytes of `value`; gives the envelope's bytes and the payload's digest.
pub fn seal<T: Payload>(value: &T, key: &SigningKey) -> Result<Sealed, CanonicalError> {
    let payload = canonical::to_vec(value)?;
    let envelope = Envelope {
        payload_type: T::TYPE.to_owned(),
        payload: BASE64.encode(&payload),
        signatures: vec![EnvelopeSignature {
            keyid: key.public().keyid().to_string(),
            sig: BASE64.encode(key.sign(&pae(T::TYPE, &payload))),
        }],
    };
    Ok(Sealed {
        envelope: canonical::to_vec(&envelope)?,
        payload_sha256: Digest::of(&payload),
    })
}

/// What [`seal`] makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The bytes to send.
    pub envelope: Vec<u8>,
    /// For a request: the `request_sha256` that a decision must name.
    pub payload_sha256: Digest,
}

/// Reads an envelope: the size, the exact payload type, one signature by one of `keys`
/// (`verify_strict`), and only then the payload.
pub fn open<T: Payload>(bytes: &[u8], keys: &PinnedKeys) -> Result<Opened<T>, DsseError> {
    let (envelope, payload) = read::<T>(bytes)?;
    let signed = pae(T::TYPE, &payload);
    let keyid = envelope.verify(&signed, keys)?;
    let value = serde_json::from_slice(&payload).map_err(DsseError::Payload)?;
    Ok(Opened {
        value,
        payload_sha256: Digest::of(&payload),
        keyid,
    })
}

/// Adds the signature of another key over the same payload, which is not changed.
pub fn countersign<T: Payload>(bytes: &[u8], key: &SigningKey) -> Result<Vec<u8>, DsseError> {
    let (mut envelope, payload) = read::<T>(bytes)?;
    envelope.signatures.push(EnvelopeSignature {
        keyid: key.public().keyid().to_string(),
        sig: BASE64.encode(key.sign(&pae(T::TYPE, &payload))),
    });
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(DsseError::Signatures(envelope.signatures.len()));
    }
    canonical::to_vec(&envelope).map_err(|_| DsseError::Base64("payload"))
}

/// As [`open`], and gives every one of `keys` that has signed, each once.
pub fn open_all<T: Payload>(
    bytes: &[u8],
    keys: &PinnedKeys,
) -> Result<(T, Vec<PublicKey>), DsseError> {
    let (envelope, payload) = read::<T>(bytes)?;
    let signers = envelope.signers(&pae(T::TYPE, &payload), keys)?;
    if signers.is_empty() {
        return Err(DsseError::NoPinnedKey);
    }
    let value = serde_json::from_slice(&payload).map_err(DsseError::Payload)?;
    Ok((value, signers))
}

/// Reads an envelope of that type whoever signed it: for showing what is about to be signed.
pub fn peek<T: Payload>(bytes: &[u8]) -> Result<T, DsseError> {
    let (_, payload) = read::<T>(bytes)?;
    serde_json::from_slice(&payload).map_err(DsseError::Payload)
}

/// The envelope and its payload; nothing of it is believed yet.
fn read<T: Payload>(bytes: &[u8]) -> Result<(Envelope, Vec<u8>), DsseError> {
    if bytes.is_empty() {
        return Err(DsseError::Empty);
    }
    if bytes.len() > MAX_ENVELOPE {
        return Err(DsseError::TooLarge(bytes.len()));
    }
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(DsseError::Envelope)?;
    if envelope.payload_type != T::TYPE {
        return Err(DsseError::PayloadType {
            given: envelope.payload_type,
            expected: T::TYPE,
        });
    }
    let payload = decode(&envelope.payload).ok_or(DsseError::Base64("payload"))?;
    Ok((envelope, payload))
}

/// What [`open`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened<T> {
    pub value: T,
    pub payload_sha256: Digest,
    /// The pinned key that verified.
    pub keyid: KeyId,
}

/// Why an envelope was not believed.
#[derive(Debug, thiserror::Error)]
pub enum DsseError {
    #[error("the answer is empty")]
    Empty,
    #[error("{0} bytes is more than the {MAX_ENVELOPE} an envelope may have")]
    TooLarge(usize),
    #[error("not a DSSE envelope: {0}")]
    Envelope(#[source] serde_json::Error),
    #[error("payload type {given:?} where {expected:?} belongs")]
    PayloadType {
        given: String,
        expected: &'static str,
    },
    #[error("{0} is not base64")]
    Base64(&'static str),
    #[error("{0} signatures; 1 to {MAX_SIGNATURES} are allowed")]
    Signatures(usize),
    #[error("no signature by a pinned key; if the gateway's key changed, enrol this host again")]
    NoPinnedKey,
    #[error("the signed payload does not parse: {0}")]
    Payload(#[source] serde_json::Error),
}

const MAX_SIGNATURES: usize = 8;

/// Fields beyond these are ignored, as DSSE demands: nothing here is signed but the payload.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

/// `keyid` is a hint that anyone can forge, so it is never read.
#[derive(Serialize, Deserialize)]
struct EnvelopeSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

impl Envelope {
    fn verify(&self, signed: &[u8], keys: &PinnedKeys) -> Result<KeyId, DsseError> {
        if self.signatures.is_empty() || self.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::Signatures(self.signatures.len()));
        }
        for signature in &self.signatures {
            let bytes = decode(&signature.sig).ok_or(DsseError::Base64("signature"))?;
            let Ok(signature) = Signature::from_slice(&bytes) else {
                continue;
            };
            if let Some(key) = keys
                .0
                .iter()
                .find(|key| key.0.verify_strict(signed, &signature).is_ok())
            {
                return Ok(key.keyid());
            }
        }
        Err(DsseError::NoPinnedKey)
    }

    /// Every one of `keys` that has signed, each once.
    fn signers(&self, signed: &[u8], keys: &PinnedKeys) -> Result<Vec<PublicKey>, DsseError> {
        if self.signatures.is_empty() || self.signatures.len() > MAX_SIGNATURES {
            return Err(DsseError::Signatures(self.signatures.len()));
        }
        let mut given = Vec::new();
        for signature in &self.signatures {
            let bytes = decode(&signature.sig).ok_or(DsseError::Base64("signature"))?;
            given.extend(Signature::from_slice(&bytes).ok());
        }
        let mut signers = keys.0.clone();
        signers.retain(|key| {
            let by = |signature| key.0.verify_strict(signed, signature).is_ok();
            given.iter().any(by)
        });
        Ok(signers)
    }
}

/// DSSE allows both alphabets.
fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64
        .decode(text)
        .or_else(|_| BASE64_URL.decode(text))
        .ok()
}

/// DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}

/// The first 16 bytes of the SHA-256 of a public key, in hex. A hint, never a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An Ed25519 public key; base64 in JSON and in files. Keys of small order cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From the 32 bytes of RFC 8032.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes)
            .ok()
            .filter(|key| !key.is_weak())
            .map(Self)
    }

    /// The 32 bytes of RFC 8032.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// What envelopes call it.
    pub fn keyid(&self) -> KeyId {
        let Digest(digest) = Digest::of(self.0.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        KeyId(id)
    }
}

impl FromStr for PublicKey {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("an Ed25519 public key (base64 of 32 bytes)", text);
        let bytes: [u8; 32] = BASE64
            .decode(text)
            .ok()
            .and_then(|b| b.try_into().ok())
            .ok_or_else(wrong)?;
        Self::from_bytes(&bytes).ok_or_else(wrong)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.as_bytes()))
    }
}

/// The keys one side believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinnedKeys(Vec<PublicKey>);

impl PinnedKeys {
    /// Believes each of `keys`; none at all believes nobody.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// The keys.
    pub fn as_slice(&self) -> &[PublicKey] {
        &self.0
    }
}

impl From<PublicKey> for PinnedKeys {
    fn from(key: PublicKey) -> Self {
        Self(vec![key])
    }
}

/// An Ed25519 private key, wiped when dropped.
#[derive(Clone)]
#[expect(
    missing_debug_implementations,
    reason = "a secret must not be printable"
)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// What every PKCS#8 v1 Ed25519 private key starts with (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

impl SigningKey {
    /// A new key from the kernel's random numbers.
    pub fn generate() -> Self {
        Self(ed25519_dalek::SigningKey::generate(&mut OsRng))
    }

    /// From the seed of RFC 8032.
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads the content of a key file that [`Self::to_pem`] (or `openssl genpkey -algorithm
    /// ed25519`) wrote.
    pub fn from_pem(file: &[u8]) -> Result<Self, KeyFileError> {
        let text = std::str::from_utf8(file).map_err(|_| KeyFileError)?;
        let body = text
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END));
        let der = Zeroizing::new(
            BASE64
                .decode(body.ok_or(KeyFileError)?.trim())
                .map_err(|_| KeyFileError)?,
        );
        let seed: [u8; 32] = der
            .strip_prefix(&PKCS8_PREFIX)
            .and_then(|seed| seed.try_into().ok())
            .ok_or(KeyFileError)?;
        Ok(Self::from_seed(&Zeroizing::new(seed)))
    }

    /// The content of a key file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut der = Zeroizing::new(Vec::with_capacity(48));
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(self.0.as_bytes());
        let body = Zeroizing::new(BASE64.encode(&*der));
        Zeroizing::new(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", *body))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// A file that holds no private key. Its content is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS#8 PEM; restore the file, or remove it and enrol again")]
pub struct KeyFileError;

#[cfg(test)]
mod tests;
