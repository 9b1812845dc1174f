//! Gateways that are down, slow or lying.
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use axum::http::{Method, Version};
use base64::Engine as _;
use syshold_agent::approver::{Approver, Cause, Event};
use syshold_protocol::{
    Decision, DecisionId, DecisionVerdict, Digest, PinnedKeys, Request, Ruling, SigningKey, dsse,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::scripted::{Ca, Say, Scripted, Seen, problem, say, waiting};
use super::{judge, next, now, request};

const HOLD: Duration = Duration::from_secs(60);

/// A client of a scripted gateway, with one request asked.
struct Asked {
    server: Scripted,
    approver: Approver,
    events: mpsc::Receiver<Event>,
    request: Request,
    sha256: Digest,
    key: SigningKey,
    decides: SigningKey,
}

impl Asked {
    fn new(hold: Duration, script: impl Fn(&Seen, usize) -> Say + Send + Sync + 'static) -> Self {
        let ca = Ca::new();
        let server = Scripted::start(ca.tls("localhost", &ca), script);
        Self::of(server, &ca, hold)
    }

    fn of(server: Scripted, ca: &Ca, hold: Duration) -> Self {
        let (key, decides) = (SigningKey::generate(), SigningKey::generate());
        let (to, events) = mpsc::channel(64);
        let gateway = server.gateway(ca, &key, &decides);
        let request = request(&gateway.host_id, hold);
        let mut approver = Approver::start(gateway, key.clone(), to).unwrap();
        let sha256 = approver.ask(&request).unwrap();
        Self {
            server,
            approver,
            events,
            request,
            sha256,
            key,
            decides,
        }
    }

    async fn next(&mut self) -> Event {
        next(&mut self.events).await
    }

    /// The next answer, whatever comes before it.
    async fn answer(&mut self) -> Vec<u8> {
        loop {
            if let Event::Answer { envelope, .. } = self.next().await {
                return envelope;
            }
        }
    }

    async fn cause(&mut self) -> Cause {
        loop {
            match self.next().await {
                Event::Trouble { cause, .. } | Event::GivenUp { cause, .. } => return cause,
                Event::Waiting { .. } | Event::Answer { .. } | Event::Revoked { .. } => {}
            }
        }
    }
}

/// A gateway that takes requests and says `decision` to every poll.
fn deciding(decision: impl Fn() -> Say + Send + Sync + 'static) -> impl Fn(&Seen, usize) -> Say {
    move |seen, _| match seen.method {
        Method::PUT => say(201, ""),
        Method::GET => decision(),
        _ => say(204, ""),
    }
}

fn denial(request: &Request, sha256: Digest) -> Decision {
    Decision {
        v: 1,
        decision_id: DecisionId(Uuid::now_v7()),
        request_id: request.request_id,
        request_sha256: sha256,
        host_id: request.host_id.clone(),
        nonce: request.nonce,
        verdict: DecisionVerdict::Expired,
        grant: None,
        approvers: Vec::new(),
        policy_sha256: request.policy.sha256,
        rendered_sha256: None,
        issued_at: now(),
        ledger: None,
    }
}

#[tokio::test]
async fn whatever_is_answered_arrives_as_bytes_and_is_refused() {
    let lies: [&[u8]; 8] = [
        b"",
        b"null",
        b"{}",
        b"true",
        b"\"approve\"",
        b"<!doctype html><title>Log in</title>",
        b"{\"verdict\":\"approve\"}",
        b"\xff\xfe\x00",
    ];
    for lie in lies {
        let mut asked = Asked::new(HOLD, deciding(move || say(200, lie)));
        let envelope = asked.answer().await;
        assert_eq!(envelope, lie);
        let judged = judge(
            &envelope,
            &asked.request,
            asked.sha256,
            asked.approver.gateway(),
        );
        assert!(judged.is_err(), "{lie:?} was accepted");
    }
}

#[tokio::test]
async fn an_approval_by_a_key_that_is_not_pinned_is_refused_and_the_wait_goes_on() {
    let stranger = SigningKey::generate();
    let decision = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let said = std::sync::Arc::clone(&decision);
    let mut asked = Asked::new(
        HOLD,
        deciding(move || say(200, said.lock().unwrap().clone()).after(Duration::from_millis(300))),
    );
    let forged = denial(&asked.request, asked.sha256);
    *decision.lock().unwrap() = dsse::seal(&forged, &stranger).unwrap().envelope;
    // The first poll may have been answered with nothing yet.
    let id = asked.request.request_id;
    loop {
        let envelope = asked.answer().await;
        let judged = judge(
            &envelope,
            &asked.request,
            asked.sha256,
            asked.approver.gateway(),
        );
        assert!(judged.is_err());
        asked.approver.again(id, None);
        if !envelope.is_empty() {
            break;
        }
    }
    let honest = dsse::seal(&forged, &asked.decides).unwrap().envelope;
    *decision.lock().unwrap() = honest.clone();
    assert_eq!(asked.answer().await, honest);
    let judged = judge(
        &honest,
        &asked.request,
        asked.sha256,
        asked.approver.gateway(),
    )
    .unwrap();
    assert!(matches!(judged.ruling, Ruling::Deny(_)));
}

#[tokio::test]
async fn refused_answers_are_not_fetched_in_a_hot_loop() {
    let mut asked = Asked::new(HOLD, deciding(|| say(200, "null")));
    let id = asked.request.request_id;
    let began = Instant::now();
    for _ in 0..3 {
        asked.answer().await;
        asked.approver.again(id, None);
    }
    // 1 s and 2 s of back-off lie between three answers.
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn not_yet_at_once_is_not_asked_in_a_hot_loop() {
    let state = r#"{"state":"waiting","have":1,"need":2,"expires_at":1800000000000}"#;
    let mut asked = Asked::new(HOLD, deciding(move || say(202, state)));
    let id = asked.request.request_id;
    let told = [asked.next().await, asked.next().await];
    let heard = |have, need| Event::Waiting { id, have, need };
    assert_eq!(told, [heard(0, 1), heard(1, 2)]);
    tokio::time::sleep(Duration::from_millis(1800)).await;
    let polls = asked.server.seen(&Method::GET).len();
    assert!((2..=3).contains(&polls), "{polls} polls in 1.8 s");
    // Nothing new was heard, so nothing new was told.
    assert!(asked.events.try_recv().is_err());
}

#[tokio::test]
async fn calls_are_signed_for_exactly_their_path() {
    let mut asked = Asked::new(HOLD, deciding(|| say(200, "{}")));
    asked.answer().await;
    let id = asked.request.request_id;
    let decided = DecisionId(Uuid::now_v7());
    asked.approver.again(id, Some(decided));
    asked.answer().await;
    asked.approver.withdraw(id);
    while asked.server.seen(&Method::DELETE).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let keys = PinnedKeys::from(asked.key.public());
    let polls = asked.server.seen(&Method::GET);
    assert_eq!(polls[0].path, format!("/v1/requests/{id}/decision?wait=25"));
    assert_eq!(
        polls[1].path,
        format!("/v1/requests/{id}/decision?wait=25&after={decided}")
    );
    let withdrawals = asked.server.seen(&Method::DELETE);
    assert_eq!(withdrawals[0].path, format!("/v1/requests/{id}"));
    for seen in polls.iter().chain(&withdrawals) {
        let header = seen.headers["Syshold-Auth"].as_bytes();
        let envelope = base64::engine::general_purpose::STANDARD
            .decode(header)
            .unwrap();
        let call = dsse::open::<dsse::Call>(&envelope, &keys).unwrap().value;
        assert_eq!(
            (call.method.as_str(), call.path.as_str()),
            (seen.method.as_str(), seen.path.as_str())
        );
        assert_eq!(seen.version, Version::HTTP_2);
    }
    let put = &asked.server.seen(&Method::PUT)[0];
    let opened = dsse::open::<Request>(&put.body, &keys).unwrap();
    assert_eq!(
        (opened.value, opened.payload_sha256),
        (asked.request, asked.sha256)
    );
}

#[tokio::test]
async fn a_request_that_was_forgotten_is_put_again() {
    let mut asked = Asked::new(HOLD, |seen, times| match (seen.method.as_str(), times) {
        ("PUT", _) => say(201, ""),
        ("GET", 0) => problem(404, "unknown"),
        _ => say(200, "decision"),
    });
    assert_eq!(asked.answer().await, b"decision");
    let puts = asked.server.seen(&Method::PUT);
    assert_eq!(puts.len(), 2);
    assert_eq!(puts[0].body, puts[1].body);
}

#[tokio::test]
async fn a_404_of_something_on_the_way_is_only_trouble() {
    let mut asked = Asked::new(HOLD, |seen, times| match (seen.method.as_str(), times) {
        ("PUT", _) => say(201, ""),
        ("GET", 0) => say(404, "<html>nginx</html>"),
        _ => say(200, "decision"),
    });
    assert!(matches!(
        asked.cause().await,
        Cause::Refused { status: 404, .. }
    ));
    assert_eq!(asked.answer().await, b"decision");
    assert_eq!(asked.server.seen(&Method::PUT).len(), 1);
}

#[tokio::test]
async fn trouble_is_told_once_and_recovery_too() {
    let mut asked = Asked::new(HOLD, |seen, times| match (seen.method.as_str(), times) {
        ("PUT", 0 | 1) => problem(503, "busy"),
        ("PUT", _) => say(201, ""),
        _ => waiting(),
    });
    let id = asked.request.request_id;
    let busy = Cause::Refused {
        status: 503,
        text: Some("busy".to_owned()),
    };
    assert_eq!(asked.next().await, Event::Trouble { id, cause: busy });
    assert_eq!(
        asked.next().await,
        Event::Waiting {
            id,
            have: 0,
            need: 1
        }
    );
    let health = asked.approver.health();
    assert!(health.trouble.is_none() && health.last_ok.is_some());
    assert_eq!(asked.server.seen(&Method::PUT).len(), 3);
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let mut asked = Asked::new(HOLD, |seen, times| match (seen.method.as_str(), times) {
        ("PUT", 0) => problem(429, "too-many-pending").header("retry-after", "3"),
        ("PUT", _) => say(201, ""),
        _ => waiting(),
    });
    let began = Instant::now();
    assert!(matches!(
        asked.cause().await,
        Cause::Refused { status: 429, .. }
    ));
    assert!(matches!(asked.next().await, Event::Waiting { .. }));
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_can_never_be_taken_is_given_up_at_once() {
    for status in [409, 413, 422] {
        let mut asked = Asked::new(HOLD, move |_, _| problem(status, "no"));
        let id = asked.request.request_id;
        match asked.next().await {
            Event::GivenUp {
                id: given_up,
                cause: Cause::Refused { status: s, .. },
            } => {
                assert_eq!((given_up, s), (id, status));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn wrong_statuses_and_oversized_answers_are_malformed() {
    let long = vec![b'x'; 2 << 20];
    let decision = vec![b'x'; 65 * 1024];
    for wrong in [
        say(200, long),
        say(200, decision),
        say(202, "{}"),
        say(202, "<html>"),
        say(204, ""),
        say(206, "half"),
    ] {
        let said = wrong.clone();
        let mut asked = Asked::new(HOLD, deciding(move || said.clone()));
        let cause = asked.cause().await;
        assert!(
            matches!(cause, Cause::Malformed(_)),
            "{wrong:?} → {cause:?}"
        );
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let ca = Ca::new();
    let elsewhere = Scripted::start(ca.tls("localhost", &ca), |_, _| say(200, "approve"));
    let to = elsewhere.url();
    for status in [301, 302, 307, 308] {
        let to = to.clone();
        let server = Scripted::start(ca.tls("localhost", &ca), move |seen, _| {
            say(status, "").header("location", format!("{to}{}", seen.path))
        });
        let mut asked = Asked::of(server, &ca, HOLD);
        assert!(matches!(asked.cause().await, Cause::Malformed(_)));
    }
    assert!(elsewhere.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_the_pinned_ca_is_trusted() {
    let (ours, other) = (Ca::new(), Ca::new());
    for tls in [
        other.tls("localhost", &other),
        // The right CA in the chain, but it has not signed this server.
        other.tls("localhost", &ours),
        ours.tls("elsewhere.example", &ours),
    ] {
        let server = Scripted::start(tls, |_, _| say(201, ""));
        let mut asked = Asked::of(server, &ours, HOLD);
        let cause = asked.cause().await;
        assert!(matches!(cause, Cause::Tls(_)), "{cause:?}");
        assert!(asked.server.seen.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn nobody_there_is_given_up_a_moment_before_the_hold_ends() {
    let ca = Ca::new();
    let server = Scripted::start(ca.tls("localhost", &ca), |_, _| say(201, ""));
    server.seen.lock().unwrap().clear();
    let (key, decides) = (SigningKey::generate(), SigningKey::generate());
    let mut gateway = server.gateway(&ca, &key, &decides);
    // A port that nobody listens on.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    gateway.url = format!("https://localhost:{}", free.port())
        .parse()
        .unwrap();
    let (to, mut events) = mpsc::channel(64);
    let request = request(&gateway.host_id, Duration::from_secs(4));
    let began = Instant::now();
    let mut approver = Approver::start(gateway, key, to).unwrap();
    approver.ask(&request).unwrap();
    let Event::Trouble {
        cause: Cause::Unreachable(why),
        ..
    } = next(&mut events).await
    else {
        panic!("no trouble");
    };
    assert!(why.contains("refused"), "{why}");
    let Event::GivenUp {
        cause: Cause::Unreachable(_),
        ..
    } = next(&mut events).await
    else {
        panic!("not given up");
    };
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(2) && took < Duration::from_secs(4),
        "{took:?}"
    );
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_gateway_that_stalls_is_given_up_before_the_hold_ends() {
    for stall_at in [Method::PUT, Method::GET] {
        let at = stall_at.clone();
        let began = Instant::now();
        let mut asked = Asked::new(Duration::from_secs(4), move |seen, times| {
            match (&seen.method, times) {
                (method, _) if *method == at && at == Method::PUT => {
                    say(201, "").after(Duration::from_secs(60))
                }
                (&Method::PUT, _) => say(201, ""),
                // First trouble, then nothing at all.
                (_, 0) => problem(503, "busy"),
                _ => say(202, "").after(Duration::from_secs(60)),
            }
        });
        loop {
            if let Event::GivenUp { .. } = asked.next().await {
                break;
            }
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{stall_at}: {took:?}");
    }
}

#[tokio::test]
async fn a_question_that_waits_when_the_hold_ends_hears_a_late_approval() {
    let began = Instant::now();
    let mut asked = Asked::new(Duration::from_secs(2), move |seen, _| match seen.method {
        Method::PUT => say(201, ""),
        _ if began.elapsed() < Duration::from_secs(3) => waiting(),
        _ => say(200, "late"),
    });
    assert_eq!(asked.answer().await, b"late");
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn a_client_that_goes_away_withdraws_nothing() {
    let mut asked = Asked::new(HOLD, deciding(waiting));
    asked.next().await;
    drop(asked.approver);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(asked.server.seen(&Method::DELETE).is_empty());
    let polls = asked.server.seen(&Method::GET).len();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        asked.server.seen(&Method::GET).len(),
        polls,
        "a task lives on"
    );
}

#[tokio::test]
async fn a_settled_question_is_quiet() {
    let mut asked = Asked::new(HOLD, deciding(|| say(200, "decision")));
    asked.answer().await;
    asked.approver.done(asked.request.request_id);
    asked.approver.withdraw(asked.request.request_id);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(asked.server.seen(&Method::GET).len(), 1);
    assert!(asked.server.seen(&Method::DELETE).is_empty());
}
