//! Every condition of the acceptance check, broken one at a time.
mod passkeys;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decision::Channel;
use crate::dsse::{Payload, SigningKey};
use crate::request::tests::sample;

const NOW: UnixMs = UnixMs::new(1_700_000_020_000);

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&zeroize::Zeroizing::new([byte; 32]))
}

fn person(subject: &str) -> Approver {
    Approver {
        subject: subject.parse().unwrap(),
        channel: Channel::Cli,
        team_id: None,
        user_id: None,
        assurance: Assurance::Token,
        at: UnixMs::new(1_700_000_018_000),
        reason: None,
        standing: None,
        proof: None,
    }
}

fn outstanding() -> Outstanding {
    let request = sample();
    Outstanding {
        request_sha256: dsse::seal(&request, &key(9)).unwrap().payload_sha256,
        allowed_scopes: request.allowed_scopes.clone(),
        max_ttl_s: request.max_ttl_s,
        quorum: 1,
        owner: request.agent.owner.clone(),
        launched_by: request.agent.launched_by.clone(),
        assurance: Assurance::Token,
        passkeys: Vec::new(),
        request,
    }
}

fn good(scope: &str) -> Decision {
    let outstanding = outstanding();
    let issued_at = UnixMs::new(1_700_000_019_000);
    let request = outstanding.request;
    Decision {
        v: 1,
        decision_id: "01938d5e-7000-7000-8000-000000000001".parse().unwrap(),
        request_id: request.request_id,
        request_sha256: outstanding.request_sha256,
        host_id: request.host_id,
        nonce: request.nonce,
        verdict: DecisionVerdict::Approve,
        grant: Some(scope.parse::<Scope>().unwrap().grant(
            vec![request.action.object],
            issued_at,
            request.waiting,
        )),
        approvers: vec![person("dave@example.com")],
        policy_sha256: request.policy.sha256,
        rendered_sha256: Some(Digest::of(b"shown")),
        issued_at,
        ledger: None,
    }
}

fn judge_with(decision: &Decision, outstanding: &Outstanding) -> Result<Accepted, Refusal> {
    let sealed = dsse::seal(decision, &key(1)).unwrap();
    accept(
        &sealed.envelope,
        outstanding,
        &key(1).public().into(),
        NOW,
        &|_| false,
    )
}

fn judge(decision: &Decision) -> Result<Accepted, Refusal> {
    judge_with(decision, &outstanding())
}

fn grant(decision: &mut Decision) -> &mut Grant {
    decision.grant.as_mut().unwrap()
}

#[test]
fn good_decisions_are_accepted_with_their_time() {
    for (scope, lifespan, ttl_ms, max_uses) in [
        ("once", Lifespan::Single, LATE_APPROVAL_MS - 1000, Some(3)),
        ("process", Lifespan::Process, 599_000, None),
        ("10m", Lifespan::Until, 599_000, None),
        ("5m", Lifespan::Until, 299_000, None),
    ] {
        let Ruling::Allow(allowance) = judge(&good(scope)).unwrap().ruling else {
            panic!("{scope} denied")
        };
        assert_eq!(
            (allowance.lifespan, allowance.ttl_ms, allowance.max_uses),
            (lifespan, ttl_ms, max_uses),
            "{scope}"
        );
    }
}

#[test]
fn denials_need_no_quorum_and_may_come_from_the_owner() {
    for (verdict, cause) in [
        (DecisionVerdict::Deny, DenyCause::Denied),
        (DecisionVerdict::Expired, DenyCause::Expired),
        (DecisionVerdict::Withdrawn, DenyCause::Withdrawn),
    ] {
        let denied = Decision {
            verdict,
            grant: None,
            approvers: vec![person("alice@example.com")],
            ..good("once")
        };
        assert_eq!(judge(&denied).unwrap().ruling, Ruling::Deny(cause));
        let with_grant = Decision {
            grant: good("once").grant,
            ..denied
        };
        assert!(matches!(
            judge(&with_grant),
            Err(Refusal::GrantWithoutApproval)
        ));
    }
}

/// One row a condition: the change, and the refusal it must meet, although the gateway signed it.
#[test]
fn each_condition_refuses_on_its_own() {
    type Row = (
        &'static str,
        &'static str,
        fn(&mut Decision),
        fn(&Refusal) -> bool,
    );
    let table: &[Row] = &[
        (
            "other version",
            "once",
            |d| d.v = 2,
            |r| matches!(r, Refusal::Version(2)),
        ),
        (
            "other request",
            "once",
            |d| d.request_id.0 = uuid::Uuid::now_v7(),
            |r| matches!(r, Refusal::OtherRequest { .. }),
        ),
        (
            "other host",
            "once",
            |d| d.host_id = "web-2".parse().unwrap(),
            |r| matches!(r, Refusal::OtherHost { .. }),
        ),
        (
            "other nonce",
            "once",
            |d| d.nonce.0[0] ^= 1,
            |r| matches!(r, Refusal::Nonce),
        ),
        (
            "other digest",
            "once",
            |d| d.request_sha256.0[31] ^= 1,
            |r| matches!(r, Refusal::RequestDigest { .. }),
        ),
        (
            "other policy",
            "once",
            |d| d.policy_sha256.0[0] ^= 1,
            |r| matches!(r, Refusal::Policy { .. }),
        ),
        (
            "from the future",
            "once",
            |d| d.issued_at = NOW.plus(MAX_CLOCK_SKEW_MS + 1),
            |r| matches!(r, Refusal::Clock { .. }),
        ),
        (
            "from before",
            "once",
            |d| d.issued_at = UnixMs::new(1_699_999_000_000),
            |r| matches!(r, Refusal::Clock { .. }),
        ),
        (
            "no grant",
            "once",
            |d| d.grant = None,
            |r| matches!(r, Refusal::NoGrant),
        ),
        (
            "owner",
            "once",
            |d| d.approvers.push(person("ALICE@example.com ")),
            |r| matches!(r, Refusal::OwnerApproved { .. }),
        ),
        (
            "owner by account name",
            "once",
            |d| d.approvers[0] = person("Alice"),
            |r| matches!(r, Refusal::OwnerApproved { .. }),
        ),
        (
            "launcher",
            "once",
            |d| d.approvers[0] = person("carol@example.com"),
            |r| matches!(r, Refusal::LauncherApproved { .. }),
        ),
        (
            "nobody",
            "once",
            |d| d.approvers.clear(),
            |r| matches!(r, Refusal::Quorum { have: 0, need: 1 }),
        ),
        (
            "unsure",
            "once",
            |d| d.approvers[0].assurance = Assurance::Chat,
            |r| {
                matches!(
                    r,
                    Refusal::Assurance {
                        have: 0,
                        need: 1,
                        ..
                    }
                )
            },
        ),
        (
            "no object",
            "once",
            |d| grant(d).objects.clear(),
            |r| matches!(r, Refusal::NoObject),
        ),
        (
            "other port",
            "once",
            |d| grant(d).objects[0].port = Some(80),
            |r| matches!(r, Refusal::WiderObject(_)),
        ),
        (
            "no port",
            "once",
            |d| grant(d).objects[0].port = None,
            |r| matches!(r, Refusal::WiderObject(_)),
        ),
        (
            "other name",
            "once",
            |d| grant(d).objects[0].requested.push('.'),
            |r| matches!(r, Refusal::WiderObject(_)),
        ),
        (
            "one more object",
            "once",
            |d| {
                let mut more = grant(d).objects[0].clone();
                more.ip = Some("198.51.100.1".parse().unwrap());
                grant(d).objects.push(more);
            },
            |r| matches!(r, Refusal::WiderObject(_)),
        ),
        (
            "session not allowed",
            "once",
            |d| grant(d).lifespan = Lifespan::Session,
            |r| matches!(r, Refusal::WiderLifespan(Lifespan::Session)),
        ),
        (
            "longer than asked",
            "10m",
            |d| grant(d).expires_at = Some(d.issued_at.plus(600_001)),
            |r| matches!(r, Refusal::WiderTime { .. }),
        ),
        (
            "single for an hour",
            "once",
            |d| grant(d).expires_at = Some(d.issued_at.plus(3_600_000)),
            |r| matches!(r, Refusal::WiderTime { .. }),
        ),
        (
            "process past max_ttl",
            "process",
            |d| grant(d).expires_at = Some(d.issued_at.plus(600_001)),
            |r| matches!(r, Refusal::WiderTime { .. }),
        ),
        (
            "until what",
            "10m",
            |d| grant(d).expires_at = None,
            |r| matches!(r, Refusal::NoTimeLimit),
        ),
        (
            "over",
            "10m",
            |d| grant(d).expires_at = Some(d.issued_at.plus(500)),
            |r| matches!(r, Refusal::GrantExpired),
        ),
        (
            "ends before it begins",
            "10m",
            |d| grant(d).expires_at = Some(UnixMs::new(5)),
            |r| matches!(r, Refusal::GrantExpired),
        ),
        (
            "more uses than waiting",
            "once",
            |d| grant(d).max_uses = Some(4),
            |r| {
                matches!(
                    r,
                    Refusal::WiderUses {
                        given: 4,
                        allowed: 3
                    }
                )
            },
        ),
        (
            "uncounted",
            "once",
            |d| grant(d).max_uses = None,
            |r| matches!(r, Refusal::NoUses),
        ),
        (
            "no uses",
            "10m",
            |d| grant(d).max_uses = Some(0),
            |r| matches!(r, Refusal::NoUses),
        ),
    ];
    for (name, scope, change, expected) in table {
        let mut decision = good(scope);
        change(&mut decision);
        match judge(&decision) {
            Err(refusal) if expected(&refusal) => {
                assert!(refusal.to_string().len() > 10, "{name}: says why");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_hosts_own_limits_count_not_the_requests() {
    let stricter = Outstanding {
        allowed_scopes: vec![],
        ..outstanding()
    };
    assert!(matches!(
        judge_with(&good("10m"), &stricter),
        Err(Refusal::WiderLifespan(Lifespan::Until))
    ));
    assert!(matches!(
        judge_with(&good("process"), &stricter),
        Err(Refusal::WiderLifespan(Lifespan::Process))
    ));
    judge_with(&good("once"), &stricter).expect("once is always within");
    let shorter = Outstanding {
        max_ttl_s: 60,
        ..outstanding()
    };
    assert!(matches!(
        judge_with(&good("5m"), &shorter),
        Err(Refusal::WiderTime {
            allowed_ms: 60_000,
            ..
        })
    ));
    let late = Outstanding {
        request: Request {
            hold_until: UnixMs::new(1_699_990_000_000),
            ..sample()
        },
        ..outstanding()
    };
    assert!(matches!(
        judge_with(&good("once"), &late),
        Err(Refusal::TooLate { .. })
    ));
}

#[test]
fn a_quorum_counts_people() {
    let two = Outstanding {
        quorum: 2,
        ..outstanding()
    };
    let unowned = Outstanding {
        owner: None,
        ..outstanding()
    };
    let by = |people: &[Approver]| Decision {
        approvers: people.to_vec(),
        ..good("once")
    };
    let account = |subject: &str, user: &str| Approver {
        team_id: Some("T1".into()),
        user_id: Some(user.into()),
        ..person(subject)
    };
    for outstanding in [&two, &unowned] {
        for same in [
            vec![person("dave@example.com")],
            vec![person("dave@example.com"), person("Dave@Example.com")],
            vec![person("dave@example.com"), person("dave")],
            vec![
                account("dave@example.com", "U1"),
                account("d@example.com", "U1"),
            ],
            vec![
                account("dave@example.com", "U1"),
                account("dave@example.com", "U2"),
            ],
        ] {
            assert!(
                matches!(
                    judge_with(&by(&same), outstanding),
                    Err(Refusal::Quorum { have: 1, need: 2 })
                ),
                "{same:?}"
            );
        }
        judge_with(
            &by(&[person("dave@example.com"), person("erin@example.com")]),
            outstanding,
        )
        .unwrap();
    }
    let chat = Approver {
        assurance: Assurance::Chat,
        ..person("erin@example.com")
    };
    let refusal = judge_with(&by(&[person("dave@example.com"), chat]), &two);
    assert!(
        matches!(
            refusal,
            Err(Refusal::Assurance {
                have: 1,
                need: 2,
                ..
            })
        ),
        "{refusal:?}"
    );
}

#[test]
fn a_decision_is_used_once() {
    let sealed = dsse::seal(&good("once"), &key(1)).unwrap();
    let used = accept(
        &sealed.envelope,
        &outstanding(),
        &key(1).public().into(),
        NOW,
        &|id| *id == good("once").decision_id,
    );
    assert!(matches!(used, Err(Refusal::Replay(_))));
}

#[test]
fn what_is_no_decision_is_refused() {
    let keys = key(1).public().into();
    let strange: [&[u8]; 12] = [
        b"", b"null", b"{}", b"[]", b"true", b"\"approve\"", b"<html><body>502 Bad Gateway</body></html>", b"\xff\xfe\0",
        b"{\"verdict\":\"approve\"}", b"{\"payloadType\":null,\"payload\":null,\"signatures\":null}",
        b"{\"payloadType\":\"application/vnd.syshold.decision.v1+json\",\"payload\":\"\",\"signatures\":[]}",
        &[b' '; 70_000],
    ];
    for bytes in strange {
        let refusal = accept(bytes, &outstanding(), &keys, NOW, &|_| false);
        assert!(matches!(refusal, Err(Refusal::Envelope(_))), "{refusal:?}");
    }
    let other_key = dsse::seal(&good("once"), &key(2)).unwrap();
    let refusal = accept(&other_key.envelope, &outstanding(), &keys, NOW, &|_| false);
    assert!(
        matches!(refusal, Err(Refusal::Envelope(DsseError::NoPinnedKey))),
        "{refusal:?}"
    );
    let request = dsse::seal(&sample(), &key(1)).unwrap();
    let refusal = accept(&request.envelope, &outstanding(), &keys, NOW, &|_| false);
    assert!(
        matches!(
            refusal,
            Err(Refusal::Envelope(DsseError::PayloadType { .. }))
        ),
        "{refusal:?}"
    );
}

/// A payload of any shape under the decision's type, well signed.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct AnyDecision(Value);

impl Payload for AnyDecision {
    const TYPE: &'static str = Decision::TYPE;
}

fn judge_json(value: Value) -> Result<Accepted, Refusal> {
    let sealed = dsse::seal(&AnyDecision(value), &key(1)).unwrap();
    accept(
        &sealed.envelope,
        &outstanding(),
        &key(1).public().into(),
        NOW,
        &|_| false,
    )
}

/// Every path to a value in the JSON.
fn paths(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, inner)| {
            out.push(format!("{at}/{name}"));
            paths(inner, &format!("{at}/{name}"), out);
        }),
        Value::Array(list) => list.iter().enumerate().for_each(|(n, inner)| {
            out.push(format!("{at}/{n}"));
            paths(inner, &format!("{at}/{n}"), out);
        }),
        _ => {}
    }
}

#[test]
fn wrong_types_and_unknown_fields_are_refused_even_when_signed() {
    let value = serde_json::to_value(good("10m")).unwrap();
    judge_json(value.clone()).expect("unchanged");
    let mut all = Vec::new();
    paths(&value, "", &mut all);
    assert!(all.len() >= 25, "{all:?}");
    for path in all {
        for strange in [
            json!([[]]),
            json!({"a": 1}),
            json!(true),
            json!(-1),
            json!(1.5),
            json!(""),
        ] {
            let mut changed = value.clone();
            *changed.pointer_mut(&path).unwrap() = strange.clone();
            assert!(
                judge_json(changed).is_err(),
                "{path} = {strange} was accepted"
            );
        }
    }
    for at in ["", "/grant", "/grant/objects/0", "/approvers/0"] {
        let mut changed = value.clone();
        changed.pointer_mut(at).unwrap()["unknown"] = json!(1);
        assert!(
            judge_json(changed).is_err(),
            "an unknown field in {at:?} was accepted"
        );
    }
}

/// The fields in which a signed decision may differ from another good one.
const FREE: [&str; 6] = [
    "/decision_id",
    "/rendered_sha256",
    "/approvers/0/at",
    "/approvers/0/channel",
    "/approvers/0/subject",
    "/verdict",
];

proptest! {
    /// Without the gateway's key no field can be changed at all.
    #[test]
    fn any_change_of_a_field_breaks_the_signature(pick in any::<prop::sample::Index>(), digit in 0_u8..10) {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        let sealed = dsse::seal(&good("10m"), &key(1)).unwrap();
        let mut envelope: Value = serde_json::from_slice(&sealed.envelope).unwrap();
        let payload = base64.decode(envelope["payload"].as_str().unwrap()).unwrap();
        let mut decision: Value = serde_json::from_slice(&payload).unwrap();
        let mut all = Vec::new();
        paths(&decision, "", &mut all);
        let slot = decision.pointer_mut(&all[pick.index(all.len())]).unwrap();
        let before = slot.clone();
        *slot = match &before {
            Value::String(text) => json!(format!("{}{digit}", &text[..text.len() - 1])),
            Value::Number(number) => json!(number.as_u64().unwrap() ^ (1 << digit)),
            _ => Value::Null,
        };
        prop_assume!(*slot != before);
        envelope["payload"] = base64.encode(crate::canonical::to_vec(&decision).unwrap()).into();
        let changed = serde_json::to_vec(&envelope).unwrap();
        prop_assert!(accept(&changed, &outstanding(), &key(1).public().into(), NOW, &|_| false).is_err());
    }

    /// With the gateway's key only what binds nothing can be changed.
    #[test]
    fn a_lying_gateway_changes_nothing_that_binds(pick in any::<prop::sample::Index>(), digit in 0_u8..10) {
        let mut decision = serde_json::to_value(good("10m")).unwrap();
        let mut all = Vec::new();
        paths(&decision, "", &mut all);
        all.retain(|path| !FREE.contains(&path.as_str()) && !path.ends_with("_at"));
        let path = &all[pick.index(all.len())];
        let slot = decision.pointer_mut(path).unwrap();
        let before = slot.clone();
        *slot = match &before {
            Value::String(text) => json!(format!("{}{digit}", &text[..text.len() - 1])),
            Value::Number(number) => json!(number.as_u64().unwrap() ^ (1 << digit)),
            _ => Value::Null,
        };
        prop_assume!(*slot != before);
        prop_assert!(judge_json(decision).is_err(), "{path}: {before} changed");
    }

    #[test]
    fn any_bytes_at_all_are_refused(bytes in any::<Vec<u8>>()) {
        prop_assert!(accept(&bytes, &outstanding(), &key(1).public().into(), NOW, &|_| false).is_err());
    }

    #[test]
    fn any_byte_of_the_envelope_flipped_is_refused(pick in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = dsse::seal(&good("once"), &key(1)).unwrap().envelope;
        // The key id is an unsigned hint, so nothing hangs on its name or value.
        let keyid = String::from_utf8_lossy(&bytes).find("\"keyid\"").unwrap();
        let at = pick.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let result = accept(&bytes, &outstanding(), &key(1).public().into(), NOW, &|_| false);
        prop_assert!(result.is_err() || (keyid..keyid + 42).contains(&at), "byte {at}");
    }
}
