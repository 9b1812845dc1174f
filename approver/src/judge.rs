//! What an answer does to a request: pure, no clock, no store.
use std::num::NonZeroU16;

use syshold_protocol::request::effective_quorum;
use syshold_protocol::{Approver, Assurance, Digest, Request, RequestPhase, Scope, Subject};

use crate::roster::Standing;
use crate::store::people::Account;

/// A request as it stands.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    pub request: &'a Request,
    pub phase: RequestPhase,
    pub votes: &'a [Vote],
    /// Of what is shown now.
    pub rendered: Digest,
}

/// An approval that does not decide yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    pub subject: Subject,
    pub scope: Scope,
    /// Of what that person was shown.
    pub rendered: Digest,
}

/// What a person answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Approve {
        scope: Scope,
        /// Of what the person was shown.
        rendered: Digest,
    },
    Deny,
}

/// What happens then.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One more approval; others are needed.
    Count,
    Approve {
        scope: Scope,
        /// Less than somebody chose.
        narrowed: bool,
    },
    Deny,
}

/// Why an answer does nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it was {0} already")]
    Decided(&'static str),
    #[error("the agent is yours: its owner and whoever launched it may deny, not approve")]
    SelfApproval,
    #[error("you signed this order: somebody else has to review it")]
    OwnOrder,
    #[error("only members of the group {0} may answer this")]
    NotInGroup(String),
    #[error("what you were shown has changed; look again")]
    Stale,
    #[error("the scope {chosen} is not among those offered: {offered}")]
    Scope { chosen: Scope, offered: String },
    #[error("you have approved this already; it needs others too")]
    AlreadyApproved,
    #[error("{}", unsure(*.0))]
    Assurance(Assurance),
    #[error("{}", not_approved(*.0))]
    NotApproved(RequestPhase),
}

fn not_approved(phase: RequestPhase) -> &'static str {
    match closed(phase) {
        None => "nobody has approved it yet, so there is nothing to take back; deny it instead",
        Some(_) => "it was not approved, so there is nothing to take back",
    }
}

fn unsure(required: Assurance) -> &'static str {
    match required {
        Assurance::Passkey => {
            "the rule asks for your passkey; open it in the inbox and approve it there"
        }
        Assurance::Session => "the rule asks for a signed-in person; approve it in the inbox",
        Assurance::Token | Assurance::Chat => {
            "the rule asks for more than a chat account; approve it in the inbox or with your token"
        }
    }
}

/// An approval needs the proof of identity that the rule asks for; anybody asked may deny.
pub fn sure_enough(request: &Request, given: Assurance, answer: Answer) -> Result<(), Refusal> {
    match (answer, request.assurance) {
        (Answer::Approve { .. }, Some(required)) if given < required => {
            Err(Refusal::Assurance(required))
        }
        _ => Ok(()),
    }
}

/// Judges one answer by one person, who is `asked` for it ([`crate::roster`]).
pub fn judge(case: &Case<'_>, who: &Account, asked: bool, answer: Answer) -> Result<Step, Refusal> {
    if let Some(word) = closed(case.phase) {
        return Err(Refusal::Decided(word));
    }
    let own = is_own_agent(case.request, who);
    if !own && !asked {
        return Err(Refusal::NotInGroup(
            case.request.policy.approvers.clone().unwrap_or_default(),
        ));
    }
    let Answer::Approve { scope, rendered } = answer else {
        return Ok(Step::Deny);
    };
    if own {
        return Err(Refusal::SelfApproval);
    }
    if rendered != case.rendered {
        return Err(Refusal::Stale);
    }
    if !is_offered(case, scope) {
        let offered: Vec<_> = offered(case).iter().map(Scope::to_string).collect();
        return Err(Refusal::Scope {
            chosen: scope,
            offered: offered.join(", "),
        });
    }
    let others: Vec<_> = counting(case).collect();
    if others.iter().any(|vote| vote.subject == who.email) {
        return Err(Refusal::AlreadyApproved);
    }
    if others.len() + 1 < need(case.request) as usize {
        return Ok(Step::Count);
    }
    let combined = others
        .iter()
        .fold(scope, |least, vote| narrower(least, vote.scope));
    let narrowed = combined != scope || others.iter().any(|vote| vote.scope != combined);
    Ok(Step::Approve {
        scope: combined,
        narrowed,
    })
}

/// Whether `who` may take the approval back, and by what right, where it is not membership of the
/// group that was asked. It only takes away: so whoever gave it may, whoever may answer the request,
/// and, unlike an approval, the agent's owner and whoever launched it.
pub fn revocable(
    request: &Request,
    phase: RequestPhase,
    approvers: &[Approver],
    who: &Account,
    standing: Option<Standing>,
) -> Result<Option<String>, Refusal> {
    let gave = approvers.iter().any(|one| one.subject == who.email);
    let right = match standing {
        Some(Standing::Member) => None,
        Some(other) => Some(other.to_string()),
        None if gave => Some("approved it".to_owned()),
        None if is_own_agent(request, who) => Some("owner or launcher".to_owned()),
        None => {
            return Err(Refusal::NotInGroup(
                request.policy.approvers.clone().unwrap_or_default(),
            ));
        }
    };
    match phase {
        RequestPhase::Approved => Ok(right),
        other => Err(Refusal::NotApproved(other)),
    }
}

/// The approvals that count: those of people who were shown what is shown now.
pub fn counting<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Vote> {
    case.votes
        .iter()
        .filter(|vote| vote.rendered == case.rendered)
}

/// How many distinct people have to approve.
pub fn need(request: &Request) -> u32 {
    effective_quorum(request.quorum, request.agent.owner.as_ref())
}

/// The scopes an approver is offered; a late approval is for one retry.
pub fn offered(case: &Case<'_>) -> Vec<Scope> {
    match case.phase {
        RequestPhase::Waiting => {
            let fits = |scope: &&Scope| **scope != Scope::Once && fits_time(case.request, **scope);
            let others = case.request.allowed_scopes.iter().filter(fits).copied();
            [Scope::Once].into_iter().chain(others).collect()
        }
        RequestPhase::Late => vec![Scope::Once],
        _ => vec![],
    }
}

/// Whether the owner or the launcher of the agent is `who`. An account name without a domain stands
/// for every mail address that starts with it: the doubt is the approver's loss.
pub fn is_own_agent(request: &Request, who: &Account) -> bool {
    [&request.agent.owner, &request.agent.launched_by]
        .into_iter()
        .flatten()
        .any(|person| is_same(person, who))
}

fn is_same(person: &Subject, who: &Account) -> bool {
    let person = person.as_str().trim().to_lowercase();
    let email = who.email.as_str().trim().to_lowercase();
    let local = email.split('@').next().unwrap_or_default();
    let name = who.name.trim().to_lowercase();
    person == email || person == name || person == local || person.split('@').next() == Some(&name)
}

fn is_offered(case: &Case<'_>, scope: Scope) -> bool {
    match case.phase {
        RequestPhase::Waiting => {
            scope.within(&case.request.allowed_scopes) && fits_time(case.request, scope)
        }
        _ => scope == Scope::Once,
    }
}

fn fits_time(request: &Request, scope: Scope) -> bool {
    match scope {
        Scope::For(minutes) => u32::from(minutes.get()) * 60 <= request.max_ttl_s,
        _ => true,
    }
}

/// What two people both allow.
fn narrower(one: Scope, other: Scope) -> Scope {
    match (one, other) {
        _ if one == other => one,
        (Scope::For(a), Scope::For(b)) => Scope::For(NonZeroU16::min(a, b)),
        (Scope::Process, Scope::Session) | (Scope::Session, Scope::Process) => Scope::Process,
        _ => Scope::Once,
    }
}

/// The word for a request that takes no answer any more.
fn closed(phase: RequestPhase) -> Option<&'static str> {
    match phase {
        RequestPhase::Waiting | RequestPhase::Late => None,
        RequestPhase::Approved => Some("approved"),
        RequestPhase::Denied => Some("denied"),
        RequestPhase::Expired => Some("expired"),
        RequestPhase::Withdrawn => Some("withdrawn"),
    }
}

#[cfg(test)]
mod tests;
