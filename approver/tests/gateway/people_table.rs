//! Every row of the people API, with its error answers.
use reqwest::StatusCode;
use serde_json::{Value, json};
use syshold_protocol::{Channel, DecisionVerdict, Lifespan};

use crate::world::{World, now, problem};

#[tokio::test]
async fn a_person_sees_the_facts_and_decides() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &["privacy", "sre"]));
    let me: Value = bob.get("/v1/me").await.json().await.unwrap();
    assert_eq!(
        me,
        json!({"name": "bob", "email": "bob@example.com", "groups": ["privacy", "sre"]})
    );

    let (first, second) = (host.ask().await.request_id, host.ask().await.request_id);
    let list: Value = bob.get("/v1/approvals").await.json().await.unwrap();
    let ids: Vec<_> = list["approvals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [second.to_string(), first.to_string()], "newest first");

    let shown = bob.show(first).await;
    assert_eq!(
        shown["title"],
        "support-bot wants to connect to example.com (192.0.2.7:443)"
    );
    assert_eq!(
        (&shown["state"], &shown["may_approve"]),
        (&json!("waiting"), &json!(true))
    );
    assert!(
        shown["facts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|fact| fact["label"] == "Command line")
    );

    let body = json!({"scope": "process", "rendered_sha256": shown["rendered_sha256"], "reason": " checked with sales "});
    let answer: Value = bob
        .post(first, "approve", &body)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        answer,
        json!({"state": "approved", "decided": true, "have": 1, "need": 1})
    );
    let decision = host.decision(first, "").await;
    assert_eq!(
        (decision.verdict, decision.grant.unwrap().lifespan),
        (DecisionVerdict::Approve, Lifespan::Process)
    );
    assert_eq!(
        decision.rendered_sha256.unwrap().to_string(),
        shown["rendered_sha256"]
    );
    let approver = &decision.approvers[0];
    assert_eq!(
        (approver.channel, approver.reason.as_deref()),
        (Channel::Api, Some("checked with sales"))
    );

    let answer: Value = bob.deny(second).await.json().await.unwrap();
    assert_eq!(
        (&answer["state"], &answer["decided"]),
        (&json!("denied"), &json!(true))
    );
    let denied = host.decision(second, "").await;
    assert_eq!(
        (denied.verdict, denied.grant),
        (DecisionVerdict::Deny, None)
    );
    assert_eq!(denied.approvers[0].reason.as_deref(), Some("not this one"));

    for (state, count) in [
        ("pending", 0),
        ("waiting", 0),
        ("approved", 1),
        ("denied", 1),
        ("all", 2),
        ("withdrawn", 0),
    ] {
        let list: Value = bob
            .get(&format!("/v1/approvals?state={state}"))
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(
            list["approvals"].as_array().unwrap().len(),
            count,
            "{state}"
        );
    }
    assert_eq!(
        problem(bob.get("/v1/approvals?state=everything").await).await,
        (400, "malformed".to_owned())
    );
}

#[tokio::test]
async fn error_answers() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let id = host.ask().await.request_id;
    let digest = bob.show(id).await["rendered_sha256"].clone();
    let url = world.people_url(&format!("/v1/approvals/{id}/approve"));

    let unknown = host.request().request_id;
    assert_eq!(
        problem(bob.get(&format!("/v1/approvals/{unknown}")).await)
            .await
            .0,
        404
    );
    assert_eq!(problem(bob.deny(unknown).await).await.0, 404);
    for bad in ["x", "%FF", "%2e%2e", &id.to_string().to_uppercase()] {
        let answer = bob.get(&format!("/v1/approvals/{bad}")).await;
        assert_eq!(problem(answer).await.0, 404, "{bad}");
    }

    let scope = |scope: &str| json!({"scope": scope, "rendered_sha256": digest});
    for bad in ["session", "11m"] {
        assert_eq!(
            problem(bob.post(id, "approve", &scope(bad)).await).await,
            (422, "scope".to_owned()),
            "{bad}"
        );
    }
    for bad in [
        json!(null),
        json!([]),
        json!({}),
        json!(""),
        json!({"scope": "once"}),
        json!({"scope": "forever", "rendered_sha256": digest}),
        json!({"scope": "once", "rendered_sha256": "00"}),
        json!({"scope": "once", "rendered_sha256": digest, "surprise": true}),
        json!({"scope": "once", "rendered_sha256": digest, "reason": "x".repeat(1001)}),
        json!({"verdict": "approve"}),
    ] {
        assert_eq!(
            problem(bob.post(id, "approve", &bad).await).await,
            (422, "unacceptable".to_owned()),
            "{bad}"
        );
    }
    for bad in [
        json!({}),
        json!({"reason": " "}),
        json!({"reason": null}),
        json!(null),
    ] {
        assert_eq!(
            problem(bob.post(id, "deny", &bad).await).await,
            (422, "unacceptable".to_owned()),
            "{bad}"
        );
    }
    for bad in ["", "<html>", "{\"scope\":", "scope=once"] {
        let answer = world
            .http
            .post(&url)
            .bearer_auth(&bob.token)
            .header("content-type", "application/json")
            .body(bad)
            .send()
            .await;
        assert_eq!(
            problem(answer.unwrap()).await,
            (400, "malformed".to_owned()),
            "{bad:?}"
        );
    }
    let form = world
        .http
        .post(&url)
        .bearer_auth(&bob.token)
        .body(scope("once").to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(
        problem(form).await,
        (415, "media-type".to_owned()),
        "a form of another site cannot send JSON"
    );
    let wrong = json!({"scope": "once", "rendered_sha256": "0".repeat(64)});
    assert_eq!(
        problem(bob.post(id, "approve", &wrong).await).await,
        (412, "stale".to_owned())
    );
    let big = world
        .http
        .post(&url)
        .bearer_auth(&bob.token)
        .header("content-type", "application/json")
        .body(vec![b' '; 66_000]);
    assert_eq!(problem(big.send().await.unwrap()).await.0, 413);

    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED,
        "none of it decided"
    );
    bob.approve(id, "once").await;
    assert_eq!(
        problem(bob.post(id, "approve", &scope("once")).await).await,
        (409, "decided".to_owned())
    );
    assert_eq!(
        problem(bob.deny(id).await).await,
        (409, "decided".to_owned())
    );
}

#[tokio::test]
async fn tokens() {
    let world = World::start().await;
    let bob = world.person("bob", &[]);
    let with = |value: String| {
        world
            .http
            .get(world.people_url("/v1/me"))
            .header("authorization", value)
            .send()
    };
    for bad in ["", "Bearer", "Bearer ", "Bearer sypat_x", "Basic Ym9iOng="] {
        assert_eq!(
            problem(with(bad.to_owned()).await.unwrap()).await,
            (401, "bad-token".to_owned()),
            "{bad:?}"
        );
    }
    let fresh = syshold_approver::token::Secret::generate(syshold_approver::token::PERSONAL);
    world.store().replace_token("bob", fresh.digest()).unwrap();
    assert_eq!(
        bob.get("/v1/me").await.status(),
        StatusCode::UNAUTHORIZED,
        "the old one"
    );
    assert_eq!(
        with(format!("Bearer {}", fresh.reveal()))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
    world.store().disable_account("bob", now()).unwrap();
    assert_eq!(
        with(format!("Bearer {}", fresh.reveal()))
            .await
            .unwrap()
            .status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn owner_launcher_and_strangers_to_the_group() {
    let world = World::start().await;
    let host = world.host().await;
    let [alice, carol, bob, dave] = [
        ("alice", "privacy"),
        ("carol", "privacy"),
        ("bob", "privacy"),
        ("dave", "sre"),
    ]
    .map(|(name, group)| world.person(name, &[group]));
    let mut request = host.request();
    request.policy.approvers = Some("privacy".to_owned());
    host.put(&request).await;
    let id = request.request_id;
    for own in [&alice, &carol] {
        let shown = own.show(id).await;
        assert_eq!(
            (&shown["may_approve"], &shown["may_deny"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(
            problem(own.approve(id, "once").await).await,
            (403, "self_approval".to_owned())
        );
    }
    assert_eq!(
        problem(dave.approve(id, "once").await).await,
        (403, "not_in_group".to_owned())
    );
    assert_eq!(
        problem(dave.deny(id).await).await,
        (403, "not_in_group".to_owned())
    );
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(bob.approve(id, "once").await.status(), StatusCode::OK);

    let own = host.ask().await.request_id;
    assert_eq!(
        alice.deny(own).await.status(),
        StatusCode::OK,
        "the owner may deny"
    );
}

#[tokio::test]
async fn an_unknown_owner_needs_two_people() {
    let world = World::start().await;
    let host = world.host().await;
    let [bob, eve] = ["bob", "eve"].map(|name| world.person(name, &[]));
    let mut request = host.request();
    request.agent.owner = None;
    host.put(&request).await;
    let id = request.request_id;
    let half: Value = bob.approve(id, "10m").await.json().await.unwrap();
    assert_eq!(
        half,
        json!({"state": "waiting", "decided": false, "have": 1, "need": 2})
    );
    assert_eq!(
        problem(bob.approve(id, "10m").await).await,
        (409, "already_approved".to_owned()),
        "two clicks are one person"
    );
    let state: Value = host.poll(id, "?wait=0").await.json().await.unwrap();
    assert_eq!((&state["have"], &state["need"]), (&json!(1), &json!(2)));
    assert_eq!(eve.approve(id, "2m").await.status(), StatusCode::OK);
    let decision = host.decision(id, "").await;
    assert_eq!(
        decision.verdict,
        DecisionVerdict::ApproveModified,
        "bob chose more"
    );
    assert_eq!(decision.approvers.len(), 2);
    assert_eq!(
        decision
            .grant
            .unwrap()
            .expires_at
            .unwrap()
            .since(decision.issued_at),
        120_000,
        "what both allow"
    );
}

#[tokio::test]
async fn all_of_it_survives_a_restart() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let (open, decided) = (host.ask().await.request_id, host.ask().await.request_id);
    bob.approve(decided, "once").await;
    let before = host.decision(decided, "").await;
    let world = World::start_in(world.stop().await, |_| {}).await;
    let host = crate::world::Host {
        url: world.host_url(""),
        ..host
    };
    let bob = crate::world::Person {
        url: world.people_url(""),
        ..bob
    };
    assert_eq!(host.decision(decided, "").await, before);
    assert_eq!(
        host.poll(open, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(bob.approve(open, "once").await.status(), StatusCode::OK);
    assert_eq!(
        host.decision(open, "").await.verdict,
        DecisionVerdict::Approve
    );
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let world = World::start().await;
    let host = world.host().await;
    let id = host.ask().await.request_id;
    let (answer, _dir) = tokio::join!(host.poll(id, "?wait=50"), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        world.stop().await
    });
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}
