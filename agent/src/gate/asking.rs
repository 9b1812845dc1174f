//! The gate's questions to people: who joins which, and what an answer does.
use std::sync::Arc;

use syshold_protocol::accept::DenyCause;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::RequestId;

use super::grants::Reach;
use super::key::Key;
use super::pending::State;
use super::requests::{Phase, Shown};
use super::ruling::{Basis, Ruling};
use super::types::{
    Action, Answer, Approval, Ask, AskFailure, By, Cause, Granted, Hold, Says, Verdict, Withdrawal,
};
use super::{Gate, Subject};
use crate::request::HoldId;

impl Gate {
    /// Finds the hold its request; true: a new one, to be asked.
    pub(super) fn place(&mut self, hold: &Hold, key: &Arc<Key>) -> (RequestId, u64, bool) {
        if let Some((request, place)) = self.requests.join(key, hold.id, self.limits.max_joined) {
            return (request, place, false);
        }
        let shown = Shown {
            hold: hold.id,
            process: Some(hold.process),
            session: hold.session,
            waiting: 1,
        };
        let request = (self.ids)();
        let place = self.requests.open(request, Arc::clone(key), shown);
        (request, place, true)
    }

    /// Asks about the first hold of the request, on behalf of all that joined it.
    pub(super) fn ask(&mut self, request: RequestId) {
        let Some(asked) = self.requests.find(request) else {
            return;
        };
        let Some((_, &id)) = asked.joined.first_key_value() else {
            return;
        };
        let Some(held) = self.pending.find(id) else {
            return;
        };
        let State::Waiting(waiting) = &held.state else {
            return;
        };
        let shown = Shown {
            hold: id,
            process: Some(held.hold.process),
            session: held.hold.session,
            waiting: u32::try_from(asked.joined.len()).unwrap_or(u32::MAX),
        };
        self.requests.show(request, shown);
        self.out.push(Action::Ask(Ask {
            request,
            hold: id,
            reason: held.reason.clone(),
            terms: waiting.terms.clone(),
            waiting: shown.waiting,
            until: waiting.until,
        }));
    }

    /// Holds whose request was answered, but not for them.
    pub(super) fn ask_again(&mut self, holds: Vec<HoldId>) {
        let mut new = Vec::new();
        for id in holds {
            let Some(held) = self.pending.find(id) else {
                continue;
            };
            let State::Waiting(waiting) = &held.state else {
                continue;
            };
            let (hold, key) = (held.hold.clone(), Arc::clone(&waiting.key));
            let (request, place, is_new) = self.place(&hold, &key);
            self.pending.rejoin(id, request, place);
            new.extend(is_new.then_some(request));
        }
        for request in new {
            self.ask(request);
        }
    }

    pub(super) fn asked(&mut self, request: RequestId) {
        let Some(asked) = self.requests.find_mut(request) else {
            return;
        };
        let Phase::Asking { early } = &mut asked.phase else {
            return;
        };
        let early = early.take();
        asked.phase = Phase::Open;
        if let Some(answer) = early {
            self.answered(request, answer);
        }
    }

    pub(super) fn ask_failed(&mut self, request: RequestId, cause: AskFailure) {
        let Some(asked) = self.requests.find(request) else {
            return;
        };
        if !matches!(asked.phase, Phase::Asking { .. }) {
            return;
        }
        let cause = match cause {
            AskFailure::Record => Cause::RequestNotRecorded,
            AskFailure::Describe => Cause::NotDescribed,
            AskFailure::Gone => {
                let shown = asked.shown.hold;
                if self
                    .pending
                    .find_waiting(shown)
                    .is_some_and(|waiting| waiting.request == request)
                {
                    self.decide_and_leave(shown, Ruling::error(Cause::NotDescribed));
                }
                return self.ask(request);
            }
        };
        for id in self.close(request) {
            self.decide(id, Ruling::error(cause));
        }
    }

    pub(super) fn unreachable(&mut self, request: RequestId) {
        if self.requests.find(request).is_none() {
            return;
        }
        for id in self.close(request) {
            let Some(waiting) = self.pending.find_waiting(id) else {
                continue;
            };
            let fallback = waiting.terms.on_unreachable;
            self.decide(
                id,
                Ruling::fallback(fallback, By::Unreachable, Cause::Unreachable),
            );
        }
        self.withdraw(request, Withdrawal::Unreachable);
    }

    /// Removes a request; returns the holds that waited for it, in order.
    pub(super) fn close(&mut self, request: RequestId) -> Vec<HoldId> {
        let Some(asked) = self.requests.remove(request) else {
            return Vec::new();
        };
        if let Phase::Late(timer) = asked.phase {
            self.timers.cancel(timer);
        }
        asked.joined.into_values().collect()
    }

    pub(super) fn withdraw(&mut self, request: RequestId, why: Withdrawal) {
        self.out.push(Action::Withdraw { request, why });
    }

    // ---- answers ----

    pub(super) fn answered(&mut self, request: RequestId, answer: Answer) {
        let Some(asked) = self.requests.find_mut(request) else {
            return;
        };
        if let Phase::Asking { early } = &mut asked.phase {
            early.get_or_insert(answer);
            return;
        }
        let (by, cause) = match answer.says {
            Says::Approve(_) if asked.revoked => return self.refuse_revoked(request),
            Says::Approve(granted) => return self.approved(request, granted, answer.approval),
            Says::Deny(DenyCause::Expired) => return,
            Says::Deny(DenyCause::Denied) => (By::Human, Cause::Denied),
            Says::Deny(DenyCause::Withdrawn) => (By::Withdrawn, Cause::Withdrawn),
        };
        let basis = Basis {
            request: Some(request),
            granted: None,
            approval: answer.approval,
        };
        for id in self.close(request) {
            let basis = Some(basis.clone());
            self.decide(
                id,
                Ruling {
                    verdict: Verdict::Deny,
                    by,
                    cause,
                    basis,
                },
            );
        }
    }

    fn approved(&mut self, request: RequestId, granted: Granted, approval: Arc<Approval>) {
        let Some(asked) = self.requests.find(request) else {
            return;
        };
        let (key, shown) = (Arc::clone(&asked.key), asked.shown);
        let late = matches!(asked.phase, Phase::Late(_));
        let waited = self.close(request);
        if late {
            return self.approved_late(request, &key, granted, approval);
        }
        let reach = Reach::of(granted.lifespan, key.agent, shown);
        let mut left = match granted.uses {
            _ if granted.ends <= self.now => Some(0),
            None if granted.lifespan == Lifespan::Single => Some(shown.waiting),
            uses => uses,
        };
        let basis = Basis {
            request: Some(request),
            granted: Some(granted),
            approval,
        };
        let mut uncovered = Vec::new();
        for id in waited {
            let covered = left != Some(0)
                && self
                    .pending
                    .find(id)
                    .is_some_and(|held| reach.covers(&held.hold));
            if covered {
                left = left.map(|left| left - 1);
                self.decide(id, Ruling::approved(basis.clone()));
            } else {
                uncovered.push(id);
            }
        }
        if let Reach::Subject(subject) = reach {
            self.grant(subject, &key, (request, basis), granted, left);
        }
        self.ask_again(uncovered);
    }

    /// Good for one retry, whatever it was meant for: the act it was asked for is over.
    fn approved_late(
        &mut self,
        request: RequestId,
        key: &Arc<Key>,
        granted: Granted,
        approval: Arc<Approval>,
    ) {
        let granted = Granted {
            lifespan: Lifespan::Single,
            uses: Some(granted.uses.unwrap_or(1).min(1)),
            ends: granted.ends.min(self.now + self.limits.late),
        };
        let basis = Basis {
            request: Some(request),
            granted: Some(granted),
            approval,
        };
        let subject = Subject::Retry(key.agent);
        self.grant(subject, key, (request, basis), granted, granted.uses);
    }

    /// Keeps an approval for holds to come, and for identical ones that another request is about.
    fn grant(
        &mut self,
        subject: Subject,
        key: &Arc<Key>,
        (request, basis): (RequestId, Basis),
        granted: Granted,
        left: Option<u32>,
    ) {
        if left == Some(0) || granted.ends <= self.now || key.policy != self.policy {
            return;
        }
        if self.grants.len() >= self.limits.max_grants {
            self.counts.grants_dropped += 1;
            return;
        }
        self.out.push(Action::Grant {
            request,
            granted,
            approval: Arc::clone(&basis.approval),
        });
        let (key, ends) = (Arc::clone(key), granted.ends);
        self.grants.insert(
            subject,
            Arc::clone(&key),
            basis,
            left,
            ends,
            &mut self.timers,
        );
        self.cover_waiting(&key);
    }

    fn cover_waiting(&mut self, key: &Arc<Key>) {
        let Some(asked) = self
            .requests
            .joinable(key)
            .and_then(|request| self.requests.find(request))
        else {
            return;
        };
        for id in asked.joined.values().copied().collect::<Vec<_>>() {
            let Some(held) = self.pending.find(id) else {
                continue;
            };
            if let Some(basis) = self.grants.spend(&held.hold, key, &mut self.timers) {
                self.decide_and_leave(id, Ruling::grant(basis, Cause::Granted));
            }
        }
    }
}
