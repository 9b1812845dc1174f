//! Any inputs in any order: duplicates, late ones, unknown ids, failures everywhere.
//!
//! [`Watch`] keeps its own book of what went in and checks each action against that book.
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use syshold_protocol::accept::DenyCause;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::{DecisionId, RequestId};
use uuid::Uuid;

use super::pending::State;
use super::requests::Phase;
use super::*;
use crate::request::{Action as Act, Actions, AgentId, Classes, Object, Request, Transport};

mod watch;

use watch::Watch;

const SAME_OBJECT: u64 = 600;
const LATE: u64 = 1800;

/// Small, so that every bound is met.
const LIMITS: Limits = Limits {
    max_pending: 6,
    max_joined: 3,
    max_late: 2,
    max_grants: 3,
    max_recent: 2,
    late: Duration::from_millis(LATE),
    same_object: Duration::from_millis(SAME_OBJECT),
};

/// One input, its ids picked from those seen so far (or, now and then, unknown).
#[derive(Clone, Debug)]
enum Op {
    Hold(Facts),
    HoldAgain(Index, Facts),
    Interrupt(Index),
    Asked(Index),
    AskFailed(Index, AskFailure),
    Approve(Index, Lifespan, Option<u32>, u64),
    Deny(Index, DenyCause),
    Refused(Index),
    Unreachable(Index),
    Recorded(Index),
    RecordFailed(Index),
    Resumed(Index),
    Gone(Index),
    Exited(u32),
    /// For an agent; one rule or all; so long.
    Order(u32, Option<u8>, u64),
    OrdersOver,
    /// An approval that was given, or none; with its request, or with another.
    Revoked(Index, Option<Index>),
    PolicyChanged,
    Wait(u64),
}

/// A hold and what the policy says about it.
#[derive(Clone, Debug)]
struct Facts {
    agent: u32,
    process: u32,
    session: bool,
    /// Even: a socket; odd: a file.
    object: u64,
    rule: u8,
    judgement: u8,
    age: u64,
    hold: u64,
    on_timeout: bool,
    on_unreachable: bool,
}

fn facts() -> impl Strategy<Value = Facts> {
    let who = (0..3_u32, 1..4_u32, any::<bool>());
    let what = (0..3_u64, 0..8_u8, 0..10_u8);
    let how = (0..300_u64, 1..2000_u64, any::<bool>(), any::<bool>());
    (who, what, how).prop_map(
        |((agent, process, session), (object, rule, judgement), how)| {
            let (age, hold, on_timeout, on_unreachable) = how;
            Facts {
                agent: agent / 2,
                process,
                session,
                object,
                rule: u8::from(rule == 0),
                judgement,
                age,
                hold,
                on_timeout,
                on_unreachable,
            }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let at = any::<Index>;
    let failure = prop_oneof![
        Just(AskFailure::Record),
        Just(AskFailure::Describe),
        Just(AskFailure::Gone)
    ];
    let lifespan = prop_oneof![
        Just(Lifespan::Single),
        Just(Lifespan::Process),
        Just(Lifespan::Session),
        Just(Lifespan::Until)
    ];
    let denial = prop_oneof![
        Just(DenyCause::Denied),
        Just(DenyCause::Expired),
        Just(DenyCause::Withdrawn)
    ];
    let uses = prop_oneof![2 => Just(None), 3 => (0..4_u32).prop_map(Some)];
    prop_oneof![
        10 => facts().prop_map(Op::Hold),
        2 => (at(), facts()).prop_map(|(at, facts)| Op::HoldAgain(at, facts)),
        1 => at().prop_map(Op::Interrupt),
        6 => at().prop_map(Op::Asked),
        1 => (at(), failure).prop_map(|(at, failure)| Op::AskFailed(at, failure)),
        6 => (at(), lifespan, uses, 0..3000_u64)
            .prop_map(|(at, lifespan, uses, ends)| Op::Approve(at, lifespan, uses, ends)),
        1 => (at(), denial).prop_map(|(at, denial)| Op::Deny(at, denial)),
        1 => at().prop_map(Op::Refused),
        1 => at().prop_map(Op::Unreachable),
        8 => at().prop_map(Op::Recorded),
        1 => at().prop_map(Op::RecordFailed),
        2 => at().prop_map(Op::Resumed),
        1 => at().prop_map(Op::Gone),
        1 => (1..4_u32).prop_map(Op::Exited),
        1 => (0..2_u32, prop::option::of(0..2_u8), 0..900_u64)
            .prop_map(|(agent, rule, ends)| Op::Order(agent, rule, ends)),
        1 => Just(Op::OrdersOver),
        3 => (at(), prop::option::weighted(0.1, at()))
            .prop_map(|(at, other)| Op::Revoked(at, other)),
        1 => Just(Op::PolicyChanged),
        3 => (0..900_u64).prop_map(Op::Wait),
    ]
}

impl Gate {
    /// Every count, place and timer agrees with the others.
    fn check_books(&self) {
        let mut waiting = 0;
        for held in self.pending.iter() {
            let State::Waiting(wait) = &held.state else {
                continue;
            };
            waiting += 1;
            let asked = self
                .requests
                .find(wait.request)
                .expect("its request is there");
            assert_eq!(asked.joined.get(&wait.place), Some(&held.hold.id));
            assert!(
                !matches!(asked.phase, Phase::Late(_)),
                "it waits for a late approval"
            );
            assert!(wait.until > self.now, "it should have expired");
        }
        assert_eq!(self.pending.waiting(), waiting);
        let joined: usize = self.requests.iter().map(|asked| asked.joined.len()).sum();
        assert_eq!(
            joined, waiting,
            "every place in a request is a hold that waits"
        );
        let shown = |asked: &requests::Asked| {
            let session = asked
                .shown
                .session
                .filter(|root| Some(*root) != asked.shown.process);
            usize::from(asked.shown.process.is_some()) + usize::from(session.is_some())
        };
        let showing: usize = self.requests.iter().map(shown).sum();
        assert_eq!(self.requests.showing(), showing);
        let late = self.requests.all_late().len();
        assert_eq!(self.requests.late(), late);
        assert_eq!(self.grants.iter().count(), self.grants.len());
        assert_eq!(self.timers.len(), waiting + late + self.grants.len());
        for asked in self.requests.iter() {
            let empty = asked.joined.is_empty();
            assert_eq!(
                empty,
                matches!(asked.phase, Phase::Late(_)),
                "a request for nobody"
            );
        }
        assert!(waiting <= LIMITS.max_pending && self.pending.len() <= 2 * LIMITS.max_pending);
        assert!(late <= LIMITS.max_late && self.grants.len() <= LIMITS.max_grants);
        assert!(
            self.requests
                .iter()
                .all(|asked| asked.joined.len() <= LIMITS.max_joined)
        );
    }
}

fn process(tgid: u32) -> Process {
    Process { tgid, start_ns: 1 }
}

fn hold(id: HoldId, facts: &Facts, now: Now) -> Hold {
    let object = if facts.object.is_multiple_of(2) {
        let port = if facts.object == 0 { 443 } else { 80 };
        Object::Socket {
            cookie: 1 + id.0 % 2,
            transport: Transport::Tcp,
            to: SocketAddr::from(([192, 0, 2, 1], port)),
        }
    } else {
        Object::File {
            dev: 1,
            ino: facts.object,
            generation: 1,
            onto: 0,
            path: None,
        }
    };
    Hold {
        id,
        tid: facts.process,
        process: process(facts.process),
        // Process 1 is the root of the others' tree.
        session: facts.session.then(|| process(1)),
        held_at: Now(now.0 - facts.age),
        request: Request {
            agent: AgentId(facts.agent),
            actions: Actions::from(Act::Connect),
            object,
            classes: Classes::default(),
            taint: Classes::default(),
            exec: None,
        },
    }
}

fn judgement(facts: &Facts) -> Judgement {
    let reason = Reason {
        rule: format!("rule {}", facts.rule),
        why: String::new(),
        taint: Classes::default(),
    };
    let fallback = |allow| {
        if allow {
            Fallback::Allow
        } else {
            Fallback::Deny
        }
    };
    match facts.judgement {
        0 => Judgement::Allow(reason),
        1 => Judgement::Deny(reason),
        _ => Judgement::Ask(
            reason,
            Terms {
                approvers: None,
                scopes: Vec::new(),
                quorum: 1,
                assurance: syshold_protocol::Assurance::Chat,
                hold: Duration::from_millis(facts.hold),
                on_timeout: fallback(facts.on_timeout),
                on_unreachable: fallback(facts.on_unreachable),
            },
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_no_hold_is_released_wrongly_or_lost(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut watch = Watch::new();
        for op in ops {
            watch.run(op);
        }
        watch.end();
    }
}
