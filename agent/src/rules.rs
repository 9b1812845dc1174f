//! The policy's answer to a request. Pure: no clock, socket, file or lock.
//!
//! First match wins; where an object has several data classes, or a syscall several actions,
//! the strictest answer counts (deny over ask over allow).
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use syshold_abi::{CLASS_OWN, CLASS_OWN_PROGRAMS};
use syshold_protocol::decision::{Assurance, Scope};

use crate::names::{Names, canonical};
use crate::policy::{DNS_PORT, Dns, Kind, Policy, Rule, Run, Target, Verdict};
use crate::request::{Action, Classes, Exec, Object, Request};

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
    /// What the process has read that makes the rule match: part of the question.
    pub taint: Classes,
}

/// How an ask rule wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Approver group; None: the gateway's default.
    pub approvers: Option<String>,
    pub scopes: Vec<Scope>,
    /// Distinct people who must approve.
    pub quorum: u32,
    /// The weakest proof of identity that counts.
    pub assurance: Assurance,
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
        return Answer::BuiltIn(false, "the agent is not one of this policy")
            .judgement(policy, request.taint);
    }
    let answers = match &request.object {
        Object::Socket { to, .. } => network(policy, request, *to, facts),
        Object::File { .. } | Object::NewFile { .. } => files(policy, request),
        Object::Privilege(_) => privilege(policy, request),
        Object::Unix { .. } => vec![Answer::BuiltIn(
            false,
            "no program of this agent listens there, and the policy does not name the socket",
        )],
    };
    strictest(policy, request, answers)
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
    Free(&'static str),
}

const NO_RULE_CAN: Answer<'_> = Answer::Unmatched("no rule can speak of this");

fn network<'p>(
    policy: &'p Policy,
    request: &Request,
    to: SocketAddr,
    facts: &Facts<'_>,
) -> Vec<Answer<'p>> {
    let peer = SocketAddr::new(canonical(to.ip()), to.port());
    let one = |action| match action {
        Action::Connect | Action::Send => built_in(policy, peer, facts).unwrap_or_else(|| {
            let mut rules = rules(policy, request, action);
            rules.find(|rule| goes_to(rule, peer, facts.names)).map_or(
                Answer::Unmatched("no rule speaks of this address"),
                Answer::Rule,
            )
        }),
        Action::Listen if to.ip().to_canonical().is_loopback() => {
            Answer::BuiltIn(true, "only this host can reach it")
        }
        Action::Listen => rules(policy, request, action)
            .find(|rule| listens_at(rule, to))
            .map_or(
                Answer::Unmatched("no rule speaks of listening here"),
                Answer::Rule,
            ),
        _ => NO_RULE_CAN,
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

/// Here 0.0.0.0 and :: are every address of the host, not a way to say localhost.
fn listens_at(rule: &Rule, at: SocketAddr) -> bool {
    let Some(targets) = &rule.to else { return true };
    targets.iter().any(|target| {
        target.ports().contains(at.port())
            && match target {
                Target::Any(_) => true,
                Target::Net(net, _) => net.contains_own(at.ip()),
                Target::Host(..) => false,
            }
    })
}

fn privilege<'p>(policy: &'p Policy, request: &Request) -> Vec<Answer<'p>> {
    let one = |action| match action {
        Action::Privilege => rules(policy, request, action).next().map_or(
            Answer::Unmatched("no rule speaks of privileges"),
            Answer::Rule,
        ),
        _ => NO_RULE_CAN,
    };
    request.actions.iter().map(one).collect()
}

fn files<'p>(policy: &'p Policy, request: &Request) -> Vec<Answer<'p>> {
    let mut answers = Vec::new();
    for action in request.actions.iter() {
        // First what no rule can lift.
        answers.extend(
            request
                .classes
                .iter()
                .filter_map(|bit| class(policy, request, action, bit)),
        );
        match action {
            Action::Exec => answers.push(exec(policy, request)),
            Action::Read | Action::Write | Action::Delete => {
                if request.classes == Classes(0) {
                    answers.push(Answer::Free("the path is not protected"));
                }
            }
            _ => answers.push(NO_RULE_CAN),
        }
    }
    answers
}

/// What an action on a file of one class is answered; None: nothing more than without the class.
fn class<'p>(
    policy: &'p Policy,
    request: &Request,
    action: Action,
    bit: usize,
) -> Option<Answer<'p>> {
    let reads = matches!(action, Action::Read | Action::Exec);
    let own = "no governed process may touch what Syshold consists of";
    match policy.class(bit).map(|class| class.kind) {
        None if 1 << bit == CLASS_OWN => Some(Answer::BuiltIn(false, own)),
        None if 1 << bit == CLASS_OWN_PROGRAMS && !reads => Some(Answer::BuiltIn(false, own)),
        None if 1 << bit == CLASS_OWN_PROGRAMS => Some(Answer::Free("Syshold may be looked at")),
        None => Some(Answer::Unmatched("no rule speaks of this protected path")),
        Some(_) if action == Action::Exec => None,
        Some(Kind::Programs) => Some(Answer::Free("the path is not protected")),
        Some(kind) => {
            let rule = rules(policy, request, action).find(|rule| rule.data.0 & (1 << bit) != 0);
            Some(match (rule, kind) {
                (Some(rule), _) => Answer::Rule(rule),
                (None, Kind::Config) if reads => Answer::Free("configuration may be read"),
                (None, _) => Answer::Unmatched("no rule speaks of this protected path"),
            })
        }
    }
}

/// First match wins, whichever of the program's classes it is about.
fn exec<'p>(policy: &'p Policy, request: &Request) -> Answer<'p> {
    let about_it = |rule: &&Rule| {
        let run = rule.run.as_ref();
        run.is_some_and(|run| run.programs.0 & request.classes.0 != 0)
    };
    let cut = request.exec.as_ref().is_some_and(|exec| !exec.whole);
    for rule in rules(policy, request, Action::Exec).filter(about_it) {
        match rule
            .run
            .as_ref()
            .and_then(|run| fits(run, request.exec.as_deref()))
        {
            // An approval is for arguments that people have seen.
            Some(true) if cut && matches!(rule.verdict, Verdict::Ask(_)) => {
                return Answer::BuiltIn(false, "its arguments could not be read, or not all");
            }
            Some(true) => return Answer::Rule(rule),
            Some(false) => {}
            None if cut => {
                return Answer::BuiltIn(false, "its arguments could not be read, or not all");
            }
            None => {
                return Answer::Unmatched("what would be run could not be read");
            }
        }
    }
    Answer::Free("no rule speaks of running this program")
}

/// Whether the conditions of a rule are met; None: that cannot be told.
fn fits(run: &Run, exec: Option<&Exec>) -> Option<bool> {
    let argv = || {
        let exec = exec.filter(|exec| exec.whole)?;
        Some(run.argv.iter().any(|words| words.matches(&exec.argv)))
    };
    let file = || Some(run.sha256.contains(&exec?.sha256?));
    let argv = if run.argv.is_empty() {
        Some(true)
    } else {
        argv()
    };
    let file = if run.sha256.is_empty() {
        Some(true)
    } else {
        file()
    };
    match (argv, file) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Rules for this agent and action, and for what the process has read.
fn rules<'p>(
    policy: &'p Policy,
    request: &Request,
    action: Action,
) -> impl Iterator<Item = &'p Rule> {
    let (agent, taint) = (request.agent, request.taint.0);
    policy.rules().iter().filter(move |rule| {
        rule.applies_to(agent)
            && rule.covers_action(action)
            && (rule.after == Classes(0) || rule.after.0 & taint != 0)
    })
}

/// Deny over ask over allow; nothing answered is asked.
fn strictest(policy: &Policy, request: &Request, answers: Vec<Answer<'_>>) -> Judgement {
    answers
        .into_iter()
        .map(|answer| answer.judgement(policy, request.taint))
        .reduce(Judgement::stricter)
        .unwrap_or_else(|| {
            Answer::Unmatched("it is not known what is tried").judgement(policy, request.taint)
        })
}

impl Answer<'_> {
    fn judgement(self, policy: &Policy, taint: Classes) -> Judgement {
        let reason = |rule: &str, why: &str| Reason {
            rule: rule.to_owned(),
            why: why.to_owned(),
            taint: Classes(0),
        };
        match self {
            Self::BuiltIn(true, why) => Judgement::Allow(reason("built-in", why)),
            Self::BuiltIn(false, why) => Judgement::Deny(reason("built-in", why)),
            Self::Free(why) => Judgement::Allow(reason("default", why)),
            Self::Unmatched(why) => {
                let why = format!("{why}, so a person is asked");
                Judgement::Ask(reason("default", &why), policy.default_terms())
            }
            Self::Rule(rule) => {
                let says = rule.verdict.name();
                let mut why = format!("the rule `{}` in line {} says {says}", rule.name, rule.line);
                if rule.after != Classes(0) {
                    let names: Vec<_> = policy.class_names(rule.after).collect();
                    why += &format!(" after reading {}", names.join(" or "));
                }
                let reason = Reason {
                    taint: Classes(rule.after.0 & taint.0),
                    ..reason(&rule.name, &why)
                };
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
            assurance: self.assurance.max(other.assurance),
            hold: self.hold.min(other.hold),
            on_timeout: both(self.on_timeout, other.on_timeout),
            on_unreachable: both(self.on_unreachable, other.on_unreachable),
        }
    }
}

#[cfg(test)]
mod tests;
