//! Each right, and what is no right.
use super::*;
use crate::sample;

const ASKED: UnixMs = UnixMs::new(10_000_000);
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn roster() -> Roster {
    Roster {
        groups: vec![Group {
            name: "privacy".to_owned(),
            on_call: Some(Rotation {
                people: ["ann", "ben", "cem"].map(str::to_owned).to_vec(),
                turn_ms: DAY,
                from: ASKED,
            }),
            escalate: Some(Escalation {
                after_ms: 2 * MINUTE,
                to: vec!["sre".to_owned()],
            }),
        }],
    }
}

fn request() -> Request {
    let mut request = sample::request();
    request.policy.approvers = Some("privacy".to_owned());
    request.agent.owner = Some("alice@example.com".parse().unwrap());
    request
}

fn person(name: &str, groups: &[&str]) -> Account {
    sample::account(name, &format!("{name}@example.com"), groups)
}

fn stands(
    who: &Account,
    at: UnixMs,
    delegations: &[(Account, String, UnixMs)],
) -> Option<Standing> {
    let now = Now {
        at,
        delegations,
        received_at: ASKED,
    };
    roster().standing(&request(), who, &now)
}

#[test]
fn people_are_on_call_in_turn() {
    let roster = roster();
    let turn = |at| {
        let rotation = roster.groups[0].on_call.as_ref().unwrap();
        rotation.at(at).map(|(name, _)| name.to_owned())
    };
    assert_eq!(turn(UnixMs::new(ASKED.ms() - 1)), None, "it has not begun");
    for (days, name) in [(0, "ann"), (1, "ben"), (2, "cem"), (3, "ann"), (301, "ben")] {
        assert_eq!(
            turn(ASKED.plus(days * DAY)).as_deref(),
            Some(name),
            "{days}"
        );
        assert_eq!(
            turn(ASKED.plus((days + 1) * DAY - 1)).as_deref(),
            Some(name),
            "{days}"
        );
    }
    let ben = person("Ben", &[]);
    assert_eq!(stands(&ben, ASKED, &[]), None, "not yet");
    assert_eq!(stands(&ben, ASKED.plus(DAY), &[]), Some(Standing::OnCall));
    assert_eq!(stands(&ben, ASKED.plus(2 * DAY), &[]), None, "no more");
}

#[test]
fn another_group_is_asked_once_nobody_has_answered() {
    let (dan, eve) = (person("dan", &["sre"]), person("eve", &["other"]));
    assert_eq!(stands(&dan, ASKED.plus(2 * MINUTE - 1), &[]), None);
    let due = ASKED.plus(2 * MINUTE);
    assert_eq!(
        stands(&dan, due, &[]),
        Some(Standing::Fallback("sre".to_owned()))
    );
    assert_eq!(stands(&eve, due, &[]), None);
    assert_eq!(
        stands(&person("fay", &["privacy"]), due, &[]),
        Some(Standing::Member)
    );
}

#[test]
fn somebody_in_the_place_of_a_member_until_the_end() {
    let until = ASKED.plus(DAY);
    let by = |of: Account, to: &str| (of, to.to_owned(), until);
    let gus = person("gus", &[]);
    let fay = by(person("fay", &["privacy"]), "Gus");
    let delegate = Some(Standing::Delegate {
        of: "fay".to_owned(),
        until,
    });
    assert_eq!(stands(&gus, ASKED, std::slice::from_ref(&fay)), delegate);
    assert_eq!(
        stands(&gus, until, std::slice::from_ref(&fay)),
        None,
        "it has ended"
    );
    assert_eq!(
        stands(&person("hal", &[]), ASKED, &[fay]),
        None,
        "somebody else's"
    );
    // What the one has not, the other does not get.
    assert_eq!(
        stands(&gus, ASKED, &[by(person("eve", &["other"]), "gus")]),
        None
    );
    // And it is not passed on.
    let chain = [
        by(person("fay", &["privacy"]), "ivo"),
        by(person("ivo", &[]), "gus"),
    ];
    assert_eq!(stands(&gus, ASKED, &chain), None);
    // A fallback's place counts from when the fallback does.
    let dan = [by(person("dan", &["sre"]), "gus")];
    assert_eq!(stands(&gus, ASKED, &dan), None);
    assert!(stands(&gus, ASKED.plus(2 * MINUTE), &dan).is_some());
}

#[test]
fn an_owner_names_nobody_in_their_place() {
    let alice = (
        person("alice", &["privacy"]),
        "gus".to_owned(),
        ASKED.plus(DAY),
    );
    assert_eq!(stands(&person("gus", &[]), ASKED, &[alice]), None);
}

#[test]
fn who_is_asked_is_said() {
    let asked = |at| {
        let now = Now {
            at,
            delegations: &[],
            received_at: ASKED,
        };
        roster().asked(&request(), &now)
    };
    let from = ASKED.plus(2 * MINUTE);
    assert_eq!(
        asked(ASKED),
        Some(format!("privacy (on call: ann), from {from} also sre"))
    );
    assert!(asked(from).unwrap().contains("since"));
}
