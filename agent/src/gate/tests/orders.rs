//! Break-glass: what is asked is allowed for minutes, for one agent.
use super::*;

fn order(desk: &Desk, millis: u64) -> Order {
    Order {
        agent: AgentId(0),
        rules: Vec::new(),
        ends: Now(desk.now + millis),
        approval: Arc::new(Approval {
            decision_id: DecisionId(Uuid::from_u128(7)),
            approvers: Vec::new(),
            envelope: Vec::new(),
            request: None,
        }),
    }
}

fn by_order(id: u64) -> String {
    format!("record {id}: allow by break_glass, ordered")
}

#[test]
fn what_waits_and_what_comes_is_allowed_until_the_order_ends() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let order = order(&desk, 10 * MINUTE);
    assert_eq!(
        desk.step(Input::Ordered(order)),
        [by_order(1), "withdraw r1: covered".to_owned()]
    );
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    assert_eq!(desk.ask(read(2, 5)), [by_order(2)]);
    desk.wait(10 * MINUTE - 1);
    assert_eq!(desk.ask(read(3, 5)), [by_order(3)]);
    desk.wait(1);
    assert_eq!(desk.ask(read(4, 5)).len(), 2, "people are asked again");
    assert_eq!(desk.gate.orders().count(), 0);
}

#[test]
fn it_makes_no_grant_that_outlives_it() {
    let mut desk = Desk::new();
    let order = order(&desk, MINUTE);
    desk.step(Input::Ordered(order));
    assert_eq!(desk.ask(connect(1)), [by_order(1)]);
    assert_eq!(desk.recorded(1), ["release 1: allow"]);
    assert_eq!(desk.gate.counts().grants, 0);
    desk.wait(MINUTE);
    // The same socket and place, which an approval of a single use would have covered.
    let again = connect(2).but(|hold| hold.request.object = socket(1, "192.0.2.1:443"));
    assert_eq!(desk.ask(again).len(), 2);
}

#[test]
fn deny_stays_deny_and_other_agents_and_rules_are_asked() {
    let mut desk = Desk::new();
    let all = order(&desk, MINUTE);
    desk.step(Input::Ordered(all));
    assert_eq!(
        desk.judged(connect(1), Judgement::Deny(reason("no"))),
        ["record 1: deny by policy, rule"]
    );
    let other = connect(2).but(|hold| hold.request.agent = AgentId(1));
    assert_eq!(desk.ask(other).len(), 2);

    let mut desk = Desk::new();
    let mut one = order(&desk, MINUTE);
    one.rules = vec!["pii-read".to_owned()];
    desk.ask(connect(1));
    assert_eq!(desk.step(Input::Ordered(one)), NOTHING, "it was egress");
    assert_eq!(
        desk.judged(read(2, 5), Judgement::Ask(reason("pii-read"), terms())),
        [by_order(2)]
    );
}

#[test]
fn it_ends_when_it_is_called_off_or_another_policy_comes() {
    for over in [Input::OrdersOver, Input::PolicyChanged] {
        let mut desk = Desk::new();
        let order = order(&desk, MINUTE);
        desk.step(Input::Ordered(order));
        desk.step(over);
        assert_eq!(desk.ask(connect(1)).len(), 2);
    }
}

#[test]
fn more_orders_than_an_emergency_needs_do_nothing() {
    let mut desk = Desk::new();
    for _ in 0..=MOST_ORDERS {
        let mut other = order(&desk, MINUTE);
        other.agent = AgentId(9);
        desk.step(Input::Ordered(other));
    }
    let one_more = order(&desk, MINUTE);
    desk.step(Input::Ordered(one_more));
    assert_eq!(desk.gate.orders().count(), MOST_ORDERS);
    assert_eq!(desk.ask(connect(1)).len(), 2);
    desk.wait(MINUTE);
    assert_eq!(desk.gate.orders().count(), 0);
}

#[test]
fn an_order_that_could_not_be_recorded_for_a_hold_denies_it() {
    let mut desk = Desk::new();
    let order = order(&desk, MINUTE);
    desk.step(Input::Ordered(order));
    desk.ask(connect(1));
    assert_eq!(
        desk.step(Input::RecordFailed { hold: HoldId(1) }),
        ["release 1: deny"]
    );
}
