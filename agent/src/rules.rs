//! The policy's answer to a request. Pure: no clock, socket, file or lock.
//!
//! First match wins; where an object has several data classes, or a syscall several actions,
//! the strictest answer counts (deny over ask over allow).
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use syshold_protocol::decision::Scope;

use crate::names::{Names, canonical};
use crate::policy::{DNS_PORT, Dns, Policy, Rule, Target, Verdict};
use crate::request::{Action, AgentId, Classes, Object, Request};

/// What the policy's answer depends on beside the policy.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub names: &'a Names,
    pub builtin: &'a BuiltIn,
}

/// What holds before any rule, and no policy can lift.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltIn {
    /// The gateway's listeners: an agent that reaches them could approve itself.
    pub deny: Vec<SocketAddr>,
    /// The host's own DNS servers.
    pub resolvers: Vec<IpAddr>,
}

/// What the policy says.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Allow(Reason),
    Deny(Reason),
    Ask(Reason, Terms),
}

/// Which rule answered, for the ledger and the approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The rule's name, or "default" / "built-in".
    pub rule: String,
    /// One sentence for people.
    pub why: String,
}

/// How an ask rule wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Approver group; None: the gateway's default.
    pub approvers: Option<String>,
    pub scopes: Vec<Scope>,
    /// Distinct people who must approve.
    pub quorum: u32,
    /// How long the syscall is held.
    pub hold: Duration,
    pub on_timeout: Fallback,
    pub on_unreachable: Fallback,
}

/// What happens to a hold that nobody decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Deny,
    Allow,
}

/// The policy's answer to `request`.
pub fn judge(policy: &Policy, request: &Request, facts: &Facts<'_>) -> Judgement {
    if policy.agent(request.agent).is_none() {
        return Answer::BuiltIn(false, "the agent is not one of this policy").judgement(policy);
    }
    let answers = match &request.object {
        Object::Socket { to, .. } => network(policy, request, *to, facts),
        Object::File { .. } | Object::NewFile { .. } => files(policy, request),
    };
    strictest(policy, answers)
}

/// One rule's answer, or that of no rule.
#[derive(Clone, Copy, Debug)]
enum Answer<'p> {
    /// Allowed or not, and why.
    BuiltIn(bool, &'static str),
    Rule(&'p Rule),
    /// No rule matched; asked.
    Unmatched(&'static str),
    /// No rule matched, and none needs to.
    Unprotected,
}

fn network<'p>(
    policy: &'p Policy,
    request: &Request,
    to: SocketAddr,
    facts: &Facts<'_>,
) -> Vec<Answer<'p>> {
    let to = SocketAddr::new(canonical(to.ip()), to.port());
    let one = |action| match action {
        Action::Connect | Action::Send => built_in(policy, to, facts).unwrap_or_else(|| {
            let mut rules = rules(policy, request.agent, action);
            rules.find(|rule| goes_to(rule, to, facts.names)).map_or(
                Answer::Unmatched("no rule speaks of this address"),
                Answer::Rule,
            )
        }),
        _ => Answer::Unmatched("no rule can speak of this"),
    };
    request.actions.iter().map(one).collect()
}

fn built_in(policy: &Policy, to: SocketAddr, facts: &Facts<'_>) -> Option<Answer<'static>> {
    let same = |other: &SocketAddr| canonical(other.ip()) == to.ip() && other.port() == to.port();
    if facts.builtin.deny.iter().any(same) {
        return Some(Answer::BuiltIn(false, "no agent may reach the gateway"));
    }
    let mut resolvers = facts.builtin.resolvers.iter();
    let dns = to.port() == DNS_PORT && resolvers.any(|ip| canonical(*ip) == to.ip());
    (dns && policy.host().dns == Dns::Allow)
        .then_some(Answer::BuiltIn(true, "this is the host's own DNS server"))
}

fn goes_to(rule: &Rule, to: SocketAddr, names: &Names) -> bool {
    let Some(targets) = &rule.to else { return true };
    targets.iter().any(|target| {
        target.ports().contains(to.port())
            && match target {
                Target::Any(_) => true,
                Target::Net(net, _) => net.contains(to.ip()),
                Target::Host(host, _) => names.resolves_to(host, to.ip()),
            }
    })
}

fn files<'p>(policy: &'p Policy, request: &Request) -> Vec<Answer<'p>> {
    let mut answers = Vec::new();
    for action in request.actions.iter() {
        if matches!(action, Action::Connect | Action::Send | Action::Listen) {
            answers.push(Answer::Unmatched("no rule can speak of this"));
        } else if request.classes == Classes(0) {
            answers.push(Answer::Unprotected);
        }
        answers.extend(request.classes.iter().map(|class| {
            rules(policy, request.agent, action)
                .find(|rule| rule.data.0 & (1 << class) != 0)
                .map_or(
                    Answer::Unmatched("no rule speaks of this protected path"),
                    Answer::Rule,
                )
        }));
    }
    answers
}

fn rules(policy: &Policy, agent: AgentId, action: Action) -> impl Iterator<Item = &Rule> {
    policy
        .rules()
        .iter()
        .filter(move |rule| rule.applies_to(agent) && rule.covers_action(action))
}

/// Deny over ask over allow; nothing answered is asked.
fn strictest(policy: &Policy, answers: Vec<Answer<'_>>) -> Judgement {
    answers
        .into_iter()
        .map(|answer| answer.judgement(policy))
        .reduce(Judgement::stricter)
        .unwrap_or_else(|| Answer::Unmatched("it is not known what is tried").judgement(policy))
}

impl Answer<'_> {
    fn judgement(self, policy: &Policy) -> Judgement {
        let reason = |rule: &str, why: &str| Reason {
            rule: rule.to_owned(),
            why: why.to_owned(),
        };
        match self {
            Self::BuiltIn(true, why) => Judgement::Allow(reason("built-in", why)),
            Self::BuiltIn(false, why) => Judgement::Deny(reason("built-in", why)),
            Self::Unprotected => Judgement::Allow(reason("default", "the path is not protected")),
            Self::Unmatched(why) => {
                let why = format!("{why}, so a person is asked");
                Judgement::Ask(reason("default", &why), policy.default_terms())
            }
            Self::Rule(rule) => {
                let says = rule.verdict.name();
                let why = format!("the rule `{}` in line {} says {says}", rule.name, rule.line);
                let reason = reason(&rule.name, &why);
                match &rule.verdict {
                    Verdict::Allow => Judgement::Allow(reason),
                    Verdict::Deny => Judgement::Deny(reason),
                    Verdict::Ask(terms) => Judgement::Ask(reason, terms.clone()),
                }
            }
        }
    }
}

impl Judgement {
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Allow(reason) | Self::Deny(reason) | Self::Ask(reason, _) => reason,
        }
    }

    /// Of two the stricter; of two alike the first, with the stricter terms.
    fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ask(reason, terms), Self::Ask(other, more)) => {
                // A rule's group knows more than the default's.
                if reason.rule == "default" && other.rule != "default" {
                    Self::Ask(other, more.stricter(terms))
                } else {
                    Self::Ask(reason, terms.stricter(more))
                }
            }
            (deny @ Self::Deny(_), _) | (_, deny @ Self::Deny(_)) => deny,
            (ask @ Self::Ask(..), _) | (_, ask @ Self::Ask(..)) => ask,
            (allow @ Self::Allow(_), Self::Allow(_)) => allow,
        }
    }
}

impl Terms {
    /// These terms, narrowed to what `other` grants, too.
    fn stricter(self, other: Self) -> Self {
        let both = |a, b| match (a, b) {
            (Fallback::Allow, Fallback::Allow) => Fallback::Allow,
            _ => Fallback::Deny,
        };
        let mut scopes: Vec<Scope> = self
            .scopes
            .into_iter()
            .filter(|scope| scope.within(&other.scopes))
            .collect();
        if scopes.is_empty() {
            scopes.push(Scope::Once);
        }
        Self {
            approvers: self.approvers.or(other.approvers),
            scopes,
            quorum: self.quorum.max(other.quorum),
            hold: self.hold.min(other.hold),
            on_timeout: both(self.on_timeout, other.on_timeout),
            on_unreachable: both(self.on_unreachable, other.on_unreachable),
        }
    }
}

#[cfg(test)]
mod tests;
