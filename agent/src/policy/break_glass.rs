//! `[[break_glass]]`: who may, two together, let an agent through when nobody can be asked.
use syshold_protocol::PublicKey;
use syshold_protocol::break_glass::NEED;
use syshold_protocol::ids::Subject;

use super::error::Notes;
use super::raw::RawBreakGlass;
use super::text::{noted, some};

/// More keys than that are a list that nobody keeps in a safe.
const MOST: usize = 32;

/// Each person with one of their keys; who has two is there twice.
pub(super) fn keys(raw: &[RawBreakGlass], notes: &mut Notes<'_>) -> Vec<(Subject, PublicKey)> {
    let mut keys: Vec<(Subject, PublicKey)> = Vec::new();
    let mut people: Vec<Subject> = Vec::new();
    for raw in raw {
        let fix = |_: &_| "write the mail address of the person who keeps the key".to_owned();
        let subject = noted(
            &raw.subject,
            raw.subject.get_ref().parse::<Subject>(),
            fix,
            notes,
        );
        for text in some(&raw.keys, "keys", notes) {
            let fix = |_: &_| "copy the line that `syshold break-glass key` prints".to_owned();
            let key = noted(text, text.get_ref().parse::<PublicKey>(), fix, notes);
            let (Some(subject), Some(key)) = (&subject, key) else {
                continue;
            };
            if let Some((other, _)) = keys.iter().find(|(_, known)| *known == key) {
                notes.error(
                    &text.span(),
                    format!("this key is there already, for {other}"),
                    "a key is one person's; keep it once",
                );
                continue;
            }
            if !people.iter().any(|known| known.may_be(subject)) {
                people.push(subject.clone());
            }
            keys.push((subject.clone(), key));
        }
        if keys.len() > MOST {
            notes.error(
                &raw.subject.span(),
                format!("a policy has at most {MOST} keys for break-glass"),
                "keep those of people who are called in an emergency",
            );
            break;
        }
    }
    if let Some(first) = raw.first()
        && people.len() < NEED
        && !notes.has_errors()
    {
        notes.error(
            &first.subject.span(),
            format!("nobody could break the glass: it needs {NEED} people"),
            "add another [[break_glass]], with somebody else's `subject` and `keys`",
        );
    }
    keys
}
