//! The kernel's copy of a policy. It may say less than the policy, never anything else: where
//! it cannot be exact it says ASK, and [`crate::rules::judge`] decides.
use syshold_abi::{self as abi, MAX_NET_RULES, NetRule, PathRule, action, cause, verdict};

use super::{Cidr, Dns, Policy, Ports, Rule, Target, Verdict};
use crate::request::Action;
use crate::rules::Facts;

/// Both actions that go to an address.
const NETWORK: u32 = action::CONNECT | action::SEND;
/// Port of DNS.
pub(crate) const DNS_PORT: u16 = 53;

/// What is written into one bank of the kernel's rules.
#[derive(Clone, Debug)]
pub struct KernelTables {
    /// First match wins; no match means ASK. At most [`MAX_NET_RULES`].
    pub net: Vec<NetRule>,
    /// `agent * action::COUNT + action`; always [`abi::PATH_RULES`].
    pub path: Vec<PathRule>,
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
        spilled,
    }
}

fn built_in(policy: &Policy, facts: &Facts<'_>) -> Vec<NetRule> {
    let entry = |agents, net, port| NetRule {
        actions: NETWORK,
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

/// For each agent and action, what the first rule for each class says; ASK is neither bit.
fn path_rules(policy: &Policy) -> Vec<PathRule> {
    let mut table = vec![PathRule::default(); abi::PATH_RULES];
    for (agent, row) in table.chunks_mut(action::COUNT).enumerate() {
        for (cell, action) in row.iter_mut().zip(Action::ALL) {
            let mut open = policy.all_classes().0;
            let rules = policy
                .rules()
                .iter()
                .filter(|rule| rule.agent_bits() & (1 << agent) != 0 && rule.covers_action(action));
            for rule in rules {
                let hit = open & rule.data.0;
                match rule.verdict {
                    Verdict::Allow => cell.allow |= hit,
                    Verdict::Deny => cell.deny |= hit,
                    Verdict::Ask(_) => {}
                }
                open &= !hit;
            }
        }
    }
    table
}
