//! What is wrong with a policy file: where, why, and how to mend it.
//!
//! ```text
//! agent.toml:12:1: error: unknown key `onwer`
//!     onwer = "alice@example.com"
//!     ^~~~~
//!     fix: did you mean `owner`?
//! ```
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

/// Longest part of a source line that is shown.
const LINE_SHOWN: usize = 160;

/// Most problems noted; nobody reads more, and the first make the others.
const MOST_NOTED: usize = 50;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "{}: cannot be read: {source}\n    fix: check the path and that the daemon may read it",
        path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Invalid(Problems),
}

/// One thing that is wrong, or odd, at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub severity: Severity,
    pub message: String,
    pub fix: String,
    /// The source line, with the control characters a terminal would obey replaced.
    pub source: String,
    /// How many characters of it are meant.
    pub width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// Everything wrong with one file, in its order; never empty inside a [`PolicyError`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let before = self.column - 1;
        // Tabs stay tabs, so that the mark stands below what it marks.
        let pad: String = self
            .source
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .chain(std::iter::repeat(' '))
            .take(before.min(LINE_SHOWN))
            .collect();
        writeln!(
            f,
            "{}:{}:{}: {severity}: {}",
            self.file, self.line, self.column, self.message
        )?;
        writeln!(f, "    {}", self.source)?;
        writeln!(f, "    {pad}^{}", "~".repeat(self.width.saturating_sub(1)))?;
        write!(f, "    fix: {}", self.fix)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects problems while a file is read, and knows where its lines are.
#[derive(Debug)]
pub(super) struct Notes<'t> {
    file: &'t str,
    text: &'t str,
    /// Where lines end, so that a long file with many mistakes is not read again and again.
    line_ends: Vec<usize>,
    list: Vec<Problem>,
}

impl<'t> Notes<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            list: Vec::new(),
        }
    }

    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Severity::Error, span, message.into(), fix.into());
    }

    pub(super) fn warn(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Severity::Warning, span, message.into(), fix.into());
    }

    /// The line, from 1, where `span` begins.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.line_ends.partition_point(|&end| end < span.start) + 1
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    /// What was noted, as an error; for when there is nothing to go on with.
    pub(super) fn failed(self) -> PolicyError {
        PolicyError::Invalid(Problems(self.list))
    }

    /// The warnings, or everything when there is an error among it; by place in the file.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, PolicyError> {
        self.list.sort_by_key(|p| (p.line, p.column));
        // One mistake may be seen twice, by the TOML reader and by us.
        self.list
            .dedup_by(|b, a| (a.line, a.column, &a.message) == (b.line, b.column, &b.message));
        if self.has_errors() {
            Err(PolicyError::Invalid(Problems(self.list)))
        } else {
            Ok(self.list)
        }
    }

    fn push(&mut self, severity: Severity, span: &Range<usize>, message: String, fix: String) {
        if self.list.len() == MOST_NOTED {
            return;
        }
        let place = locate(self.text, span);
        self.list.push(Problem {
            file: self.file.to_owned(),
            line: self.line(span),
            column: place.column,
            severity,
            message: printable(&message),
            fix: printable(&fix),
            source: place.source,
            width: place.width,
        });
    }
}

struct Place {
    column: usize,
    source: String,
    width: usize,
}

/// Column, line and width of a byte range, which may lie anywhere, even inside a character.
fn locate(text: &str, span: &Range<usize>) -> Place {
    let floor = |at: usize| {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let end = floor(span.end).clamp(start, line_end);
    let source: String = text[line_start..line_end]
        .trim_end_matches('\r')
        .chars()
        .take(LINE_SHOWN)
        .collect();
    let column = text[line_start..start].chars().count() + 1;
    let left = LINE_SHOWN.saturating_sub(column - 1).max(1);
    Place {
        column,
        source: printable(&source),
        width: text[start..end].chars().count().clamp(1, left),
    }
}

/// `text` without what a terminal would obey: control and bidirectional characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                char::REPLACEMENT_CHARACTER
            }
            _ if c.is_control() => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect()
}

/// The candidate that `word` is most likely a slip of.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word: String = word.chars().take(64).collect();
    let (best, distance) = candidates
        .into_iter()
        .map(|candidate| (candidate, strsim::damerau_levenshtein(&word, candidate)))
        .min_by_key(|&(_, distance)| distance)?;
    (distance <= (best.chars().count() / 3).max(1)).then_some(best)
}

/// "did you mean …", or else what there is.
pub(super) fn suggest(word: &str, what: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(word, known.iter().copied()) {
        format!("did you mean `{near}`?")
    } else if known.is_empty() {
        format!("there is no {what} yet; add one")
    } else {
        let shown: Vec<_> = known.iter().take(12).map(|k| format!("`{k}`")).collect();
        let more = if known.len() > shown.len() {
            ", …"
        } else {
            ""
        };
        format!("use one of: {}{more}", shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str, span: Range<usize>) -> Problem {
        let mut notes = Notes::new("f.toml", text);
        notes.error(&span, "wrong", "right");
        let Err(PolicyError::Invalid(Problems(mut list))) = notes.finish() else {
            panic!("an error is an error");
        };
        list.remove(0)
    }

    #[test]
    fn a_problem_shows_its_place() {
        let text = "a = 1\n\tköy = 2\r\n";
        let start = text.find("köy").unwrap();
        assert_eq!(
            only(text, start..start + 4).to_string(),
            "f.toml:2:2: error: wrong\n    \tköy = 2\n    \t^~~\n    fix: right"
        );
    }

    #[test]
    fn any_range_has_a_place() {
        let text = "é\n\nzz";
        for start in 0..10 {
            for end in 0..10 {
                let problem = only(text, start..end);
                assert!(problem.line >= 1 && problem.line <= 3, "{problem:?}");
                assert!(problem.width >= 1);
            }
        }
        assert_eq!(only("", 0..0).line, 1);
    }

    #[test]
    fn nothing_a_terminal_obeys_is_shown() {
        let problem = only("x = \"\u{1b}[2J\u{202e}\"", 0..1);
        assert!(!problem.to_string().contains(['\u{1b}', '\u{202e}']));
    }

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let table = [
            ("onwer", Some("owner")),
            ("verdct", Some("verdict")),
            ("x", None),
            ("banana", None),
        ];
        for (word, expected) in table {
            assert_eq!(
                nearest(word, ["owner", "verdict", "name"]),
                expected,
                "{word}"
            );
        }
    }
}
