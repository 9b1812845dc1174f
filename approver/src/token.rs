//! Random secrets that people and browsers hold; the gateway keeps their digests.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_core::{OsRng, RngCore as _};
use syshold_protocol::Digest;
use zeroize::Zeroizing;

/// How personal tokens begin, so that scanners for leaked secrets find them.
pub const PERSONAL: &str = "sypat_";

/// 256 random bits as text, wiped when dropped.
#[expect(
    missing_debug_implementations,
    reason = "a secret must not be printable"
)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one that begins with `prefix`.
    pub fn generate(prefix: &str) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *bytes);
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        Self(Zeroizing::new(format!("{prefix}{}", *text)))
    }

    /// To show it, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        digest(&self.0)
    }
}

/// What is kept of a secret that somebody shows.
pub fn digest(text: &str) -> Digest {
    Digest::of(text.trim().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_differ() {
        let (one, two) = (Secret::generate(PERSONAL), Secret::generate(PERSONAL));
        assert_eq!(one.reveal().len(), PERSONAL.len() + 43);
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(digest(&format!(" {}\n", one.reveal())), one.digest());
    }
}
