//! What is odd in a policy, but not wrong: rules that never matter, openings, nothing to do.
use super::error::Notes;
use super::raw::RawPolicy;
use super::{Failure, Policy, Ports, Rule, Target};
use crate::request::{Action, Classes};
use crate::rules::Fallback;

pub(super) fn warn(raw: &RawPolicy, policy: &Policy, notes: &mut Notes<'_>) {
    openings(raw, policy.failure, notes);
    if policy.agents.is_empty() {
        notes.warn(
            &(0..0),
            "no agent is named, so nothing is governed",
            "add a [[govern]] with a name and an owner",
        );
        return;
    }
    for (i, (rule, raw)) in policy.rules.iter().zip(&raw.rule).enumerate() {
        let name = &rule.name;
        let why = if is_about_files(rule) && rule.data == Classes(0) {
            "nothing is protected"
        } else if unreachable(rule, policy.rules.get(..i).unwrap_or_default()) {
            "rules above it match first"
        } else {
            continue;
        };
        notes.warn(
            &raw.name.span(),
            format!("the rule `{name}` never matters: {why}"),
            "move it up, add the [[protect]] it is about, or remove it",
        );
    }
}

fn openings(raw: &RawPolicy, failure: Failure, notes: &mut Notes<'_>) {
    let keys = [
        (
            "on_timeout",
            raw.failure.on_timeout.as_ref(),
            failure.on_timeout,
        ),
        (
            "on_unreachable",
            raw.failure.on_unreachable.as_ref(),
            failure.on_unreachable,
        ),
    ];
    for (key, text, fallback) in keys {
        if let (Some(text), Fallback::Allow) = (text, fallback) {
            notes.warn(
                &text.span(),
                format!("`{key} = \"allow\"` lets through what nobody has approved"),
                "write \"deny\" unless that is meant; `syshold status` will show it",
            );
        }
    }
}

fn is_about_files(rule: &Rule) -> bool {
    let files = Action::Read.bit() | Action::Write.bit() | Action::Delete.bit();
    rule.actions.0 & !files == 0
}

/// Whether for each agent, action and target or class some rule above matches first.
fn unreachable(rule: &Rule, above: &[Rule]) -> bool {
    let taken = |action: Action, covers: &dyn Fn(&Rule) -> bool| {
        let agents = above
            .iter()
            .filter(|earlier| {
                earlier.covers_action(action)
                    && (earlier.after.0 == 0
                        || rule.after.0 & !earlier.after.0 == 0 && rule.after.0 != 0)
                    && covers(earlier)
            })
            .fold(0, |bits, earlier| bits | earlier.agent_bits());
        rule.agent_bits() & !agents == 0
    };
    rule.actions.iter().all(|action| match action {
        Action::Connect | Action::Send | Action::Listen => match &rule.to {
            None => taken(action, &|earlier| earlier.to.is_none() || has_any(earlier)),
            Some(targets) => targets
                .iter()
                .all(|target| taken(action, &|earlier| covers(earlier, target))),
        },
        Action::Read | Action::Write | Action::Delete => rule
            .data
            .iter()
            .all(|class| taken(action, &|earlier| earlier.data.0 & (1 << class) != 0)),
        Action::Exec => taken(action, &|earlier| match (&earlier.run, &rule.run) {
            (Some(earlier), Some(run)) => {
                earlier.programs == run.programs && earlier.is_unconditional()
            }
            _ => false,
        }),
        Action::Privilege => taken(action, &|_| true),
    })
}

fn has_any(rule: &Rule) -> bool {
    covers(rule, &Target::Any(Ports::ALL))
}

fn covers(rule: &Rule, target: &Target) -> bool {
    rule.to
        .as_ref()
        .is_none_or(|targets| targets.iter().any(|wider| wider.covers(target)))
}
