//! What the gate says, done.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use syshold_abi::{Pending, hook, mode};
use syshold_ledger::{Draft, Health};
use syshold_protocol::accept::DenyCause;
use syshold_protocol::ids::RequestId;
use syshold_protocol::{Digest, Outstanding, Ruling, accept, canonical};

use super::{Driver, Input, Open, compose, now, wall};
use crate::approver::client;
use crate::control::{Over, Reply};
use crate::enrich::{self, Described};
use crate::gate::{
    self, Action, Answer, Approval, Ask, AskFailure, Gone, Granted, Outcome, Says, Verdict,
};
use crate::kernel::continue_process;
use crate::park::{self, ParkError};
use crate::request::{HoldId, Object};

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Park(hold) => self.park(hold),
            Action::Ask(ask) => self.describe(ask),
            Action::Record { hold, decision } => self.record(hold, &decision),
            Action::Release { right, verdict } => self.release(&right, verdict),
            Action::Withdraw { request, why } => {
                tracing::debug!(%request, why = why.name(), "request withdrawn");
                self.open.remove(&request);
                if let Some(approver) = &mut self.approver {
                    approver.withdraw(request);
                }
            }
            Action::Grant {
                request,
                granted,
                approval,
            } => {
                self.record_aside(compose::grant_leaf(request, &granted, &approval));
            }
            Action::Outcome {
                hold,
                request,
                outcome,
                held,
            } => {
                self.outcome(hold, request, outcome, held);
            }
        }
    }

    pub(super) fn park(&mut self, hold: HoldId) {
        let Some(fact) = self.facts.get(&hold) else {
            return;
        };
        let (tid, tgid) = (fact.tid, fact.tgid);
        match self.parking.park(tgid, tid) {
            Ok(park::Mode::Stop) => {}
            Ok(park::Mode::Thread | park::Mode::Process) => self.end_stop(hold),
            Err(ParkError::Gone { .. }) => self.gone(hold, Gone::Died),
            // It spins on, and the kernel stops it after a while: held all the same.
            Err(error) => tracing::warn!(%error, tid, "a held thread could not be parked"),
        }
    }

    /// Nobody parked it in time, so the kernel side stopped its whole process. Asleep by itself it
    /// needs that no more.
    fn end_stop(&mut self, hold: HoldId) {
        let Some(fact) = self.facts.get_mut(&hold) else {
            return;
        };
        let late = |pending: &Pending| pending.id == hold.0 && pending.mode == mode::UNPARKED;
        let still = || matches!(self.kernel.held(fact.tid), Ok(Some(pending)) if late(&pending));
        if fact.continued || !still() {
            return;
        }
        match continue_process(fact.tgid, still) {
            Ok(()) => fact.continued = true,
            Err(error) => {
                tracing::warn!(%error, pid = fact.tgid, "a stopped process could not be continued");
            }
        }
    }

    // ---- asking ----

    /// Reads what people need to know, on another thread.
    fn describe(&mut self, ask: Ask) {
        self.counts.asked += 1;
        let Some(hold) = self.gate.hold(ask.hold) else {
            let (request, cause) = (ask.request, AskFailure::Gone);
            return self.gate_step(gate::Input::AskFailed { request, cause });
        };
        let (tid, process) = (hold.tid, hold.process);
        let nameless = match &hold.request.object {
            &Object::File {
                dev,
                ino,
                path: None,
                ..
            } => Some((dev, ino)),
            _ => None,
        };
        let enricher = Arc::clone(&self.enricher);
        let back = self.back.clone();
        tokio::spawn(async move {
            let described = enricher
                .describe_soon(tid, process.tgid, process.start_ns)
                .await;
            let described = match described {
                Ok(described) => Ok(Box::new(described)),
                Err(enrich::Error::Gone { .. }) => Err(AskFailure::Gone),
                Err(error) => {
                    tracing::error!(%error, "a held process could not be described");
                    Err(AskFailure::Describe)
                }
            };
            let path = match (nameless, &described) {
                (Some((dev, ino)), Ok(_)) => tokio::task::spawn_blocking(move || {
                    enricher.path_of(process.tgid, process.start_ns, dev, ino)
                })
                .await
                .ok()
                .flatten(),
                _ => None,
            };
            let _ = back
                .send(Input::Described(Box::new(ask), described, path))
                .await;
        });
    }

    /// Composes the request and makes it durable before anyone sees it.
    pub(super) fn described(
        &mut self,
        ask: Ask,
        result: Result<Box<Described>, AskFailure>,
        path: Option<String>,
    ) {
        let request = ask.request;
        let described = match result {
            Ok(described) => described,
            Err(cause) => return self.gate_step(gate::Input::AskFailed { request, cause }),
        };
        // On its last space the ledger takes denials only: people would be asked in vain.
        if *self.ledger.health().borrow() != Health::Good {
            let cause = AskFailure::Record;
            return self.gate_step(gate::Input::AskFailed { request, cause });
        }
        if let (Some(fact), Some(found)) = (self.facts.get_mut(&ask.hold), path)
            && let Object::File { path, .. } = &mut fact.request.object
        {
            *path = Some(found);
        }
        let Some(fact) = self.facts.get(&ask.hold) else {
            let cause = AskFailure::Gone;
            return self.gate_step(gate::Input::AskFailed { request, cause });
        };
        let Some(approver) = &self.approver else {
            return self.gate_step(gate::Input::Unreachable { request });
        };
        let launched_by = self.gate.hold(ask.hold).and_then(|hold| {
            let root = hold.session.unwrap_or(hold.process);
            self.launched.get(&root).cloned()
        });
        let waiting = self.gate.waiting(request).unwrap_or(1);
        let asked = compose::Asked {
            policy: &self.policy,
            host_id: approver.gateway().host_id.clone(),
            boot_id: self.boot_id,
            ask: &ask,
            fact,
            described: &described,
            taint: self.taint_of(fact),
            launched_by,
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            now: wall(),
            left: ask.until.since(now()),
        };
        let composed = compose::request(&asked);
        let draft = compose::request_leaf(&composed, fact);
        let outstanding = Outstanding {
            // Known when it is signed; until then no decision can match.
            request_sha256: Digest([0; 32]),
            allowed_scopes: composed.allowed_scopes.clone(),
            max_ttl_s: composed.max_ttl_s,
            quorum: composed.quorum,
            owner: composed.agent.owner.clone(),
            launched_by: composed.agent.launched_by.clone(),
            assurance: ask.terms.assurance,
            passkeys: self.policy.passkeys().to_vec(),
            request: composed,
        };
        let open = Box::new(Open {
            outstanding,
            trouble: false,
        });
        self.commit(draft, move |result| Input::RequestRecorded(open, result));
    }

    /// The request leaf is durable: now the gateway may hear of it.
    pub(super) fn request_recorded(&mut self, mut open: Open, result: Result<(), String>) {
        let request = open.outstanding.request.request_id;
        if let Err(error) = result {
            tracing::error!(%request, %error, "a request could not be recorded");
            let cause = AskFailure::Record;
            return self.gate_step(gate::Input::AskFailed { request, cause });
        }
        // Decided or gone meanwhile: nobody is to be asked.
        if self.gate.waiting(request).is_none() {
            return;
        }
        let Some(approver) = &mut self.approver else {
            return self.gate_step(gate::Input::Unreachable { request });
        };
        match approver.ask(&open.outstanding.request) {
            Ok(digest) => {
                open.outstanding.request_sha256 = digest;
                self.open.insert(request, open);
                self.gate_step(gate::Input::Asked { request });
            }
            Err(error) => {
                tracing::error!(%request, %error, "a request could not be signed");
                let cause = AskFailure::Describe;
                self.gate_step(gate::Input::AskFailed { request, cause });
            }
        }
    }

    pub(super) fn gateway_event(&mut self, event: client::Event) {
        match event {
            client::Event::Answer { id, envelope } => self.answered(id, &envelope),
            client::Event::Waiting { id, have, need } => {
                tracing::debug!(request = %id, have, need, "people are being asked");
                if let Some(open) = self.open.get_mut(&id) {
                    open.trouble = false;
                }
            }
            client::Event::Trouble { id, cause } => {
                tracing::warn!(request = %id, %cause, "asking the gateway: trying again");
                if let Some(open) = self.open.get_mut(&id) {
                    open.trouble = true;
                }
            }
            client::Event::GivenUp { id, cause } => {
                tracing::error!(request = %id, %cause, "the gateway could not be asked");
                self.record_aside(compose::unreachable_leaf(id, &cause.to_string()));
                self.gate_step(gate::Input::Unreachable { request: id });
            }
            client::Event::Revoked { since, envelope } => self.revocations(since, &envelope),
        }
    }

    /// Whatever the gateway sent counts only if this host finds every check in order.
    fn answered(&mut self, request: RequestId, envelope: &[u8]) {
        let (Some(open), Some(approver)) = (self.open.get(&request), &mut self.approver) else {
            return;
        };
        let used = &self.used;
        let keys = &approver.gateway().gateway_keys;
        let asked = &open.outstanding.request;
        let payload = canonical::to_vec(asked).ok();
        let accepted = match accept(envelope, &open.outstanding, keys, wall(), &|id| {
            used.contains(id)
        }) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                tracing::error!(%request, %refusal, "an answer was refused: still held");
                approver.again(request, None);
                let cause = refusal.to_string();
                self.record_aside(compose::refusal_leaf(request, &cause));
                return self.gate_step(gate::Input::Refused { request });
            }
        };
        let decision_id = accepted.decision.decision_id;
        self.used.insert(decision_id);
        let says = match &accepted.ruling {
            Ruling::Allow(allowance) => Says::Approve(Granted::new(allowance, now())),
            Ruling::Deny(cause) => Says::Deny(*cause),
        };
        let Some(approver) = &mut self.approver else {
            return;
        };
        if says == Says::Deny(DenyCause::Expired) {
            // People may still approve late; that comes as another decision.
            approver.again(request, Some(decision_id));
        } else {
            approver.done(request);
            self.open.remove(&request);
        }
        if matches!(says, Says::Approve(_)) && self.revoked.contains(&decision_id) {
            self.refuse_revoked(request, decision_id);
        }
        let approvers = accepted.decision.approvers;
        let signed = approvers.iter().any(|approver| approver.proof.is_some());
        let approval = Arc::new(Approval {
            decision_id,
            approvers,
            envelope: envelope.to_vec(),
            request: payload.filter(|_| signed),
        });
        self.gate_step(gate::Input::Answered {
            request,
            answer: Answer { says, approval },
        });
    }

    // ---- deciding ----

    fn record(&mut self, hold: HoldId, decision: &gate::Decision) {
        let Some(fact) = self.facts.get(&hold) else {
            // Nothing is known of it, so nothing can be recorded, so it is denied.
            return self.gate_step(gate::Input::RecordFailed { hold });
        };
        let draft = compose::decision_leaf(hold, fact, decision, &self.policy);
        self.why.decided(hold, fact, decision);
        if let Some(fact) = self.facts.get_mut(&hold) {
            fact.leave = Some(super::Leave::of(decision));
        }
        self.commit(draft, move |result| Input::Recorded(hold, result));
    }

    /// Queues a draft; `then` says what its commit means.
    pub(super) fn commit(
        &self,
        draft: Draft,
        then: impl FnOnce(Result<(), String>) -> Input + Send + 'static,
    ) {
        let pending = self.ledger.append(draft);
        let back = self.back.clone();
        let leaves = Arc::clone(&self.leaves);
        tokio::spawn(async move {
            let result = match pending.await {
                Ok(committed) => {
                    leaves.fetch_max(committed.idx + 1, Ordering::Relaxed);
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
            let _ = back.send(then(result)).await;
        });
    }

    /// The decision is durable and the right to release is at hand: out it goes.
    fn release(&mut self, right: &gate::ReleaseRight, verdict: Verdict) {
        let id = right.id();
        let Some(fact) = self.facts.get_mut(&id) else {
            return;
        };
        fact.released = Some(verdict);
        match verdict {
            Verdict::Allow => self.counts.allowed += 1,
            Verdict::Deny | Verdict::Interrupt => self.counts.denied += 1,
        }
        let (tid, tgid) = (fact.tid, fact.tgid);
        self.kernel.settle(tid, fact.request.classes);
        if verdict == Verdict::Allow
            && fact.hook == hook::BPRM_CHECK
            && let Err(error) = self.kernel.bind(tid, fact.request.exec.as_deref())
        {
            tracing::error!(%error, tid, "the arguments of an approved exec could not be stored: it will be denied");
        }
        self.tell_selftest(id, verdict);
        self.kernel.publish(tid, id, verdict);
        if let Some(fact) = self.facts.get(&id) {
            self.why.released(id, fact, verdict);
        }
        self.wake(tid, tgid, id, verdict);
    }

    /// Lets a thread run to its published verdict; publishing again harms nothing.
    pub(super) fn wake(&mut self, tid: u32, tgid: u32, id: HoldId, verdict: Verdict) {
        self.kernel.publish(tid, id, verdict);
        if let Err(error) = self.parking.wake(tgid, tid) {
            tracing::error!(%error, tid, "a released thread could not be woken; trying again");
        }
        let stopped = match self.kernel.held(tid) {
            Ok(Some(pending)) => pending.id == id.0 && stops(&pending),
            Ok(None) => false,
            Err(_) => true,
        };
        if stopped {
            let still = || matches!(self.kernel.held(tid), Ok(Some(held)) if held.id == id.0);
            if let Err(error) = continue_process(tgid, still) {
                tracing::warn!(%error, tgid, "a stopped process could not be continued");
            }
        }
    }

    fn outcome(
        &mut self,
        hold: HoldId,
        request: Option<RequestId>,
        outcome: Outcome,
        held: std::time::Duration,
    ) {
        self.why.forget(hold);
        let Some(fact) = self.facts.remove(&hold) else {
            return;
        };
        if self.by_tid.get(&fact.tid) == Some(&hold) {
            self.by_tid.remove(&fact.tid);
        }
        let (verdict, cause) = match outcome {
            Outcome::Resumed(verdict) => (verdict.name(), "resumed"),
            Outcome::Unconfirmed(verdict) => (verdict.name(), "unconfirmed"),
            Outcome::Gone(why) => ("gone", why.name()),
        };
        let report = request
            .zip(self.approver.as_ref())
            .map(|(request, approver)| {
                let host = approver.gateway().host_id.clone();
                compose::outcome_report(request, host, outcome, held, wall())
            });
        self.record_soon(compose::outcome_leaf(hold, request, outcome, held), report);
        let over = Over {
            id: hold.0,
            at: jiff::Timestamp::now(),
            verdict: verdict.to_owned(),
            cause: cause.to_owned(),
        };
        self.followers
            .retain(|follower| follower.send(Reply::Over(over.clone())));
    }
}

/// Did the kernel side stop the whole process for it?
pub(super) const fn stops(pending: &Pending) -> bool {
    matches!(pending.mode, mode::STOP | mode::UNPARKED)
}
