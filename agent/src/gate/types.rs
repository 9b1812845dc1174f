//! What enters the gate and what leaves it. The driver is the only other user of these types.
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::accept::{Allowance, DenyCause};
use syshold_protocol::decision::{Approver, Lifespan};
use syshold_protocol::ids::{DecisionId, RequestId};

pub use super::pending::ReleaseRight;
use crate::request::{AgentId, HoldId, Request};
use crate::rules::{Judgement, Reason, Terms};

/// `CLOCK_BOOTTIME` in milliseconds, read by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    /// Saturates: a deadline too far away never comes, it does not wrap around to the past.
    fn add(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// A process or tree root that cannot be mistaken for a later one with the same PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub tgid: u32,
    /// `start_boottime` of the thread-group leader, nanoseconds.
    pub start_ns: u64,
}

/// A held syscall, from kernel facts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub id: HoldId,
    pub tid: u32,
    pub process: Process,
    /// The root of its tree, while that still runs: a session ends with its root.
    pub session: Option<Process>,
    /// When the kernel first held it: the deadline counts from here, also after a restart.
    pub held_at: Now,
    pub request: Request,
}

/// Everything that can happen to a hold. Duplicates, late and unknown ids are harmless.
#[derive(Clone, Debug)]
pub enum Input {
    /// The kernel holds a syscall. May come again for the same hold: the first judgement stays,
    /// and a hold that waits for people is parked again.
    Held {
        hold: Box<Hold>,
        judgement: Judgement,
    },
    /// A signal with a handler wants the program to stop: the syscall ends with EINTR.
    Interrupt {
        hold: HoldId,
    },
    /// The request leaf is committed and the approver client has the request.
    Asked {
        request: RequestId,
    },
    AskFailed {
        request: RequestId,
        cause: AskFailure,
    },
    /// An answer that `protocol` has accepted: signature, ids, quorum, width, everything.
    Answered {
        request: RequestId,
        answer: Answer,
    },
    /// An answer that was not accepted. The hold goes on waiting.
    Refused {
        request: RequestId,
    },
    /// The approver client gave up on this request.
    Unreachable {
        request: RequestId,
    },
    /// The decision leaf is committed.
    Recorded {
        hold: HoldId,
    },
    RecordFailed {
        hold: HoldId,
    },
    /// The kernel has applied the verdict.
    Resumed {
        hold: HoldId,
    },
    /// The hold is no longer in the kernel's table, and no verdict was applied.
    Gone {
        hold: HoldId,
        why: Gone,
    },
    /// A process is gone or runs another program now: what was granted to it ends.
    ProcessExited {
        process: Process,
    },
    /// An order that `protocol` has accepted, and that is in the ledger.
    Ordered(Order),
    /// Every order is over.
    OrdersOver,
    /// People took back what they had approved in that request. Only ever takes away.
    Revoked {
        decision: DecisionId,
        request: RequestId,
    },
    /// Another policy is live: what was granted or ordered under the old one ends.
    PolicyChanged,
    /// Time has passed; sent at [`super::Gate::next_deadline`].
    Tick,
}

/// Why a request never reached the approver client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskFailure {
    /// The request leaf could not be committed.
    Record,
    /// The facts an approver needs could not be read.
    Describe,
    /// The representative hold died meanwhile; others that joined are asked about instead.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The thread or its process ended.
    Died,
    /// The thread left the syscall without a verdict (a signal handler jumped away).
    Abandoned,
    /// A signal ended the syscall before a verdict was there.
    Interrupted,
}

impl Gone {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Died => "died",
            Self::Abandoned => "abandoned",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What people said, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub says: Says,
    pub approval: Arc<Approval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Approve(Granted),
    /// `Expired` changes nothing: this host's own deadline decides when a hold expires, and a
    /// late approval may still follow.
    Deny(DenyCause),
}

/// How far an approval goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// `Single`: the holds that wait. `Process`, `Session`: the ones of the hold that was shown.
    /// `Until`: every process of the agent.
    pub lifespan: Lifespan,
    /// How many holds it may release. None: for `Single`, as many as the request said were
    /// waiting; for the others, no limit.
    pub uses: Option<u32>,
    /// No use from here on.
    pub ends: Now,
}

impl Granted {
    #[must_use]
    pub fn new(allowance: &Allowance, now: Now) -> Self {
        Self {
            lifespan: allowance.lifespan,
            uses: allowance.max_uses,
            ends: now + Duration::from_millis(allowance.ttl_ms),
        }
    }
}

/// Break-glass: until it ends, what an agent's rules ask is allowed without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub agent: AgentId,
    /// None: every rule that asks.
    pub rules: Vec<String>,
    pub ends: Now,
    /// Who signed it.
    pub approval: Arc<Approval>,
}

/// The evidence of an answer. The gate only carries it to the decision leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub decision_id: DecisionId,
    pub approvers: Vec<Approver>,
    /// The signed envelope, byte for byte as it was accepted.
    pub envelope: Vec<u8>,
    /// What was asked, as it was signed: with it, an approver's own signature can be checked years
    /// later. Only where somebody signed.
    pub request: Option<Vec<u8>>,
}

/// What the driver has to do, in this order.
#[must_use]
#[derive(Debug)]
pub enum Action {
    /// Put the thread to sleep: people are asked.
    Park(HoldId),
    /// Commit a request leaf, then give the request to the approver client:
    /// [`Input::Asked`] or [`Input::AskFailed`].
    Ask(Ask),
    /// Commit a decision leaf: [`Input::Recorded`] or [`Input::RecordFailed`].
    Record { hold: HoldId, decision: Decision },
    /// Publish the verdict and let the thread run. Comes exactly once for a hold.
    Release {
        right: ReleaseRight,
        verdict: Verdict,
    },
    /// Nobody needs an answer to this request any more.
    Withdraw { request: RequestId, why: Withdrawal },
    /// An approval that outlives its holds begins: write a grant leaf.
    Grant {
        request: RequestId,
        granted: Granted,
        approval: Arc<Approval>,
    },
    /// How a hold ended: write an outcome leaf, tell the gateway.
    Outcome {
        hold: HoldId,
        request: Option<RequestId>,
        outcome: Outcome,
        held: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub request: RequestId,
    /// The hold the request describes; identical ones have joined or may join it.
    pub hold: HoldId,
    pub reason: Reason,
    pub terms: Terms,
    /// How many identical holds wait.
    pub waiting: u32,
    /// When that hold expires.
    pub until: Now,
}

/// Why a hold is released as it is; what a decision leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub by: By,
    pub cause: Cause,
    pub reason: Reason,
    /// The request people answered; for a grant, the one it was granted in.
    pub request: Option<RequestId>,
    /// How far the approval goes that allows it.
    pub granted: Option<Granted>,
    pub approval: Option<Arc<Approval>>,
}

#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// The syscall fails with EPERM.
    Deny,
    /// The syscall fails with EINTR.
    Interrupt,
}

impl Verdict {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Interrupt => "interrupt",
        }
    }
}

/// Who or what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Policy,
    Human,
    Grant,
    BreakGlass,
    Timeout,
    Unreachable,
    /// Nobody: the question was taken back, or what had been approved.
    Withdrawn,
    Error,
}

impl By {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Human => "human",
            Self::Grant => "grant",
            Self::BreakGlass => "break_glass",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Withdrawn => "withdrawn",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A rule of the policy.
    Rule,
    Approved,
    Denied,
    /// An earlier approval covers it.
    Granted,
    /// The same socket and destination were approved a moment ago.
    SameObject,
    /// An order signed with offline keys covers it.
    Ordered,
    /// Nobody answered in time.
    Expired,
    Unreachable,
    /// A signal ended the wait.
    Interrupted,
    /// The gateway says the request was taken back.
    Withdrawn,
    /// It was approved, and taken back before it was let go.
    Revoked,
    /// As many holds as the gate takes are pending.
    TooManyPending,
    /// The request leaf could not be committed.
    RequestNotRecorded,
    /// The facts an approver needs could not be read.
    NotDescribed,
}

impl Cause {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Granted => "granted",
            Self::SameObject => "same_object",
            Self::Ordered => "ordered",
            Self::Expired => "expired",
            Self::Unreachable => "unreachable",
            Self::Interrupted => "interrupted",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
            Self::TooManyPending => "too_many_pending",
            Self::RequestNotRecorded => "request_not_recorded",
            Self::NotDescribed => "not_described",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Every hold that waited for it is gone.
    Gone,
    /// Every hold expired, and the time for a late approval is over.
    Expired,
    /// Another approval covered every hold that waited.
    Covered,
    Unreachable,
}

impl Withdrawal {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Expired => "expired",
            Self::Covered => "covered",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel applied this verdict.
    Resumed(Verdict),
    /// The hold ended before a verdict could take effect.
    Gone(Gone),
    /// Released, but the kernel's confirmation never came.
    Unconfirmed(Verdict),
}
