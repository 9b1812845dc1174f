//! One test a rule. Actions are written out as words, so that a test reads as a story.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::accept::DenyCause;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::{DecisionId, RequestId};
use uuid::Uuid;

use super::*;
use crate::request::{Action as Act, Actions, AgentId, Classes, Object, Request, Transport};

mod asking;
mod bounds;
mod grants;
mod holds;
mod orders;
mod revoking;

const MINUTE: u64 = 60_000;
/// A process that runs as the root of its own tree.
const BOT: Process = process(100);
/// A child of [`BOT`].
const CHILD: Process = process(101);

const fn process(tgid: u32) -> Process {
    Process { tgid, start_ns: 7 }
}

const fn r(n: u64) -> RequestId {
    RequestId(Uuid::from_u128(n as u128))
}

/// A gate at some time, and what it says about each input.
struct Desk {
    gate: Gate,
    now: u64,
}

impl Desk {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut next = 0;
        let ids = Box::new(move || {
            next += 1;
            r(next)
        });
        Self {
            gate: Gate::new(limits, ids),
            now: 1_000_000,
        }
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        let actions = self.gate.step(Now(self.now), input);
        actions.iter().map(words).collect()
    }

    /// Time passes, and the driver ticks at the end of it.
    fn wait(&mut self, millis: u64) -> Vec<String> {
        self.now += millis;
        self.step(Input::Tick)
    }

    fn ask(&mut self, hold: Hold) -> Vec<String> {
        self.ask_with(hold, |_| ())
    }

    fn ask_with(&mut self, hold: Hold, change: impl FnOnce(&mut Terms)) -> Vec<String> {
        let mut terms = terms();
        change(&mut terms);
        self.judged(hold, Judgement::Ask(reason("egress"), terms))
    }

    fn judged(&mut self, mut hold: Hold, judgement: Judgement) -> Vec<String> {
        if hold.held_at == Now(0) {
            hold.held_at = Now(self.now);
        }
        self.step(Input::Held {
            hold: Box::new(hold),
            judgement,
        })
    }

    fn asked(&mut self, n: u64) -> Vec<String> {
        self.step(Input::Asked { request: r(n) })
    }

    fn approve(&mut self, n: u64, granted: Granted) -> Vec<String> {
        self.answer(n, Says::Approve(granted))
    }

    fn deny(&mut self, n: u64) -> Vec<String> {
        self.answer(n, Says::Deny(DenyCause::Denied))
    }

    fn answer(&mut self, n: u64, says: Says) -> Vec<String> {
        let approval = Arc::new(Approval {
            decision_id: DecisionId(Uuid::from_u128(u128::from(n))),
            approvers: Vec::new(),
            envelope: Vec::new(),
            request: None,
        });
        self.step(Input::Answered {
            request: r(n),
            answer: Answer { says, approval },
        })
    }

    fn recorded(&mut self, id: u64) -> Vec<String> {
        self.step(Input::Recorded { hold: HoldId(id) })
    }

    fn gone(&mut self, id: u64) -> Vec<String> {
        self.step(Input::Gone {
            hold: HoldId(id),
            why: Gone::Died,
        })
    }

    /// For `millis`, `uses` times.
    fn granted(&self, lifespan: Lifespan, millis: u64, uses: impl Into<Option<u32>>) -> Granted {
        Granted {
            lifespan,
            uses: uses.into(),
            ends: Now(self.now + millis),
        }
    }

    fn once(&self, uses: u32) -> Granted {
        self.granted(Lifespan::Single, 30 * MINUTE, uses)
    }

    /// A hold that was asked about in request `n` and approved once; it runs on.
    fn release_once(&mut self, hold: Hold, n: u64) {
        let id = hold.id.0;
        self.ask(hold);
        self.asked(n);
        self.approve(n, self.once(1));
        assert_eq!(self.recorded(id), [format!("release {id}: allow")]);
    }
}

/// Terms of a rule that asks: five minutes, then deny.
fn terms() -> Terms {
    Terms {
        approvers: None,
        scopes: Vec::new(),
        quorum: 1,
        assurance: syshold_protocol::Assurance::Chat,
        hold: Duration::from_millis(5 * MINUTE),
        on_timeout: Fallback::Deny,
        on_unreachable: Fallback::Deny,
    }
}

fn reason(rule: &str) -> Reason {
    Reason {
        rule: rule.to_owned(),
        why: String::new(),
        taint: Classes::default(),
    }
}

/// [`BOT`]'s connect to a place, on a socket of its own. Held when the desk hears of it.
fn connect(id: u64) -> Hold {
    Hold {
        id: HoldId(id),
        tid: u32::try_from(id).unwrap(),
        process: BOT,
        session: Some(BOT),
        held_at: Now(0),
        request: Request {
            agent: AgentId(0),
            actions: Actions::from(Act::Connect),
            object: socket(id, "192.0.2.1:443"),
            classes: Classes::default(),
            taint: Classes::default(),
            exec: None,
        },
    }
}

fn read(id: u64, ino: u64) -> Hold {
    let mut hold = connect(id);
    hold.request.actions = Actions::from(Act::Read);
    hold.request.object = Object::File {
        dev: 1,
        ino,
        generation: 1,
        onto: 0,
        path: Some("/srv/pii/a.csv".to_owned()),
    };
    hold
}

fn socket(cookie: u64, to: &str) -> Object {
    Object::Socket {
        cookie,
        transport: Transport::Tcp,
        to: to.parse::<SocketAddr>().unwrap(),
    }
}

trait Change: Sized {
    fn but(self, change: impl FnOnce(&mut Self)) -> Self;

    fn by(self, process: Process) -> Self;
}

impl Change for Hold {
    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn by(self, process: Process) -> Self {
        self.but(|hold| hold.process = process)
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::Park(hold) => format!("park {}", hold.0),
        Action::Ask(ask) => format!(
            "ask {}: about {}, {} waiting",
            name(ask.request),
            ask.hold.0,
            ask.waiting
        ),
        Action::Record { hold, decision } => format!(
            "record {}: {} by {}, {}",
            hold.0,
            decision.verdict.name(),
            decision.by.name(),
            decision.cause.name()
        ),
        Action::Release { right, verdict } => {
            format!("release {}: {}", right.id().0, verdict.name())
        }
        Action::Withdraw { request, why } => format!("withdraw {}: {}", name(*request), why.name()),
        Action::Grant {
            request, granted, ..
        } => {
            format!("grant {}: {:?}", name(*request), granted.lifespan)
        }
        Action::Outcome {
            hold,
            request,
            outcome,
            held,
        } => {
            let request = request.map_or("nobody".to_owned(), name);
            let held = held.as_millis();
            format!(
                "outcome {}: {outcome:?}, asked {request}, {held} ms",
                hold.0
            )
        }
    }
}

fn name(request: RequestId) -> String {
    format!("r{}", request.0.as_u128())
}

const NOTHING: [&str; 0] = [];
