//! How things look: colours where a terminal takes them, times as people say them, and nothing
//! from a process or a server that a terminal would obey.
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::failure::Output;

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const NOTE: Style = AnsiColor::Yellow.on_default();
pub(super) const STRONG: Style = Style::new().bold();
pub(super) const FAINT: Style = Style::new().dimmed();

pub(super) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Text as it is, without what moves the cursor or turns the writing around.
pub(super) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // As `char::escape_debug` sees it, but quotes and backslashes are what they are.
        if c == ' ' || matches!(c, '\\' | '"' | '\'') || c.escape_debug().len() == 1 {
            out.push(c);
        } else {
            let _infallible = write!(out, "{}", c.escape_unicode());
        }
    }
    out
}

/// Cut in the middle, where the least telling part is, and how much: `/srv/… 12 more …/name`.
pub(super) fn cut(text: &str, most: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= most || most < 3 {
        return text.to_owned();
    }
    // `… N more …` is N's digits and nine characters more.
    let wide =
        (1..20).find(|digits| (chars.len() - most + digits + 9).to_string().len() <= *digits);
    let (kept, mark) = match wide.map(|digits| digits + 9) {
        Some(wide) if wide <= most / 2 => {
            let kept = most - wide;
            (kept, format!("… {} more …", chars.len() - kept))
        }
        _ => (most - 1, "…".to_owned()),
    };
    let (head, tail) = (kept / 2, kept - kept / 2);
    let mut out: String = chars.iter().take(head).collect();
    out.push_str(&mark);
    out.extend(chars.iter().skip(chars.len() - tail));
    out
}

/// `3 s`, `12 min`, `5 h`, `4 d`.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86400),
    }
}

pub(super) fn ago(at: Timestamp) -> String {
    let since = Timestamp::now().duration_since(at);
    match Duration::try_from(since) {
        Ok(since) => format!("{} ago", span(since)),
        Err(_) => "just now".to_owned(),
    }
}

/// How long until then; "now" when it has passed.
pub(super) fn until(at: Timestamp) -> String {
    match Duration::try_from(at.duration_since(Timestamp::now())) {
        Ok(left) if !left.is_zero() => span(left),
        _ => "now".to_owned(),
    }
}

pub(super) fn at(ms: syshold_protocol::UnixMs) -> Timestamp {
    i64::try_from(ms.ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().map(|title| title.to_uppercase()));
    table
}

pub(super) fn print(text: &str) -> Result<(), Output> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

/// One line of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), Output> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminals_are_not_told_anything() {
        assert_eq!(safe("a \u{1b}[2Jb"), "a \\u{1b}[2Jb");
        assert_eq!(safe("x\u{202e}y\n"), "x\\u{202e}y\\u{a}");
        assert_eq!(safe("/srv/ä 'b' \"c\" \\d"), "/srv/ä 'b' \"c\" \\d");
    }

    #[test]
    fn spans_read_as_people_say_them() {
        let spans = [0, 119, 120, 7199, 7200, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn what_is_cut_is_counted() {
        let text = format!("run {} --all", "x".repeat(200));
        let cut = cut(&text, 40);
        assert!(
            cut.starts_with("run x") && cut.ends_with("x --all"),
            "{cut}"
        );
        assert!(
            cut.contains("… 182 more …") && cut.chars().count() == 40,
            "{cut}"
        );
    }

    proptest! {
        #[test]
        fn safe_text_holds_no_control_or_format_character(text in "\\PC*|.*") {
            let deceives = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
            prop_assert!(!safe(&text).contains(deceives));
        }

        #[test]
        fn a_cut_text_fits(text in "\\PC{0,80}", most in 3_usize..40) {
            let cut = cut(&text, most);
            prop_assert!(cut.chars().count() <= most);
            prop_assert!(text.chars().count() > most || cut == text);
            prop_assert!(text.chars().last() == cut.chars().last(), "the end is always there");
        }
    }
}
