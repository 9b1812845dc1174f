//! What an approver's own signature is worth on this host.
use super::{Outstanding, Refusal};
use crate::VERSION;
use crate::decision::{Approver, Assurance, Decision, Grant, Lifespan, Scope, minutes_ms};
use crate::ids::UnixMs;
use crate::passkey::{PasskeyError, Proof, Statement};

/// Why a signature is not the approval that it is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("{0}")]
    Assertion(#[from] PasskeyError),
    #[error("the key is not one that this host's policy pins for that person ([[approver]])")]
    NotPinned,
    #[error("the grant is wider than what was signed ({0})")]
    Wider(Scope),
    #[error("the decision does not say what was shown")]
    NothingShown,
}

/// How sure this host is of one approver. What the gateway says counts up to a session; a passkey
/// counts only by a signature that this host has checked with a key of its own policy. A signature by
/// such a key that is for something else refuses the whole decision: somebody has tampered.
pub(super) fn assurance(
    approver: &Approver,
    decision: &Decision,
    grant: &Grant,
    outstanding: &Outstanding,
) -> Result<Assurance, Refusal> {
    let claimed = approver.assurance.min(Assurance::Session);
    let Some(proof) = &approver.proof else {
        return Ok(claimed);
    };
    let pinned = outstanding
        .passkeys
        .iter()
        .any(|(subject, pin)| *subject == approver.subject && *pin == proof.key);
    let checked = if pinned {
        check(proof, decision, grant)
    } else if outstanding.assurance == Assurance::Passkey {
        Err(Unproven::NotPinned)
    } else {
        return Ok(claimed);
    };
    checked
        .map(|()| Assurance::Passkey)
        .map_err(|why| Refusal::Passkey {
            approver: approver.subject.clone(),
            why,
        })
}

fn check(proof: &Proof, decision: &Decision, grant: &Grant) -> Result<(), Unproven> {
    let statement = Statement {
        v: VERSION,
        request_sha256: decision.request_sha256,
        rendered_sha256: decision.rendered_sha256.ok_or(Unproven::NothingShown)?,
        scope: proof.scope,
        nonce: proof.nonce,
    };
    let challenge = statement.challenge().map_err(|_| PasskeyError::Challenge)?;
    proof.key.verify(&proof.assertion, &challenge.0)?;
    if is_within(grant, decision.issued_at, proof.scope) {
        Ok(())
    } else {
        Err(Unproven::Wider(proof.scope))
    }
}

/// Several people may have chosen differently; each one's grant is at most their own choice.
fn is_within(grant: &Grant, issued_at: UnixMs, signed: Scope) -> bool {
    match grant.lifespan {
        Lifespan::Single => true,
        Lifespan::Process => Scope::Process.within(&[signed]),
        Lifespan::Session => signed == Scope::Session,
        Lifespan::Until => match (signed, grant.expires_at) {
            (Scope::For(minutes), Some(end)) => end.since(issued_at) <= minutes_ms(minutes),
            _ => false,
        },
    }
}
