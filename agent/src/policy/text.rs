//! Checks of single texts, shared by all tables of the policy file.
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::Glob;
use super::error::{Notes, suggest};
use super::raw::{Text, Texts};

const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a syscall is held: `30s`, `5m`, `1h`.
pub(super) fn hold(text: &Text, notes: &mut Notes<'_>) -> Option<Duration> {
    let word = text.get_ref();
    let unit = match word.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => 0,
    };
    let digits = word.get(..word.len().saturating_sub(1)).unwrap_or_default();
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let time = digits
        .parse()
        .ok()
        .filter(|_| plain && unit > 0)
        .and_then(|count: u64| count.checked_mul(unit))
        .map(Duration::from_secs)
        .filter(|time| !time.is_zero() && *time <= LONGEST_HOLD);
    if time.is_none() {
        notes.error(
            &text.span(),
            format!("`{word}` is not a time to hold, at most a day"),
            "write seconds, minutes or hours: `30s`, `5m`, `1h`",
        );
    }
    time
}

/// An absolute path of one file.
pub(super) fn file(text: &Text, notes: &mut Notes<'_>) -> PathBuf {
    match Glob::parse(text.get_ref()) {
        Ok(path) if path.is_literal() => {}
        Ok(_) => notes.error(
            &text.span(),
            "this is one file, not a pattern",
            "write its whole path",
        ),
        Err(error) => notes.error(&text.span(), error.to_string(), error.fix()),
    }
    PathBuf::from(text.get_ref())
}

/// A name that rules, approvers and the ledger use.
pub(super) fn identifier(text: &Text, notes: &mut Notes<'_>) {
    let name = text.get_ref();
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        notes.error(
            &text.span(),
            format!("`{name}` is not a name"),
            "use 1 to 64 letters, digits, `-`, `_` and `.`",
        );
    }
}

/// A text that approvers are shown.
pub(super) fn shown(text: &Text, notes: &mut Notes<'_>) {
    let words = text.get_ref();
    if words.trim().is_empty() || words.len() > 200 || words.chars().any(char::is_control) {
        notes.error(
            &text.span(),
            "this text cannot be shown to approvers",
            "use 1 to 200 bytes without control characters, or leave it out",
        );
    }
}

pub(super) fn unknown(text: &Text, what: &str, known: &[&str], notes: &mut Notes<'_>) {
    notes.error(
        &text.span(),
        format!("there is no {what} `{}`", text.get_ref()),
        suggest(text.get_ref(), what, known),
    );
}

/// The value that one of few words stands for.
pub(super) fn one_of<T: Clone>(
    text: Option<&Text>,
    words: &[(&str, T)],
    notes: &mut Notes<'_>,
) -> Option<T> {
    let text = text?;
    let found = words.iter().find(|(word, _)| word == text.get_ref());
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("`{}` is not one of {}", text.get_ref(), known.join(", "));
        notes.error(
            &text.span(),
            message,
            suggest(text.get_ref(), "word", &known),
        );
    }
    found.map(|(_, value)| value.clone())
}

/// The entries of a list that must have some.
pub(super) fn some<'r>(
    texts: &'r Texts,
    key: &str,
    notes: &mut Notes<'_>,
) -> std::slice::Iter<'r, Text> {
    if texts.items.is_empty() {
        notes.error(
            &texts.span,
            format!("`{key}` is empty, so this matches nothing"),
            format!("name at least one, or remove `{key}`"),
        );
    }
    texts.items.iter()
}

pub(super) fn list<'r>(
    texts: Option<&'r Texts>,
    key: &str,
    notes: &mut Notes<'_>,
) -> std::slice::Iter<'r, Text> {
    texts.map_or([].iter(), |texts| some(texts, key, notes))
}

/// The value, or a note of why there is none.
pub(super) fn noted<T, E: fmt::Display>(
    text: &Text,
    result: Result<T, E>,
    fix: impl FnOnce(&E) -> String,
    notes: &mut Notes<'_>,
) -> Option<T> {
    result
        .map_err(|error| notes.error(&text.span(), error.to_string(), fix(&error)))
        .ok()
}

/// Names that are in use, and where.
#[derive(Default)]
pub(super) struct Taken(HashMap<String, Range<usize>>);

impl Taken {
    pub(super) fn name(&mut self, text: &Text, what: &str, notes: &mut Notes<'_>) {
        identifier(text, notes);
        if let Some(first) = self.0.get(text.get_ref()) {
            let line = notes.line(first);
            notes.error(
                &text.span(),
                format!(
                    "another {what} is called `{}`, in line {line}",
                    text.get_ref()
                ),
                "give each its own name",
            );
        } else {
            self.0.insert(text.get_ref().clone(), text.span());
        }
    }
}
