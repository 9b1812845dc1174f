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

/// `raw` escaped, and cut by [`shorten`].
pub fn shown(raw: &str, max: usize) -> Shown {
    shorten(&escape(raw), max)
}

/// Text that is escaped already, cut in the middle to at most `max` characters (at least 80 are
/// shown). The beginning and the end stay, and [`not_shown`] stands between them.
pub fn shorten(escaped: &str, max: usize) -> Shown {
    let pieces = pieces(escaped);
    let max = max.max(80);
    if escaped.chars().count() <= max {
        return Shown {
            text: escaped.to_owned(),
            hidden: false,
        };
    }
    let half = (max - MARK) / 2;
    let head = fitting(pieces.iter(), half);
    let tail = fitting(pieces.iter().rev(), half);
    let text = format!(
        "{}{}{}",
        pieces[..head].concat(),
        not_shown(pieces.len() - head - tail, "characters"),
        pieces[pieces.len() - tail..].concat()
    );
    Shown { text, hidden: true }
}

/// What stands where something was left out: `… 3,412 more characters, not shown …`.
pub fn not_shown(count: usize, what: &str) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("… {grouped} more {what}{LEFT_OUT}")
}

/// Whether a host has left something out of a value. Whoever writes the mark into an argument gets
/// fewer buttons for it, never more.
pub fn is_cut(value: &str) -> bool {
    value.contains(LEFT_OUT)
}

/// The end of every mark that something is left out.
pub const LEFT_OUT: &str = ", not shown …";
/// The most characters of a mark.
const MARK: usize = 48;

/// Characters of an escaped text: an escape sequence is never cut in two.
fn pieces(escaped: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = escaped;
    while let Some(first) = rest.chars().next() {
        let second = rest[first.len_utf8()..].chars().next();
        let len = match (first, second) {
            ('\\', Some('u')) => rest.find('}').map_or(rest.len(), |end| end + 1),
            ('\\', Some(second)) => 1 + second.len_utf8(),
            _ => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(len);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// How many pieces fit into `width` characters.
fn fitting<'a>(pieces: impl Iterator<Item = &'a &'a str>, width: usize) -> usize {
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
        let cut = shown(&format!("/start{}/end.csv", "x".repeat(5000)), 120);
        assert!(
            cut.hidden && cut.text.starts_with("/start") && cut.text.ends_with("/end.csv"),
            "{}",
            cut.text
        );
        assert!(
            cut.text.contains("x… 4,942 more characters, not shown …x") && is_cut(&cut.text),
            "{}",
            cut.text
        );
        assert!(!is_cut("not shown"));
        let marks = [
            (1, "… 1 more"),
            (999, "… 999 more"),
            (1000, "… 1,000 more"),
            (1_234_567, "… 1,234,567 more"),
        ];
        for (count, start) in marks {
            assert!(not_shown(count, "bytes").starts_with(start), "{count}");
        }
        assert!(not_shown(usize::MAX, "characters").chars().count() <= 61);
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
        fn shown_keeps_its_limit_and_never_hides_in_silence(raw in "\\PC*|.{0,400}", max in 80_usize..300) {
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
