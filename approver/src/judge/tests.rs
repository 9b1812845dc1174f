//! Each rule of the judge, as a table.
use super::*;
use syshold_protocol::UnixMs;

use crate::roster::{Now, Roster};
use crate::sample;

const SHOWN: Digest = Digest([1; 32]);

fn account(name: &str, email: &str, groups: &[&str]) -> Account {
    sample::account(name, email, groups)
}

fn approve(scope: &str) -> Answer {
    Answer::Approve {
        scope: scope.parse().unwrap(),
        rendered: SHOWN,
    }
}

fn run(
    request: &Request,
    phase: RequestPhase,
    votes: &[Vote],
    who: &Account,
    answer: Answer,
) -> Result<Step, Refusal> {
    let now = Now {
        at: UnixMs::new(0),
        delegations: &[],
        received_at: UnixMs::new(0),
    };
    judge(
        &Case {
            request,
            phase,
            votes,
            rendered: SHOWN,
        },
        who,
        Roster::default().standing(request, who, &now).is_some(),
        answer,
    )
}

#[test]
fn owner_and_launcher_may_deny_and_not_approve() {
    let mut request = sample::request();
    request.policy.approvers = Some("privacy".to_owned());
    let table = [
        (
            "alice",
            "alice@example.com",
            "Alice@Example.com",
            "carol@example.com",
        ),
        (
            "al",
            "alice@example.com",
            " alice@example.com ",
            "carol@example.com",
        ),
        (
            "al",
            "alice@example.com",
            "dave@example.com",
            "ALICE@example.com",
        ),
        ("alice", "a.smith@example.com", "dave@example.com", "alice"),
        ("al", "alice@example.com", "dave@example.com", "alice"),
        (
            "alice",
            "a.smith@example.com",
            "alice@other.example",
            "carol",
        ),
    ];
    for (name, email, owner, launcher) in table {
        request.agent.owner = Some(owner.parse().unwrap());
        request.agent.launched_by = Some(launcher.parse().unwrap());
        let who = account(name, email, &["privacy"]);
        assert_eq!(
            run(&request, RequestPhase::Waiting, &[], &who, approve("once")),
            Err(Refusal::SelfApproval),
            "{owner} {launcher}"
        );
        let outside = account(name, email, &[]);
        assert_eq!(
            run(&request, RequestPhase::Waiting, &[], &outside, Answer::Deny),
            Ok(Step::Deny)
        );
    }
}

#[test]
fn only_the_group_answers() {
    let mut request = sample::request();
    request.policy.approvers = Some("privacy".to_owned());
    for answer in [approve("once"), Answer::Deny] {
        let refused = run(
            &request,
            RequestPhase::Waiting,
            &[],
            &account("bob", "bob@example.com", &["sre"]),
            answer,
        );
        assert_eq!(refused, Err(Refusal::NotInGroup("privacy".to_owned())));
        let _ = run(
            &request,
            RequestPhase::Waiting,
            &[],
            &account("bob", "bob@example.com", &["privacy"]),
            answer,
        )
        .unwrap();
    }
}

#[test]
fn scopes_are_those_offered() {
    let mut request = sample::request();
    request.allowed_scopes = ["process", "10m", "60m"]
        .map(|s| s.parse().unwrap())
        .to_vec();
    request.max_ttl_s = 600;
    let bob = account("bob", "bob@example.com", &[]);
    for (scope, phase, good) in [
        ("once", RequestPhase::Waiting, true),
        ("process", RequestPhase::Waiting, true),
        ("5m", RequestPhase::Waiting, true),
        ("10m", RequestPhase::Waiting, true),
        ("11m", RequestPhase::Waiting, false),
        ("60m", RequestPhase::Waiting, false),
        ("session", RequestPhase::Waiting, false),
        ("once", RequestPhase::Late, true),
        ("process", RequestPhase::Late, false),
        ("10m", RequestPhase::Late, false),
    ] {
        assert_eq!(
            run(&request, phase, &[], &bob, approve(scope)).is_ok(),
            good,
            "{scope} {phase:?}"
        );
    }
}

#[test]
fn a_quorum_is_of_distinct_people_who_saw_the_same() {
    let mut request = sample::request();
    request.agent.owner = None;
    assert_eq!(need(&request), 2, "nobody knows whose agent it is");
    let (bob, eve) = (
        account("bob", "bob@example.com", &[]),
        account("eve", "eve@example.com", &[]),
    );
    let vote = |who: &Account, scope: &str, rendered| Vote {
        subject: who.email.clone(),
        scope: scope.parse().unwrap(),
        rendered,
    };
    let waiting =
        |votes: &[Vote], who, answer| run(&request, RequestPhase::Waiting, votes, who, answer);
    assert_eq!(waiting(&[], &bob, approve("once")), Ok(Step::Count));
    assert_eq!(
        waiting(&[vote(&bob, "once", SHOWN)], &bob, approve("once")),
        Err(Refusal::AlreadyApproved)
    );
    assert_eq!(
        waiting(
            &[vote(&bob, "once", Digest([2; 32]))],
            &eve,
            approve("once")
        ),
        Ok(Step::Count),
        "bob saw something else"
    );
    let table = [
        ("once", "once", "once", false),
        ("10m", "10m", "10m", false),
        ("5m", "10m", "5m", true),
        ("process", "10m", "once", true),
        ("once", "process", "once", true),
    ];
    for (first, second, scope, narrowed) in table {
        let step = waiting(&[vote(&bob, first, SHOWN)], &eve, approve(second));
        assert_eq!(
            step,
            Ok(Step::Approve {
                scope: scope.parse().unwrap(),
                narrowed
            }),
            "{first} and {second}"
        );
    }
    assert_eq!(
        waiting(&[vote(&bob, "once", SHOWN)], &eve, Answer::Deny),
        Ok(Step::Deny),
        "one no is a no"
    );
}

#[test]
fn what_is_closed_or_has_changed_takes_no_answer() {
    let request = sample::request();
    let bob = account("bob", "bob@example.com", &[]);
    for phase in [
        RequestPhase::Approved,
        RequestPhase::Denied,
        RequestPhase::Expired,
        RequestPhase::Withdrawn,
    ] {
        for answer in [approve("once"), Answer::Deny] {
            assert!(
                matches!(
                    run(&request, phase, &[], &bob, answer),
                    Err(Refusal::Decided(_))
                ),
                "{phase:?}"
            );
        }
    }
    let other = Answer::Approve {
        scope: Scope::Once,
        rendered: Digest([9; 32]),
    };
    assert_eq!(
        run(&request, RequestPhase::Waiting, &[], &bob, other),
        Err(Refusal::Stale)
    );
}

#[test]
fn who_gave_an_approval_may_take_it_back_also_after_they_left_the_group() {
    let mut request = sample::request();
    request.policy.approvers = Some("privacy".to_owned());
    let by = |email: &str| Approver {
        subject: email.parse().unwrap(),
        channel: syshold_protocol::Channel::Web,
        team_id: None,
        user_id: None,
        assurance: Assurance::Session,
        at: UnixMs::new(0),
        reason: None,
        standing: None,
        proof: None,
    };
    let approvers = [by("dave@example.com")];
    let judged = |phase, name: &str, groups: &[&str], own: bool| {
        let mut request = request.clone();
        let email = format!("{name}@example.com");
        request.agent.owner = own.then(|| email.parse().unwrap());
        request.agent.launched_by = None;
        let who = account(name, &email, groups);
        let now = Now {
            at: UnixMs::new(0),
            delegations: &[],
            received_at: UnixMs::new(0),
        };
        let standing = Roster::default().standing(&request, &who, &now);
        revocable(&request, phase, &approvers, &who, standing)
    };
    use RequestPhase as Phase;
    let right = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(
        judged(Phase::Approved, "dave", &[], false),
        right("approved it")
    );
    assert_eq!(
        judged(Phase::Approved, "erin", &["privacy"], false),
        Ok(None)
    );
    assert_eq!(
        judged(Phase::Approved, "erin", &[], true),
        right("owner or launcher")
    );
    assert_eq!(
        judged(Phase::Approved, "erin", &["sre"], false),
        Err(Refusal::NotInGroup("privacy".to_owned()))
    );
    for phase in [
        Phase::Waiting,
        Phase::Late,
        Phase::Denied,
        Phase::Expired,
        Phase::Withdrawn,
    ] {
        assert_eq!(
            judged(phase, "dave", &["privacy"], false),
            Err(Refusal::NotApproved(phase))
        );
    }
}
