//! A book of what went into a gate, and what it may do by that book.
use super::*;

/// What went in about a hold, and how far it is.
#[derive(Clone)]
struct Seen {
    hold: Hold,
    judgement: Judgement,
    policy: u64,
    decision: Option<Decision>,
    over: bool,
}

/// What went in about a request.
struct Question {
    /// As it was then: its id may come again.
    shown: Seen,
    waiting: u32,
    asked: bool,
    unreachable: bool,
    approvals: Vec<(Granted, Now, DecisionId)>,
    denied: bool,
    /// What is approved from now on was taken back before.
    void: bool,
    /// Processes that ended since it was asked.
    ended: Vec<Process>,
    policy_over: bool,
    used: u32,
    expired: bool,
}

pub(super) struct Watch {
    gate: Gate,
    now: Now,
    policy: u64,
    seen: HashMap<HoldId, Seen>,
    released: HashSet<HoldId>,
    questions: HashMap<RequestId, Question>,
    order: (Vec<HoldId>, Vec<RequestId>),
    /// Sockets released on an approval of a single use, and until when.
    sockets: Vec<(Hold, RequestId, Now)>,
    orders: Vec<Order>,
    /// Every answer, with its request.
    answers: Vec<(DecisionId, RequestId)>,
    revoked: HashSet<DecisionId>,
    next: u64,
}

impl Watch {
    pub(super) fn new() -> Self {
        let mut next = 0_u128;
        let ids = Box::new(move || {
            next += 1;
            RequestId(Uuid::from_u128(next))
        });
        Self {
            gate: Gate::new(LIMITS, ids),
            now: Now(10_000),
            policy: 0,
            seen: HashMap::new(),
            released: HashSet::new(),
            questions: HashMap::new(),
            order: (Vec::new(), Vec::new()),
            sockets: Vec::new(),
            orders: Vec::new(),
            answers: Vec::new(),
            revoked: HashSet::new(),
            next: 0,
        }
    }

    pub(super) fn run(&mut self, op: Op) {
        match self.input(op) {
            Some(input) => self.step(input),
            None => self.step(Input::Tick),
        }
    }

    fn input(&mut self, op: Op) -> Option<Input> {
        Some(match op {
            Op::Hold(facts) => {
                self.next += 1;
                let id = HoldId(self.next);
                self.order.0.push(id);
                self.held(id, &facts)
            }
            Op::HoldAgain(at, facts) => {
                let id = self.hold(at);
                self.held(id, &facts)
            }
            Op::Interrupt(at) => Input::Interrupt {
                hold: self.hold(at),
            },
            Op::Asked(at) => Input::Asked {
                request: self.request(at),
            },
            Op::AskFailed(at, cause) => {
                let request = self.request(at);
                Input::AskFailed { request, cause }
            }
            Op::Approve(at, lifespan, uses, ends) => {
                let ends = self.now + Duration::from_millis(ends);
                let granted = Granted {
                    lifespan,
                    uses,
                    ends,
                };
                self.answer(at, Says::Approve(granted))
            }
            Op::Deny(at, cause) => self.answer(at, Says::Deny(cause)),
            Op::Refused(at) => Input::Refused {
                request: self.request(at),
            },
            Op::Unreachable(at) => Input::Unreachable {
                request: self.request(at),
            },
            Op::Recorded(at) => Input::Recorded {
                hold: self.hold(at),
            },
            Op::RecordFailed(at) => Input::RecordFailed {
                hold: self.hold(at),
            },
            Op::Resumed(at) => Input::Resumed {
                hold: self.hold(at),
            },
            Op::Gone(at) => Input::Gone {
                hold: self.hold(at),
                why: Gone::Died,
            },
            Op::Exited(tgid) => Input::ProcessExited {
                process: process(tgid),
            },
            Op::Order(agent, rule, ends) => Input::Ordered(Order {
                agent: AgentId(agent),
                rules: rule
                    .map(|rule| format!("rule {rule}"))
                    .into_iter()
                    .collect(),
                ends: self.now + Duration::from_millis(ends),
                approval: approval(Uuid::nil()),
            }),
            Op::Revoked(at, other) => {
                let given = self.answers.get(at.index(self.answers.len() + 1)).copied();
                let none = (DecisionId(Uuid::max()), self.request(at));
                let (decision, request) = given.unwrap_or(none);
                let request = other.map_or(request, |other| self.request(other));
                Input::Revoked { decision, request }
            }
            Op::OrdersOver => Input::OrdersOver,
            Op::PolicyChanged => Input::PolicyChanged,
            Op::Wait(millis) => {
                self.now = self.now + Duration::from_millis(millis);
                return None;
            }
        })
    }

    fn hold(&self, at: Index) -> HoldId {
        let (known, id) = (&self.order.0, at.index(self.order.0.len() + 1));
        known.get(id).copied().unwrap_or(HoldId(u64::MAX))
    }

    fn request(&self, at: Index) -> RequestId {
        let (known, id) = (&self.order.1, at.index(self.order.1.len() + 1));
        known.get(id).copied().unwrap_or(RequestId(Uuid::max()))
    }

    fn answer(&mut self, at: Index, says: Says) -> Input {
        let request = self.request(at);
        let decision = Uuid::from_u128(self.answers.len() as u128 + 1);
        self.answers.push((DecisionId(decision), request));
        let approval = approval(decision);
        Input::Answered {
            request,
            answer: Answer { says, approval },
        }
    }

    fn held(&self, id: HoldId, facts: &Facts) -> Input {
        Input::Held {
            hold: Box::new(hold(id, facts, self.now)),
            judgement: judgement(facts),
        }
    }

    // ---- the book ----

    fn step(&mut self, input: Input) {
        let committed = match &input {
            Input::Recorded { hold } => Some((*hold, true)),
            Input::RecordFailed { hold } => Some((*hold, false)),
            _ => None,
        };
        self.note(&input);
        for action in self.gate.step(self.now, input) {
            self.check(action, committed);
        }
        self.gate.check_books();
    }

    fn note(&mut self, input: &Input) {
        match input {
            Input::Held { hold, judgement } => {
                let id = hold.id;
                let known = self.gate.hold(id).is_some() || self.released.contains(&id);
                if !known {
                    let seen = Seen {
                        hold: hold.as_ref().clone(),
                        judgement: judgement.clone(),
                        policy: self.policy,
                        decision: None,
                        over: false,
                    };
                    self.seen.insert(id, seen);
                }
            }
            Input::Asked { request } => self.question(*request, |question| question.asked = true),
            Input::Unreachable { request } => {
                self.question(*request, |question| question.unreachable = true);
            }
            Input::Answered { request, answer } => {
                let now = self.now;
                self.question(*request, |question| match answer.says {
                    Says::Approve(_) if question.void => {}
                    Says::Approve(granted) => {
                        let decision = answer.approval.decision_id;
                        question.approvals.push((granted, now, decision));
                    }
                    Says::Deny(_) => question.denied = true,
                });
            }
            Input::ProcessExited { process } => {
                for question in self.questions.values_mut() {
                    question.ended.push(*process);
                }
                self.sockets.retain(|(hold, ..)| hold.process != *process);
            }
            Input::Ordered(order) => self.orders.push(order.clone()),
            Input::OrdersOver => self.orders.clear(),
            Input::Revoked { decision, request } => {
                self.revoked.insert(*decision);
                self.question(*request, |question| question.void = true);
            }
            Input::PolicyChanged => {
                self.orders.clear();
                self.policy += 1;
                for question in self.questions.values_mut() {
                    question.policy_over = true;
                }
                self.sockets.clear();
            }
            _ => {}
        }
    }

    fn question(&mut self, request: RequestId, note: impl FnOnce(&mut Question)) {
        if let Some(question) = self.questions.get_mut(&request) {
            note(question);
        }
    }

    fn check(&mut self, action: Action, committed: Option<(HoldId, bool)>) {
        match action {
            Action::Park(id) => {
                assert!(
                    self.seen[&id].decision.is_none(),
                    "parked after its decision"
                );
                assert!(!self.released.contains(&id), "parked after its release");
            }
            Action::Ask(ask) => self.check_ask(&ask),
            Action::Record { hold, decision } => self.check_record(hold, decision),
            Action::Release { right, verdict } => {
                self.check_release(right.id(), verdict, committed);
            }
            Action::Withdraw { request, .. } => {
                assert!(
                    self.gate.waiting(request).is_none(),
                    "withdrawn, but still there"
                );
            }
            Action::Grant {
                request, granted, ..
            } => {
                let question = &self.questions[&request];
                assert!(!question.policy_over, "granted under an old policy");
                assert!(granted.ends > self.now, "granted what has ended");
            }
            Action::Outcome { hold, .. } => {
                let seen = self
                    .seen
                    .get_mut(&hold)
                    .expect("an outcome of a known hold");
                assert!(!seen.over, "two outcomes");
                seen.over = true;
            }
        }
    }

    fn check_ask(&mut self, ask: &Ask) {
        let seen = &self.seen[&ask.hold];
        assert!(seen.decision.is_none(), "asked about a decided hold");
        let Judgement::Ask(reason, terms) = &seen.judgement else {
            panic!("asked about what the policy answers");
        };
        assert_eq!((&ask.reason, &ask.terms), (reason, terms));
        assert!(ask.until > self.now, "asked about an expired hold");
        if !self.questions.contains_key(&ask.request) {
            self.order.1.push(ask.request);
        }
        let question = Question {
            shown: seen.clone(),
            waiting: ask.waiting,
            asked: false,
            unreachable: false,
            approvals: Vec::new(),
            denied: false,
            void: false,
            ended: Vec::new(),
            policy_over: seen.policy != self.policy,
            used: 0,
            expired: false,
        };
        self.questions.insert(ask.request, question);
    }

    fn check_record(&mut self, id: HoldId, decision: Decision) {
        let seen = &self.seen[&id];
        match &seen.decision {
            None => assert_ne!(decision.cause, Cause::Revoked, "nothing was approved"),
            Some(before) => {
                assert!(self.is_revoked(before), "decided twice");
                let denied = (decision.verdict, decision.cause);
                assert_eq!(denied, (Verdict::Deny, Cause::Revoked));
            }
        }
        assert!(!self.released.contains(&id), "decided after its release");
        if decision.verdict == Verdict::Allow {
            self.check_allow(id, &decision);
        }
        if decision.by == By::Human && decision.verdict == Verdict::Deny {
            assert!(
                self.questions[&decision.request.unwrap()].denied,
                "nobody denied it"
            );
        }
        if decision.by == By::Timeout {
            let (seen, now) = (&self.seen[&id], self.now);
            if let Judgement::Ask(_, terms) = &seen.judgement {
                assert!(
                    seen.hold.held_at + terms.hold <= now,
                    "expired before its time"
                );
            }
            let asked = self.questions.iter();
            let about_it = |(_, question): &(_, &Question)| self.same(&question.shown, seen);
            let expired: Vec<RequestId> = asked.filter(about_it).map(|(id, _)| *id).collect();
            for request in expired {
                self.question(request, |question| question.expired = true);
            }
        }
        self.seen.get_mut(&id).unwrap().decision = Some(decision);
    }

    /// Allowed only by the policy, by people, by what they granted, or by an explicit fallback.
    fn check_allow(&mut self, id: HoldId, decision: &Decision) {
        assert!(
            !self.is_revoked(decision),
            "allowed though it was taken back"
        );
        let seen = &self.seen[&id];
        let terms = match (&seen.judgement, decision.by) {
            (Judgement::Allow(_), By::Policy) => return,
            (Judgement::Ask(_, terms), by) if by != By::Policy => terms,
            other => panic!("allowed by {:?} though judged {:?}", other.1, other.0),
        };
        let request = decision.request;
        match decision.by {
            By::BreakGlass => self.check_order(id),
            By::Human => self.check_approval(id, request.unwrap(), true),
            By::Grant if decision.cause == Cause::SameObject => {
                self.check_same_object(id, request.unwrap());
            }
            By::Grant => self.check_approval(id, request.unwrap(), false),
            By::Timeout => assert_eq!(terms.on_timeout, Fallback::Allow),
            By::Unreachable => {
                assert_eq!(terms.on_unreachable, Fallback::Allow);
                let asks =
                    |question: &Question| question.unreachable && self.same(&question.shown, seen);
                assert!(self.questions.values().any(asks), "nobody was unreachable");
            }
            By::Policy | By::Withdrawn | By::Error => panic!("allowed by {:?}", decision.by),
        }
    }

    /// Whether people gave it and took it back.
    fn is_revoked(&self, decision: &Decision) -> bool {
        let approval = decision.approval.as_ref();
        decision.by != By::BreakGlass
            && approval.is_some_and(|approval| self.revoked.contains(&approval.decision_id))
    }

    fn check_order(&self, id: HoldId) {
        let seen = &self.seen[&id];
        let Judgement::Ask(reason, _) = &seen.judgement else {
            panic!("an order lifts only what is asked");
        };
        let covers = |order: &Order| {
            order.agent == seen.hold.request.agent
                && (order.rules.is_empty() || order.rules == [reason.rule.clone()])
                && self.now < order.ends
        };
        assert!(self.orders.iter().any(covers), "nobody ordered it");
    }

    fn check_approval(&mut self, id: HoldId, request: RequestId, waited: bool) {
        let (seen, now) = (&self.seen[&id], self.now);
        let question = &self.questions[&request];
        let shown = &question.shown;
        assert!(question.asked, "answered before the request was recorded");
        assert!(self.same(shown, seen), "another act than the approved one");
        let covers = |&(granted, answered, decision): &(Granted, Now, DecisionId)| {
            let hold = &seen.hold;
            // An answer that overtook the request leaf takes effect with it.
            let live = now < granted.ends;
            let used = match (granted.uses, granted.lifespan) {
                (Some(uses), _) => question.used < uses,
                (None, Lifespan::Single) => question.used < question.waiting,
                (None, _) => true,
            };
            let there = |process: Process| !question.ended.contains(&process);
            let in_process = hold.process == shown.hold.process && there(hold.process);
            let subject = match granted.lifespan {
                Lifespan::Single => waited,
                Lifespan::Process => in_process,
                Lifespan::Session => match shown.hold.session {
                    Some(root) if there(root) => hold.session == Some(root),
                    Some(_) | None => in_process,
                },
                Lifespan::Until => true,
            };
            // A late approval is for any process of the agent, once.
            let late = !waited
                && question.used == 0
                && question.expired
                && now.since(answered) < Duration::from_millis(LATE);
            let current = waited || !question.policy_over;
            let stands = !self.revoked.contains(&decision);
            live && used && current && stands && (subject || late)
        };
        assert!(
            question.approvals.iter().any(covers),
            "nobody approved it so: {:?} used {}",
            question.approvals,
            question.used
        );
        self.question(request, |question| question.used += 1);
    }

    fn check_same_object(&self, id: HoldId, request: RequestId) {
        let seen = &self.seen[&id];
        let known = |(hold, by, until): &(Hold, RequestId, Now)| {
            *by == request
                && self.now < *until
                && hold.process == seen.hold.process
                && hold.request == seen.hold.request
                && matches!(hold.request.object, Object::Socket { .. })
        };
        assert!(
            self.sockets.iter().any(known),
            "not a socket approved a moment ago"
        );
    }

    fn same(&self, one: &Seen, other: &Seen) -> bool {
        let rule = |seen: &Seen| match &seen.judgement {
            Judgement::Ask(reason, _) => reason.rule.clone(),
            Judgement::Allow(_) | Judgement::Deny(_) => String::new(),
        };
        let facts = |seen: &Seen| {
            let request = &seen.hold.request;
            let object = request.object.label();
            (
                request.agent,
                request.actions,
                request.classes,
                object,
                rule(seen),
                seen.policy,
            )
        };
        facts(one) == facts(other)
    }

    fn check_release(&mut self, id: HoldId, verdict: Verdict, committed: Option<(HoldId, bool)>) {
        let Some((committed, well)) = committed else {
            panic!("{id:?} was released without any commit");
        };
        assert_eq!(committed, id, "released by the commit of another hold");
        assert!(self.released.insert(id), "released twice");
        let seen = &self.seen[&id];
        let decision = seen.decision.as_ref().expect("released undecided");
        let right = if well {
            decision.verdict
        } else {
            Verdict::Deny
        };
        if self.is_revoked(decision) {
            assert_eq!(verdict, Verdict::Deny, "released though it was taken back");
        }
        assert_eq!(
            verdict, right,
            "released as something else than was recorded"
        );
        if let (Some(granted), Verdict::Allow) = (decision.granted, verdict)
            && granted.lifespan == Lifespan::Single
            && decision.cause != Cause::SameObject
            && seen.policy == self.policy
        {
            let until = granted
                .ends
                .min(self.now + Duration::from_millis(SAME_OBJECT));
            let entry = (seen.hold.clone(), decision.request.unwrap(), until);
            self.sockets.push(entry);
        }
    }

    /// A ledger that answers, and time: every hold ends, and nothing is left over.
    pub(super) fn end(&mut self) {
        let asking = |watch: &Self| watch.gate.holds().any(|hold| hold.decided.is_none());
        for _ in 0..3 {
            self.now = self.now + Duration::from_millis(5000);
            self.step(Input::Tick);
        }
        assert!(!asking(self), "a hold waits after its deadline");
        let held: Vec<HoldId> = self.gate.holds().map(|hold| hold.hold.id).collect();
        for id in held {
            self.step(Input::Recorded { hold: id });
            if !self.released.contains(&id) {
                let cause = self.seen[&id].decision.as_ref().unwrap().cause;
                assert_eq!(cause, Cause::Revoked, "one more leaf without need");
                self.step(Input::Recorded { hold: id });
            }
            assert!(self.released.contains(&id), "recorded, not released");
        }
        let counts = self.gate.counts();
        let left = (
            counts.pending,
            counts.waiting,
            counts.requests,
            counts.grants,
        );
        assert_eq!(left, (0, 0, 0, 0));
        assert_eq!(self.gate.next_deadline(), None);
    }
}

fn approval(decision: Uuid) -> Arc<Approval> {
    Arc::new(Approval {
        decision_id: DecisionId(decision),
        approvers: Vec::new(),
        envelope: Vec::new(),
        request: None,
    })
}
