//! Enrolment: a host shows a single-use token, the gateway gives it a name and its keys.
//!
//! The token also carries the digest of the gateway's CA certificate, so that the very first TLS
//! connection is pinned: `shenrol_<base64url of 32 random bytes>.<hex sha256 of the CA's DER>`.
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::dsse::PublicKey;
use crate::ids::{Digest, HostId};

/// `POST /v1/enrol`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "holds the token")]
pub struct EnrolRequest {
    pub token: EnrolToken,
    pub public_key: PublicKey,
    pub host_name: String,
}

/// 201.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolResponse {
    pub host_id: HostId,
    /// The CA to trust from now on, and no other.
    pub ca_pem: String,
    /// The keys whose decisions count.
    pub gateway_keys: Vec<PublicKey>,
    /// The key that cosigns the host's ledger, `name+id+base64` (C2SP signed-note).
    pub witness: String,
}

/// A single-use token, wiped when dropped.
#[derive(Clone)]
#[expect(
    missing_debug_implementations,
    reason = "a secret must not be printable"
)]
pub struct EnrolToken {
    secret: Zeroizing<[u8; 32]>,
    ca_sha256: Digest,
}

const PREFIX: &str = "shenrol_";

impl EnrolToken {
    /// A new token for a gateway with this CA.
    pub fn generate(ca_sha256: Digest) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *secret);
        Self { secret, ca_sha256 }
    }

    /// SHA-256 of the CA certificate's DER: what the first connection must present.
    pub fn ca_sha256(&self) -> Digest {
        self.ca_sha256
    }

    /// What the gateway stores in place of the token.
    pub fn lookup(&self) -> Digest {
        Digest::of(&*self.secret)
    }

    /// The token as text, to hand to the person who enrols a host.
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        Zeroizing::new(format!("{PREFIX}{}.{}", *secret, self.ca_sha256))
    }
}

/// A text that is no token. It is not repeated: it may be one with a slip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token (shenrol_….…); make one with `syshold-approver enrol`")]
pub struct TokenError;

impl FromStr for EnrolToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (secret, ca) = text
            .trim()
            .strip_prefix(PREFIX)
            .and_then(|t| t.split_once('.'))
            .ok_or(TokenError)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError)?);
        let secret: [u8; 32] = bytes.as_slice().try_into().map_err(|_| TokenError)?;
        Ok(Self {
            secret: Zeroizing::new(secret),
            ca_sha256: ca.parse().map_err(|_| TokenError)?,
        })
    }
}

impl Serialize for EnrolToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for EnrolToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsse::SigningKey;

    #[test]
    fn tokens_round_trip() {
        let token = EnrolToken::generate(Digest::of(b"ca"));
        let text = token.reveal();
        assert!(
            text.starts_with("shenrol_") && text.len() == 8 + 43 + 1 + 64,
            "{}",
            text.len()
        );
        let back: EnrolToken = format!(" {}\n", *text).parse().unwrap();
        assert_eq!(
            (back.lookup(), back.ca_sha256()),
            (token.lookup(), Digest::of(b"ca"))
        );
        for bad in [
            "",
            "shenrol_",
            "shenrol_AA.bb",
            &text[8..],
            &text[..100],
            &text.replace('.', ""),
        ] {
            let error = bad.parse::<EnrolToken>().err().expect("must not parse");
            assert!(!error.to_string().contains(&text[8..51]));
        }
    }

    #[test]
    fn the_call_round_trips() {
        let request = EnrolRequest {
            token: EnrolToken::generate(Digest::of(b"ca")),
            public_key: SigningKey::generate().public(),
            host_name: "web-1".to_owned(),
        };
        let json = serde_json::to_string(&request).unwrap();
        let back: EnrolRequest = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (back.token.lookup(), back.public_key),
            (request.token.lookup(), request.public_key)
        );
    }
}
