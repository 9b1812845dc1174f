//! Approvals that last: for whom, for what, how long, how often.
use super::*;

/// Asks about a connect in request 1 and approves it so.
fn desk_with(lifespan: Lifespan, uses: impl Into<Option<u32>>) -> Desk {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    let granted = desk.granted(lifespan, 10 * MINUTE, uses);
    assert_eq!(
        desk.approve(1, granted),
        [
            "record 1: allow by human, approved".to_owned(),
            format!("grant r1: {lifespan:?}")
        ]
    );
    desk.recorded(1);
    desk
}

fn by_grant(id: u64) -> [String; 1] {
    [format!("record {id}: allow by grant, granted")]
}

fn asked_again(id: u64) -> [String; 2] {
    [
        format!("park {id}"),
        format!("ask r2: about {id}, 1 waiting"),
    ]
}

#[test]
fn a_process_grant_is_for_that_process_alone() {
    let mut desk = desk_with(Lifespan::Process, None);
    assert_eq!(desk.ask(connect(2)), by_grant(2));
    assert_eq!(desk.recorded(2), ["release 2: allow"]);
    assert_eq!(desk.ask(connect(3).by(CHILD)), asked_again(3));
}

#[test]
fn a_process_grant_ends_with_the_process_and_is_not_its_successors() {
    let mut desk = desk_with(Lifespan::Process, None);
    let same_pid = Process {
        start_ns: BOT.start_ns + 1,
        ..BOT
    };
    desk.step(Input::ProcessExited { process: same_pid });
    assert_eq!(desk.ask(connect(2)), by_grant(2), "another process exited");
    desk.step(Input::ProcessExited { process: BOT });
    assert_eq!(desk.gate.counts().grants, 0);
    assert_eq!(desk.ask(connect(3)), asked_again(3));

    let mut desk = desk_with(Lifespan::Process, None);
    assert_eq!(desk.ask(connect(2).by(same_pid)), asked_again(2));
}

#[test]
fn a_session_grant_is_for_the_tree_while_its_root_runs() {
    let mut desk = desk_with(Lifespan::Session, None);
    assert_eq!(desk.ask(connect(2).by(CHILD)), by_grant(2));
    let elsewhere = connect(3)
        .by(process(300))
        .but(|hold| hold.session = Some(process(300)));
    assert_eq!(desk.ask(elsewhere), asked_again(3));
    desk.step(Input::ProcessExited { process: CHILD });
    assert_eq!(desk.ask(connect(4)), by_grant(4));
    desk.step(Input::ProcessExited { process: BOT });
    let orphan = connect(5).by(CHILD);
    assert_eq!(desk.ask(orphan), ["park 5"], "joins the one that is asked");
}

#[test]
fn a_session_without_its_root_is_only_the_process() {
    let mut desk = Desk::new();
    let orphan = |id, process| connect(id).by(process).but(|hold| hold.session = None);
    desk.ask(orphan(1, CHILD));
    desk.asked(1);
    let session = desk.granted(Lifespan::Session, MINUTE, None);
    desk.approve(1, session);
    assert_eq!(desk.ask(orphan(2, CHILD)), by_grant(2));
    assert_eq!(desk.ask(orphan(3, process(102))), asked_again(3));
}

#[test]
fn a_grant_for_minutes_is_for_every_process_of_the_agent_until_then() {
    let mut desk = desk_with(Lifespan::Until, None);
    desk.wait(10 * MINUTE - 1);
    assert_eq!(desk.ask(connect(2).by(process(300))), by_grant(2));
    let other_agent = connect(3).but(|hold| hold.request.agent = AgentId(1));
    assert_eq!(desk.ask(other_agent), asked_again(3));
    desk.wait(1);
    assert_eq!(desk.gate.counts().grants, 0);
    assert_eq!(
        desk.ask(connect(4)),
        ["park 4", "ask r3: about 4, 1 waiting"]
    );
}

#[test]
fn every_grant_ends_when_it_says_so() {
    for lifespan in [Lifespan::Process, Lifespan::Session] {
        let mut desk = desk_with(lifespan, None);
        desk.wait(10 * MINUTE);
        assert_eq!(desk.ask(connect(2)), asked_again(2));
    }
}

#[test]
fn a_grant_is_for_the_same_act_on_the_same_object() {
    for mut desk in [
        desk_with(Lifespan::Process, None),
        desk_with(Lifespan::Until, None),
    ] {
        let other_port = connect(2).but(|hold| hold.request.object = socket(2, "192.0.2.1:80"));
        assert_eq!(desk.ask(other_port), asked_again(2));
        let stricter = Judgement::Ask(reason("another rule"), terms());
        assert_eq!(
            desk.judged(connect(3), stricter),
            ["park 3", "ask r3: about 3, 1 waiting"]
        );
    }
}

#[test]
fn a_file_that_took_the_approved_ones_place_is_asked_about() {
    let mut desk = Desk::new();
    desk.ask(read(1, 70));
    desk.asked(1);
    desk.approve(1, desk.granted(Lifespan::Process, MINUTE, None));
    assert_eq!(desk.ask(read(2, 70)), by_grant(2));
    assert_eq!(
        desk.ask(read(3, 71)),
        asked_again(3),
        "the same path, another inode"
    );
}

#[test]
fn uses_are_counted_from_the_holds_that_waited() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2));
    desk.asked(1);
    let thrice = desk.granted(Lifespan::Process, MINUTE, 3);
    desk.approve(1, thrice);
    assert_eq!(desk.ask(connect(3)), by_grant(3));
    assert_eq!(desk.ask(connect(4)), asked_again(4));
}

#[test]
fn a_grant_covers_only_those_it_is_for_among_the_holds_that_waited() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2).by(CHILD));
    desk.ask(connect(3));
    desk.asked(1);
    assert_eq!(
        desk.approve(1, desk.granted(Lifespan::Process, MINUTE, None)),
        [
            "record 1: allow by human, approved",
            "record 3: allow by human, approved",
            "grant r1: Process",
            "ask r2: about 2, 1 waiting",
        ]
    );
}

#[test]
fn a_process_grant_is_for_the_process_that_was_shown() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.ask(connect(2).by(CHILD));
    desk.asked(1);
    desk.gone(1);
    assert_eq!(
        desk.approve(1, desk.granted(Lifespan::Process, MINUTE, None)),
        ["grant r1: Process", "ask r2: about 2, 1 waiting"]
    );
}

#[test]
fn a_process_grant_is_void_when_the_program_that_was_shown_is_gone() {
    for lifespan in [Lifespan::Process, Lifespan::Session] {
        let mut desk = Desk::new();
        desk.ask(connect(1));
        desk.ask(connect(2).by(CHILD));
        desk.asked(1);
        desk.step(Input::ProcessExited { process: BOT });
        desk.gone(1);
        assert_eq!(
            desk.approve(1, desk.granted(lifespan, MINUTE, None)),
            ["ask r2: about 2, 1 waiting"]
        );
        assert_eq!(desk.ask(connect(3)), ["park 3"], "the program in its place");
    }
}

#[test]
fn a_new_policy_ends_every_grant() {
    for lifespan in [Lifespan::Process, Lifespan::Session, Lifespan::Until] {
        let mut desk = desk_with(lifespan, None);
        desk.step(Input::PolicyChanged);
        assert_eq!(desk.gate.counts().grants, 0);
        assert_eq!(desk.gate.next_deadline(), None);
        assert_eq!(desk.ask(connect(2)), asked_again(2));
    }
}

#[test]
fn a_use_by_grant_that_cannot_be_recorded_denies() {
    let mut desk = desk_with(Lifespan::Until, None);
    desk.ask(connect(2));
    let failed = Input::RecordFailed { hold: HoldId(2) };
    assert_eq!(desk.step(failed), ["release 2: deny"]);
}

// ---- late approvals ----

/// A hold that expired in request 1.
fn expired() -> Desk {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    assert_eq!(
        desk.wait(5 * MINUTE),
        ["record 1: deny by timeout, expired"]
    );
    desk.recorded(1);
    desk
}

#[test]
fn a_late_approval_is_good_for_one_retry() {
    let mut desk = expired();
    desk.wait(29 * MINUTE);
    let late = desk.granted(Lifespan::Until, 60 * MINUTE, None);
    assert_eq!(desk.approve(1, late), ["grant r1: Single"]);
    desk.wait(29 * MINUTE);
    assert_eq!(
        desk.ask(connect(2).by(CHILD)),
        by_grant(2),
        "any process of the agent"
    );
    assert_eq!(desk.ask(connect(3)), asked_again(3));
}

#[test]
fn a_late_approval_is_not_for_another_agent_or_object() {
    let mut desk = expired();
    desk.approve(1, desk.once(1));
    let other_agent = connect(2).but(|hold| hold.request.agent = AgentId(1));
    assert_eq!(desk.ask(other_agent), asked_again(2));
    assert_eq!(
        desk.ask(read(3, 70)),
        ["park 3", "ask r3: about 3, 1 waiting"]
    );
}

#[test]
fn a_late_approval_that_is_not_used_ends() {
    let mut desk = expired();
    desk.approve(1, desk.granted(Lifespan::Single, MINUTE, 1));
    desk.wait(MINUTE);
    assert_eq!(desk.ask(connect(2)), asked_again(2));

    let mut desk = expired();
    desk.approve(1, desk.granted(Lifespan::Until, 120 * MINUTE, None));
    desk.wait(30 * MINUTE);
    assert_eq!(desk.ask(connect(2)), asked_again(2));
}

#[test]
fn after_half_an_hour_it_is_too_late() {
    let mut desk = expired();
    assert_eq!(desk.wait(30 * MINUTE), ["withdraw r1: expired"]);
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
    assert_eq!(desk.gate.next_deadline(), None);
}

#[test]
fn a_late_approval_releases_the_retry_that_already_waits() {
    let mut desk = expired();
    assert_eq!(desk.ask(connect(2)), asked_again(2));
    assert_eq!(desk.ask(connect(3)), ["park 3"]);
    assert_eq!(
        desk.approve(1, desk.once(1)),
        ["grant r1: Single", "record 2: allow by grant, granted"]
    );
    desk.asked(2);
    assert_eq!(desk.deny(2), ["record 3: deny by human, denied"]);

    let mut desk = expired();
    desk.ask(connect(2));
    assert_eq!(
        desk.approve(1, desk.once(1)),
        [
            "grant r1: Single",
            "record 2: allow by grant, granted",
            "withdraw r2: covered"
        ]
    );
}

#[test]
fn a_late_denial_or_a_new_policy_ends_the_wait_for_it() {
    let mut desk = expired();
    assert_eq!(desk.deny(1), NOTHING);
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
    assert_eq!(desk.gate.next_deadline(), None);

    let mut desk = expired();
    assert_eq!(desk.step(Input::PolicyChanged), ["withdraw r1: expired"]);
    assert_eq!(desk.approve(1, desk.once(1)), NOTHING);
}

#[test]
fn a_request_that_never_went_out_is_not_approved_late() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    assert_eq!(
        desk.wait(5 * MINUTE),
        ["record 1: deny by timeout, expired", "withdraw r1: expired"]
    );
}

// ---- the same socket ----

/// Another thread's connect on the socket of hold 1.
fn same_socket(id: u64) -> Hold {
    connect(id).but(|hold| hold.request.object = socket(1, "192.0.2.1:443"))
}

fn same_object(id: u64) -> [String; 1] {
    [format!("record {id}: allow by grant, same_object")]
}

#[test]
fn the_same_socket_and_destination_is_the_same_approval_for_ten_minutes() {
    let mut desk = Desk::new();
    desk.release_once(connect(1), 1);
    desk.wait(9 * MINUTE);
    assert_eq!(desk.ask(same_socket(2)), same_object(2));
    assert_eq!(desk.recorded(2), ["release 2: allow"]);
    desk.wait(MINUTE);
    assert_eq!(
        desk.ask(same_socket(3)),
        asked_again(3),
        "use does not make it last longer"
    );
}

#[test]
fn a_clock_that_jumps_back_revives_nothing() {
    let mut desk = Desk::new();
    desk.release_once(connect(1), 1);
    desk.wait(10 * MINUTE);
    desk.now -= MINUTE;
    assert_eq!(desk.ask(same_socket(2)), asked_again(2));
}

#[test]
fn it_is_the_same_approval_no_longer_than_that_lasts() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.approve(1, desk.granted(Lifespan::Single, MINUTE, 1));
    desk.recorded(1);
    desk.wait(MINUTE);
    assert_eq!(desk.ask(same_socket(2)), asked_again(2));
}

#[test]
fn another_socket_destination_or_process_is_another_act() {
    for other in [
        connect(2),
        same_socket(2).by(CHILD),
        same_socket(2).but(|hold| hold.request.object = socket(1, "192.0.2.1:80")),
        same_socket(2).but(|hold| hold.request.actions = Actions::from(Act::Send)),
        same_socket(2).but(|hold| hold.request.agent = AgentId(1)),
    ] {
        let mut desk = Desk::new();
        desk.release_once(connect(1), 1);
        assert_eq!(desk.ask(other), asked_again(2));
    }
}

#[test]
fn a_socket_without_a_cookie_is_not_known_again() {
    let nameless = |id| connect(id).but(|hold| hold.request.object = socket(0, "192.0.2.1:443"));
    let mut desk = Desk::new();
    desk.release_once(nameless(1), 1);
    assert_eq!(desk.ask(nameless(2)), asked_again(2));
}

#[test]
fn a_file_is_asked_about_every_time() {
    let mut desk = Desk::new();
    desk.release_once(read(1, 70), 1);
    assert_eq!(desk.ask(read(2, 70)), asked_again(2));
}

#[test]
fn only_what_was_released_with_a_leaf_is_known_again() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.approve(1, desk.once(1));
    assert_eq!(desk.ask(same_socket(2)), asked_again(2), "not released yet");
    desk.step(Input::RecordFailed { hold: HoldId(1) });
    desk.gone(2);
    assert_eq!(
        desk.ask(same_socket(3)),
        ["park 3", "ask r3: about 3, 1 waiting"]
    );
}

#[test]
fn a_denied_or_expired_socket_is_asked_about_again() {
    let mut desk = expired();
    assert_eq!(desk.ask(same_socket(2)), asked_again(2));
    desk.asked(2);
    desk.deny(2);
    desk.recorded(2);
    assert_eq!(
        desk.ask(same_socket(3)),
        ["park 3", "ask r3: about 3, 1 waiting"]
    );
}

#[test]
fn a_new_policy_or_program_knows_no_socket() {
    for end in [Input::PolicyChanged, Input::ProcessExited { process: BOT }] {
        let mut desk = Desk::new();
        desk.release_once(connect(1), 1);
        desk.step(end);
        assert_eq!(desk.ask(same_socket(2)), asked_again(2));
    }
}

#[test]
fn a_leaf_that_comes_after_a_new_policy_makes_no_socket_known() {
    let mut desk = Desk::new();
    desk.ask(connect(1));
    desk.asked(1);
    desk.approve(1, desk.once(1));
    desk.step(Input::PolicyChanged);
    desk.recorded(1);
    assert_eq!(desk.ask(same_socket(2)), asked_again(2));
}
