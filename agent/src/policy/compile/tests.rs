//! The tables say what the policy says, or ask.
use proptest::prelude::*;
use syshold_abi::{CLASS_OWN, CLASS_OWN_PROGRAMS};

use super::*;
use crate::names::canonical;
use crate::policy::testing::{self, World, parsed};
use crate::request::{Classes, Object, Request};
use crate::rules::{Judgement, judge};

/// What the kernel programs make of the tables. `glob`: classes that user space may add.
fn kernel(tables: &KernelTables, request: &Request, glob: u64) -> u32 {
    let answers: Vec<u32> = match &request.object {
        Object::Socket { to, .. } => {
            let listens = request.actions == Action::Listen.into();
            // Where a connection to "no address" goes is known; who listens there listens anywhere.
            let ip = if listens {
                to.ip().to_canonical()
            } else {
                canonical(to.ip())
            };
            let bits = match ip {
                std::net::IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
                std::net::IpAddr::V6(v6) => u128::from(v6),
            };
            let (hi, lo) = ((bits >> 64) as u64, bits as u64);
            let matched = tables.net.iter().find(|rule| {
                (hi ^ rule.addr_hi) & rule.mask_hi == 0
                    && (lo ^ rule.addr_lo) & rule.mask_lo == 0
                    && rule.agents >> request.agent.0 & 1 == 1
                    && (rule.after == 0 || rule.after & request.taint.0 != 0)
                    && (rule.port_lo..=rule.port_hi).contains(&to.port())
                    && request.actions.0 & !rule.actions == 0
            });
            if listens && ip.is_loopback() {
                vec![verdict::ALLOW]
            } else {
                vec![matched.map_or(verdict::ASK, |rule| rule.verdict)]
            }
        }
        Object::Privilege(_) => vec![tables.agents[request.agent.0 as usize].privilege],
        _ => {
            let changes = request.actions.0 & !(action::READ | action::EXEC) != 0;
            let mut answers = Vec::new();
            if request.classes.0 & CLASS_OWN != 0
                || request.classes.0 & CLASS_OWN_PROGRAMS != 0 && changes
            {
                answers.push(verdict::DENY);
            }
            let classes = request.classes.0 & !(CLASS_OWN | CLASS_OWN_PROGRAMS);
            answers.extend(request.actions.iter().map(|action| {
                let row = request.agent.0 as usize * action::COUNT + action as usize;
                let PathRule { allow, deny, after } = tables.path[row];
                if after & request.taint.0 != 0 {
                    verdict::ASK
                } else if classes & deny != 0 {
                    verdict::DENY
                } else if classes & !allow == 0 && glob & !allow == 0 {
                    verdict::ALLOW
                } else {
                    verdict::ASK
                }
            }));
            answers
        }
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
    // The rule for writing, and that nobody speaks of running anything.
    assert_eq!(set, [6, action::COUNT + 4, action::COUNT + 6]);
}

/// Mostly none; of data and of programs.
fn globs() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => (0_u64..16, 0_u64..8).prop_map(|(data, run)| data | run << 57)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The one that matters: the kernel never allows or denies what the policy does not.
    #[test]
    fn the_kernel_says_what_the_policy_says_or_asks(
        policy in testing::policy(0..60),
        world in testing::world(),
        requests in proptest::collection::vec((testing::request(), globs(), any::<u64>()), 1..40),
    ) {
        let tables = compile(&policy, &world.facts());
        prop_assert!(tables.net.len() <= MAX_NET_RULES);
        prop_assert_eq!(tables.path.len(), abi::PATH_RULES);
        prop_assert_eq!(tables.agents.len(), abi::MAX_AGENTS);
        for (request, glob, real) in requests {
            let unknown_agent = policy.agent(request.agent).is_none();
            let file = matches!(request.object, Object::File { .. });
            let glob = if file { glob } else { 0 };
            let free = file && request.classes.0 & !CLASS_OWN_PROGRAMS == 0;
            if unknown_agent && (free || request.actions == Action::Listen.into()) {
                // The hooks let such files, and listening for this host, pass before they look for
                // a rule.
                continue;
            }
            // Of the classes that a glob may give, user space finds out which the file has.
            let settled = Request {
                classes: Classes(request.classes.0 | glob & real),
                ..request.clone()
            };
            let exact = said(&judge(&policy, &settled, &world.facts()));
            let quick = kernel(&tables, &request, glob);
            if unknown_agent {
                prop_assert!(quick != verdict::ALLOW, "{request:?}");
            } else if is_exact(&policy, &tables, &request) && glob == 0 {
                prop_assert_eq!(quick, exact, "{:?}", request);
            } else {
                prop_assert!(quick == exact || quick == verdict::ASK, "{quick} for {exact}: {request:?}");
            }
        }
    }
}

/// Where the kernel has to be as exact as the policy: else asking always would pass, too.
fn is_exact(policy: &Policy, tables: &KernelTables, request: &Request) -> bool {
    match &request.object {
        Object::Socket { .. } => tables.spilled == 0,
        Object::Privilege(_) => true,
        _ => {
            let row = request.agent.0 as usize * action::COUNT;
            let tainted = request
                .actions
                .iter()
                .any(|action| tables.path[row + action as usize].after & request.taint.0 != 0);
            // Rules about arguments are judged where these are known, and a rule that denies can
            // stand below one that would allow another class of the same program.
            let exec = request.actions.0 & action::EXEC != 0
                && policy.rules().iter().any(|rule| match &rule.run {
                    Some(run) => !run.is_unconditional() || rule.verdict != Verdict::Deny,
                    None => false,
                });
            // Which files of a pattern were read is known in user space only: c1.
            let marks = request.actions.0 & action::READ != 0 && request.classes.0 & 0b10 != 0;
            !tainted && !exec && !marks
        }
    }
}

#[test]
fn programs_are_told_apart_where_their_rules_allow_it() {
    let rule = |name: &str, programs: &str, verdict: &str, more: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\naction = \"exec\"\nprograms = \"{programs}\"\nverdict = \"{verdict}\"\n{more}"
        )
    };
    let policy = parsed(&format!(
        "[[govern]]\nname = \"a\"\nowner = \"o\"\n[[protect]]\nname = \"p\"\npaths = \"/p\"\n{}{}{}{}{}",
        rule("never", "/bin/nc", "deny", ""),
        rule("git", "/bin/git", "allow", ""),
        rule("kubectl", "/bin/kubectl", "deny", "argv = \"* delete *\"\n"),
        rule("kubectl2", "/bin/kubectl", "allow", ""),
        rule("others", "/bin/*", "deny", ""),
    ));
    let row = compile(&policy, &empty_world().facts()).path[action::EXEC.trailing_zeros() as usize];
    let bit = |rule: usize| policy.rules()[rule].run.as_ref().unwrap().programs.0;
    // Denied: nothing above could allow it. `others` is asked: git and kubectl are in /bin, too.
    assert_eq!((row.deny, row.allow & bit(0)), (bit(0), 0));
    assert_eq!((row.allow & bit(1), row.allow & 1), (bit(1), 1));
    assert_eq!(row.allow & (bit(2) | bit(4)), 0);
    // Reading a program is no more than reading a file.
    let read = compile(&policy, &empty_world().facts()).path[3];
    assert_eq!(read.allow, bit(0) | bit(1) | bit(2) | bit(4));
}

#[test]
fn a_read_that_a_pattern_may_mean_is_settled_before_it_marks() {
    let policy = parsed(
        "[[govern]]\nname = \"a\"\nowner = \"o\"\n\
         [[protect]]\nname = \"plain\"\npaths = \"/p\"\n\
         [[protect]]\nname = \"pattern\"\npaths = [\"/q\", \"/r/*.csv\"]\n\
         [[protect]]\nname = \"settings\"\npaths = \"/s/*.conf\"\nclass = \"config\"\n\
         [[rule]]\nname = \"r\"\naction = [\"read\", \"write\"]\nverdict = \"allow\"\n",
    );
    let tables = compile(&policy, &empty_world().facts());
    let row = |action: Action| tables.path[action as usize].allow;
    assert_eq!((row(Action::Read), row(Action::Write)), (0b101, 0b111));
}

#[test]
fn an_agent_keeps_what_the_policy_leaves_it() {
    let policy = parsed(
        "[[govern]]\nname = \"a\"\nowner = \"o\"\n\
         [[govern]]\nname = \"b\"\nowner = \"o\"\ntaint = \"agent\"\n\
         capabilities = [\"CAP_NET_ADMIN\", \"CAP_BPF\"]\nallow = [\"user-namespaces\", \"trace\"]\n\
         [[protect]]\nname = \"p\"\npaths = \"/p\"\n\
         [[protect]]\nname = \"c\"\npaths = \"/c\"\nclass = \"config\"\n\
         [[protect]]\nname = \"d\"\npaths = \"/d\"\nclass = \"config\"\n\
         [[rule]]\nname = \"r\"\naction = \"privilege\"\nagent = \"b\"\nverdict = \"deny\"\n\
         [[rule]]\nname = \"s\"\naction = \"connect\"\nafter = \"d\"\nverdict = \"ask\"\n",
    );
    let tables = compile(&policy, &empty_world().facts());
    let [a, b, none, ..] = tables.agents[..] else {
        panic!();
    };
    assert_eq!(
        (a.capabilities, a.exceptions, a.privilege),
        (0, 0, verdict::ASK)
    );
    assert_eq!(b.capabilities, 1 << 12 | 1 << 39);
    let all = exception::USER_NAMESPACES | exception::SHARED_TAINT | exception::TRACE;
    assert_eq!((b.exceptions, b.privilege), (all, verdict::DENY));
    assert_eq!(none.privilege, 0);
    // Data, and the configuration that a rule asks for.
    assert_eq!((a.taints, b.taints), (0b101, 0b101));
}
