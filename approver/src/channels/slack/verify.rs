//! Whether a call is Slack's: its v0 signature over the very bytes, made within five minutes.
//! <https://docs.slack.dev/authentication/verifying-requests-from-slack>
use axum::http::HeaderMap;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use syshold_protocol::UnixMs;

const TIMESTAMP: &str = "x-slack-request-timestamp";
const SIGNATURE: &str = "x-slack-signature";
const WINDOW_S: u64 = 300;

/// Why a call is not taken to be Slack's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    #[error(
        "X-Slack-Request-Timestamp or X-Slack-Signature is missing, there twice, or unreadable"
    )]
    Unsigned,
    #[error("signed more than five minutes from now")]
    Stale,
    #[error("the signature is not this body's")]
    Signature,
}

/// Checks the two headers against `body`; the comparison takes the same time whatever differs.
pub fn verify(secret: &str, headers: &HeaderMap, body: &[u8], now: UnixMs) -> Result<(), Forged> {
    let single = |name: &str| {
        let mut all = headers.get_all(name).iter();
        let first = all.next()?.to_str().ok()?;
        all.next().is_none().then_some(first)
    };
    let (stamp, signature) = single(TIMESTAMP)
        .zip(single(SIGNATURE))
        .ok_or(Forged::Unsigned)?;
    let plain = !stamp.is_empty() && stamp.bytes().all(|b| b.is_ascii_digit());
    let at: u64 = stamp
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or(Forged::Unsigned)?;
    let claimed = signature
        .strip_prefix("v0=")
        .and_then(unhex)
        .ok_or(Forged::Unsigned)?;
    if (now.ms() / 1000).abs_diff(at) > WINDOW_S {
        return Err(Forged::Stale);
    }
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| Forged::Signature)?;
    mac.update(format!("v0:{stamp}:").as_bytes());
    mac.update(body);
    mac.verify_slice(&claimed).map_err(|_| Forged::Signature)
}

/// 64 lower-case hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example on Slack's own page.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const STAMP: &str = "1531420618";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNED: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn check(stamp: &str, signature: &str, body: &str, now_s: u64) -> Result<(), Forged> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP, stamp.parse().unwrap());
        headers.insert(SIGNATURE, signature.parse().unwrap());
        verify(SECRET, &headers, body.as_bytes(), UnixMs::new(now_s * 1000))
    }

    #[test]
    fn the_published_example() {
        let at = 1_531_420_618;
        assert_eq!(check(STAMP, SIGNED, BODY, at), Ok(()));
        assert_eq!(check(STAMP, SIGNED, BODY, at + 300), Ok(()));
        assert_eq!(check(STAMP, SIGNED, BODY, at + 301), Err(Forged::Stale));
        assert_eq!(check(STAMP, SIGNED, BODY, at - 301), Err(Forged::Stale));
        assert_eq!(
            check("1531420619", SIGNED, BODY, at),
            Err(Forged::Signature)
        );
        assert_eq!(check(STAMP, SIGNED, &BODY[1..], at), Err(Forged::Signature));
        for bad in [
            "",
            "v0=",
            &SIGNED[3..],
            &SIGNED.to_uppercase(),
            "v0=é",
            &SIGNED[..66],
        ] {
            assert!(check(STAMP, bad, BODY, at).is_err(), "{bad}");
        }
        for bad in [
            "",
            "+1531420618",
            " 1531420618",
            "1531420618.0",
            "99999999999999999999",
        ] {
            assert_eq!(check(bad, SIGNED, BODY, at), Err(Forged::Unsigned), "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TIMESTAMP, STAMP.parse().unwrap());
        twice.append(SIGNATURE, SIGNED.parse().unwrap());
        twice.append(SIGNATURE, SIGNED.parse().unwrap());
        let now = UnixMs::new(at * 1000);
        assert_eq!(
            verify(SECRET, &twice, BODY.as_bytes(), now),
            Err(Forged::Unsigned)
        );
        assert_eq!(
            verify(SECRET, &HeaderMap::new(), b"", now),
            Err(Forged::Unsigned)
        );
    }

    proptest! {
        #[test]
        fn nothing_else_passes(stamp in "[ -~]{0,20}", signature in "(v0=)?[0-9a-f]{0,70}", body in any::<Vec<u8>>()) {
            let mut headers = HeaderMap::new();
            headers.insert(TIMESTAMP, stamp.parse().unwrap());
            headers.insert(SIGNATURE, signature.parse().unwrap());
            prop_assert!(verify(SECRET, &headers, &body, UnixMs::new(1_531_420_618_000)).is_err());
        }
    }
}
