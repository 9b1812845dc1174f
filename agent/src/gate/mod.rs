//! Pending holds, deadlines, joined requests, grants. Pure: inputs and `now` in, actions out.
//!
//! The way of one hold:
//! ```text
//!              Held
//!               │  judged by the policy
//!      ┌────────┼──────────────────────────────┐
//!  allow, deny  │ ask                          │ ask, and too many wait
//!      │        ├── grant, same socket ──┐     │
//!      │        ▼                        │     │
//!      │    ┌────────┐  Held again: Park │     │
//!      │    │WAITING │◀─┐                │     │
//!      │    └────────┘──┘                │     │
//!      │        │ Answered · deadline ·  │     │
//!      │        │ Unreachable · AskFailed│     │
//!      │        │ Interrupt · a grant    │     │
//!      ▼        ▼                        ▼     ▼
//!    ┌─────────────────────────────────────────┐
//!    │ RECORDING      Record: the verdict is   │── Gone ──▶ Outcome(gone)   [WAITING too]
//!    │                final from here on, but  │
//!    │ an approval taken back: Record deny, too│
//!    └─────────────────────────────────────────┘
//!        │ Recorded: Release(verdict)
//!        │ RecordFailed: Release(deny)
//!        ▼
//!    ┌────────┐
//!    │SETTLED │── Resumed, Gone ──▶ Outcome, once
//!    └────────┘
//! ```
//! The way of a request: ASKING (Ask) → OPEN (Asked) → answered, withdrawn, unreachable, or
//! LATE (every hold expired) → a late approval, or withdrawn. What an approval does not cover
//! is asked again in a new request.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::ids::RequestId;

use crate::request::HoldId;
use crate::rules::{Fallback, Judgement, Reason, Terms};

mod asking;
mod grants;
mod key;
mod orders;
mod pending;
mod requests;
mod revoking;
mod ruling;
mod timers;
pub mod types;
mod view;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use grants::Subject;
pub use key::Place;
pub use orders::MOST_ORDERS;
pub use pending::ReleaseRight;
pub use types::{
    Action, Answer, Approval, Ask, AskFailure, By, Cause, Decision, Gone, Granted, Hold, Input,
    Now, Order, Outcome, Process, Says, Verdict, Withdrawal,
};
pub use view::{Counts, GrantView, HoldView};

use grants::{Grants, Recent};
use key::Key;
use pending::{Held, Pending, Released, Settled, State, Waiting};
use requests::{Phase, Requests};
use ruling::{Basis, Ruling};
use timers::{Timer, Timers};

/// Where memory ends. Beyond a bound a hold is denied, or asked about again; never allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Holds that wait for people. Twice as many may be pending in all; further ones stay held
    /// until the next sweep.
    pub max_pending: usize,
    /// Holds in one request; the next one starts another.
    pub max_joined: usize,
    /// Expired requests kept for a late approval.
    pub max_late: usize,
    pub max_grants: usize,
    /// Sockets remembered for [`Limits::same_object`].
    pub max_recent: usize,
    /// How long a late approval is awaited, and how long it then stays open.
    pub late: Duration,
    /// How long an approval of a single use answers for the same socket and destination.
    pub same_object: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pending: 16_384,
            max_joined: 10_000,
            max_late: 4096,
            max_grants: 4096,
            max_recent: 4096,
            late: Duration::from_secs(30 * 60),
            same_object: Duration::from_secs(10 * 60),
        }
    }
}

/// Makes request ids; they hold a time and chance, which the gate has neither of.
pub type RequestIds = Box<dyn FnMut() -> RequestId + Send>;

pub struct Gate {
    limits: Limits,
    ids: RequestIds,
    now: Now,
    /// Counts policies; part of every key.
    policy: u64,
    pending: Pending,
    settled: Settled,
    requests: Requests,
    grants: Grants,
    orders: Vec<Order>,
    recent: Recent,
    timers: Timers,
    counts: Counts,
    out: Vec<Action>,
}

impl Gate {
    #[must_use]
    pub fn new(limits: Limits, ids: RequestIds) -> Self {
        Self {
            limits,
            ids,
            now: Now::default(),
            policy: 0,
            pending: Pending::default(),
            settled: Settled::new(limits.max_pending.saturating_mul(2)),
            requests: Requests::default(),
            grants: Grants::default(),
            orders: Vec::new(),
            recent: Recent::default(),
            timers: Timers::default(),
            counts: Counts::default(),
            out: Vec::new(),
        }
    }

    /// One input. Deadlines that have passed come first: an answer after them is a late one.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Action> {
        self.now = self.now.max(now);
        self.pass_deadlines();
        self.end_orders();
        match input {
            Input::Held { hold, judgement } => self.held(*hold, judgement),
            Input::Interrupt { hold } => self.interrupt(hold),
            Input::Asked { request } => self.asked(request),
            Input::AskFailed { request, cause } => self.ask_failed(request, cause),
            Input::Answered { request, answer } => self.answered(request, answer),
            Input::Refused { .. } => self.counts.refused += 1,
            Input::Unreachable { request } => self.unreachable(request),
            Input::Recorded { hold } => self.release(hold, true),
            Input::RecordFailed { hold } => self.release(hold, false),
            Input::Resumed { hold } => self.resumed(hold),
            Input::Gone { hold, why } => self.gone(hold, why),
            Input::ProcessExited { process } => {
                self.grants.end(process, &mut self.timers);
                self.recent.end(process);
                self.requests.end(process);
            }
            Input::Ordered(order) => self.ordered(order),
            Input::OrdersOver => self.orders.clear(),
            Input::Revoked { decision, request } => self.revoked(decision, request),
            Input::PolicyChanged => self.policy_changed(),
            Input::Tick => {}
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        self.timers.next()
    }

    // ---- a hold comes in ----

    fn held(&mut self, mut hold: Hold, judgement: Judgement) {
        let id = hold.id;
        if self.settled.contains(id) {
            return;
        }
        if self.pending.find(id).is_some() {
            if self.pending.find_waiting(id).is_some() {
                self.out.push(Action::Park(id));
            }
            return;
        }
        if self.pending.len() >= self.limits.max_pending.saturating_mul(2) {
            self.counts.put_off += 1;
            return;
        }
        hold.held_at = hold.held_at.min(self.now);
        match judgement {
            Judgement::Allow(reason) => {
                self.admit(hold, reason, None, Ruling::policy(Verdict::Allow));
            }
            Judgement::Deny(reason) => {
                self.admit(hold, reason, None, Ruling::policy(Verdict::Deny));
            }
            Judgement::Ask(reason, terms) => self.held_to_ask(hold, reason, terms),
        }
    }

    fn held_to_ask(&mut self, hold: Hold, reason: Reason, terms: Terms) {
        let key = Arc::new(Key::new(self.policy, &hold.request, &reason));
        if hold.held_at + terms.hold <= self.now {
            let ruling = Ruling::fallback(terms.on_timeout, By::Timeout, Cause::Expired);
            self.admit(hold, reason, Some(key), ruling);
        } else if let Some(basis) = self.same_object(&hold, &key) {
            let ruling = Ruling::grant(basis, Cause::SameObject);
            // No key: being covered does not make the approval last longer.
            self.admit(hold, reason, None, ruling);
        } else if let Some(basis) = self.grants.spend(&hold, &key, &mut self.timers) {
            let ruling = Ruling::grant(basis, Cause::Granted);
            self.admit(hold, reason, Some(key), ruling);
        } else if let Some(ruling) = self.by_order(&hold, &reason) {
            self.admit(hold, reason, Some(key), ruling);
        } else if self.pending.waiting() >= self.limits.max_pending {
            let ruling = Ruling::error(Cause::TooManyPending);
            self.admit(hold, reason, Some(key), ruling);
        } else {
            self.wait(hold, reason, terms, key);
        }
    }

    fn same_object(&self, hold: &Hold, key: &Arc<Key>) -> Option<Basis> {
        let cookie = key::cookie(&hold.request.object)?;
        self.recent.find(hold.process, cookie, key, self.now)
    }

    /// A hold that is decided as it comes in: it never waits.
    fn admit(&mut self, hold: Hold, reason: Reason, key: Option<Arc<Key>>, ruling: Ruling) {
        self.out.push(ruling.record(hold.id, reason.clone()));
        self.pending.insert(Held {
            hold,
            reason,
            state: State::Recording {
                verdict: ruling.verdict,
                basis: ruling.basis,
                key,
                revoked: false,
            },
        });
    }

    fn wait(&mut self, hold: Hold, reason: Reason, terms: Terms, key: Arc<Key>) {
        let id = hold.id;
        self.out.push(Action::Park(id));
        let until = hold.held_at + terms.hold;
        let (request, place, new) = self.place(&hold, &key);
        let waiting = Waiting {
            key,
            terms,
            request,
            place,
            until,
            timer: self.timers.set(until, Timer::Hold(id)),
        };
        self.pending.insert(Held {
            hold,
            reason,
            state: State::Waiting(waiting),
        });
        if new {
            self.ask(request);
        }
    }

    // ---- a hold stops waiting ----

    fn pass_deadlines(&mut self) {
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Hold(id) => self.expire(id),
                Timer::Late(request) => {
                    self.close(request);
                    self.withdraw(request, Withdrawal::Expired);
                }
                Timer::Grant(subject, key) => {
                    self.grants.remove(subject, &key, &mut self.timers);
                }
            }
        }
    }

    fn expire(&mut self, id: HoldId) {
        let Some(waiting) = self.pending.find_waiting(id) else {
            return;
        };
        let fallback = waiting.terms.on_timeout;
        let (request, place) = (waiting.request, waiting.place);
        self.decide(id, Ruling::fallback(fallback, By::Timeout, Cause::Expired));
        let Some(asked) = self.requests.leave(request, place) else {
            return;
        };
        let of_use = matches!(asked.phase, Phase::Open)
            && fallback == Fallback::Deny
            && asked.key.policy == self.policy;
        if of_use && self.requests.late() < self.limits.max_late {
            let until = self.now + self.limits.late;
            let timer = self.timers.set(until, Timer::Late(request));
            self.requests.keep_for_late(request, timer);
        } else {
            self.close(request);
            self.withdraw(request, Withdrawal::Expired);
        }
    }

    fn interrupt(&mut self, id: HoldId) {
        self.decide_and_leave(
            id,
            Ruling {
                verdict: Verdict::Interrupt,
                by: By::Withdrawn,
                cause: Cause::Interrupted,
                basis: None,
            },
        );
    }

    /// Decides a hold whose request goes on for the others that joined it.
    fn decide_and_leave(&mut self, id: HoldId, ruling: Ruling) {
        let Some(waiting) = self.pending.find_waiting(id) else {
            return;
        };
        let (request, place) = (waiting.request, waiting.place);
        let why = match ruling.by {
            By::Grant | By::BreakGlass => Withdrawal::Covered,
            _ => Withdrawal::Gone,
        };
        self.decide(id, ruling);
        self.leave(request, place, why);
    }

    fn leave(&mut self, request: RequestId, place: u64, why: Withdrawal) {
        if self.requests.leave(request, place).is_some() {
            self.close(request);
            self.withdraw(request, why);
        }
    }

    /// From waiting to recording; nothing for a hold that does not wait.
    fn decide(&mut self, id: HoldId, ruling: Ruling) {
        let decided = self
            .pending
            .decide(id, ruling.verdict, ruling.basis.clone());
        if let Some((waiting, reason)) = decided {
            self.out.push(ruling.record(id, reason.clone()));
            self.timers.cancel(waiting.timer);
        }
    }

    // ---- a hold ends ----

    /// The decision leaf is committed, or could not be: then it is deny, whatever was decided.
    fn release(&mut self, id: HoldId, recorded: bool) {
        if recorded && self.record_revoked(id) {
            return;
        }
        let decided = match self.pending.find(id).map(|held| &held.state) {
            Some(State::Recording { verdict, .. }) => *verdict,
            Some(State::Waiting(_)) | None => return,
        };
        let Some((held, right)) = self.pending.take(id) else {
            return;
        };
        let verdict = if recorded { decided } else { Verdict::Deny };
        if recorded {
            self.remember(&held);
        }
        self.out.push(Action::Release { right, verdict });
        let released = Released {
            id,
            verdict,
            request: held.request(),
            held_at: held.hold.held_at,
        };
        if let Some(oldest) = self.settled.insert(released) {
            let outcome = Outcome::Unconfirmed(oldest.verdict);
            self.end(oldest.id, oldest.request, outcome, oldest.held_at);
        }
    }

    /// What was approved once is approved for the other threads on that socket, for a while.
    fn remember(&mut self, held: &Held) {
        let (Some((key, basis)), Some(cookie)) =
            (held.single_use(), key::cookie(&held.hold.request.object))
        else {
            return;
        };
        let until = self.now + self.limits.same_object;
        let ends = basis
            .granted
            .map_or(until, |granted| granted.ends.min(until));
        let socket = (cookie, Arc::clone(key));
        let most = self.limits.max_recent;
        self.recent
            .insert(held.hold.process, socket, basis.clone(), ends, most);
    }

    fn resumed(&mut self, id: HoldId) {
        if let Some(released) = self.settled.end(id) {
            let outcome = Outcome::Resumed(released.verdict);
            self.end(id, released.request, outcome, released.held_at);
        }
    }

    fn gone(&mut self, id: HoldId, why: Gone) {
        if let Some(released) = self.settled.end(id) {
            return self.end(id, released.request, Outcome::Gone(why), released.held_at);
        }
        // Never released: the right goes unused.
        let Some((held, _)) = self.pending.take(id) else {
            return;
        };
        self.end(id, held.request(), Outcome::Gone(why), held.hold.held_at);
        if let State::Waiting(waiting) = held.state {
            self.timers.cancel(waiting.timer);
            self.leave(waiting.request, waiting.place, Withdrawal::Gone);
        }
    }

    fn end(&mut self, hold: HoldId, request: Option<RequestId>, outcome: Outcome, held_at: Now) {
        self.out.push(Action::Outcome {
            hold,
            request,
            outcome,
            held: self.now.since(held_at),
        });
    }

    fn policy_changed(&mut self) {
        self.policy += 1;
        self.grants.clear(&mut self.timers);
        self.orders.clear();
        for request in self.requests.all_late() {
            self.close(request);
            self.withdraw(request, Withdrawal::Expired);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
