//! The host's own check of a decision. The gateway is not trusted to have checked anything.
//!
//! [`accept()`] is pure: bytes, what the host asked, the pinned keys and the time go in; a ruling or
//! the one reason against it comes out. What only the kernel can answer (is it still the same
//! process, the same inode, the same socket address?) is checked by the host afterwards, at the
//! restart of the syscall.
use crate::decision::{
    Approver, Assurance, Decision, DecisionVerdict, Grant, Lifespan, Scope, minutes_ms,
};
use crate::dsse::{self, DsseError, PinnedKeys};
use crate::ids::{DecisionId, Digest, HostId, RequestId, Subject, UnixMs};
use crate::passkey::Pin;
use crate::request::{ActionObject, Request, effective_quorum};
use crate::{LATE_APPROVAL_MS, VERSION};

/// How far the clocks of host and gateway may be apart. Only `issued_at` is compared across them;
/// how long a grant lives never is.
pub const MAX_CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;

/// A request that waits for its decision, and the host's own limits for it: they come from the
/// policy in force, not from anything that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outstanding {
    pub request: Request,
    /// [`dsse::Sealed::payload_sha256`] of the request as sent.
    pub request_sha256: Digest,
    pub allowed_scopes: Vec<Scope>,
    pub max_ttl_s: u32,
    /// As configured; [`effective_quorum`] is applied here.
    pub quorum: u32,
    pub owner: Option<Subject>,
    pub launched_by: Option<Subject>,
    /// The weakest proof of identity that counts towards the quorum.
    pub assurance: Assurance,
    /// Whose keys this host believes; from its own policy.
    pub passkeys: Vec<(Subject, Pin)>,
}

/// A decision that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// For the ledger.
    pub decision: Decision,
    /// Of the signed payload, for the ledger.
    pub decision_sha256: Digest,
    pub ruling: Ruling,
}

/// What the host does now.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Allow(Allowance),
    Deny(DenyCause),
}

/// An approval in the host's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Each equal to the object of the request.
    pub objects: Vec<ActionObject>,
    pub lifespan: Lifespan,
    /// From now, to be counted on the clock that runs while the host sleeps.
    pub ttl_ms: u64,
    /// `None`: any number within the lifespan.
    pub max_uses: Option<u32>,
}

/// Why a well-signed decision denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyCause {
    /// A person, or the gateway's own rule after repeated denials.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// The request was taken back.
    Withdrawn,
}

/// Why a decision was not accepted. Whatever it says, the host denies.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("unreadable or unsigned: {0}")]
    Envelope(#[from] DsseError),
    #[error("version {0} of the decision is not {VERSION}: update the older of host and gateway")]
    Version(u32),
    #[error("it decides request {given}, not {expected}")]
    OtherRequest {
        given: RequestId,
        expected: RequestId,
    },
    #[error("it is for host {given}, not {expected}")]
    OtherHost { given: HostId, expected: HostId },
    #[error("its nonce is not the one of the request")]
    Nonce,
    #[error("its request digest {given} is not {expected}: something else was approved")]
    RequestDigest { given: Digest, expected: Digest },
    #[error("it was made under policy {given}, the request under {expected}")]
    Policy { given: Digest, expected: Digest },
    #[error("decision {0} was used before")]
    Replay(DecisionId),
    #[error("issued at {issued_at}, {now} on this host: set the clocks (at most 5 minutes apart)")]
    Clock { issued_at: UnixMs, now: UnixMs },
    #[error("it came more than 30 minutes after the hold ended at {hold_until}")]
    TooLate { hold_until: UnixMs },
    #[error("it approves and carries no grant")]
    NoGrant,
    #[error("it does not approve and carries a grant")]
    GrantWithoutApproval,
    #[error("{approver} approved and is the agent's owner")]
    OwnerApproved { approver: Subject },
    #[error("{approver} approved and launched the agent")]
    LauncherApproved { approver: Subject },
    #[error("{have} of {need} people approved")]
    Quorum { have: u32, need: u32 },
    #[error("{have} of {need} people approved with at least {required:?} assurance")]
    Assurance {
        have: u32,
        need: u32,
        required: Assurance,
    },
    #[error("the passkey signature of {approver} does not count: {why}")]
    Passkey { approver: Subject, why: Unproven },
    #[error("the grant names no object")]
    NoObject,
    #[error("the grant is wider than the request: object {0:?} was not asked for")]
    WiderObject(Box<ActionObject>),
    #[error("the grant is wider than the policy: lifespan {0:?} is not allowed")]
    WiderLifespan(Lifespan),
    #[error("the grant is wider than the policy: {ttl_ms} ms where {allowed_ms} are allowed")]
    WiderTime { ttl_ms: u64, allowed_ms: u64 },
    #[error("the grant has no time limit, which this lifespan needs")]
    NoTimeLimit,
    #[error("the grant has already expired")]
    GrantExpired,
    #[error("the grant is wider than the request: {given} uses where {allowed} are allowed")]
    WiderUses { given: u32, allowed: u32 },
    #[error("the grant has no use count, or one of zero")]
    NoUses,
}

/// Checks everything a host can check without the kernel, in order; the first failure refuses.
pub fn accept(
    envelope: &[u8],
    outstanding: &Outstanding,
    keys: &PinnedKeys,
    now: UnixMs,
    used: &dyn Fn(&DecisionId) -> bool,
) -> Result<Accepted, Refusal> {
    let opened = dsse::open::<Decision>(envelope, keys)?;
    let decision = opened.value;
    answers(&decision, outstanding)?;
    if used(&decision.decision_id) {
        return Err(Refusal::Replay(decision.decision_id));
    }
    in_time(&decision, outstanding, now)?;
    let ruling = match (decision.verdict, &decision.grant) {
        (DecisionVerdict::Approve | DecisionVerdict::ApproveModified, Some(grant)) => {
            enough_people(&decision, grant, outstanding)?;
            Ruling::Allow(no_wider(grant, decision.issued_at, outstanding, now)?)
        }
        (DecisionVerdict::Approve | DecisionVerdict::ApproveModified, None) => {
            return Err(Refusal::NoGrant);
        }
        (_, Some(_)) => return Err(Refusal::GrantWithoutApproval),
        (DecisionVerdict::Deny, None) => Ruling::Deny(DenyCause::Denied),
        (DecisionVerdict::Expired, None) => Ruling::Deny(DenyCause::Expired),
        (DecisionVerdict::Withdrawn, None) => Ruling::Deny(DenyCause::Withdrawn),
    };
    Ok(Accepted {
        decision,
        decision_sha256: opened.payload_sha256,
        ruling,
    })
}

/// It is the answer to this very request, by this host, under this policy.
fn answers(decision: &Decision, outstanding: &Outstanding) -> Result<(), Refusal> {
    let request = &outstanding.request;
    if decision.v != VERSION {
        return Err(Refusal::Version(decision.v));
    }
    if decision.request_id != request.request_id {
        return Err(Refusal::OtherRequest {
            given: decision.request_id,
            expected: request.request_id,
        });
    }
    if decision.host_id != request.host_id {
        return Err(Refusal::OtherHost {
            given: decision.host_id.clone(),
            expected: request.host_id.clone(),
        });
    }
    if decision.nonce != request.nonce {
        return Err(Refusal::Nonce);
    }
    if decision.request_sha256 != outstanding.request_sha256 {
        let (given, expected) = (decision.request_sha256, outstanding.request_sha256);
        return Err(Refusal::RequestDigest { given, expected });
    }
    if decision.policy_sha256 != request.policy.sha256 {
        return Err(Refusal::Policy {
            given: decision.policy_sha256,
            expected: request.policy.sha256,
        });
    }
    Ok(())
}

fn in_time(decision: &Decision, outstanding: &Outstanding, now: UnixMs) -> Result<(), Refusal> {
    let issued_at = decision.issued_at;
    let before_request = outstanding.request.created_at.since(issued_at) > MAX_CLOCK_SKEW_MS;
    if before_request || issued_at.since(now) > MAX_CLOCK_SKEW_MS {
        return Err(Refusal::Clock { issued_at, now });
    }
    let hold_until = outstanding.request.hold_until;
    if now.since(hold_until) > LATE_APPROVAL_MS {
        return Err(Refusal::TooLate { hold_until });
    }
    Ok(())
}

/// Enough distinct people, each sure enough, none of them the agent's own.
fn enough_people(
    decision: &Decision,
    grant: &Grant,
    outstanding: &Outstanding,
) -> Result<(), Refusal> {
    let approvers = &decision.approvers;
    let is = |person: &Option<Subject>, subject| {
        person.as_ref().is_some_and(|person| person.may_be(subject))
    };
    for Approver { subject, .. } in approvers {
        if is(&outstanding.owner, subject) {
            return Err(Refusal::OwnerApproved {
                approver: subject.clone(),
            });
        }
        if is(&outstanding.launched_by, subject) {
            return Err(Refusal::LauncherApproved {
                approver: subject.clone(),
            });
        }
    }
    let need = effective_quorum(outstanding.quorum, outstanding.owner.as_ref());
    let required = outstanding.assurance;
    let mut sure = Vec::new();
    for approver in approvers {
        if proof::assurance(approver, decision, grant, outstanding)? >= required {
            sure.push(approver);
        }
    }
    let have = distinct_people(sure.into_iter());
    if have >= need {
        return Ok(());
    }
    match distinct_people(approvers.iter()) {
        anyone if anyone >= need => Err(Refusal::Assurance {
            have,
            need,
            required,
        }),
        have => Err(Refusal::Quorum { have, need }),
    }
}

/// One person is one, whether named twice or present with two names for one chat account or key.
pub fn distinct_people<'a>(approvers: impl Iterator<Item = &'a Approver>) -> u32 {
    let mut counted: Vec<&Approver> = Vec::new();
    let mut count = 0;
    for approver in approvers {
        let same = |other: &&Approver| {
            let account = approver.user_id.is_some()
                && (&approver.user_id, &approver.team_id) == (&other.user_id, &other.team_id);
            let key = approver.proof.as_ref().map(|proof| &proof.key);
            let key = key.is_some() && key == other.proof.as_ref().map(|proof| &proof.key);
            account || key || approver.subject.may_be(&other.subject)
        };
        if !counted.iter().any(same) {
            count += 1;
        }
        counted.push(approver);
    }
    count
}

/// The grant fits into what was asked and into what the policy allows.
fn no_wider(
    grant: &Grant,
    issued_at: UnixMs,
    outstanding: &Outstanding,
    now: UnixMs,
) -> Result<Allowance, Refusal> {
    if grant.objects.is_empty() {
        return Err(Refusal::NoObject);
    }
    if let Some(object) = grant
        .objects
        .iter()
        .find(|object| **object != outstanding.request.action.object)
    {
        return Err(Refusal::WiderObject(Box::new(object.clone())));
    }
    let allowed_ms =
        allowed_time(grant.lifespan, outstanding).ok_or(Refusal::WiderLifespan(grant.lifespan))?;
    let ttl_ms = match grant.expires_at {
        Some(expires_at) => expires_at.since(issued_at),
        None if grant.lifespan == Lifespan::Until => return Err(Refusal::NoTimeLimit),
        None => allowed_ms,
    };
    if ttl_ms > allowed_ms {
        return Err(Refusal::WiderTime { ttl_ms, allowed_ms });
    }
    // What is left of it. A gateway clock that runs ahead gains nothing: `since` is then 0.
    let ttl_ms = ttl_ms.saturating_sub(now.since(issued_at));
    if ttl_ms == 0 {
        return Err(Refusal::GrantExpired);
    }
    let max_uses = match (grant.lifespan, grant.max_uses) {
        (_, Some(0)) | (Lifespan::Single, None) => return Err(Refusal::NoUses),
        (Lifespan::Single, Some(given)) if given > outstanding.request.waiting => {
            return Err(Refusal::WiderUses {
                given,
                allowed: outstanding.request.waiting,
            });
        }
        (_, max_uses) => max_uses,
    };
    Ok(Allowance {
        objects: grant.objects.clone(),
        lifespan: grant.lifespan,
        ttl_ms,
        max_uses,
    })
}

/// How long a grant with this lifespan may live; `None`: the policy does not allow the lifespan.
fn allowed_time(lifespan: Lifespan, outstanding: &Outstanding) -> Option<u64> {
    let scopes = &outstanding.allowed_scopes;
    let max_ttl_ms = u64::from(outstanding.max_ttl_s) * 1000;
    match lifespan {
        Lifespan::Single => Some(LATE_APPROVAL_MS),
        Lifespan::Process => Scope::Process.within(scopes).then_some(max_ttl_ms),
        Lifespan::Session => Scope::Session.within(scopes).then_some(max_ttl_ms),
        Lifespan::Until => scopes
            .iter()
            .filter_map(|scope| match scope {
                Scope::For(minutes) => Some(minutes_ms(*minutes).min(max_ttl_ms)),
                _ => None,
            })
            .max(),
    }
}

mod proof;
pub use proof::Unproven;

#[cfg(test)]
mod tests;
