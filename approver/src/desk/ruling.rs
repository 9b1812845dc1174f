//! What happens to a request inside one transaction: judged, compared and set, signed, filed.
use std::sync::Arc;

use crate::store::Transaction;
use syshold_protocol::{
    Approver, Decision, DecisionId, DecisionVerdict, Digest, Grant, HostId, Request, RequestId,
    RequestPhase, RequestState, Scope, SigningKey, UnixMs, VERSION, dsse,
};
use uuid::Uuid;

use super::{DeskError, Sheet, Voice};
use crate::judge::{self, Answer, Case, Step, Vote, judge};
use crate::render::Rendered;
use crate::roster::{self, Roster, Standing};
use crate::store::notices;
use crate::store::people::Account;
use crate::store::requests::{self, Filed};
use crate::store::revocations::{self, Revoked};
use crate::store::{delegations, escalations};

/// What a decision says beyond what its request says.
struct Ruling {
    verdict: DecisionVerdict,
    grant: Option<Grant>,
    approvers: Vec<Approver>,
    rendered: Option<Digest>,
}

impl Ruling {
    /// What time or the host has ended.
    fn nobodys(verdict: DecisionVerdict) -> Self {
        Self {
            verdict,
            grant: None,
            approvers: vec![],
            rendered: None,
        }
    }
}

/// One answer, judged and carried out.
pub(super) fn decide(
    tx: &Transaction<'_>,
    id: RequestId,
    voice: &Voice,
    answer: Answer,
    (key, roster): (&SigningKey, &Roster),
    now: UnixMs,
) -> Result<Step, DeskError> {
    let filed = requests::by_id(tx, id)?.ok_or(DeskError::Unknown)?;
    judge::sure_enough(&filed.request, voice.assurance, answer)?;
    let all = requests::votes(tx, id)?;
    let votes: Vec<_> = all.iter().map(|(vote, _)| vote.clone()).collect();
    let rendered = rendered(&filed).digest()?;
    let case = Case {
        request: &filed.request,
        phase: filed.phase,
        votes: &votes,
        rendered,
    };
    let delegations = delegations::active(tx, now)?;
    let standing = roster.standing(
        &filed.request,
        &voice.account,
        &roster::Now {
            at: now,
            delegations: &delegations,
            received_at: filed.received_at,
        },
    );
    let step = judge(&case, &voice.account, standing.is_some(), answer)?;
    let by_right = standing
        .filter(|standing| *standing != Standing::Member)
        .map(|standing| standing.to_string());
    let me = signed_by(voice, by_right, now);
    if let Answer::Approve { scope, rendered } = answer {
        let vote = Vote {
            subject: me.subject.clone(),
            scope,
            rendered,
        };
        requests::add_vote(tx, id, &voice.account.name, &vote, &me)?;
    }
    match step {
        Step::Count => {}
        Step::Deny => {
            let ruling = Ruling {
                verdict: DecisionVerdict::Deny,
                grant: None,
                approvers: vec![me],
                rendered: Some(rendered),
            };
            conclude(tx, &filed, RequestPhase::Denied, ruling, key, now)?;
            requests::set_answered(tx, id, now)?;
        }
        Step::Approve { scope, narrowed } => {
            let counted = all
                .into_iter()
                .filter(|(vote, _)| vote.rendered == rendered && vote.subject != me.subject);
            let approvers = counted
                .map(|(_, approver)| approver)
                .chain([me.clone()])
                .collect();
            let verdict = if narrowed {
                DecisionVerdict::ApproveModified
            } else {
                DecisionVerdict::Approve
            };
            let grant = Some(grant(&filed.request, scope, now));
            let ruling = Ruling {
                verdict,
                grant,
                approvers,
                rendered: Some(rendered),
            };
            conclude(tx, &filed, RequestPhase::Approved, ruling, key, now)?;
            requests::set_answered(tx, id, now)?;
        }
    }
    Ok(step)
}

/// Takes back what was approved; false: it was taken back before, as is told.
pub(super) fn revoke(
    tx: &Transaction<'_>,
    id: RequestId,
    voice: &Voice,
    roster: &Roster,
    now: UnixMs,
) -> Result<(Revoked, bool), DeskError> {
    let filed = requests::by_id(tx, id)?.ok_or(DeskError::Unknown)?;
    let made = requests::decision(tx, id)?.map(|made| made.decision);
    let delegations = delegations::active(tx, now)?;
    let at = roster::Now {
        at: now,
        delegations: &delegations,
        received_at: filed.received_at,
    };
    let standing = roster.standing(&filed.request, &voice.account, &at);
    let approvers = made.as_ref().map_or(&[][..], |made| &made.approvers);
    let right = judge::revocable(
        &filed.request,
        filed.phase,
        approvers,
        &voice.account,
        standing,
    )?;
    // An approved request has one.
    let made = made.ok_or(DeskError::Unknown)?;
    if let Some(before) = revocations::of(tx, made.decision_id)? {
        return Ok((before, false));
    }
    let by = signed_by(voice, right, now);
    Ok((revocations::add(tx, &made, by, now)?, true))
}

/// Who says something, as it is signed.
fn signed_by(voice: &Voice, standing: Option<String>, now: UnixMs) -> Approver {
    Approver {
        subject: voice.account.email.clone(),
        channel: voice.channel,
        team_id: voice.chat.as_ref().map(|chat| chat.team_id.clone()),
        user_id: voice.chat.as_ref().map(|chat| chat.user_id.clone()),
        assurance: voice.assurance,
        at: now,
        reason: voice.reason.clone(),
        standing,
        proof: voice.proof.clone(),
    }
}

fn grant(request: &Request, scope: Scope, now: UnixMs) -> Grant {
    scope.grant(vec![request.action.object.clone()], now, request.waiting)
}

/// People have denied the same often enough: they are not asked again for a while.
pub(super) fn tired(
    tx: &Transaction<'_>,
    id: RequestId,
    key: &SigningKey,
    now: UnixMs,
) -> Result<(), DeskError> {
    let filed = requests::by_id(tx, id)?.ok_or(DeskError::Unknown)?;
    let ruling = Ruling::nobodys(DecisionVerdict::Deny);
    conclude(tx, &filed, RequestPhase::Denied, ruling, key, now)
}

/// The host has taken the request back; a second time changes nothing.
pub(super) fn withdraw(
    tx: &Transaction<'_>,
    id: RequestId,
    host: &HostId,
    key: &SigningKey,
    now: UnixMs,
) -> Result<(), DeskError> {
    let filed = requests::by_id(tx, id)?.filter(|filed| &filed.request.host_id == host);
    let filed = filed.ok_or(DeskError::Unknown)?;
    match filed.phase {
        RequestPhase::Withdrawn => Ok(()),
        RequestPhase::Waiting | RequestPhase::Late => {
            let ruling = Ruling::nobodys(DecisionVerdict::Withdrawn);
            conclude(tx, &filed, RequestPhase::Withdrawn, ruling, key, now)
        }
        RequestPhase::Approved | RequestPhase::Denied | RequestPhase::Expired => {
            Err(DeskError::Decided)
        }
    }
}

/// The end of a hold is a decision, the end of the time for a late approval is not: the host has the
/// first and needs no second.
pub(super) fn expire(
    tx: &Transaction<'_>,
    filed: &Filed,
    key: &SigningKey,
    now: UnixMs,
) -> Result<(), DeskError> {
    let id = filed.request.request_id;
    if filed.phase == RequestPhase::Waiting {
        let ruling = Ruling::nobodys(DecisionVerdict::Expired);
        conclude(tx, filed, RequestPhase::Late, ruling, key, now)?;
    }
    if filed.late_until <= now
        && !requests::advance(tx, id, RequestPhase::Late, RequestPhase::Expired)?
    {
        tracing::debug!(%id, "decided while its late time ended");
    }
    Ok(())
}

/// Compare and set, sign, file: in the caller's transaction.
fn conclude(
    tx: &Transaction<'_>,
    filed: &Filed,
    to: RequestPhase,
    ruling: Ruling,
    key: &SigningKey,
    now: UnixMs,
) -> Result<(), DeskError> {
    let request = &filed.request;
    if !requests::advance(tx, request.request_id, filed.phase, to)? {
        return Err(DeskError::Decided);
    }
    let decision = Decision {
        v: VERSION,
        decision_id: DecisionId(Uuid::now_v7()),
        request_id: request.request_id,
        request_sha256: filed.request_sha256,
        host_id: request.host_id.clone(),
        nonce: request.nonce,
        verdict: ruling.verdict,
        grant: ruling.grant,
        approvers: ruling.approvers,
        policy_sha256: request.policy.sha256,
        rendered_sha256: ruling.rendered,
        issued_at: now,
        ledger: None,
    };
    let sealed = dsse::seal(&decision, key)?;
    Ok(requests::add_decision(tx, &decision, &sealed.envelope)?)
}

fn rendered(filed: &Filed) -> Rendered {
    Rendered::new(
        &filed.request,
        filed.request_sha256,
        &filed.host_name,
        filed.phase,
    )
}

/// Where it stands, for its host.
pub(super) fn state(tx: &Transaction<'_>, filed: &Filed) -> Result<RequestState, DeskError> {
    let expires_at = if filed.phase == RequestPhase::Waiting {
        filed.request.hold_until
    } else {
        filed.late_until
    };
    Ok(RequestState {
        state: filed.phase,
        have: have(tx, filed)?,
        need: judge::need(&filed.request),
        expires_at,
    })
}

fn have(tx: &Transaction<'_>, filed: &Filed) -> Result<u32, DeskError> {
    let votes: Vec<_> = requests::votes(tx, filed.request.request_id)?
        .into_iter()
        .map(|(vote, _)| vote)
        .collect();
    if votes.is_empty() {
        return Ok(0);
    }
    let case = Case {
        request: &filed.request,
        phase: filed.phase,
        votes: &votes,
        rendered: rendered(filed).digest()?,
    };
    Ok(u32::try_from(judge::counting(&case).count()).unwrap_or(u32::MAX))
}

/// All that is known, for people.
pub(super) fn sheet(
    tx: &Transaction<'_>,
    filed: Filed,
    roster: &Arc<Roster>,
    delegations: &Arc<Vec<(Account, String, UnixMs)>>,
    now: UnixMs,
) -> Result<Sheet, DeskError> {
    let id = filed.request.request_id;
    let rendered = rendered(&filed);
    let rendered_sha256 = rendered.digest()?;
    let decision = requests::decision(tx, id)?.map(|made| made.decision);
    let votes = match &decision {
        Some(decision) if decision.verdict.approves() => decision.approvers.clone(),
        _ => requests::votes(tx, id)?
            .into_iter()
            .filter(|(vote, _)| vote.rendered == rendered_sha256)
            .map(|(_, a)| a)
            .collect(),
    };
    let at = roster::Now {
        at: now,
        delegations,
        received_at: filed.received_at,
    };
    let approved = decision
        .as_ref()
        .filter(|decision| decision.verdict.approves());
    let revocable = approved.map(|decision| decision.decision_id);
    Ok(Sheet {
        asked: roster.asked(&filed.request, &at),
        roster: Arc::clone(roster),
        delegations: Arc::clone(delegations),
        at: now,
        have: u32::try_from(votes.len()).unwrap_or(u32::MAX),
        rendered_sha256,
        votes,
        decision,
        revoked: match revocable {
            Some(decision) => revocations::of(tx, decision)?,
            None => None,
        },
        outcome: requests::outcome(tx, id)?,
        notices: notices::of(tx, id)?,
        escalated: escalations::of(tx, id)?,
        rendered,
        filed,
    })
}
