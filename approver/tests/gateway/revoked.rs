//! Approvals that are taken back: who may, what hosts hear of it, and in which order.
use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};
use syshold_ledger::{Exit, verify};
use syshold_protocol::dsse;
use syshold_protocol::revocation::{self, MAX_LIST, Revocations, Terms};

use crate::evidence::leaves;
use crate::world::{Host, Person, World, problem};

impl Host {
    pub(crate) async fn poll_revocations(&self, query: &str) -> Response {
        self.signed(Method::GET, &format!("/v1/revocations{query}"))
            .send()
            .await
            .unwrap()
    }

    /// The list, as this host checks it.
    pub(crate) async fn revocations(&self, since: u64, wait: u64) -> Revocations {
        let answer = self
            .poll_revocations(&format!("?since={since}&wait={wait}"))
            .await;
        assert_eq!(answer.status(), StatusCode::OK);
        let kind = &answer.headers()["content-type"];
        assert_eq!(kind, "application/vnd.dsse.envelope.v1+json");
        let bytes = answer.bytes().await.unwrap();
        let terms = Terms {
            host_id: &self.id,
            keys: &self.gateway,
            since,
        };
        let list = dsse::open::<Revocations>(&bytes, &self.gateway)
            .unwrap()
            .value;
        let accepted = revocation::accept(&bytes, &terms).unwrap();
        assert_eq!(accepted.entries, list.entries);
        list
    }
}

async fn revoke(who: &Person, id: syshold_protocol::RequestId, reason: &str) -> Response {
    who.post(id, "revoke", &json!({"reason": reason})).await
}

#[tokio::test]
async fn an_approval_is_taken_back_once_and_its_host_alone_hears_of_it() {
    let world = World::start().await;
    let (host, other) = (world.host().await, world.host().await);
    let (bob, dan) = (world.person("bob", &[]), world.person("dan", &[]));
    let id = host.ask().await.request_id;
    assert_eq!(bob.show(id).await["may_revoke"], false);
    bob.approve(id, "10m").await;
    let decision = host.decision(id, "").await;
    assert_eq!(dan.show(id).await["may_revoke"], true);

    let wait = async {
        let list = host.revocations(0, 25).await;
        (list, Instant::now())
    };
    let click = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let clicked = Instant::now();
        let answer = revoke(&dan, id, " the wrong bucket ").await;
        assert_eq!(answer.status(), StatusCode::OK);
        (clicked, answer.json::<Value>().await.unwrap())
    };
    let ((list, heard), (clicked, said)) = tokio::join!(wait, click);
    assert!(heard.duration_since(clicked) < Duration::from_secs(1));
    assert_eq!(said["by"], "dan@example.com");
    assert_eq!(said["reason"], "the wrong bucket");
    let [entry] = list.entries.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!((entry.n, list.latest, list.since), (1, 1, 0));
    assert_eq!(entry.decision_id, decision.decision_id);
    assert_eq!(entry.request_id, id);
    assert_eq!(entry.by.subject.as_str(), "dan@example.com");
    assert_eq!(entry.by.reason.as_deref(), Some("the wrong bucket"));

    // A second time it is what it was, whoever says it.
    let again = revoke(&bob, id, "me too").await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.json::<Value>().await.unwrap(), said);
    let shown = bob.show(id).await;
    assert_eq!(shown["revoked"], said);
    assert_eq!(
        (&shown["state"], &shown["may_revoke"]),
        (&json!("approved"), &json!(false))
    );

    let started = Instant::now();
    let nothing = host.revocations(1, 1).await;
    assert!(started.elapsed() >= Duration::from_secs(1), "it waits");
    assert_eq!((nothing.entries.len(), nothing.latest), (0, 1));
    let started = Instant::now();
    let theirs = other.revocations(0, 0).await;
    assert_eq!((theirs.entries.len(), theirs.latest), (0, 0));
    // A host that has heard of more than there is is told so at once.
    let fewer = host
        .poll_revocations("?since=7&wait=25")
        .await
        .bytes()
        .await
        .unwrap();
    let fewer = dsse::open::<Revocations>(&fewer, &host.gateway)
        .unwrap()
        .value;
    assert_eq!((fewer.since, fewer.latest), (7, 1));
    assert!(started.elapsed() < Duration::from_secs(5));

    // It is in the ledger, and survives a restart.
    let dir = world.stop().await;
    let all = leaves(dir.path());
    let revoked: Vec<_> = all.iter().filter(|leaf| leaf["kind"] == "revoke").collect();
    assert_eq!(revoked.len(), 1, "once");
    assert_eq!(revoked[0]["decision_id"], decision.decision_id.to_string());
    assert_eq!(revoked[0]["request"], id.to_string());
    assert_eq!(revoked[0]["approvers"][0]["subject"], "dan@example.com");
    assert_eq!(revoked[0]["approvers"][0]["comment"], "the wrong bucket");
    let report = verify(&dir.path().join("ledger.db"), |_, _| {}).unwrap();
    assert_eq!(report.exit(), Exit::Clean, "{:?}", report.first_bad);
    let world = World::start_in(dir, |_| {}).await;
    let host = Host {
        url: world.host_url(""),
        ..host
    };
    let list = host.revocations(0, 0).await;
    assert_eq!(list.entries.len(), 1);
    assert_eq!(list.entries[0].by.subject.as_str(), "dan@example.com");
}

#[tokio::test]
async fn who_may_take_back() {
    let world = World::start().await;
    let host = world.host().await;
    let people = [
        ("bob", &["privacy"][..], true),
        ("dan", &["privacy"], true),
        ("erin", &["sre"], false),
        // The agent's owner, and who launched it: they may not approve.
        ("alice", &[], true),
        ("carol", &[], true),
    ];
    let people = people.map(|(name, groups, may)| (name, world.person(name, groups), may));
    for (name, who, may) in &people {
        let mut request = host.request();
        request.policy.approvers = Some("privacy".to_owned());
        assert_eq!(host.put(&request).await.status(), StatusCode::CREATED);
        let id = request.request_id;
        let approved = people[0].1.approve(id, "10m").await;
        assert_eq!(approved.status(), StatusCode::OK);
        assert_eq!(who.show(id).await["may_revoke"], *may, "{name}");
        let answer = revoke(who, id, "no").await;
        if *may {
            assert_eq!(answer.status(), StatusCode::OK, "{name}");
        } else {
            let refused = (403, "not_in_group".to_owned());
            assert_eq!(problem(answer).await, refused, "{name}");
        }
    }
    let list = host.revocations(0, 0).await;
    let by: Vec<_> = list
        .entries
        .iter()
        .map(|entry| {
            (
                entry.n,
                entry.by.subject.as_str(),
                entry.by.standing.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        by,
        [
            (1, "bob@example.com", None),
            (2, "dan@example.com", None),
            (3, "alice@example.com", Some("owner or launcher")),
            (4, "carol@example.com", Some("owner or launcher")),
        ]
    );
}

#[tokio::test]
async fn only_what_is_approved_is_taken_back() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let [waiting, denied, withdrawn, approved] = [
        host.ask().await,
        host.ask().await,
        host.ask().await,
        host.ask().await,
    ]
    .map(|request| request.request_id);
    bob.deny(denied).await;
    host.withdraw(withdrawn).await;
    let mut brief = host.request();
    brief.hold_until = crate::world::now().plus(300);
    host.put(&brief).await;
    host.decision(brief.request_id, "?wait=10").await;
    for id in [waiting, denied, withdrawn, brief.request_id] {
        let answer = revoke(&bob, id, "no").await;
        assert_eq!(problem(answer).await, (409, "not_approved".to_owned()));
    }
    assert_eq!(host.revocations(0, 0).await.latest, 0);
    let nobody = host.request().request_id;
    assert_eq!(problem(revoke(&bob, nobody, "no").await).await.0, 404);

    bob.approve(approved, "once").await;
    let long = "x".repeat(1001);
    for bad in [
        json!({}),
        json!({"reason": " "}),
        json!({"reason": long}),
        json!({"reason": "r", "surprise": 1}),
        json!(null),
    ] {
        let answer = bob.post(approved, "revoke", &bad).await;
        let refused = (422, "unacceptable".to_owned());
        assert_eq!(problem(answer).await, refused, "{bad}");
    }
    let stranger = Person {
        token: "sypat_nobodys".to_owned(),
        url: bob.url.clone(),
        http: bob.http.clone(),
    };
    assert_eq!(
        problem(revoke(&stranger, approved, "no").await).await,
        (401, "bad-token".to_owned())
    );
    assert_eq!(host.revocations(0, 0).await.latest, 0);
    // A late approval, which would be for one retry.
    bob.approve(brief.request_id, "once").await;
    assert_eq!(
        revoke(&bob, brief.request_id, "no").await.status(),
        StatusCode::OK
    );
    let list = host.revocations(0, 0).await;
    let decision = host.decision(brief.request_id, "").await;
    assert_eq!(list.entries[0].decision_id, decision.decision_id);
}

#[tokio::test]
async fn a_host_asks_for_its_own_list_in_the_way_it_is_told() {
    let world = World::start().await;
    let host = world.host().await;
    for bad in [
        "",
        "?wait=1",
        "?since=x",
        "?since=-1",
        "?since=9007199254740992",
        "?since=0&wait=x",
        "?since=0&surprise=1",
        "?since=0&since=1",
    ] {
        assert_eq!(
            problem(host.poll_revocations(bad).await).await,
            (400, "malformed".to_owned()),
            "{bad}"
        );
    }
    let bare = host
        .http
        .get(format!("{}/v1/revocations?since=0&wait=0", host.url));
    assert_eq!(
        problem(bare.send().await.unwrap()).await,
        (401, "no-auth".to_owned())
    );
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = host.signed(method, "/v1/revocations?since=0");
        assert_eq!(problem(answer.send().await.unwrap()).await.0, 405);
    }
    // Two wait; a third one is told to come again, and another host is not.
    let (one, two) = (
        host.poll_revocations("?since=0&wait=3"),
        host.poll_revocations("?since=0&wait=3"),
    );
    let third = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        let answer = host.poll_revocations("?since=0&wait=3").await;
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(problem(answer).await, (429, "too-many-polls".to_owned()));
        let other = world.host().await;
        assert_eq!(other.revocations(0, 0).await.latest, 0);
    };
    let (one, two, ()) = tokio::join!(one, two, third);
    assert_eq!(
        (one.status(), two.status()),
        (StatusCode::OK, StatusCode::OK)
    );
    assert_eq!(
        host.revocations(0, 0).await.latest,
        0,
        "their places are free"
    );
    world
        .store()
        .disable_host(&host.id, crate::world::now())
        .unwrap();
    assert_eq!(
        problem(host.poll_revocations("?since=0&wait=0").await).await,
        (403, "host-disabled".to_owned())
    );
}

#[tokio::test]
async fn what_the_ledger_does_not_have_is_not_handed_out() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = host.ask().await.request_id;
        bob.approve(id, "10m").await;
        ids.push(id);
    }
    revoke(&bob, ids[0], "no").await;
    // As after a crash between the two, at a gateway that is not this one.
    let file = Connection::open(world.dir.path().join("state.db")).unwrap();
    file.busy_timeout(Duration::from_secs(5)).unwrap();
    file.execute("UPDATE revocation SET n = NULL, keeper = 99", [])
        .unwrap();
    assert_eq!(host.revocations(0, 0).await.latest, 0);
    // Another one does not wait for it, and the host misses neither.
    revoke(&bob, ids[1], "no").await;
    let list = host.revocations(0, 0).await;
    assert_eq!((list.entries.len(), list.latest), (1, 1));
    assert_eq!(list.entries[0].request_id, ids[1]);
    let back = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        file.execute("UPDATE revocation SET keeper = 0", [])
            .unwrap();
    };
    let (list, ()) = tokio::join!(host.revocations(1, 20), back);
    assert_eq!(list.entries[0].request_id, ids[0]);
    assert_eq!((list.entries[0].n, list.latest), (2, 2));
    let dir = world.stop().await;
    let all = leaves(dir.path());
    let of_first =
        |leaf: &&Value| leaf["kind"] == "revoke" && leaf["request"] == ids[0].to_string();
    assert_eq!(
        all.iter().filter(of_first).count(),
        2,
        "a leaf is repeated, not left out"
    );
}

#[tokio::test]
async fn a_long_list_comes_in_parts() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    const COUNT: u64 = 40;
    for _ in 0..COUNT {
        let id = host.ask().await.request_id;
        bob.approve(id, "once").await;
        let answer = revoke(&bob, id, &"\u{1}".repeat(1000)).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let (mut since, mut parts) = (0, 0);
    while since < COUNT {
        let path = format!("?since={since}&wait=0");
        let size = host
            .poll_revocations(&path)
            .await
            .bytes()
            .await
            .unwrap()
            .len();
        assert!(size <= MAX_LIST, "{size}");
        let list = host.revocations(since, 0).await;
        assert_eq!(list.latest, COUNT);
        let numbers: Vec<_> = list.entries.iter().map(|entry| entry.n).collect();
        let end = since + numbers.len() as u64;
        assert_eq!(numbers, (since + 1..=end).collect::<Vec<_>>());
        since = end;
        parts += 1;
    }
    assert!(parts > 1);
    println!("{COUNT} of the longest reasons in {parts} parts");
}
