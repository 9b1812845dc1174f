//! People and machines who want a decision they may not have.
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use syshold_protocol::dsse::{self, Call};
use syshold_protocol::{DecisionVerdict, RequestId};

use crate::world::{Host, World, now, problem};

/// Still nobody has decided.
async fn is_open(host: &Host, id: RequestId) -> bool {
    host.poll(id, "?wait=0").await.status() == StatusCode::ACCEPTED
}

#[tokio::test]
async fn a_host_cannot_speak_for_another() {
    let world = World::start().await;
    let (one, two) = (world.host().await, world.host().await);
    let mut forged = one.request();
    forged.host_id = two.id.clone();
    assert_eq!(
        problem(one.put(&forged).await).await,
        (401, "bad-signature".to_owned()),
        "a copied name"
    );
    let id = two.ask().await.request_id;
    let path = format!("/v1/requests/{id}");
    let mut call = one.call("DELETE", &path);
    call.host_id = two.id.clone();
    let header = one.header(&call);
    let answer = one
        .http
        .delete(format!("{}{path}", one.url))
        .header("Syshold-Auth", header)
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await, (401, "bad-signature".to_owned()));
    assert!(is_open(&two, id).await);
}

#[tokio::test]
async fn a_signed_header_is_for_one_call_at_one_time() {
    let world = World::start().await;
    let host = world.host().await;
    let id = host.ask().await.request_id;
    let path = format!("/v1/requests/{id}");
    let send = |header: String| {
        host.http
            .delete(format!("{}{path}", host.url))
            .header("Syshold-Auth", header)
            .send()
    };
    let good = || host.call("DELETE", &path);
    type Change = fn(&mut Call);
    let table: [(Change, &str); 6] = [
        (|call| call.method = "GET".to_owned(), "auth-mismatch"),
        (|call| call.method = "delete".to_owned(), "auth-mismatch"),
        (
            |call| call.path.push_str("/decision?wait=25"),
            "auth-mismatch",
        ),
        (|call| call.v = 2, "auth-mismatch"),
        (
            |call| call.at = syshold_protocol::UnixMs::new(now().ms() - 121_000),
            "clock-skew",
        ),
        (|call| call.at = now().plus(130_000), "clock-skew"),
    ];
    for (change, word) in table {
        let mut call = good();
        change(&mut call);
        assert_eq!(
            problem(send(host.header(&call)).await.unwrap()).await,
            (401, word.to_owned())
        );
    }
    for bad in ["", "x", "bnVsbA==", "e30="] {
        assert_eq!(
            problem(send(bad.to_owned()).await.unwrap()).await,
            (401, "bad-auth".to_owned()),
            "{bad:?}"
        );
    }
    let missing = host
        .http
        .delete(format!("{}{path}", host.url))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(missing).await, (401, "no-auth".to_owned()));
    let twice = host
        .signed(Method::DELETE, &path)
        .header("Syshold-Auth", host.header(&good()))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(twice).await, (401, "no-auth".to_owned()));
    assert!(is_open(&host, id).await);
    assert_eq!(
        send(host.header(&good())).await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
}

#[tokio::test]
async fn one_payload_is_never_taken_for_another() {
    let world = World::start().await;
    let host = world.host().await;
    let request = host.request();
    let id = request.request_id;
    let outcome = dsse::seal(&host.outcome(id), &host.key).unwrap().envelope;
    assert_eq!(
        problem(host.put_bytes(id, outcome.clone()).await).await,
        (400, "malformed".to_owned())
    );
    let mut swapped: Value = serde_json::from_slice(&outcome).unwrap();
    swapped["payloadType"] = "application/vnd.syshold.request.v1+json".into();
    assert_eq!(
        problem(host.put_bytes(id, swapped.to_string()).await).await,
        (401, "bad-signature".to_owned())
    );
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        "true",
        "\"\"",
        "<html></html>",
        "{\"payload\":null}",
        "{\"payload\":\"\"}",
        "{\"payload\":\"e30=\"}",
    ] {
        assert_eq!(
            problem(host.put_bytes(id, bad).await).await,
            (400, "malformed".to_owned()),
            "{bad:?}"
        );
        let url = format!("{}/v1/requests/{id}/outcome", host.url);
        assert_eq!(
            problem(host.http.post(url).body(bad).send().await.unwrap())
                .await
                .0,
            400,
            "{bad:?}"
        );
    }
    assert_eq!(host.put(&request).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_replayed_request_does_not_come_back_to_life() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let request = host.ask().await;
    let id = request.request_id;
    bob.deny(id).await;
    let denied = host.decision(id, "").await;
    assert_eq!(host.put(&request).await.status(), StatusCode::OK);
    assert_eq!(host.decision(id, "").await, denied, "decided once");
    let list: Value = bob.get("/v1/approvals").await.json().await.unwrap();
    assert_eq!(list["approvals"], json!([]));
    let mut twin = request.clone();
    twin.request_id = host.request().request_id;
    assert_eq!(
        problem(host.put(&twin).await).await,
        (409, "conflict".to_owned()),
        "nor under another id"
    );
}

#[tokio::test]
async fn of_many_answers_at_once_one_wins() {
    // Three denials in a row would deny the next request unasked.
    let world = World::start_with(|config| config.limits.auto_deny_after = 0).await;
    let host = world.host().await;
    let people: Vec<_> = ["bob", "eve", "dan", "fay", "gus", "hal"]
        .iter()
        .map(|name| world.person(name, &[]))
        .collect();
    for round in 0..5 {
        let id = host.ask().await.request_id;
        let digest = people[0].show(id).await["rendered_sha256"].clone();
        let mut answers = tokio::task::JoinSet::new();
        for (index, person) in people.iter().enumerate() {
            let (http, token) = (person.http.clone(), person.token.clone());
            let approve = index % 2 == round % 2;
            let (verb, body) = if approve {
                (
                    "approve",
                    json!({"scope": "once", "rendered_sha256": digest}),
                )
            } else {
                ("deny", json!({"reason": "no"}))
            };
            let url = world.people_url(&format!("/v1/approvals/{id}/{verb}"));
            answers.spawn(async move {
                let answer = http
                    .post(url)
                    .bearer_auth(token)
                    .json(&body)
                    .send()
                    .await
                    .unwrap();
                (answer.status().as_u16(), approve)
            });
        }
        let answers = answers.join_all().await;
        let won: Vec<_> = answers
            .iter()
            .filter(|(status, _)| *status == 200)
            .collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(
            answers
                .iter()
                .all(|(status, _)| matches!(status, 200 | 409)),
            "{answers:?}"
        );
        let decision = host.decision(id, "").await;
        assert_eq!(decision.verdict == DecisionVerdict::Approve, won[0].1);
        assert_eq!(decision.approvers.len(), 1);
    }
}

/// Link scanners follow every link: with a session, with a token, with nothing, by GET and HEAD.
#[tokio::test]
async fn a_crawler_decides_nothing() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let id = host.ask().await.request_id;
    let digest = bob.show(id).await["rendered_sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    let query =
        format!("?scope=once&rendered_sha256={digest}&reason=x&verdict=approve&_method=POST");
    let ways = [
        "",
        "/decision",
        "/outcome",
        "/approve",
        "/deny",
        "/withdraw",
        "/once",
    ];
    for base in [world.host_url(""), world.people_url("")] {
        for root in ["/v1/requests", "/v1/approvals", "/approvals", "/requests"] {
            for way in ways {
                for query in ["", query.as_str()] {
                    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                        let url = format!("{base}{root}/{id}{way}{query}");
                        world
                            .http
                            .request(method, &url)
                            .bearer_auth(&bob.token)
                            .header("x-http-method-override", "POST")
                            .send()
                            .await
                            .unwrap();
                    }
                }
            }
        }
    }
    assert!(is_open(&host, id).await);
    assert_eq!(bob.show(id).await["state"], "waiting");
}

/// No method on any path of the host listener decides, whatever it carries.
#[tokio::test]
async fn nothing_on_the_host_listener_decides() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let id = host.ask().await.request_id;
    let body = json!({"scope": "once", "rendered_sha256": bob.show(id).await["rendered_sha256"], "reason": "x"});
    for verb in ["approve", "deny", "decision", "", "outcome"] {
        for root in ["/v1/approvals", "/v1/requests", "/approvals"] {
            for method in [Method::POST, Method::PATCH, Method::GET] {
                let path = format!("{root}/{id}/{verb}?wait=0");
                let answer = host
                    .signed(method, &path)
                    .bearer_auth(&bob.token)
                    .json(&body)
                    .send()
                    .await
                    .unwrap();
                assert!(
                    !answer.status().is_success() || answer.status() == StatusCode::ACCEPTED,
                    "{path}: {}",
                    answer.status()
                );
            }
        }
    }
    assert!(is_open(&host, id).await);
}
