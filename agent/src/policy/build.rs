//! From what the author wrote to a [`Policy`]; everything that is wrong is noted, not only the
//! first.
use std::path::PathBuf;
use std::time::Duration;

use syshold_protocol::ids::Digest;

use super::approver;
use super::break_glass;
use super::built_in;
use super::class::Class;
use super::error::Notes;
use super::govern::{agents, classes};
use super::raw::{RawFailure, RawHost, RawNetwork, RawPolicy, RawRule, Text};
use super::rule::{MOST_TARGETS, Networks, RuleReader};
use super::run::programs;
use super::text::{Taken, file, hold, noted, one_of, some};
use super::{Cidr, Dns, Failure, Host, Policy, Rule, TargetError, default_terms, lint};
use crate::rules::Fallback;

const DEFAULT_LEDGER: &str = "/var/lib/syshold/ledger.db";
const DEFAULT_HOLD: Duration = Duration::from_secs(5 * 60);
const MOST_RULES: usize = 1024;

/// The policy, or what can be made of it; whether it may be used, `notes` knows.
pub(super) fn policy(raw: &RawPolicy, digest: Digest, notes: &mut Notes<'_>) -> Policy {
    let host = host(&raw.host, notes);
    let failure = failure(&raw.failure, notes);
    let agents = agents(&raw.govern, notes);
    let mut classes = classes(&raw.protect, notes);
    let programs = programs(&raw.rule, notes);
    room(raw, classes.len(), &programs, notes);
    classes.extend(built_in::named(raw));
    classes.extend(programs);
    let reader = RuleReader {
        agents: &agents,
        classes: &classes,
        networks: &networks(&raw.network, notes),
        broken: &raw.broken,
        terms: default_terms(&host, failure),
    };
    let rules = rules(&raw.rule, &reader, notes);
    let passkeys = approver::approvers(&raw.approver, notes);
    approver::can_be_met(&raw.rule, &rules, &agents, &passkeys, notes);
    let break_glass = break_glass::keys(&raw.break_glass, notes);
    let policy = Policy {
        digest,
        host,
        failure,
        agents,
        classes,
        rules,
        passkeys,
        break_glass,
        warnings: Vec::new(),
    };
    // Of a policy that is wrong, nothing more can be said.
    if !notes.has_errors() {
        lint::warn(raw, &policy, notes);
    }
    policy
}

/// Every class has a bit of its own.
fn room(raw: &RawPolicy, sets: usize, programs: &[Class], notes: &mut Notes<'_>) {
    let lowest = programs.iter().map(|class| class.bit as usize).min();
    let lowest = lowest.unwrap_or(built_in::LOWEST_BIT as usize);
    let surplus = raw.rule.iter().rev().find(|rule| rule.programs.is_some());
    if sets > lowest
        && let Some(rule) = surplus
    {
        notes.error(
            &rule.name.span(),
            "there are too many sets of protected paths and lists of programs",
            format!(
                "a policy has {} in all; give one [[protect]] several paths, and rules the same list of programs",
                built_in::LOWEST_BIT
            ),
        );
    }
}

fn networks(raw: &[RawNetwork], notes: &mut Notes<'_>) -> Networks {
    let mut taken = Taken::default();
    let mut networks = Networks::default();
    for raw in raw {
        let name = raw.name.get_ref();
        taken.name(&raw.name, "network", notes);
        if name.contains('.') {
            notes.error(
                &raw.name.span(),
                "a network's name has no dot, so that it is never taken for a host name",
                format!("write `{}`", name.replace('.', "-")),
            );
        }
        let cidrs = some(&raw.cidrs, "cidrs", notes)
            .filter_map(|text| {
                noted(
                    text,
                    text.get_ref().parse::<Cidr>(),
                    TargetError::fix,
                    notes,
                )
            })
            .collect();
        networks.insert(name.clone(), cidrs);
    }
    networks
}

fn rules(raw: &[RawRule], reader: &RuleReader<'_>, notes: &mut Notes<'_>) -> Vec<Rule> {
    let mut taken = Taken::default();
    let mut rules = Vec::new();
    let mut targets = 0;
    for raw in raw {
        taken.name(&raw.name, "rule", notes);
        let rule = reader.rule(raw, notes);
        targets += rule.to.as_ref().map_or(0, Vec::len);
        if rules.len() == MOST_RULES || targets > MOST_TARGETS {
            notes.error(
                &raw.name.span(),
                format!("a policy has at most {MOST_RULES} rules and {MOST_TARGETS} targets"),
                "join rules, and put addresses together into larger networks",
            );
            break;
        }
        rules.push(rule);
    }
    rules
}

fn host(raw: &RawHost, notes: &mut Notes<'_>) -> Host {
    let ledger = raw.ledger.as_ref().map(|text| file(text, notes));
    let hold = raw.hold.as_ref().and_then(|text| hold(text, notes));
    let dns = one_of(
        raw.dns.as_ref(),
        &[("allow", Dns::Allow), ("ask", Dns::Ask)],
        notes,
    );
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    Host {
        ledger: ledger.unwrap_or_else(|| PathBuf::from(DEFAULT_LEDGER)),
        hold: hold.unwrap_or(DEFAULT_HOLD),
        dns: dns.unwrap_or(Dns::Allow),
        log: one_of(raw.log.as_ref(), &levels, notes).unwrap_or(tracing::Level::INFO),
    }
}

fn failure(raw: &RawFailure, notes: &mut Notes<'_>) -> Failure {
    let on_daemon_loss = fallback(raw.on_daemon_loss.as_ref(), notes);
    if let (Fallback::Allow, Some(text)) = (on_daemon_loss, &raw.on_daemon_loss) {
        notes.error(
            &text.span(),
            "\"allow\" is not supported yet by this version: without the daemon the kernel denies",
            "write \"deny\", or leave it out",
        );
    }
    Failure {
        on_timeout: fallback(raw.on_timeout.as_ref(), notes),
        on_unreachable: fallback(raw.on_unreachable.as_ref(), notes),
        on_daemon_loss,
    }
}

fn fallback(text: Option<&Text>, notes: &mut Notes<'_>) -> Fallback {
    let words = [("deny", Fallback::Deny), ("allow", Fallback::Allow)];
    one_of(text, &words, notes).unwrap_or(Fallback::Deny)
}
