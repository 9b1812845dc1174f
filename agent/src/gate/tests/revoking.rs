//! Approvals that people took back.
use super::*;

impl Desk {
    /// Request `n` was approved by decision `n`; it is taken back.
    fn revoke(&mut self, n: u64) -> Vec<String> {
        self.step(Input::Revoked {
            decision: DecisionId(Uuid::from_u128(u128::from(n))),
            request: r(n),
        })
    }
}

/// A connect that was asked about in request 1 and approved so; it runs on.
fn desk_with(lifespan: Lifespan) -> Desk {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let granted = desk.granted(lifespan, 10 * MINUTE, None);
    desk.approve(1, granted);
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    desk
}

fn asked_again(id: u64) -> [String; 2] {
    [
        format!("park {id}"),
        format!("ask r2: about {id}, 1 waiting"),
    ]
}

fn denied(id: u64) -> [String; 1] {
    [format!("record {id}: deny by withdrawn, revoked")]
}

#[test]
fn a_grant_that_is_taken_back_ends_at_once_and_people_are_asked_again() {
    for lifespan in [Lifespan::Process, Lifespan::Session, Lifespan::Until] {
        let mut desk = desk_with(lifespan);
        assert_eq!(
            desk.ask(connect(2)),
            ["record 2: allow by grant, granted"],
            "{lifespan:?}"
        );
        assert_eq!(desk.recorded(2), ["release 2: allow"]);
        assert_eq!(desk.revoke(1), NOTHING, "what runs goes on");
        assert_eq!(desk.gate.counts().grants, 0);
        assert_eq!(desk.ask(connect(3)), asked_again(3), "{lifespan:?}");
        assert_eq!(desk.revoke(1), NOTHING, "a second time changes nothing");
    }
}

#[test]
fn the_same_socket_is_asked_about_again() {
    let mut desk = Desk::new();
    desk.release_once(connect(1), 1);
    let again = |id| connect(id).but(|hold| hold.request.object = socket(1, "192.0.2.1:443"));
    assert_eq!(
        desk.ask(again(2)),
        ["record 2: allow by grant, same_object"]
    );
    desk.revoke(1);
    assert_eq!(desk.ask(again(3)), asked_again(3));
}

#[test]
fn a_late_approval_that_is_taken_back_is_for_no_retry() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.wait(5 * MINUTE);
    desk.recorded(1);
    assert_eq!(desk.approve(1, desk.once(1)), ["grant r1: Single"]);
    desk.revoke(1);
    assert_eq!(desk.ask(connect(2)), asked_again(2));
}

#[test]
fn another_approval_stays() {
    let mut desk = desk_with(Lifespan::Until);
    desk.revoke(2);
    assert_eq!(desk.ask(connect(2)), ["record 2: allow by grant, granted"]);
}

#[test]
fn what_is_approved_and_not_let_go_yet_is_denied_on_record() {
    // By the approval itself, by what it granted, by the socket it was for.
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.approve(1, desk.granted(Lifespan::Until, 10 * MINUTE, None));
    desk.ask(connect(2));
    assert_eq!(desk.revoke(1), NOTHING, "its leaf is on its way");
    for id in [1, 2] {
        assert_eq!(desk.recorded(id), denied(id), "that leaf is not the last");
        assert_eq!(desk.recorded(id), [format!("release {id}: deny")]);
    }

    let mut desk = Desk::new();
    desk.release_once(connect(1), 1);
    desk.ask(connect(2).but(|hold| hold.request.object = socket(1, "192.0.2.1:443")));
    desk.revoke(1);
    assert_eq!(desk.recorded(2), denied(2));
    assert_eq!(desk.recorded(2), ["release 2: deny"]);
}

#[test]
fn without_a_leaf_it_is_denied_all_the_same() {
    for fails_first in [true, false] {
        let mut desk = Desk::new();
        desk.ask(connect(1));
        desk.asked(1);
        desk.approve(1, desk.once(1));
        desk.revoke(1);
        if !fails_first {
            assert_eq!(desk.recorded(1), denied(1));
        }
        assert_eq!(
            desk.step(Input::RecordFailed { hold: HoldId(1) }),
            ["release 1: deny"]
        );
        assert_eq!(desk.ask(connect(2)), asked_again(2));
    }
}

#[test]
fn an_approval_that_comes_after_it_was_taken_back_asks_anew() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(desk.revoke(1), NOTHING, "it waits on");
    assert_eq!(
        desk.approve(1, desk.granted(Lifespan::Until, MINUTE, None)),
        ["ask r2: about 1, 1 waiting"]
    );
    assert_eq!(desk.gate.counts().refused, 1);
    assert_eq!(desk.gate.counts().grants, 0);
    desk.asked(2);
    assert_eq!(
        desk.approve(2, desk.once(1)),
        ["record 1: allow by human, approved"],
        "people are free to approve it again"
    );
}

#[test]
fn an_approval_that_overtook_its_request_leaf_does_not_count_either() {
    for known_request in [true, false] {
        let mut desk = Desk::new();
        desk.ask(connect(1));
        assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
        desk.step(Input::Revoked {
            decision: DecisionId(Uuid::from_u128(1)),
            request: if known_request { r(1) } else { r(99) },
        });
        assert_eq!(desk.asked(1), ["ask r2: about 1, 1 waiting"]);
    }
}

#[test]
fn a_denial_is_not_taken_back() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.revoke(1);
    assert_eq!(desk.deny(1), ["record 1: deny by human, denied"]);
    desk.revoke(1);
    assert_eq!(desk.recorded(1), ["release 1: deny"]);
}

#[test]
fn nobody_waits_longer_for_it() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.wait(4 * MINUTE);
    desk.revoke(1);
    desk.approve(1, desk.once(1));
    desk.asked(2);
    assert_eq!(desk.wait(MINUTE), ["record 1: deny by timeout, expired"]);
}

#[test]
fn an_order_is_not_the_gateways_to_take_back() {
    let mut desk = Desk::new();
    desk.step(Input::Ordered(Order {
        agent: AgentId(0),
        rules: Vec::new(),
        ends: Now(desk.now + MINUTE),
        approval: Arc::new(Approval {
            decision_id: DecisionId(Uuid::from_u128(7)),
            approvers: Vec::new(),
            envelope: Vec::new(),
            request: None,
        }),
    }));
    desk.ask(connect(1));
    desk.revoke(7);
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    assert_eq!(
        desk.ask(connect(2)),
        ["record 2: allow by break_glass, ordered"]
    );
}
