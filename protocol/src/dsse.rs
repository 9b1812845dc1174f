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
    let signed = pae(T::TYPE, &payload);
    let keyid = envelope.verify(&signed, keys)?;
    let value = serde_json::from_slice(&payload).map_err(DsseError::Payload)?;
    Ok(Opened {
        value,
        payload_sha256: Digest::of(&payload),
        keyid,
    })
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
mod tests {
    use super::*;
    use crate::request::tests::sample;

    fn seed(byte: u8) -> SigningKey {
        SigningKey::from_seed(&Zeroizing::new([byte; 32]))
    }

    /// The vector of the DSSE specification (protocol.md).
    #[test]
    fn published_pae_vector() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(
            pae("", b""),
            b"DSSEv1 0  0 ",
            "lengths are of bytes, also of none"
        );
    }

    /// RFC 8032, section 7.1, test 1: the signature itself is the standard's.
    #[test]
    fn rfc8032_vector() {
        let seed: Digest = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
            .parse()
            .unwrap();
        let key = SigningKey::from_seed(&Zeroizing::new(seed.0));
        let public: Digest = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
            .parse()
            .unwrap();
        assert_eq!(key.public().to_bytes(), public.0);
        assert_eq!(key.sign(b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
    }

    #[test]
    fn seals_and_opens() {
        let sealed = seal(&sample(), &seed(1)).unwrap();
        let opened: Opened<Request> = open(&sealed.envelope, &seed(1).public().into()).unwrap();
        assert_eq!(opened.value, sample());
        assert_eq!(opened.payload_sha256, sealed.payload_sha256);
        assert_eq!(opened.keyid, seed(1).public().keyid());
    }

    #[test]
    fn another_key_another_type_or_a_flipped_bit() {
        let sealed = seal(&sample(), &seed(1)).unwrap();
        let pinned = PinnedKeys::from(seed(1).public());
        assert!(matches!(
            open::<Request>(&sealed.envelope, &seed(2).public().into()),
            Err(DsseError::NoPinnedKey)
        ));
        assert!(matches!(
            open::<Request>(&sealed.envelope, &PinnedKeys::new(vec![])),
            Err(DsseError::NoPinnedKey)
        ));
        assert!(matches!(
            open::<Outcome>(&sealed.envelope, &pinned),
            Err(DsseError::PayloadType { .. })
        ));

        let mut envelope: serde_json::Value = serde_json::from_slice(&sealed.envelope).unwrap();
        envelope["payloadType"] = Outcome::TYPE.into();
        let swapped = serde_json::to_vec(&envelope).unwrap();
        assert!(
            matches!(
                open::<Outcome>(&swapped, &pinned),
                Err(DsseError::NoPinnedKey)
            ),
            "the type is signed"
        );

        envelope["payloadType"] = Request::TYPE.into();
        envelope["extra"] = 1.into();
        envelope["signatures"][0]
            .as_object_mut()
            .unwrap()
            .remove("keyid");
        let other = envelope["signatures"][0].clone();
        envelope["signatures"] =
            serde_json::json!([{"keyid": "x", "sig": BASE64.encode([0; 64])}, other]);
        open::<Request>(&serde_json::to_vec(&envelope).unwrap(), &pinned)
            .expect("key ids are hints, extras are ignored");

        envelope["signatures"] = serde_json::json!([]);
        assert!(matches!(
            open::<Request>(&serde_json::to_vec(&envelope).unwrap(), &pinned),
            Err(DsseError::Signatures(0))
        ));
    }

    #[test]
    fn key_files_round_trip_and_say_nothing_when_wrong() {
        let key = SigningKey::generate();
        let pem = key.to_pem();
        assert_eq!(
            SigningKey::from_pem(pem.as_bytes()).unwrap().public(),
            key.public()
        );
        for bad in [
            &b""[..],
            b"garbage",
            &pem.as_bytes()[..40],
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert_eq!(SigningKey::from_pem(bad).err(), Some(KeyFileError));
        }
    }

    #[test]
    fn keys_of_small_order_cannot_be_pinned() {
        let mut one = [0; 32];
        one[0] = 1;
        assert!(PublicKey::from_bytes(&one).is_none());
        assert!(BASE64.encode(one).parse::<PublicKey>().is_err());
    }
}
