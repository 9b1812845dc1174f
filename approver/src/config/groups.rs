//! `[[group]]`: who is on call, and who is asked when nobody answers.
use std::ops::Range;

use serde::Deserialize;
use syshold_protocol::UnixMs;
use toml::Spanned;

use super::ConfigError;
use crate::roster::{Escalation, Group, Roster, Rotation};

const LONGEST_TURN_MS: u64 = 366 * 24 * 60 * 60 * 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    name: Spanned<String>,
    on_call: Option<Spanned<Vec<Spanned<String>>>>,
    turn: Option<Spanned<String>>,
    from: Option<Spanned<String>>,
    escalate_after: Option<Spanned<String>>,
    escalate_to: Option<Spanned<Vec<Spanned<String>>>>,
}

/// The roster, or the first mistake in it.
pub(super) fn roster(
    raw: Vec<RawGroup>,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Roster, ConfigError> {
    let mut roster = Roster::default();
    for raw in raw {
        let name = word(&raw.name, at)?;
        if roster.groups.iter().any(|group| group.name == name) {
            let what = format!("the group {name:?} is there twice");
            return Err(at(raw.name.span(), what, "keep one of the two"));
        }
        let on_call = rotation(&raw, at)?;
        let escalate = escalation(&raw, &name, at)?;
        roster.groups.push(Group {
            name,
            on_call,
            escalate,
        });
    }
    Ok(roster)
}

fn rotation(
    raw: &RawGroup,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Option<Rotation>, ConfigError> {
    let fix = "give on_call, turn and from together, or none of them";
    let (people, turn, from) = match (&raw.on_call, &raw.turn, &raw.from) {
        (None, None, None) => return Ok(None),
        (Some(people), Some(turn), Some(from)) => (people, turn, from),
        (people, turn, from) => {
            let given = [
                people.as_ref().map(Spanned::span),
                turn.as_ref().map(Spanned::span),
                from.as_ref().map(Spanned::span),
            ];
            let span = given.into_iter().flatten().next().unwrap_or_default();
            return Err(at(
                span,
                "a rotation needs people, the length of a turn and a beginning".to_owned(),
                fix,
            ));
        }
    };
    let fix = "write the time the first turn begins, with its zone: \"2026-01-05T09:00:00Z\"";
    let begin: UnixMs = from
        .get_ref()
        .parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .map(UnixMs::new)
        .ok_or_else(|| at(from.span(), format!("{:?} is no time", from.get_ref()), fix))?;
    Ok(Some(Rotation {
        people: words(people, at)?,
        turn_ms: span(turn, at)?,
        from: begin,
    }))
}

fn escalation(
    raw: &RawGroup,
    name: &str,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Option<Escalation>, ConfigError> {
    let fix = "give escalate_after and escalate_to together, or neither";
    match (&raw.escalate_after, &raw.escalate_to) {
        (None, None) => Ok(None),
        (Some(after), Some(to)) => {
            let groups = words(to, at)?;
            if groups.iter().any(|group| group == name) {
                let what = "a group cannot be its own fallback".to_owned();
                return Err(at(to.span(), what, "name another group"));
            }
            Ok(Some(Escalation {
                after_ms: span(after, at)?,
                to: groups,
            }))
        }
        (Some(after), None) => Err(at(after.span(), "to whom?".to_owned(), fix)),
        (None, Some(to)) => Err(at(to.span(), "after how long?".to_owned(), fix)),
    }
}

fn words(
    list: &Spanned<Vec<Spanned<String>>>,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Vec<String>, ConfigError> {
    if list.get_ref().is_empty() {
        return Err(at(
            list.span(),
            "nobody is named".to_owned(),
            "name at least one",
        ));
    }
    list.get_ref().iter().map(|text| word(text, at)).collect()
}

fn word(
    text: &Spanned<String>,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<String, ConfigError> {
    let name = text.get_ref();
    let good = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if good {
        Ok(name.clone())
    } else {
        let fix = "use 1 to 64 of a-z A-Z 0-9 . _ -, as `syshold-approver accounts list` shows it";
        Err(at(text.span(), format!("{name:?} is no name"), fix))
    }
}

/// `30s`, `2m`, `12h`, `7d`.
fn span(
    text: &Spanned<String>,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<u64, ConfigError> {
    let word = text.get_ref();
    milliseconds(word)
        .filter(|ms| (1..=LONGEST_TURN_MS).contains(ms))
        .ok_or_else(|| {
            let fix = "write seconds, minutes, hours or days, at most a year: \"30s\", \"2m\", \"12h\", \"7d\"";
            at(text.span(), format!("{word:?} is no length of time"), fix)
        })
}

/// A length of time as people write it.
pub fn milliseconds(word: &str) -> Option<u64> {
    let unit = match word.chars().next_back()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let digits = word.get(..word.len() - 1)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = plain.then(|| digits.parse().ok()).flatten()?;
    count.checked_mul(unit)?.checked_mul(1000)
}
