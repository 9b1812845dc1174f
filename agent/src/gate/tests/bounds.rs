//! Where memory ends: denied or asked again, never allowed.
use super::*;

fn place(id: u64) -> Hold {
    connect(id).but(|hold| {
        hold.request.object = socket(id, &format!("192.0.2.{id}:443"));
    })
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn a_hold_too_many_is_denied_and_the_policy_still_answers() {
    let mut desk = Desk::with(limits(|limits| limits.max_pending = 2));
    desk.ask(place(1));
    desk.ask(place(2));
    assert_eq!(
        desk.ask_with(place(3), |terms| terms.on_timeout = Fallback::Allow),
        ["record 3: deny by error, too_many_pending"]
    );
    let allow = Judgement::Allow(reason("llm-api"));
    assert_eq!(
        desk.judged(place(4), allow),
        ["record 4: allow by policy, rule"]
    );
    assert_eq!(
        desk.ask(place(5)),
        NOTHING,
        "stays held until a sweep finds it again"
    );
    assert_eq!(desk.gate.counts().put_off, 1);
    desk.recorded(3);
    assert_eq!(
        desk.ask(place(5)),
        ["record 5: deny by error, too_many_pending"]
    );
    desk.gone(1);
    desk.recorded(4);
    assert_eq!(desk.ask(place(6)), ["park 6", "ask r3: about 6, 1 waiting"]);
}

#[test]
fn a_full_request_is_followed_by_another() {
    let mut desk = Desk::with(limits(|limits| limits.max_joined = 2));
    desk.ask(connect(1));
    assert_eq!(desk.ask(connect(2)), ["park 2"]);
    assert_eq!(
        desk.ask(connect(3)),
        ["park 3", "ask r2: about 3, 1 waiting"]
    );
    assert_eq!(desk.ask(connect(4)), ["park 4"]);
    desk.asked(1);
    assert_eq!(
        desk.approve(1, desk.granted(Lifespan::Process, MINUTE, 3)),
        [
            "record 1: allow by human, approved",
            "record 2: allow by human, approved",
            "grant r1: Process",
            "record 3: allow by grant, granted",
        ],
        "the rest of a grant serves the other request"
    );
    desk.asked(2);
    assert_eq!(desk.deny(2), ["record 4: deny by human, denied"]);
}

#[test]
fn a_grant_too_many_is_not_kept() {
    let mut desk = Desk::with(limits(|limits| limits.max_grants = 1));
    for n in 1..=2 {
        desk.ask(place(n));
        desk.asked(n);
        desk.approve(n, desk.granted(Lifespan::Process, MINUTE, None));
        desk.recorded(n);
    }
    let again = |id, n| place(n).but(|hold| hold.id = HoldId(id));
    assert_eq!(desk.ask(again(3, 1)), ["record 3: allow by grant, granted"]);
    assert_eq!(
        desk.ask(again(4, 2)),
        ["park 4", "ask r3: about 4, 1 waiting"]
    );
    assert_eq!(desk.gate.counts().grants_dropped, 1);
}

#[test]
fn a_late_request_too_many_is_withdrawn() {
    let mut desk = Desk::with(limits(|limits| limits.max_late = 1));
    desk.ask(place(1));
    desk.ask(place(2));
    desk.asked(1);
    desk.asked(2);
    assert_eq!(
        desk.wait(5 * MINUTE),
        [
            "record 1: deny by timeout, expired",
            "record 2: deny by timeout, expired",
            "withdraw r2: expired",
        ]
    );
    assert_eq!(desk.wait(30 * MINUTE), ["withdraw r1: expired"]);
}

#[test]
fn a_socket_too_many_makes_the_oldest_unknown() {
    let mut desk = Desk::with(limits(|limits| limits.max_recent = 1));
    desk.release_once(place(1), 1);
    desk.release_once(place(2), 2);
    let again = |id, n| place(n).but(|hold| hold.id = HoldId(id));
    assert_eq!(
        desk.ask(again(3, 2)),
        ["record 3: allow by grant, same_object"]
    );
    assert_eq!(
        desk.ask(again(4, 1)),
        ["park 4", "ask r3: about 4, 1 waiting"]
    );
}

#[test]
fn a_release_the_kernel_never_confirms_is_told_as_such() {
    let mut desk = Desk::with(limits(|limits| limits.max_pending = 1));
    for id in 1..=3 {
        desk.judged(place(id), Judgement::Deny(reason("rule")));
        let released = desk.recorded(id);
        if id == 3 {
            assert_eq!(
                released,
                [
                    "release 3: deny",
                    "outcome 1: Unconfirmed(Deny), asked nobody, 0 ms"
                ]
            );
        }
    }
    assert_eq!(desk.step(Input::Resumed { hold: HoldId(1) }), NOTHING);
}

#[test]
fn ten_thousand_holds_are_released_each_on_its_own() {
    let mut desk = Desk::new();
    let ids = 1..=10_000_u64;
    for id in ids.clone() {
        let to = format!("10.0.{}.{}:443", id / 256, id % 256);
        desk.ask(connect(id).but(|hold| hold.request.object = socket(id, &to)));
        desk.asked(id);
    }
    assert_eq!(desk.gate.counts().waiting, 10_000);
    for id in ids.clone() {
        desk.approve(id, desk.once(1));
        assert_eq!(desk.recorded(id), [format!("release {id}: allow")]);
    }
    assert_eq!(desk.gate.counts().pending, 0);
    assert_eq!(desk.gate.next_deadline(), None);
}
