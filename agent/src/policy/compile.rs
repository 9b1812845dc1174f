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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::canonical;
    use crate::policy::testing::{self, World, parsed};
    use crate::request::{Object, Request};
    use crate::rules::{Judgement, judge};

    /// What the kernel programs make of the tables.
    fn kernel(tables: &KernelTables, request: &Request) -> u32 {
        let answers: Vec<u32> = match &request.object {
            Object::Socket { to, .. } => {
                let bits = match canonical(to.ip()) {
                    std::net::IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
                    std::net::IpAddr::V6(v6) => u128::from(v6),
                };
                let (hi, lo) = ((bits >> 64) as u64, bits as u64);
                let matched = tables.net.iter().find(|rule| {
                    (hi ^ rule.addr_hi) & rule.mask_hi == 0
                        && (lo ^ rule.addr_lo) & rule.mask_lo == 0
                        && rule.agents >> request.agent.0 & 1 == 1
                        && (rule.port_lo..=rule.port_hi).contains(&to.port())
                        && request.actions.0 & !rule.actions == 0
                });
                vec![matched.map_or(verdict::ASK, |rule| rule.verdict)]
            }
            _ => request
                .actions
                .iter()
                .flat_map(|action| {
                    let row = request.agent.0 as usize * action::COUNT + action as usize;
                    let PathRule { allow, deny, .. } = tables.path[row];
                    request.classes.iter().map(move |bit| {
                        match (deny >> bit & 1, allow >> bit & 1) {
                            (1, _) => verdict::DENY,
                            (_, 1) => verdict::ALLOW,
                            _ => verdict::ASK,
                        }
                    })
                })
                .collect(),
        };
        let strictness = |says: &u32| {
            [verdict::ALLOW, verdict::ASK, verdict::DENY]
                .iter()
                .position(|v| v == says)
        };
        answers
            .into_iter()
            .max_by_key(strictness)
            .unwrap_or(verdict::ALLOW)
    }

    fn said(judgement: &Judgement) -> u32 {
        match judgement {
            Judgement::Allow(_) => verdict::ALLOW,
            Judgement::Deny(_) => verdict::DENY,
            Judgement::Ask(..) => verdict::ASK,
        }
    }

    fn empty_world() -> World {
        World {
            names: Default::default(),
            builtin: Default::default(),
        }
    }

    #[test]
    fn what_does_not_fit_is_asked() {
        let cidrs: Vec<String> = (0..200).map(|i| format!("\"10.0.{i}.0/24\"")).collect();
        let policy = parsed(&format!(
            "[[govern]]\nname = \"a\"\nowner = \"o\"\n[[network]]\nname = \"many\"\ncidrs = [{}]\n\
             [[rule]]\nname = \"r\"\naction = \"connect\"\nto = \"many\"\nverdict = \"allow\"\n",
            cidrs.join(", ")
        ));
        let tables = compile(&policy, &empty_world().facts());
        assert_eq!(
            (tables.net.len(), tables.spilled),
            (MAX_NET_RULES, 200 - MAX_NET_RULES + 1)
        );
        let last = tables.net[MAX_NET_RULES - 1];
        assert_eq!(
            (last.verdict, last.agents, last.mask_hi | last.mask_lo),
            (verdict::ASK, u64::MAX, 0)
        );
    }

    #[test]
    fn the_tables_have_the_shape_the_kernel_reads() {
        let policy = parsed(
            "[[govern]]\nname = \"a\"\nowner = \"o\"\n[[govern]]\nname = \"b\"\nowner = \"o\"\n\
             [[protect]]\nname = \"p\"\npaths = \"/p\"\n\
             [[rule]]\nname = \"n\"\naction = \"connect\"\nagent = \"b\"\nto = \"10.0.0.0/8:80-90\"\nverdict = \"deny\"\n\
             [[rule]]\nname = \"f\"\naction = \"write\"\nagent = \"b\"\nverdict = \"allow\"\n",
        );
        let mut world = empty_world();
        world.builtin.deny.push("192.0.2.9:8443".parse().unwrap());
        world.builtin.resolvers.push("127.0.0.53".parse().unwrap());
        let tables = compile(&policy, &world.facts());
        let [gateway, dns, rule] = tables.net[..] else {
            panic!("{:?}", tables.net)
        };
        assert_eq!(
            (
                gateway.agents,
                gateway.addr_lo,
                gateway.port_lo,
                gateway.verdict,
                gateway.cause,
                gateway.rule
            ),
            (
                u64::MAX,
                0xffff_c000_0209,
                8443,
                verdict::DENY,
                cause::SELF_PROTECTION,
                u32::MAX
            )
        );
        assert_eq!(
            (dns.agents, dns.port_hi, dns.verdict),
            (0b11, 53, verdict::ALLOW)
        );
        assert_eq!(
            (
                rule.agents,
                rule.addr_hi,
                rule.addr_lo,
                rule.mask_hi,
                rule.mask_lo
            ),
            (0b10, 0, 0xffff_0a00_0000, u64::MAX, 0xffff_ffff_ff00_0000)
        );
        assert_eq!(
            (
                rule.port_lo,
                rule.port_hi,
                rule.actions,
                rule.rule,
                rule.cause
            ),
            (80, 90, action::CONNECT, 0, cause::RULE)
        );
        assert_eq!(tables.path.len(), abi::PATH_RULES);
        let set: Vec<usize> = (0..abi::PATH_RULES)
            .filter(|&i| tables.path[i].allow != 0)
            .collect();
        assert_eq!(set, [action::COUNT + 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The one that matters: the kernel never allows or denies what the policy does not.
        #[test]
        fn the_kernel_says_what_the_policy_says_or_asks(
            policy in testing::policy(0..60),
            world in testing::world(),
            requests in proptest::collection::vec(testing::request(), 1..40),
        ) {
            let tables = compile(&policy, &world.facts());
            prop_assert!(tables.net.len() <= MAX_NET_RULES);
            prop_assert_eq!(tables.path.len(), abi::PATH_RULES);
            for request in requests {
                let unknown_agent = policy.agent(request.agent).is_none();
                let file = matches!(request.object, Object::File { .. });
                if unknown_agent && file && request.classes.0 == 0 {
                    // The hooks let unprotected files pass before they look for a rule.
                    continue;
                }
                let exact = said(&judge(&policy, &request, &world.facts()));
                let quick = kernel(&tables, &request);
                if tables.spilled == 0 && !unknown_agent {
                    prop_assert_eq!(quick, exact, "{:?}", request);
                } else {
                    prop_assert!(quick == exact || quick == verdict::ASK, "{quick} for {exact}: {request:?}");
                }
            }
        }
    }
}
