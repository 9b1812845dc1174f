//! Approvals that are taken back: heard from the real gateway, and from ones that lie.
use std::time::{Duration, Instant};

use syshold_agent::approver::{Approver, Event, Gateway, Heard};
use syshold_protocol::revocation::{self, Accepted, Refusal, Revocations, Terms};
use syshold_protocol::{Ruling, SigningKey, dsse};
use tokio::sync::mpsc;

use super::real::World;
use super::scripted::{Ca, Say, Scripted, Seen, problem, say};
use super::{judge, next, now, request};

/// What the driver does with a list.
fn accepted(gateway: &Gateway, since: u64, envelope: &[u8]) -> Result<Accepted, Refusal> {
    let terms = Terms {
        host_id: &gateway.host_id,
        keys: &gateway.gateway_keys,
        since,
    };
    revocation::accept(envelope, &terms)
}

async fn list(events: &mut mpsc::Receiver<Event>) -> (u64, Vec<u8>) {
    match next(events).await {
        Event::Revoked { since, envelope } => (since, envelope),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_is_heard_within_two_seconds() {
    let world = World::start().await;
    let (mut approver, mut events) = world.client();
    let request = request(&approver.gateway().host_id.clone(), Duration::from_secs(60));
    let id = request.request_id;
    let sha256 = approver.ask(&request).unwrap();
    assert!(matches!(next(&mut events).await, Event::Waiting { .. }));
    let id_text = id.to_string();
    let revoke = ["approvals", "revoke", &id_text, "--reason", "wrong bucket"];
    let early = world.syshold(&revoke).await;
    assert!(!early.status.success());
    let said = String::from_utf8(early.stderr).unwrap();
    assert!(said.contains("nothing to take back"), "{said}");

    let approved = world
        .syshold(&["approvals", "approve", &id_text, "--for", "10m"])
        .await;
    assert!(approved.status.success(), "{approved:?}");
    let Event::Answer { envelope, .. } = next(&mut events).await else {
        panic!("no answer")
    };
    let decided = judge(&envelope, &request, sha256, approver.gateway()).unwrap();
    assert!(matches!(decided.ruling, Ruling::Allow(_)));
    approver.done(id);

    let start = Instant::now();
    let (revoked, (since, envelope)) = tokio::join!(world.syshold(&revoke), list(&mut events));
    let took = start.elapsed();
    println!("from the command line to the host: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(revoked.status.success(), "{revoked:?}");
    let said = String::from_utf8(revoked.stdout).unwrap();
    assert!(
        said.contains("Taken back by bob@example.com.") && said.contains("stays done"),
        "{said}"
    );
    let heard = accepted(approver.gateway(), since, &envelope).unwrap();
    let [entry] = heard.entries.as_slice() else {
        panic!("{heard:?}")
    };
    assert_eq!((since, entry.n, heard.since), (0, 1, 1));
    assert_eq!(entry.decision_id, decided.decision.decision_id);
    assert_eq!(entry.request_id, id);
    assert_eq!(entry.by.subject.as_str(), "bob@example.com");
    assert_eq!(entry.by.reason.as_deref(), Some("wrong bucket"));
    approver.heard(Heard::Since(heard.since));

    let shown = world.json(&["approvals", "show", &id_text, "--json"]).await;
    assert_eq!(shown["revoked"]["reason"], "wrong bucket");
    let page = world.syshold(&["approvals", "show", &id_text]).await;
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(
        page.contains("taken back by bob@example.com: wrong bucket"),
        "{page}"
    );
    // A daemon that starts again hears of it again, and of nothing twice while it runs.
    assert!(events.try_recv().is_err());
    drop(approver);
    let (approver, mut events) = world.client();
    let (since, envelope) = list(&mut events).await;
    let again = accepted(approver.gateway(), since, &envelope).unwrap();
    assert_eq!((since, again.entries), (0, heard.entries));
}

/// A host and a gateway that says that to whoever asks what is taken back.
struct Listening {
    server: Scripted,
    approver: Approver,
    events: mpsc::Receiver<Event>,
}

impl Listening {
    fn new(
        decides: &SigningKey,
        script: impl Fn(&Seen, usize) -> Say + Send + Sync + 'static,
    ) -> Self {
        let ca = Ca::new();
        let server = Scripted::start_with(ca.tls("localhost", &ca), |_, _| say(500, ""), script);
        let key = SigningKey::generate();
        let (to, events) = mpsc::channel(64);
        let gateway = server.gateway(&ca, &key, decides);
        Self {
            approver: Approver::start(gateway, key, to).unwrap(),
            server,
            events,
        }
    }

    fn polls(&self) -> Vec<String> {
        let polls = self.server.polls.lock().unwrap();
        polls.iter().map(|seen| seen.path.clone()).collect()
    }
}

fn empty(host: &str, since: u64, latest: u64) -> Revocations {
    Revocations {
        v: 1,
        host_id: host.parse().unwrap(),
        since,
        entries: Vec::new(),
        latest,
        issued_at: now(),
    }
}

#[tokio::test]
async fn a_lying_gateways_list_is_refused_and_asked_for_again_after_a_pause() {
    let (decides, stranger) = (SigningKey::generate(), SigningKey::generate());
    let seal = |list: &Revocations, key: &SigningKey| dsse::seal(list, key).unwrap().envelope;
    let lies = [
        Vec::new(),
        b"{}".to_vec(),
        b"<!doctype html>".to_vec(),
        seal(&empty("web-1", 0, 0), &stranger),
        seal(&empty("web-2", 0, 0), &decides),
        seal(&empty("web-1", 7, 7), &decides),
        seal(&empty("web-1", 0, 3), &decides),
    ];
    for (row, lie) in lies.into_iter().enumerate() {
        let told = lie.clone();
        let mut host = Listening::new(&decides, move |_, _| say(200, told.clone()));
        let (since, envelope) = list(&mut host.events).await;
        assert_eq!(envelope, lie);
        assert!(
            accepted(host.approver.gateway(), since, &envelope).is_err(),
            "{row} was accepted"
        );
        // Nothing more before the driver has said what it makes of it, and then not at once.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(host.polls().len(), 1, "{row}");
        let start = Instant::now();
        host.approver.heard(Heard::Refused(since));
        let (again, _) = list(&mut host.events).await;
        assert_eq!(again, 0);
        assert!(start.elapsed() >= Duration::from_secs(1), "{row}");
    }
}

#[tokio::test]
async fn what_was_heard_is_not_asked_for_again_unless_the_gateway_forgot_it() {
    let decides = SigningKey::generate();
    let key = decides.clone();
    let mut host = Listening::new(&decides, move |seen, _| {
        let since = seen.path.split(['=', '&']).nth(1).unwrap().parse().unwrap();
        let list = empty("web-1", since, 2);
        say(200, dsse::seal(&list, &key).unwrap().envelope)
    });
    assert_eq!(list(&mut host.events).await.0, 0);
    host.approver.heard(Heard::Since(2));
    let (since, envelope) = list(&mut host.events).await;
    let nothing = accepted(host.approver.gateway(), since, &envelope).unwrap();
    assert_eq!((since, nothing.since, nothing.entries.len()), (2, 2, 0));
    host.approver.heard(Heard::Since(5));
    let (since, envelope) = list(&mut host.events).await;
    assert!(matches!(
        accepted(host.approver.gateway(), since, &envelope),
        Err(Refusal::Shrunk {
            latest: 2,
            since: 5
        })
    ));
    host.approver.heard(Heard::Refused(0));
    assert_eq!(list(&mut host.events).await.0, 0);
    let paths = host.polls();
    assert_eq!(paths[1], "/v1/revocations?since=2&wait=25");
    let seen = host.server.polls.lock().unwrap()[0].clone();
    assert!(seen.headers.contains_key("Syshold-Auth"));
}

#[tokio::test]
async fn a_gateway_that_knows_no_revocations_is_asked_rarely_and_is_no_trouble() {
    let decides = SigningKey::generate();
    let mut host = Listening::new(&decides, |_, _| problem(404, "not-found"));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(host.polls().len(), 1);
    assert!(host.events.try_recv().is_err());
    assert!(host.approver.health().trouble.is_none());
}

#[tokio::test]
async fn a_gateway_that_is_busy_is_asked_again_and_nobody_asks_for_a_client_that_is_gone() {
    let decides = SigningKey::generate();
    let key = decides.clone();
    let mut host = Listening::new(&decides, move |_, times| match times {
        0 => problem(503, "busy"),
        // Not the gateway's own word: a proxy that has lost it.
        1 => say(404, "<html>not here</html>"),
        _ => say(
            200,
            dsse::seal(&empty("web-1", 0, 0), &key).unwrap().envelope,
        ),
    });
    let (since, envelope) = list(&mut host.events).await;
    accepted(host.approver.gateway(), since, &envelope).unwrap();
    assert_eq!(host.polls().len(), 3);
    drop(host.approver);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(host.server.polls.lock().unwrap().len(), 3);
}
