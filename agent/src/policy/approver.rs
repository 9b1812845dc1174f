//! `[[approver]]`: whose passkeys this host believes.
use syshold_protocol::Pin;
use syshold_protocol::decision::Assurance;
use syshold_protocol::ids::Subject;

use super::error::Notes;
use super::raw::{RawApprover, RawRule};
use super::text::{noted, some};
use super::{Agent, Rule, Verdict};

/// More people than that are a list that nobody reads.
const MOST: usize = 1024;

/// Each person with one of their keys; who has two is there twice.
pub(super) fn approvers(raw: &[RawApprover], notes: &mut Notes<'_>) -> Vec<(Subject, Pin)> {
    let mut pins: Vec<(Subject, Pin)> = Vec::new();
    for raw in raw {
        let fix = |_: &_| "write the mail address of the account at the gateway".to_owned();
        let subject = noted(
            &raw.subject,
            raw.subject.get_ref().parse::<Subject>(),
            fix,
            notes,
        );
        for text in some(&raw.passkeys, "passkeys", notes) {
            let fix =
                |_: &_| "copy the line that `syshold-approver passkeys list` prints".to_owned();
            let pin = noted(text, text.get_ref().parse::<Pin>(), fix, notes);
            let (Some(subject), Some(pin)) = (&subject, pin) else {
                continue;
            };
            if let Some((other, _)) = pins.iter().find(|(_, known)| *known == pin) {
                notes.error(
                    &text.span(),
                    format!("this key is there already, for {other}"),
                    "a key is one person's; keep it once",
                );
                continue;
            }
            pins.push((subject.clone(), pin));
        }
        if pins.len() > MOST {
            notes.error(
                &raw.subject.span(),
                format!("a policy has at most {MOST} passkeys"),
                "keep those of people whom this host's rules ask",
            );
            break;
        }
    }
    pins
}

/// A rule that asks for passkeys needs people who have one and may approve.
pub(super) fn can_be_met(
    raw: &[RawRule],
    rules: &[Rule],
    agents: &[Agent],
    pins: &[(Subject, Pin)],
    notes: &mut Notes<'_>,
) {
    for (raw, rule) in raw.iter().zip(rules) {
        let (Some(text), Verdict::Ask(terms)) = (&raw.assurance, &rule.verdict) else {
            continue;
        };
        if terms.assurance != Assurance::Passkey {
            continue;
        }
        let asked = agents.iter().enumerate();
        let asked = asked.filter(|(bit, _)| rule.agent_bits() & 1 << bit != 0);
        let mut people: Vec<&Subject> = Vec::new();
        for (_, agent) in asked {
            let mut may: Vec<_> = pins.iter().map(|(subject, _)| subject).collect();
            may.retain(|subject| !agent.owner.may_be(subject));
            may.dedup();
            if people.is_empty() || may.len() < people.len() {
                people = may;
            }
        }
        let mut distinct: Vec<&Subject> = Vec::new();
        for subject in people {
            if !distinct.contains(&subject) {
                distinct.push(subject);
            }
        }
        if (distinct.len() as u64) < u64::from(terms.quorum) {
            notes.error(
                &text.span(),
                format!(
                    "nobody could approve this: it needs {} with a passkey, and [[approver]] has {} who may",
                    terms.quorum,
                    distinct.len()
                ),
                "add [[approver]] with `subject` and `passkeys` (the agent's owner does not count)",
            );
        }
    }
}
