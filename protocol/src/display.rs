//! What an approver is shown: nothing that can hide, reorder or break out of the line.
//!
//! [`escape`] is injective: two different texts never look the same. [`shown`] also cuts long
//! values in the middle and says so, because a button must not stand under a text that hides
//! something.
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A text that is safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub text: String,
    /// Something was cut out: show no Approve button, only Details.
    pub hidden: bool,
}

/// `raw` with everything that does not print as itself written `\u{…}`, and `\` as `\\`.
pub fn escape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    raw.chars().for_each(|c| push_escaped(&mut out, c));
    out
}

/// `raw` escaped, and cut in the middle to at most `max` characters (at least 40 are shown).
pub fn shown(raw: &str, max: usize) -> Shown {
    let pieces: Vec<String> = raw
        .chars()
        .map(|c| {
            let mut piece = String::new();
            push_escaped(&mut piece, c);
            piece
        })
        .collect();
    let width: usize = pieces.iter().map(|piece| piece.chars().count()).sum();
    let max = max.max(40);
    if width <= max {
        return Shown {
            text: pieces.concat(),
            hidden: false,
        };
    }
    // An escape sequence is never cut in two. The mark takes at most 32 of `max`.
    let half = (max - 32) / 2;
    let head = fitting(pieces.iter(), half);
    let tail = fitting(pieces.iter().rev(), half);
    let cut = pieces.len() - head - tail;
    let text = format!(
        "{}…[{cut} hidden]…{}",
        pieces[..head].concat(),
        pieces[pieces.len() - tail..].concat()
    );
    Shown { text, hidden: true }
}

/// How many pieces fit into `width` characters.
fn fitting<'a>(pieces: impl Iterator<Item = &'a String>, width: usize) -> usize {
    let mut used = 0;
    pieces
        .take_while(|piece| {
            used += piece.chars().count();
            used <= width
        })
        .count()
}

/// A name and the address really used: `example.com (192.0.2.7:443)`. Names are ASCII on the wire,
/// so what is not stays escaped, and `xn--` stays as it is.
pub fn endpoint(name: Option<&str>, ip: IpAddr, port: u16) -> String {
    let address = SocketAddr::new(ip.to_canonical(), port);
    match name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let mut out = String::new();
            for c in name.chars() {
                if c.is_ascii() {
                    push_escaped(&mut out, c);
                } else {
                    push_code(&mut out, c);
                }
            }
            format!("{out} ({address})")
        }
        None => address.to_string(),
    }
}

/// Bytes from the kernel as text for a request: what is not UTF-8 becomes `\xHH`. The kernel object,
/// not this text, is what a verdict belongs to.
pub fn lossless(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\x{byte:02X}");
        }
    }
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\'' | '"' => out.push(c),
        _ if invisible(c) => push_code(out, c),
        // The standard library escapes what is not printable: controls, format and bidi
        // characters, separators, private use, unassigned, and marks that join the one before.
        _ if c.escape_debug().next() == Some('\\') => push_code(out, c),
        _ => out.push(c),
    }
}

/// Letters and symbols by category that print as nothing.
fn invisible(c: char) -> bool {
    matches!(
        c,
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{fffc}'
    )
}

fn push_code(out: &mut String, c: char) {
    out.extend(c.escape_unicode());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_deceives_is_spelled_out() {
        let table = [
            ("/srv/pii/a.csv", "/srv/pii/a.csv"),
            ("Zoë's \"file\"", "Zoë's \"file\""),
            ("a\u{202e}gpj.exe", "a\\u{202e}gpj.exe"),
            ("a\nb\tc\0", "a\\u{a}b\\u{9}c\\u{0}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("no\u{a0}break\u{3000}", "no\\u{a0}break\\u{3000}"),
            ("filler\u{3164}", "filler\\u{3164}"),
            (
                "\u{2028}\u{2066}\u{ad}\u{34f}",
                "\\u{2028}\\u{2066}\\u{ad}\\u{34f}",
            ),
            ("e\u{301}", "e\\u{301}"),
            (r"literal \u{202e}", r"literal \\u{202e}"),
            ("\u{e000}\u{fdd0}", "\\u{e000}\\u{fdd0}"),
        ];
        for (raw, expected) in table {
            assert_eq!(escape(raw), expected);
        }
    }

    #[test]
    fn long_values_are_cut_in_the_middle_and_say_so() {
        let cut = shown(&format!("/start{}/end.csv", "x".repeat(500)), 80);
        assert!(
            cut.hidden && cut.text.starts_with("/start") && cut.text.ends_with("/end.csv"),
            "{}",
            cut.text
        );
        assert!(cut.text.contains(" hidden]"), "{}", cut.text);
        assert_eq!(
            shown("/short", 80),
            Shown {
                text: "/short".into(),
                hidden: false
            }
        );
    }

    #[test]
    fn endpoints_show_the_address_really_used() {
        let ip = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(
            endpoint(Some("xn--e1aybc.example"), ip, 443),
            "xn--e1aybc.example (192.0.2.7:443)"
        );
        assert_eq!(
            endpoint(Some("аpple.com"), ip, 443),
            "\\u{430}pple.com (192.0.2.7:443)"
        );
        assert_eq!(
            endpoint(None, "2001:db8::1".parse().unwrap(), 53),
            "[2001:db8::1]:53"
        );
    }

    #[test]
    fn bytes_that_are_not_text() {
        assert_eq!(lossless(b"/tmp/\xff\xfea"), "/tmp/\\xFF\\xFEa");
        assert_eq!(lossless("/tmp/ä".as_bytes()), "/tmp/ä");
    }

    /// Undoes [`escape`].
    fn unescape(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c != '\\' {
                out.push(c);
            } else if let Some(after) = rest.strip_prefix('\\') {
                out.push('\\');
                rest = after;
            } else {
                let (code, after) = rest.strip_prefix("u{").unwrap().split_once('}').unwrap();
                out.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
                rest = after;
            }
        }
        out
    }

    fn dangerous(c: char) -> bool {
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e01ef}')
    }

    proptest! {
        #[test]
        fn escape_is_injective_and_safe(raw in any::<String>()) {
            let text = escape(&raw);
            prop_assert!(!text.chars().any(dangerous), "{text:?}");
            prop_assert_eq!(unescape(&text), raw);
        }

        #[test]
        fn shown_keeps_its_limit_and_never_hides_in_silence(raw in "\\PC*|.{0,200}", max in 40_usize..300) {
            let shown = shown(&raw, max);
            prop_assert!(shown.text.chars().count() <= max);
            prop_assert!(!shown.text.chars().any(dangerous));
            prop_assert_eq!(shown.hidden, escape(&raw).chars().count() > max);
            if !shown.hidden {
                prop_assert_eq!(shown.text, escape(&raw));
            }
        }
    }
}
