//! Requests: who joins, what an answer covers, what goes wrong on the way.
use syshold_protocol::ids::Digest;

use super::*;
use crate::request::Exec;

#[test]
fn identical_holds_join_one_request_and_one_approval_covers_those_shown() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    assert_eq!(
        desk.ask(connect(2)),
        ["park 2"],
        "another socket, the same place"
    );
    assert_eq!(
        desk.ask(connect(3).by(CHILD)),
        ["park 3"],
        "another process of the agent"
    );
    assert_eq!(desk.gate.waiting(r(1)), Some(3));
    desk.asked(1);
    assert_eq!(
        desk.approve(1, desk.once(3)),
        [1, 2, 3].map(|id| format!("record {id}: allow by human, approved"))
    );
}

#[test]
fn what_differs_in_any_fact_is_asked_on_its_own() {
    let elsewhere = [
        connect(2).but(|hold| hold.request.object = socket(1, "192.0.2.1:80")),
        connect(3).but(|hold| hold.request.object = socket(1, "192.0.2.2:443")),
        connect(4).but(|hold| hold.request.agent = AgentId(1)),
        connect(5).but(|hold| hold.request.actions = Actions::from(Act::Send)),
        connect(6).but(|hold| hold.request.classes = Classes(1)),
        read(7, 70),
        read(8, 80),
        read(9, 70).but(|hold| {
            if let Object::File { generation, .. } = &mut hold.request.object {
                *generation += 1;
            }
        }),
        read(10, 70).but(|hold| {
            if let Object::File { onto, .. } = &mut hold.request.object {
                *onto = 1;
            }
        }),
        runs(11, b"get"),
        runs(12, b"delete"),
    ];
    let mut desk = Desk::new();
    desk.ask(connect(1));
    for (n, hold) in elsewhere.into_iter().enumerate() {
        let (id, n) = (hold.id.0, n + 2);
        let asked = format!("ask r{n}: about {id}, 1 waiting");
        assert_eq!(desk.ask(hold), [format!("park {id}"), asked]);
    }
    let stricter = Judgement::Ask(reason("another rule"), terms());
    let asked = desk.judged(connect(13), stricter);
    assert_eq!(asked, ["park 13", "ask r13: about 13, 1 waiting"]);
    let tainted = Reason {
        taint: Classes(1),
        ..reason("rule")
    };
    let asked = desk.judged(connect(14), Judgement::Ask(tainted, terms()));
    assert_eq!(asked, ["park 14", "ask r14: about 14, 1 waiting"]);
}

/// Runs a program with one argument.
fn runs(id: u64, argument: &[u8]) -> Hold {
    read(id, 70).but(|hold| {
        hold.request.actions = Actions::from(Act::Exec);
        hold.request.exec = Some(Arc::new(Exec {
            argv: vec![argument.to_vec()],
            whole: true,
            argv_sha256: Digest::of(argument),
            sha256: None,
        }));
    })
}

#[test]
fn what_else_was_read_is_no_question_unless_the_rule_asks_for_it() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    let later = connect(2).but(|hold| hold.request.taint = Classes(1));
    assert_eq!(desk.ask(later), ["park 2"]);
}

#[test]
fn two_paths_of_one_inode_are_one_question() {
    let mut desk = Desk::new();
    desk.ask(read(1, 70));
    let link = read(2, 70).but(|hold| {
        if let Object::File { path, .. } = &mut hold.request.object {
            *path = Some("/srv/link".to_owned());
        }
    });
    assert_eq!(desk.ask(link), ["park 2"]);
}

#[test]
fn holds_beyond_the_count_shown_are_asked_about_again() {
    let mut desk = Desk::new();
    for id in 1..=4 {
        desk.ask(connect(id));
    }
    desk.asked(1);
    assert_eq!(
        desk.approve(1, desk.once(2)),
        [
            "record 1: allow by human, approved",
            "record 2: allow by human, approved",
            "ask r2: about 3, 2 waiting",
        ]
    );
    assert_eq!(desk.ask(connect(5)), ["park 5"]);
    desk.asked(2);
    assert_eq!(desk.deny(2).len(), 3);
}

#[test]
fn an_approval_without_a_count_covers_what_the_request_said() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2));
    desk.asked(1);
    let granted = desk.granted(Lifespan::Single, MINUTE, None);
    assert_eq!(
        desk.approve(1, granted),
        [
            "record 1: allow by human, approved",
            "ask r2: about 2, 1 waiting"
        ]
    );
}

#[test]
fn an_approval_that_has_ended_releases_nobody() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let ended = desk.granted(Lifespan::Until, 0, None);
    assert_eq!(desk.approve(1, ended), ["ask r2: about 1, 1 waiting"]);
}

#[test]
fn a_denial_is_for_all_that_joined() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2));
    desk.asked(1);
    assert_eq!(
        desk.deny(1),
        [1, 2].map(|id| format!("record {id}: deny by human, denied"))
    );
    assert_eq!(desk.recorded(1), ["release 1: deny"]);
    assert_eq!(
        desk.ask(connect(3)),
        ["park 3", "ask r2: about 3, 1 waiting"],
        "a denial makes no rule"
    );
}

#[test]
fn a_request_is_answered_once() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.deny(1);
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
    assert_eq!(desk.recorded(1), ["release 1: deny"]);
}

#[test]
fn an_answer_that_overtakes_the_request_leaf_waits_for_it() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
    assert_eq!(desk.deny(1), NOTHING, "the first answer counts");
    assert_eq!(desk.asked(1), ["record 1: allow by human, approved"]);
}

#[test]
fn the_gateways_clock_expires_nothing_here() {
    let mut desk = Desk::new();
    desk.ask_with(connect(1), |terms| terms.on_timeout = Fallback::Allow);
    desk.asked(1);
    let expired = Says::Deny(DenyCause::Expired);
    assert_eq!(desk.answer(1, expired), NOTHING);
    assert_eq!(
        desk.approve(1, desk.once(1)),
        ["record 1: allow by human, approved"]
    );
}

#[test]
fn a_request_the_gateway_calls_withdrawn_denies() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(
        desk.answer(1, Says::Deny(DenyCause::Withdrawn)),
        ["record 1: deny by withdrawn, withdrawn"]
    );
}

#[test]
fn a_refused_answer_leaves_the_hold_waiting() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(desk.step(Input::Refused { request: r(1) }), NOTHING);
    assert_eq!(desk.gate.counts().refused, 1);
    assert_eq!(
        desk.wait(5 * MINUTE),
        ["record 1: deny by timeout, expired"]
    );
}

#[test]
fn an_unreachable_approver_denies_unless_the_rule_says_otherwise() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let unreachable = |n| Input::Unreachable { request: r(n) };
    assert_eq!(
        desk.step(unreachable(1)),
        [
            "record 1: deny by unreachable, unreachable",
            "withdraw r1: unreachable"
        ]
    );
    desk.ask_with(connect(2), |terms| terms.on_unreachable = Fallback::Allow);
    assert_eq!(
        desk.step(unreachable(2)),
        [
            "record 2: allow by unreachable, unreachable",
            "withdraw r2: unreachable"
        ]
    );
    assert_eq!(desk.recorded(2), ["release 2: allow"]);
}

#[test]
fn a_request_that_cannot_be_recorded_or_described_denies() {
    for (cause, name) in [
        (AskFailure::Record, "request_not_recorded"),
        (AskFailure::Describe, "not_described"),
    ] {
        let mut desk = Desk::new();
        desk.ask_with(connect(1), |terms| {
            terms.on_unreachable = Fallback::Allow;
            terms.on_timeout = Fallback::Allow;
        });
        desk.ask(connect(2));
        let request = r(1);
        assert_eq!(
            desk.step(Input::AskFailed { request, cause }),
            [1, 2].map(|id| format!("record {id}: deny by error, {name}"))
        );
        assert_eq!(desk.asked(1), NOTHING);
    }
}

#[test]
fn when_the_hold_to_describe_has_died_the_next_one_is_described() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2));
    let died = || Input::AskFailed {
        request: r(1),
        cause: AskFailure::Gone,
    };
    assert_eq!(
        desk.step(died()),
        [
            "record 1: deny by error, not_described",
            "ask r1: about 2, 1 waiting"
        ]
    );
    assert_eq!(
        desk.step(died()),
        [
            "record 2: deny by error, not_described",
            "withdraw r1: gone"
        ]
    );
    assert_eq!(desk.step(died()), NOTHING);
}

#[test]
fn an_answer_about_another_hold_is_forgotten() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2));
    desk.approve(1, desk.once(2));
    let request = r(1);
    desk.step(Input::AskFailed {
        request,
        cause: AskFailure::Gone,
    });
    assert_eq!(desk.asked(1), NOTHING, "it described hold 1, not hold 2");
    assert_eq!(desk.gate.waiting(request), Some(1));
}

#[test]
fn a_failure_after_the_request_is_out_is_not_believed() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let failed = Input::AskFailed {
        request: r(1),
        cause: AskFailure::Record,
    };
    assert_eq!(desk.step(failed), NOTHING);
    assert_eq!(desk.gate.waiting(r(1)), Some(1));
}

#[test]
fn a_request_outlives_the_hold_it_shows_while_others_wait() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.now += MINUTE;
    desk.ask(connect(2));
    desk.now += MINUTE;
    desk.ask(connect(3));
    desk.asked(1);
    assert_eq!(desk.gone(1), ["outcome 1: Gone(Died), asked r1, 120000 ms"]);
    assert_eq!(
        desk.wait(4 * MINUTE),
        ["record 2: deny by timeout, expired"]
    );
    assert_eq!(
        desk.gone(3),
        [
            "outcome 3: Gone(Died), asked r1, 240000 ms",
            "withdraw r1: gone"
        ]
    );
}

#[test]
fn a_new_policy_has_its_own_requests() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(desk.step(Input::PolicyChanged), NOTHING);
    assert_eq!(
        desk.ask(connect(2)),
        ["park 2", "ask r2: about 2, 1 waiting"]
    );
    let minutes = desk.granted(Lifespan::Until, 10 * MINUTE, None);
    assert_eq!(
        desk.approve(1, minutes),
        ["record 1: allow by human, approved"],
        "an answer under the old policy is for those who waited under it, and for nobody else"
    );
}
