//! An approver's own signature: what a host believes of it.
use super::*;
use crate::ids::Nonce;
use crate::passkey::tests::{RP, SoftKey};
use crate::passkey::{PasskeyError, Proof, Statement};

struct Bed {
    outstanding: Outstanding,
    dave: SoftKey,
    erin: SoftKey,
}

fn bed() -> Bed {
    let (dave, erin) = (SoftKey::new(RP), SoftKey::new(RP));
    let mut outstanding = outstanding();
    outstanding.assurance = Assurance::Passkey;
    outstanding.passkeys = vec![
        ("dave@example.com".parse().unwrap(), dave.pin.clone()),
        ("Erin@example.com".parse().unwrap(), erin.pin.clone()),
    ];
    Bed {
        outstanding,
        dave,
        erin,
    }
}

fn statement(decision: &Decision, scope: &str) -> Statement {
    Statement {
        v: 1,
        request_sha256: decision.request_sha256,
        rendered_sha256: decision.rendered_sha256.unwrap(),
        scope: scope.parse().unwrap(),
        nonce: Nonce([4; 16]),
    }
}

fn prove(approver: &mut Approver, key: &SoftKey, statement: &Statement) {
    approver.assurance = Assurance::Passkey;
    approver.proof = Some(Proof {
        scope: statement.scope,
        nonce: statement.nonce,
        key: key.pin.clone(),
        assertion: key.sign(&statement.challenge().unwrap().0),
    });
}

/// A decision for `granted`, signed by dave's key for `signed`.
fn proven(bed: &Bed, granted: &str, signed: &str) -> Decision {
    let mut decision = good(granted);
    let statement = statement(&decision, signed);
    prove(&mut decision.approvers[0], &bed.dave, &statement);
    decision
}

fn unproven(result: Result<Accepted, Refusal>) -> Unproven {
    match result {
        Err(Refusal::Passkey { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_passkey_rule_believes_the_persons_own_signature_alone() {
    let bed = bed();
    judge_with(&proven(&bed, "once", "once"), &bed.outstanding).unwrap();

    // The gateway's word alone, however it is put.
    let mut claimed = good("once");
    claimed.approvers[0].assurance = Assurance::Passkey;
    assert!(matches!(
        judge_with(&claimed, &bed.outstanding),
        Err(Refusal::Assurance {
            have: 0,
            need: 1,
            ..
        })
    ));
    // A key that this host does not know, or that is somebody else's.
    for key in [&SoftKey::new(RP), &bed.erin] {
        let mut decision = good("once");
        let statement = statement(&decision, "once");
        prove(&mut decision.approvers[0], key, &statement);
        assert_eq!(
            unproven(judge_with(&decision, &bed.outstanding)),
            Unproven::NotPinned
        );
    }
    // Dave's name on the pin, and Erin's signature.
    let mut mixed = proven(&bed, "once", "once");
    let challenge = statement(&mixed, "once").challenge().unwrap();
    mixed.approvers[0].proof.as_mut().unwrap().assertion = bed.erin.sign(&challenge.0);
    assert_eq!(
        unproven(judge_with(&mixed, &bed.outstanding)),
        Unproven::Assertion(PasskeyError::Signature)
    );
}

#[test]
fn a_signature_is_for_one_request_as_shown_and_one_scope() {
    let bed = bed();
    let changes: [fn(&mut Statement); 3] = [
        |s| s.request_sha256 = Digest::of(b"another request"),
        |s| s.rendered_sha256 = Digest::of(b"something else shown"),
        |s| s.v = 2,
    ];
    for change in changes {
        let mut decision = good("once");
        let mut statement = statement(&decision, "once");
        change(&mut statement);
        prove(&mut decision.approvers[0], &bed.dave, &statement);
        assert_eq!(
            unproven(judge_with(&decision, &bed.outstanding)),
            Unproven::Assertion(PasskeyError::Challenge)
        );
    }
    let other: [fn(&mut Proof); 2] = [
        |proof| proof.scope = Scope::Process,
        |proof| proof.nonce = Nonce([5; 16]),
    ];
    for change in other {
        let mut decision = proven(&bed, "once", "once");
        change(decision.approvers[0].proof.as_mut().unwrap());
        assert_eq!(
            unproven(judge_with(&decision, &bed.outstanding)),
            Unproven::Assertion(PasskeyError::Challenge)
        );
    }
    let mut hidden = proven(&bed, "once", "once");
    hidden.rendered_sha256 = None;
    assert_eq!(
        unproven(judge_with(&hidden, &bed.outstanding)),
        Unproven::NothingShown
    );
}

#[test]
fn a_grant_is_no_wider_than_what_was_signed() {
    let bed = bed();
    for (granted, signed, fits) in [
        ("once", "process", true),
        ("once", "10m", true),
        ("process", "process", true),
        ("process", "session", true),
        ("5m", "10m", true),
        ("10m", "10m", true),
        ("process", "once", false),
        ("process", "10m", false),
        ("10m", "5m", false),
        ("10m", "once", false),
        ("10m", "session", false),
    ] {
        let judged = judge_with(&proven(&bed, granted, signed), &bed.outstanding);
        if fits {
            judged.unwrap();
        } else {
            let wider = unproven(judged);
            assert!(
                matches!(wider, Unproven::Wider(_)),
                "{granted} {signed} {wider:?}"
            );
        }
    }
}

#[test]
fn a_quorum_is_of_people_and_of_keys() {
    let mut bed = bed();
    bed.outstanding.quorum = 2;
    let mut decision = proven(&bed, "once", "once");
    decision.approvers.push(person("erin@example.com"));
    assert!(
        matches!(
            judge_with(&decision, &bed.outstanding),
            Err(Refusal::Assurance {
                have: 1,
                need: 2,
                ..
            })
        ),
        "one of two signed"
    );
    let signed = statement(&decision, "once");
    prove(&mut decision.approvers[1], &bed.erin, &signed);
    judge_with(&decision, &bed.outstanding).unwrap();

    // One key pinned under two names is one person.
    bed.outstanding.passkeys[1].1 = bed.dave.pin.clone();
    prove(&mut decision.approvers[1], &bed.dave, &signed);
    assert!(matches!(
        judge_with(&decision, &bed.outstanding),
        Err(Refusal::Assurance { .. } | Refusal::Quorum { have: 1, need: 2 })
    ));
}

#[test]
fn where_no_passkey_is_asked_for_a_forged_one_still_refuses() {
    let mut bed = bed();
    bed.outstanding.assurance = Assurance::Session;
    let mut decision = proven(&bed, "once", "once");
    judge_with(&decision, &bed.outstanding).unwrap();
    decision.approvers[0].proof.as_mut().unwrap().nonce = Nonce([9; 16]);
    unproven(judge_with(&decision, &bed.outstanding));
    // Nobody here knows the key: the gateway's word for a session counts, and no more than that.
    bed.outstanding.passkeys.clear();
    judge_with(&decision, &bed.outstanding).unwrap();
    bed.outstanding.assurance = Assurance::Passkey;
    assert_eq!(
        unproven(judge_with(&decision, &bed.outstanding)),
        Unproven::NotPinned
    );
}

#[test]
fn a_proof_survives_the_wire_and_unknown_fields_do_not() {
    let bed = bed();
    let decision = proven(&bed, "once", "once");
    let mut value = serde_json::to_value(&decision).unwrap();
    assert_eq!(
        serde_json::from_value::<Decision>(value.clone()).unwrap(),
        decision
    );
    for at in ["/approvers/0/proof", "/approvers/0/proof/assertion"] {
        let mut wider = value.clone();
        wider.pointer_mut(at).unwrap()["surprise"] = 1.into();
        assert!(serde_json::from_value::<Decision>(wider).is_err(), "{at}");
    }
    value["approvers"][0]["proof"]["assertion"]["signature"] = "AA=".into();
    assert!(serde_json::from_value::<Decision>(value).is_err());
}
