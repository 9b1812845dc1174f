//! `[[rule]]`: what is allowed, denied or asked.
use std::collections::{BTreeMap, BTreeSet};

use syshold_protocol::decision::{Assurance, MAX_MINUTES, Scope};

use super::built_in;
use super::class::{Class, Kind};
use super::error::{Notes, nearest};
use super::raw::{RawRule, Texts};
use super::run::run;
use super::target::{self, Cidr, Target, TargetError};
use super::text::{hold, identifier, noted, one_of, some, unknown};
use super::{Agent, Rule, Verdict, lowest_bits};
use crate::request::{Action, Actions, Classes};
use crate::rules::Terms;

const MOST_APPROVERS: i64 = 16;
/// Most entries of `to` in a policy, networks written out.
pub(super) const MOST_TARGETS: usize = 4096;
/// Rule names that a [`crate::rules::Reason`] has a meaning for.
const RESERVED: [&str; 2] = ["default", "built-in"];

pub(super) type Networks = BTreeMap<String, Vec<Cidr>>;

/// What rules may refer to.
pub(super) struct RuleReader<'p> {
    pub(super) agents: &'p [Agent],
    pub(super) classes: &'p [Class],
    pub(super) networks: &'p Networks,
    /// Names of tables that are there, but could not be read.
    pub(super) broken: &'p BTreeSet<String>,
    pub(super) terms: Terms,
}

impl<'p> RuleReader<'p> {
    pub(super) fn rule(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Rule {
        let name = raw.name.get_ref();
        if RESERVED.contains(&name.as_str()) {
            let fix = "choose another name";
            notes.error(
                &raw.name.span(),
                format!("the name `{name}` has a meaning of its own"),
                fix,
            );
        }
        let actions = actions(&raw.action, notes);
        keys_fit(raw, actions, notes);
        Rule {
            name: name.clone(),
            line: notes.line(&raw.name.span()),
            agents: match &raw.agent {
                None => lowest_bits(self.agents.len()),
                Some(names) => self.agent_bits(names, notes),
            },
            actions,
            to: raw.to.as_ref().map(|to| self.targets(to, actions, notes)),
            data: match &raw.data {
                None => Classes(self.sets().fold(0, |bits, class| bits | class.bits().0)),
                Some(data) => self.class_bits("data", data, notes),
            },
            after: match &raw.after {
                None => Classes(0),
                Some(after) => self.class_bits("after", after, notes),
            },
            run: if actions.0 & Action::Exec.bit() == 0 {
                None
            } else {
                run(raw, self.classes, notes)
            },
            verdict: self.verdict(raw, notes),
        }
    }

    fn agent_bits(&self, names: &Texts, notes: &mut Notes<'_>) -> u64 {
        let known: Vec<&str> = self
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .collect();
        some(names, "agent", notes).fold(0, |bits, text| {
            let found = known.iter().position(|name| name == text.get_ref());
            if found.is_none() && !self.broken.contains(text.get_ref()) {
                unknown(text, "agent", &known, notes);
            }
            found.map_or(bits, |bit| bits | 1 << bit)
        })
    }

    /// Sets of protected paths.
    fn sets(&self) -> impl Iterator<Item = &'p Class> + use<'p> {
        let sets = self.classes.iter();
        sets.filter(|class| class.kind != Kind::Programs)
    }

    fn class_bits(&self, key: &str, names: &Texts, notes: &mut Notes<'_>) -> Classes {
        let mut known: Vec<&str> = self
            .sets()
            .flat_map(|c| [c.name.as_str(), c.class.as_str()])
            .collect();
        for name in built_in::names() {
            known.push(name);
        }
        let bits = some(names, key, notes).fold(0, |bits, text| {
            let word = text.get_ref();
            let meant = self
                .sets()
                .filter(|class| class.name == *word || class.class == *word);
            let hits = meant.fold(0, |hits, class| hits | class.bits().0);
            if hits == 0 && !self.broken.contains(word) {
                unknown(text, "protected set or class", &known, notes);
            }
            bits | hits
        });
        Classes(bits)
    }

    fn targets(&self, to: &Texts, actions: Actions, notes: &mut Notes<'_>) -> Vec<Target> {
        let mut targets = Vec::new();
        for text in some(to, "to", notes) {
            if targets.len() > MOST_TARGETS {
                // Reported by whoever counts them.
                break;
            }
            let network = |name: &str| self.networks.get(name).map(Vec::as_slice);
            let read = target::parse(text.get_ref(), network);
            if matches!(&read, Err(TargetError::Unknown(name)) if self.broken.contains(name)) {
                continue;
            }
            let read = read.map_err(|error| self.closer(error));
            let read = noted(text, read, |refused| refused.fix.clone(), notes).unwrap_or_default();
            let listens = actions.0 & Action::Listen.bit() != 0;
            if listens && read.iter().any(|to| matches!(to, Target::Host(..))) {
                notes.error(
                    &text.span(),
                    format!(
                        "`{}` is a host: with listen, `to` is the agent's own address",
                        text.get_ref()
                    ),
                    "write the address or `*`, and the port: `*:8080`",
                );
            }
            targets.extend(read);
        }
        targets
    }

    /// The error, with a fix that knows the networks.
    fn closer(&self, error: TargetError) -> Refused {
        let known: Vec<&str> = self.networks.keys().map(String::as_str).collect();
        let near = match &error {
            TargetError::Unknown(name) => nearest(name, known),
            _ => None,
        };
        let fix = near.map_or_else(|| error.fix(), |near| format!("did you mean `{near}`?"));
        Refused { error, fix }
    }

    fn verdict(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Verdict {
        let terms = self.terms(raw, notes);
        let words = [
            ("allow", Verdict::Allow),
            ("deny", Verdict::Deny),
            ("ask", Verdict::Ask(terms)),
        ];
        let verdict = one_of(Some(&raw.verdict), &words, notes).unwrap_or(Verdict::Deny);
        if !matches!(verdict, Verdict::Ask(_)) {
            let asking = [
                ("approvers", raw.approvers.as_ref().map(toml::Spanned::span)),
                (
                    "scopes",
                    raw.scopes.as_ref().map(|scopes| scopes.span.clone()),
                ),
                ("quorum", raw.quorum.as_ref().map(toml::Spanned::span)),
                ("assurance", raw.assurance.as_ref().map(toml::Spanned::span)),
                ("hold", raw.hold.as_ref().map(toml::Spanned::span)),
            ];
            for (key, span) in asking {
                if let Some(span) = span {
                    notes.error(
                        &span,
                        format!(
                            "`{key}` has no meaning here: nobody is asked when the verdict is {}",
                            verdict.name()
                        ),
                        format!("remove `{key}`, or write `verdict = \"ask\"`"),
                    );
                }
            }
        }
        verdict
    }

    fn terms(&self, raw: &RawRule, notes: &mut Notes<'_>) -> Terms {
        let mut terms = self.terms.clone();
        if let Some(group) = &raw.approvers {
            identifier(group, notes);
            terms.approvers = Some(group.get_ref().clone());
        }
        if let Some(scopes) = &raw.scopes {
            terms.scopes.clear();
            for text in some(scopes, "scopes", notes) {
                if let Some(scope) = noted(
                    text,
                    text.get_ref().parse::<Scope>(),
                    |_| scope_fix(text.get_ref()),
                    notes,
                ) && !terms.scopes.contains(&scope)
                {
                    terms.scopes.push(scope);
                }
            }
        }
        if let Some(quorum) = &raw.quorum {
            match u32::try_from(*quorum.get_ref()) {
                Ok(people @ 1..) if *quorum.get_ref() <= MOST_APPROVERS => terms.quorum = people,
                _ => notes.error(
                    &quorum.span(),
                    format!("a quorum of {} cannot be reached", quorum.get_ref()),
                    format!("write how many people must approve, 1 to {MOST_APPROVERS}"),
                ),
            }
        }
        let words = [
            Assurance::Chat,
            Assurance::Token,
            Assurance::Session,
            Assurance::Passkey,
        ]
        .map(|assurance| (assurance.as_str(), assurance));
        if let Some(assurance) = one_of(raw.assurance.as_ref(), &words, notes) {
            terms.assurance = assurance;
        }
        if let Some(text) = &raw.hold {
            terms.hold = hold(text, notes).unwrap_or(terms.hold);
        }
        terms
    }
}

/// A target that is wrong, and how to mend it in this policy.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Refused {
    error: TargetError,
    fix: String,
}

fn actions(raw: &Texts, notes: &mut Notes<'_>) -> Actions {
    let known = Action::ALL.map(Action::name);
    let bits = some(raw, "action", notes).fold(0, |bits, text| {
        let word = text.get_ref().as_str();
        match Action::ALL.into_iter().find(|action| action.name() == word) {
            Some(action) => bits | action.bit(),
            None => {
                unknown(text, "action", &known, notes);
                bits
            }
        }
    });
    for alone in [Action::Exec, Action::Privilege] {
        if bits & alone.bit() != 0 && bits != alone.bit() {
            notes.error(
                &raw.span,
                format!("a rule for {alone} is about nothing else"),
                format!("make two rules, one of them for {alone} alone"),
            );
        }
    }
    Actions(bits)
}

/// Each key has a meaning for some actions; with another one it would be ignored.
fn keys_fit(raw: &RawRule, actions: Actions, notes: &mut Notes<'_>) {
    const NETWORK: u32 = Action::Connect.bit() | Action::Send.bit() | Action::Listen.bit();
    const CHANGES: u32 = Action::Write.bit() | Action::Delete.bit();
    const FILES: u32 = Action::Read.bit() | CHANGES;
    const EXEC: u32 = Action::Exec.bit();
    let keys = [
        ("to", &raw.to, NETWORK, "connections"),
        ("data", &raw.data, FILES, "protected files"),
        (
            "after",
            &raw.after,
            NETWORK | CHANGES,
            "what leaves or changes something",
        ),
        ("programs", &raw.programs, EXEC, "programs that are run"),
        ("argv", &raw.argv, EXEC, "programs that are run"),
        ("sha256", &raw.sha256, EXEC, "programs that are run"),
    ];
    for (key, texts, fits, about) in keys {
        let others = Actions(actions.0 & !fits);
        if let Some(texts) = texts.as_ref().filter(|_| others.0 != 0) {
            let fits = list_of(Actions(fits));
            notes.error(
                &texts.span,
                format!("`{key}` is about {about}, but the rule is about {others}, too"),
                format!("make two rules: `{key}` belongs to {fits}"),
            );
        }
    }
}

fn list_of(actions: Actions) -> String {
    let names: Vec<_> = actions.iter().map(Action::name).collect();
    names.join(", ")
}

fn scope_fix(text: &str) -> String {
    let hours = text
        .strip_suffix('h')
        .and_then(|hours| hours.parse::<u16>().ok());
    match hours {
        Some(hours @ 1..=24) => format!("write it in minutes: `{}m`", hours * 60),
        _ => format!(
            "use `once`, `process`, `session`, or minutes up to a day: `10m` … `{MAX_MINUTES}m`"
        ),
    }
}
