//! The policy file as its author wrote it: keys and texts with their places, nothing checked.
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

use super::error::{Notes, suggest};

/// A text and its place.
pub(super) type Text = Spanned<String>;

/// The tables a policy may have.
const TABLES: [&str; 8] = [
    "host",
    "failure",
    "govern",
    "protect",
    "network",
    "approver",
    "break_glass",
    "rule",
];

/// Unknown keys of one table that are left out before it is given up.
const MOST_UNKNOWN: usize = 20;

#[derive(Debug, Default)]
pub(super) struct RawPolicy {
    pub(super) host: RawHost,
    pub(super) failure: RawFailure,
    pub(super) govern: Vec<RawAgent>,
    pub(super) protect: Vec<RawProtect>,
    pub(super) network: Vec<RawNetwork>,
    pub(super) approver: Vec<RawApprover>,
    pub(super) break_glass: Vec<RawBreakGlass>,
    pub(super) rule: Vec<RawRule>,
    /// Names of tables that could not be read: not unknown, for whoever refers to them.
    pub(super) broken: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHost {
    pub(super) ledger: Option<Text>,
    pub(super) hold: Option<Text>,
    pub(super) dns: Option<Text>,
    pub(super) log: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFailure {
    pub(super) on_timeout: Option<Text>,
    pub(super) on_unreachable: Option<Text>,
    pub(super) on_daemon_loss: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    pub(super) name: Text,
    pub(super) owner: Text,
    pub(super) model: Option<Text>,
    pub(super) unit: Option<Texts>,
    pub(super) cgroup: Option<Texts>,
    pub(super) user: Option<Texts>,
    pub(super) exe: Option<Texts>,
    pub(super) taint: Option<Text>,
    pub(super) sockets: Option<Texts>,
    pub(super) capabilities: Option<Texts>,
    pub(super) devices: Option<Texts>,
    pub(super) allow: Option<Texts>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProtect {
    pub(super) name: Text,
    pub(super) paths: Texts,
    pub(super) class: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub(super) name: Text,
    pub(super) cidrs: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApprover {
    pub(super) subject: Text,
    pub(super) passkeys: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBreakGlass {
    pub(super) subject: Text,
    pub(super) keys: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: Text,
    pub(super) action: Texts,
    pub(super) agent: Option<Texts>,
    pub(super) to: Option<Texts>,
    pub(super) data: Option<Texts>,
    pub(super) verdict: Text,
    pub(super) approvers: Option<Text>,
    pub(super) scopes: Option<Texts>,
    pub(super) quorum: Option<Spanned<i64>>,
    pub(super) assurance: Option<Text>,
    pub(super) hold: Option<Text>,
    pub(super) after: Option<Texts>,
    pub(super) programs: Option<Texts>,
    pub(super) argv: Option<Texts>,
    pub(super) sha256: Option<Texts>,
}

/// One text or a list of them.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) span: Range<usize>,
    pub(super) items: Vec<Text>,
}

/// Reads as much of `text` as can be read; what cannot is noted.
pub(super) fn read(text: &str, notes: &mut Notes<'_>) -> RawPolicy {
    let (document, errors) = DeTable::parse_recoverable(text);
    let broken = !errors.is_empty();
    let mut line = 0;
    for error in errors {
        // What follows in the same line is what recovery made of it.
        let span = error.span().unwrap_or_default();
        if std::mem::replace(&mut line, notes.line(&span)) != line {
            note(&error, &span, notes);
        }
    }
    let mut raw = RawPolicy::default();
    if broken {
        // What recovery made of the rest would be guesses about guesses.
        return raw;
    }
    let broken = &mut raw.broken;
    for (key, value) in document.into_inner() {
        match key.get_ref().as_ref() {
            "host" => raw.host = single(value, notes).unwrap_or_default(),
            "failure" => raw.failure = single(value, notes).unwrap_or_default(),
            "govern" => raw.govern = several("govern", value, broken, notes),
            "protect" => raw.protect = several("protect", value, broken, notes),
            "network" => raw.network = several("network", value, broken, notes),
            "approver" => raw.approver = several("approver", value, broken, notes),
            "break_glass" => raw.break_glass = several("break_glass", value, broken, notes),
            "rule" => raw.rule = several("rule", value, broken, notes),
            other => notes.error(
                &key.span(),
                format!("unknown key `{other}`"),
                suggest(other, "table", &TABLES),
            ),
        }
    }
    raw
}

fn several<'de, T: Deserialize<'de>>(
    name: &str,
    value: Spanned<DeValue<'de>>,
    broken: &mut BTreeSet<String>,
    notes: &mut Notes<'_>,
) -> Vec<T> {
    let span = value.span();
    let DeValue::Array(items) = value.into_inner() else {
        notes.error(
            &span,
            format!("there may be several of `{name}`, so it is a list of tables"),
            format!("write [[{name}]]"),
        );
        return Vec::new();
    };
    let mut tables = Vec::new();
    for item in items {
        let called = ["name", "class"].map(|key| text_of(&item, key));
        match single(item, notes) {
            Some(table) => tables.push(table),
            None => broken.extend(called.into_iter().flatten()),
        }
    }
    tables
}

fn text_of(table: &Spanned<DeValue<'_>>, key: &str) -> Option<String> {
    let value = table.get_ref().get(key)?;
    value.get_ref().as_str().map(str::to_owned)
}

/// A table; its unknown keys are noted and left out, so that the rest of it is read, too.
fn single<'de, T: Deserialize<'de>>(
    mut value: Spanned<DeValue<'de>>,
    notes: &mut Notes<'_>,
) -> Option<T> {
    for _ in 0..MOST_UNKNOWN {
        let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(table) => return Some(table),
            Err(error) => error,
        };
        note(&error, &value.span(), notes);
        let word = unknown_key(error.message())?;
        let DeValue::Table(keys) = value.get_mut() else {
            return None;
        };
        let before = keys.len();
        keys.remove(word);
        if keys.len() == before {
            return None;
        }
    }
    None
}

/// serde's text is "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<&str> {
    let (word, _) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some(word)
}

/// Notes an error of the TOML reader or of serde, with a fix.
fn note(error: &Error, table: &Range<usize>, notes: &mut Notes<'_>) {
    let span = error.span().unwrap_or_else(|| table.clone());
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (message, fix) = if let Some(word) = unknown_key(message) {
        let known = quoted.get(1..).unwrap_or_default();
        (format!("unknown key `{word}`"), suggest(word, "key", known))
    } else if message.starts_with("missing field") {
        let word = quoted.first().copied().unwrap_or_default();
        (
            format!("`{word}` is missing in this table"),
            format!("add a line `{word} = …`"),
        )
    } else if message.starts_with("duplicate key") {
        (
            "this key is there twice".to_owned(),
            "keep one of the two".to_owned(),
        )
    } else if message.starts_with("invalid type") {
        (
            message.to_owned(),
            "write the value in the form that is expected; a text stands in \"quotes\"".to_owned(),
        )
    } else {
        (
            format!("not TOML: {message}"),
            "correct the syntax at the mark".to_owned(),
        )
    };
    notes.error(&span, message, fix);
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Spanned::<OneOrMany>::deserialize(deserializer)?;
        let span = given.span();
        let items = match given.into_inner() {
            OneOrMany::One(text) => vec![Spanned::new(span.clone(), text)],
            OneOrMany::Many(items) => items,
        };
        Ok(Self { span, items })
    }
}

/// Not `#[serde(untagged)]`: that buffers, and loses the places.
enum OneOrMany {
    One(String),
    Many(Vec<Text>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(OneOrMany::Many(items))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
