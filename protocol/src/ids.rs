//! Small newtypes: identifiers, digests, times and wide integers, each with one textual form.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The largest integer that every JSON reader keeps exact.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A text that is not a value of the type it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct ParseError {
    /// What a good value looks like.
    pub expected: &'static str,
    /// What was given, shortened.
    pub given: String,
}

impl ParseError {
    pub(crate) fn new(expected: &'static str, given: &str) -> Self {
        Self {
            expected,
            given: given.chars().take(80).collect(),
        }
    }
}

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                Uuid::try_parse(text).map(Self).map_err(|_| ParseError::new("a UUID", text))
            }
        }
    };
}

uuid_newtype!(
    /// Names one request, chosen by the host (UUIDv7). The ledger uses the same id.
    RequestId
);
uuid_newtype!(
    /// Names one decision, chosen by the gateway (UUIDv7); a host takes each at most once.
    DecisionId
);
uuid_newtype!(
    /// The kernel's boot id.
    BootId
);

/// The name the gateway gave a host when it enrolled: 1 to 64 of `A-Za-z0-9._-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

impl HostId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new("a host id (1 to 64 of A-Za-z0-9._-)", text))
        }
    }
}

impl TryFrom<String> for HostId {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<HostId> for String {
    fn from(id: HostId) -> Self {
        id.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident, $len:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let mut bytes = [0; $len];
                decode_hex(text, &mut bytes).ok_or_else(|| ParseError::new($expected, text))?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

hex_newtype!(
    /// A SHA-256 digest, 64 lower-case hex digits.
    Digest, 32, "a SHA-256 digest (64 lower-case hex digits)"
);
hex_newtype!(
    /// 128 random bits that tie a decision to one request, 32 lower-case hex digits.
    Nonce, 16, "a nonce (32 lower-case hex digits)"
);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// One form only: lower case, exact length.
fn decode_hex(text: &str, out: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return None;
    }
    for (slot, [high, low]) in out.iter_mut().zip(pairs) {
        *slot = digit(*high)? << 4 | digit(*low)?;
    }
    Some(())
}

/// Milliseconds since 1970 UTC; an integer in JSON, never above 2^53 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct UnixMs(u64);

impl UnixMs {
    /// `ms` since 1970 UTC; what lies beyond the year 287396 is cut to it.
    pub const fn new(ms: u64) -> Self {
        Self(if ms > MAX_SAFE_INTEGER {
            MAX_SAFE_INTEGER
        } else {
            ms
        })
    }

    /// The integer.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// This time and `ms` more.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self::new(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; 0 when it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<std::time::SystemTime> for UnixMs {
    fn from(time: std::time::SystemTime) -> Self {
        let since = time
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self::new(u64::try_from(since.as_millis()).unwrap_or(MAX_SAFE_INTEGER))
    }
}

impl TryFrom<u64> for UnixMs {
    type Error = ParseError;
    fn try_from(ms: u64) -> Result<Self, ParseError> {
        if ms <= MAX_SAFE_INTEGER {
            Ok(Self(ms))
        } else {
            Err(ParseError::new(
                "a time in milliseconds below 2^53",
                &ms.to_string(),
            ))
        }
    }
}

impl From<UnixMs> for u64 {
    fn from(time: UnixMs) -> Self {
        time.0
    }
}

/// RFC 3339 in UTC with milliseconds, for people and for the ledger.
impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{} ms after 1970", self.0),
        }
    }
}

/// A 64-bit integer that may pass 2^53 (device, inode, start time): a decimal string in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wide(pub u64);

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Wide {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("an unsigned integer in decimal digits", text);
        let value: u64 = text.parse().map_err(|_| wrong())?;
        // `parse` takes "+1" and "007"; a value has one form here.
        if value.to_string() == text {
            Ok(Self(value))
        } else {
            Err(wrong())
        }
    }
}

impl TryFrom<String> for Wide {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Wide> for String {
    fn from(value: Wide) -> Self {
        value.to_string()
    }
}

/// A person, by mail address or account name. Equality ignores case and outer blanks, so that
/// `Alice@Example.com` cannot approve what `alice@example.com` owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(String);

impl Subject {
    /// The subject as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both may be one person: also when one is the bare account name of the other's mail
    /// address, because a host knows who logged in and the gateway who has which address.
    pub fn may_be(&self, other: &Self) -> bool {
        let (one, two) = (self.key(), other.key());
        let local = |mail: &str, name: &str| {
            !name.contains('@') && mail.split_once('@').is_some_and(|m| m.0 == name)
        };
        one == two || local(&one, &two) || local(&two, &one)
    }

    fn key(&self) -> String {
        self.0.trim().to_lowercase()
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Subject {}

impl std::hash::Hash for Subject {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl FromStr for Subject {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.trim().is_empty() || text.len() > 320 || text.chars().any(char::is_control) {
            return Err(ParseError::new(
                "a person (mail address or account name, at most 320 bytes)",
                text,
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Subject {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_textual_form_each() {
        assert!("AB".repeat(32).parse::<Digest>().is_err(), "upper case");
        assert!("ab".repeat(31).parse::<Digest>().is_err(), "short");
        assert_eq!(
            "ab".repeat(32).parse::<Digest>().unwrap().to_string(),
            "ab".repeat(32)
        );
        for bad in ["", "+1", "01", "-1", "1.0", "18446744073709551616", " 1"] {
            assert!(bad.parse::<Wide>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "18446744073709551615".parse::<Wide>().unwrap(),
            Wide(u64::MAX)
        );
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<HostId>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<UnixMs>("9007199254740992").is_err());
        assert!(serde_json::from_str::<UnixMs>("1.5").is_err());
    }

    #[test]
    fn a_person_in_capitals_is_the_same_person() {
        let alice: Subject = "alice@example.com".parse().unwrap();
        assert_eq!(alice, " Alice@Example.COM ".parse().unwrap());
        assert_ne!(alice, "bob@example.com".parse().unwrap());
        let may_be = |text: &str| alice.may_be(&text.parse().unwrap());
        assert!(may_be("Alice") && may_be("ALICE@example.com"));
        assert!(!may_be("alice@example.org") && !may_be("example.com") && !may_be("al"));
        assert!(" ".parse::<Subject>().is_err());
    }

    #[test]
    fn times_read_as_utc() {
        assert_eq!(
            UnixMs::new(1_700_000_000_042).to_string(),
            "2023-11-14T22:13:20.042Z"
        );
    }
}
