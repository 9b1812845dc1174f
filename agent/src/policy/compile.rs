//! The kernel's copy of a policy. It may say less than the policy, never anything else: where
//! it cannot be exact it says ASK, and [`crate::rules::judge`] decides.
use syshold_abi::{
    self as abi, AgentRules, MAX_NET_RULES, NetRule, PathRule, action, cause, exception, verdict,
};

use super::{Agent, Cidr, Dns, Glob, Kind, Policy, Ports, Rule, Target, Verdict};
use crate::request::{Action, AgentId};
use crate::rules::Facts;

/// Both actions that go to an address.
const OUT: u32 = action::CONNECT | action::SEND;
/// All that are about one.
const NETWORK: u32 = OUT | action::LISTEN;
/// Port of DNS.
pub(crate) const DNS_PORT: u16 = 53;

/// What is written into one bank of the kernel's rules.
#[derive(Clone, Debug)]
pub struct KernelTables {
    /// First match wins; no match means ASK. At most [`MAX_NET_RULES`].
    pub net: Vec<NetRule>,
    /// `agent * action::COUNT + action`; always [`abi::PATH_RULES`].
    pub path: Vec<PathRule>,
    /// By agent; always [`abi::MAX_AGENTS`].
    pub agents: Vec<AgentRules>,
    /// Entries that did not fit: what they say is judged in user space, which costs time only.
    pub spilled: usize,
}

/// Makes the tables. To be made anew when the policy, a name's addresses or the built-in facts
/// change.
#[must_use]
pub fn compile(policy: &Policy, facts: &Facts<'_>) -> KernelTables {
    let mut net = built_in(policy, facts);
    for (index, rule) in policy.rules().iter().enumerate() {
        expand(rule, index, facts, &mut net);
    }
    let mut spilled = 0;
    if net.len() > MAX_NET_RULES {
        spilled = net.len() - (MAX_NET_RULES - 1);
        net.truncate(MAX_NET_RULES - 1);
        net.push(ask_everything());
    }
    KernelTables {
        net,
        path: path_rules(policy),
        agents: agent_rules(policy),
        spilled,
    }
}

fn built_in(policy: &Policy, facts: &Facts<'_>) -> Vec<NetRule> {
    let entry = |agents, net, port| NetRule {
        actions: OUT,
        rule: u32::MAX,
        ..net_rule(agents, net, Ports::one(port))
    };
    let denied = facts.builtin.deny.iter().map(|to| NetRule {
        verdict: verdict::DENY,
        cause: cause::SELF_PROTECTION,
        ..entry(u64::MAX, Cidr::host(to.ip()), to.port())
    });
    let resolvers = match policy.host().dns {
        Dns::Allow => facts.builtin.resolvers.as_slice(),
        Dns::Ask => &[],
    };
    let allowed = resolvers.iter().map(|ip| NetRule {
        verdict: verdict::ALLOW,
        cause: cause::NONE,
        ..entry(policy.all_agents(), Cidr::host(*ip), DNS_PORT)
    });
    denied.chain(allowed).collect()
}

fn expand(rule: &Rule, index: usize, facts: &Facts<'_>, net: &mut Vec<NetRule>) {
    let actions = rule.actions.0 & NETWORK;
    if actions == 0 || rule.agent_bits() == 0 {
        return;
    }
    let (says, why) = match rule.verdict {
        Verdict::Allow => (verdict::ALLOW, cause::NONE),
        Verdict::Deny => (verdict::DENY, cause::RULE),
        Verdict::Ask(_) => (verdict::ASK, cause::NONE),
    };
    let mut push = |to: Cidr, ports: Ports| {
        net.push(NetRule {
            actions,
            after: rule.after.0,
            verdict: says,
            cause: why,
            rule: u32::try_from(index).unwrap_or(u32::MAX),
            ..net_rule(rule.agent_bits(), to, ports)
        });
    };
    let Some(targets) = &rule.to else {
        return push(Cidr::EVERYTHING, Ports::ALL);
    };
    for target in targets {
        match target {
            Target::Any(ports) => push(Cidr::EVERYTHING, *ports),
            Target::Net(to, ports) => push(*to, *ports),
            Target::Host(name, ports) => facts
                .names
                .addresses(name)
                .for_each(|ip| push(Cidr::host(ip), *ports)),
        }
    }
}

fn net_rule(agents: u64, net: Cidr, ports: Ports) -> NetRule {
    let halves = |bits: u128| ((bits >> 64) as u64, bits as u64);
    let (addr_hi, addr_lo) = halves(net.base());
    let (mask_hi, mask_lo) = halves(net.mask());
    NetRule {
        agents,
        addr_hi,
        addr_lo,
        mask_hi,
        mask_lo,
        port_lo: ports.lo(),
        port_hi: ports.hi(),
        ..NetRule::default()
    }
}

fn ask_everything() -> NetRule {
    NetRule {
        actions: NETWORK,
        verdict: verdict::ASK,
        rule: u32::MAX,
        ..net_rule(u64::MAX, Cidr::EVERYTHING, Ports::ALL)
    }
}

/// For each agent and action on files, what the first rule for each class says; ASK is neither
/// bit. The other actions' rows are not looked at.
fn path_rules(policy: &Policy) -> Vec<PathRule> {
    let mut table = vec![PathRule::default(); abi::PATH_RULES];
    let agents = (0..).map(AgentId).zip(policy.agents());
    for ((agent, _), row) in agents.zip(table.chunks_mut(action::COUNT)) {
        for (cell, action) in row.iter_mut().zip(Action::ALL) {
            match action {
                Action::Read | Action::Write | Action::Delete => {
                    *cell = data_rule(policy, agent, action);
                }
                Action::Exec => *cell = exec_rule(policy, agent),
                _ => {}
            }
        }
    }
    table
}

fn rules(policy: &Policy, agent: AgentId, action: Action) -> impl Iterator<Item = &Rule> {
    policy
        .rules()
        .iter()
        .filter(move |rule| rule.applies_to(agent) && rule.covers_action(action))
}

/// Rules with `after` are left out of the two sets; who has read what any of them names is asked,
/// and [`crate::rules::judge`] looks at them all.
fn data_rule(policy: &Policy, agent: AgentId, action: Action) -> PathRule {
    let programs = policy.classes_of(|class| class.kind == Kind::Programs).0;
    let mut cell = PathRule {
        allow: programs,
        ..PathRule::default()
    };
    let mut open = policy.all_classes().0 & !programs;
    for rule in rules(policy, agent, action) {
        if rule.after.0 != 0 {
            cell.after |= rule.after.0;
            continue;
        }
        let hit = open & rule.data.0;
        match rule.verdict {
            Verdict::Allow => cell.allow |= hit,
            Verdict::Deny => cell.deny |= hit,
            Verdict::Ask(_) => {}
        }
        open &= !hit;
    }
    if action == Action::Read {
        cell.allow |= open & policy.classes_of(|class| class.kind == Kind::Config).0;
        // What the kernel lets through it marks. Only user space knows which files a pattern means.
        let patterns = policy.classes_of(|class| !class.globs.iter().all(Glob::is_literal));
        cell.allow &= !(patterns.0 & policy.taints().0);
    }
    cell
}

/// Here the first rule that matches wins, whichever of a program's classes it is about: so a
/// class is denied only if no earlier rule could say otherwise of another class.
fn exec_rule(policy: &Policy, agent: AgentId) -> PathRule {
    let programs = policy.classes_of(|class| class.kind == Kind::Programs).0;
    let mut cell = PathRule {
        allow: policy.all_classes().0 & !programs,
        ..PathRule::default()
    };
    let (mut open, mut only_denied) = (programs, true);
    for rule in rules(policy, agent, Action::Exec) {
        let Some(run) = &rule.run else { continue };
        let hit = open & run.programs.0;
        let says = &rule.verdict;
        match says {
            Verdict::Allow if run.is_unconditional() => cell.allow |= hit,
            Verdict::Deny if run.is_unconditional() && only_denied => cell.deny |= hit,
            _ => {}
        }
        only_denied &= *says == Verdict::Deny && run.is_unconditional();
        open &= !hit;
    }
    cell.allow |= open;
    cell
}

fn agent_rules(policy: &Policy) -> Vec<AgentRules> {
    let mut table = vec![AgentRules::default(); abi::MAX_AGENTS];
    let agents = (0..).map(AgentId).zip(policy.agents());
    for (cell, (id, agent)) in table.iter_mut().zip(agents) {
        let first = rules(policy, id, Action::Privilege).next();
        *cell = AgentRules {
            capabilities: agent.exceptions.capabilities,
            exceptions: exceptions(agent),
            privilege: first.map_or(verdict::ASK, |rule| match rule.verdict {
                Verdict::Allow => verdict::ALLOW,
                Verdict::Deny => verdict::DENY,
                Verdict::Ask(_) => verdict::ASK,
            }),
            taints: policy.taints().0,
            after: policy.asked_after().0,
        };
    }
    table
}

fn exceptions(agent: &Agent) -> u32 {
    let bits = [
        (agent.exceptions.user_namespaces, exception::USER_NAMESPACES),
        (agent.shared_taint, exception::SHARED_TAINT),
        (agent.exceptions.trace, exception::TRACE),
    ];
    bits.iter()
        .filter(|(on, _)| *on)
        .fold(0, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests;
