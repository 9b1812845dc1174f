//! A hold's own way: judged, parked, recorded, released, over.
use super::*;

#[test]
fn the_policys_verdict_is_recorded_then_released_and_nobody_parks() {
    let mut desk = Desk::new();
    let allow = Judgement::Allow(reason("llm-api"));
    assert_eq!(
        desk.judged(connect(1), allow),
        ["record 1: allow by policy, rule"]
    );
    assert_eq!(desk.recorded(1), ["release 1: allow"]);

    let deny = Judgement::Deny(reason("no"));
    assert_eq!(
        desk.judged(connect(2), deny),
        ["record 2: deny by policy, rule"]
    );
    assert_eq!(desk.recorded(2), ["release 2: deny"]);
}

#[test]
fn a_person_decides_then_the_ledger_then_the_kernel() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.ask(connect(1)),
        ["park 1", "ask r1: about 1, 1 waiting"]
    );
    assert_eq!(desk.asked(1), NOTHING);
    desk.now += 2_000;
    assert_eq!(
        desk.approve(1, desk.once(1)),
        ["record 1: allow by human, approved"]
    );
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    desk.now += 5;
    let resumed = Input::Resumed { hold: HoldId(1) };
    assert_eq!(
        desk.step(resumed),
        ["outcome 1: Resumed(Allow), asked r1, 2005 ms"]
    );
    assert_eq!(desk.gate.next_deadline(), None);
}

#[test]
fn nothing_but_the_commit_of_its_decision_releases_a_hold() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(desk.recorded(1), NOTHING, "nothing was decided yet");
    desk.approve(1, desk.once(1));
    assert_eq!(desk.recorded(2), NOTHING, "another hold's leaf");
    assert_eq!(desk.wait(10 * MINUTE), NOTHING, "a slow ledger");
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
}

#[test]
fn a_decision_that_cannot_be_recorded_denies() {
    for verdict in [Judgement::Allow, Judgement::Deny] {
        let mut desk = Desk::new();
        desk.judged(connect(1), verdict(reason("rule")));
        let failed = Input::RecordFailed { hold: HoldId(1) };
        assert_eq!(desk.step(failed), ["release 1: deny"]);
    }
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.step(Input::Interrupt { hold: HoldId(1) });
    let failed = Input::RecordFailed { hold: HoldId(1) };
    assert_eq!(desk.step(failed), ["release 1: deny"]);
}

#[test]
fn a_hold_is_released_once_whatever_comes_again() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.approve(1, desk.once(1));
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    for again in [
        Input::Recorded { hold: HoldId(1) },
        Input::RecordFailed { hold: HoldId(1) },
        Input::Interrupt { hold: HoldId(1) },
        Input::Asked { request: r(1) },
        Input::Unreachable { request: r(1) },
    ] {
        assert_eq!(desk.step(again), NOTHING);
    }
    assert_eq!(
        desk.ask(connect(1)),
        NOTHING,
        "a sweep saw it before it resumed"
    );
    assert_eq!(desk.deny(1), NOTHING);
    desk.step(Input::Resumed { hold: HoldId(1) });
    assert_eq!(desk.ask(connect(1)), NOTHING, "a sweep was slow");
    assert_eq!(desk.step(Input::Resumed { hold: HoldId(1) }), NOTHING);
    assert_eq!(desk.gone(1), NOTHING);
}

#[test]
fn unknown_ids_do_nothing() {
    let mut desk = Desk::new();
    let (hold, request) = (HoldId(9), r(9));
    for input in [
        Input::Interrupt { hold },
        Input::Asked { request },
        Input::AskFailed {
            request,
            cause: AskFailure::Gone,
        },
        Input::Refused { request },
        Input::Unreachable { request },
        Input::Recorded { hold },
        Input::RecordFailed { hold },
        Input::Resumed { hold },
        Input::ProcessExited { process: BOT },
    ] {
        assert_eq!(desk.step(input), NOTHING);
    }
    assert_eq!(desk.approve(9, desk.once(1)), NOTHING);
    assert_eq!(desk.gone(9), NOTHING);
}

#[test]
fn a_hold_that_woke_up_is_parked_again_but_not_asked_again() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    assert_eq!(desk.ask(connect(1)), ["park 1"]);
    let allow = Judgement::Allow(reason("another policy"));
    assert_eq!(
        desk.judged(connect(1), allow),
        ["park 1"],
        "the first judgement stays"
    );
    desk.asked(1);
    desk.deny(1);
    assert_eq!(desk.ask(connect(1)), NOTHING, "its verdict is on the way");
}

#[test]
fn nobody_answers_and_the_syscall_fails_as_expired() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(desk.gate.next_deadline(), Some(Now(desk.now + 5 * MINUTE)));
    assert_eq!(desk.wait(5 * MINUTE - 1), NOTHING);
    assert_eq!(desk.wait(1), ["record 1: deny by timeout, expired"]);
    assert_eq!(desk.recorded(1), ["release 1: deny"]);
}

#[test]
fn a_timeout_allows_only_when_the_rule_says_so() {
    let mut desk = Desk::new();
    desk.ask_with(connect(1), |terms| terms.on_timeout = Fallback::Allow);
    desk.asked(1);
    assert_eq!(
        desk.wait(5 * MINUTE),
        [
            "record 1: allow by timeout, expired",
            "withdraw r1: expired"
        ],
        "the act is done: there is nothing to approve late"
    );
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
}

#[test]
fn an_answer_after_the_deadline_is_late_even_when_the_tick_is_later_still() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.now += 5 * MINUTE;
    assert_eq!(
        desk.approve(1, desk.once(1)),
        ["record 1: deny by timeout, expired", "grant r1: Single"]
    );
}

#[test]
fn a_hold_older_than_the_daemon_keeps_its_deadline() {
    let mut desk = Desk::new();
    let adopted = |desk: &Desk, id, age| connect(id).but(|hold| hold.held_at = Now(desk.now - age));
    let young = adopted(&desk, 1, 4 * MINUTE);
    assert_eq!(desk.ask(young), ["park 1", "ask r1: about 1, 1 waiting"]);
    let old = adopted(&desk, 2, 5 * MINUTE);
    assert_eq!(desk.ask(old), ["record 2: deny by timeout, expired"]);
    assert_eq!(
        desk.wait(MINUTE),
        ["record 1: deny by timeout, expired", "withdraw r1: expired"]
    );
}

#[test]
fn a_hold_from_the_future_is_one_from_now() {
    let mut desk = Desk::new();
    desk.ask(connect(1).but(|hold| hold.held_at = Now(desk.now + MINUTE)));
    assert_eq!(desk.gate.next_deadline(), Some(Now(desk.now + 5 * MINUTE)));
}

#[test]
fn an_interrupted_hold_ends_with_eintr_once_that_is_recorded() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let interrupt = || Input::Interrupt { hold: HoldId(1) };
    assert_eq!(
        desk.step(interrupt()),
        [
            "record 1: interrupt by withdrawn, interrupted",
            "withdraw r1: gone"
        ]
    );
    assert_eq!(desk.step(interrupt()), NOTHING);
    assert_eq!(desk.recorded(1), ["release 1: interrupt"]);
}

#[test]
fn an_interrupt_does_not_change_a_decision() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.deny(1);
    assert_eq!(desk.step(Input::Interrupt { hold: HoldId(1) }), NOTHING);
    assert_eq!(desk.recorded(1), ["release 1: deny"]);
}

#[test]
fn a_hold_whose_process_died_is_over_and_never_released() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.now += 20;
    assert_eq!(
        desk.gone(1),
        [
            "outcome 1: Gone(Died), asked r1, 20 ms",
            "withdraw r1: gone"
        ]
    );
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
    assert_eq!(desk.recorded(1), NOTHING);
    assert_eq!(desk.gate.next_deadline(), None);
}

#[test]
fn a_hold_can_die_while_its_decision_is_being_recorded_or_after_release() {
    let mut desk = Desk::new();
    desk.judged(connect(1), Judgement::Allow(reason("rule")));
    assert_eq!(desk.gone(1), ["outcome 1: Gone(Died), asked nobody, 0 ms"]);
    assert_eq!(desk.recorded(1), NOTHING);

    desk.judged(connect(2), Judgement::Allow(reason("rule")));
    desk.recorded(2);
    assert_eq!(desk.gone(2), ["outcome 2: Gone(Died), asked nobody, 0 ms"]);
}
