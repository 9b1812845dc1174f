//! Whoever has a copy: of a host's key, of a decision, of an address.
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use syshold_protocol::{
    Accepted, Assurance, EnrolRequest, Outstanding, Refusal, Request, Ruling, accept, dsse,
};

use crate::world::{Host, World, client, now, problem};

/// What the host that filed `request` checks an answer by.
fn outstanding(host: &Host, request: &Request) -> Outstanding {
    Outstanding {
        request_sha256: dsse::seal(request, &host.key).unwrap().payload_sha256,
        allowed_scopes: request.allowed_scopes.clone(),
        max_ttl_s: request.max_ttl_s,
        quorum: 1,
        owner: request.agent.owner.clone(),
        launched_by: request.agent.launched_by.clone(),
        assurance: Assurance::Token,
        passkeys: Vec::new(),
        request: request.clone(),
    }
}

async fn decided(host: &Host, request: &Request) -> Vec<u8> {
    let answer = host.poll(request.request_id, "?wait=5").await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.bytes().await.unwrap().to_vec()
}

/// Whoever copied a host's key can ask in its name, and nothing that is answered lets the host go on.
/// Once the host is disabled the copy is worth nothing, with a good token neither.
#[tokio::test]
async fn a_copied_host_key_decides_nothing_and_ends_with_its_host() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let ca = std::fs::read(world.dir.path().join("ca.pem")).unwrap();
    let thief = Host {
        id: host.id.clone(),
        key: host.key.clone(),
        gateway: host.gateway.clone(),
        url: host.url.clone(),
        http: client(&ca),
    };
    let held = host.ask().await;
    let asked = thief.ask().await;
    assert_eq!(
        bob.approve(asked.request_id, "once").await.status(),
        StatusCode::OK
    );
    let given = decided(&thief, &asked).await;
    let judged = |request| {
        let known = outstanding(&host, request);
        accept(&given, &known, &host.gateway, now(), &|_| false)
    };
    assert!(matches!(judged(&held), Err(Refusal::OtherRequest { .. })));
    assert_eq!(
        host.poll(held.request_id, "?wait=0").await.status(),
        StatusCode::ACCEPTED,
        "nor did it decide what the host asked"
    );
    for verb in ["approve", "deny"] {
        let path = format!("/v1/approvals/{}/{verb}", held.request_id);
        let answer = thief
            .signed(Method::POST, &path)
            .json(&json!({"scope": "once", "reason": "x"}));
        let answer = answer.send().await.unwrap();
        assert_eq!(problem(answer).await.0, 404, "{verb} where hosts ask");
        let people = thief.http.post(world.people_url(&path));
        let call = thief.header(&thief.call("POST", &path));
        let answer = people.header("Syshold-Auth", call).json(&json!({}));
        assert_eq!(problem(answer.send().await.unwrap()).await.0, 401, "{verb}");
    }

    assert!(world.store().disable_host(&host.id, now()).unwrap());
    let ended = (403, "host-disabled".to_owned());
    let id = held.request_id;
    assert_eq!(problem(thief.put(&thief.request()).await).await, ended);
    assert_eq!(problem(thief.poll(id, "?wait=0").await).await, ended);
    assert_eq!(problem(thief.withdraw(id).await).await, ended);
    let outcome = thief.post_outcome(&thief.outcome(id)).await;
    assert_eq!(problem(outcome).await, ended);
    let again = EnrolRequest {
        token: world.enrol_token(),
        public_key: thief.key.public(),
        host_name: "web-9".to_owned(),
    };
    let url = world.host_url("/v1/enrol");
    let answer = thief.http.post(url).json(&again).send().await.unwrap();
    assert_eq!(problem(answer).await, ended, "under another name, too");
}

/// One approval of the real gateway, offered wherever it does not belong.
#[tokio::test]
async fn a_copied_decision_is_for_one_request_of_one_host_once() {
    let world = World::start().await;
    let (one, two) = (world.host().await, world.host().await);
    let bob = world.person("bob", &[]);
    let mut request = one.request();
    request.waiting = 3;
    assert_eq!(one.put(&request).await.status(), StatusCode::CREATED);
    let id = request.request_id;
    assert_eq!(bob.approve(id, "10m").await.status(), StatusCode::OK);
    let given = decided(&one, &request).await;

    type Offer = Box<dyn FnOnce(&mut Outstanding)>;
    let offer = |change: Offer, bytes: &[u8], used: bool| {
        let mut known = outstanding(&one, &request);
        change(&mut known);
        accept(bytes, &known, &one.gateway, now(), &|_| used)
    };
    let as_is = || -> Offer { Box::new(|_| {}) };
    let allowed = offer(as_is(), &given, false);
    assert!(
        matches!(
            allowed,
            Ok(Accepted {
                ruling: Ruling::Allow(_),
                ..
            })
        ),
        "{allowed:?}"
    );

    let mut swapped: Value = serde_json::from_slice(&given).unwrap();
    swapped["payloadType"] = "application/vnd.syshold.request.v1+json".into();
    let mut forged: Value = serde_json::from_slice(&given).unwrap();
    forged["signatures"][0]["sig"] = serde_json::from_slice::<Value>(&two.seal(&two.request()))
        .unwrap()["signatures"][0]["sig"]
        .clone();
    let own = dsse::open::<syshold_protocol::Decision>(&given, &one.gateway).unwrap();
    let own = dsse::seal(&own.value, &one.key).unwrap().envelope;
    let (other_id, other_host) = (one.request(), two.id.clone());
    let table: Vec<(&str, Offer, Vec<u8>, bool)> = vec![
        ("used before", as_is(), given.clone(), true),
        (
            "another request",
            Box::new(move |known| known.request.request_id = other_id.request_id),
            given.clone(),
            false,
        ),
        (
            "another host",
            Box::new(move |known| known.request.host_id = other_host),
            given.clone(),
            false,
        ),
        (
            "a request that says something else",
            Box::new(|known| known.request_sha256.0[0] ^= 1),
            given.clone(),
            false,
        ),
        (
            "a host that allows single uses only",
            Box::new(|known| known.allowed_scopes = vec!["once".parse().unwrap()]),
            given.clone(),
            false,
        ),
        (
            "a host that allows a minute",
            Box::new(|known| {
                known.allowed_scopes = vec!["1m".parse().unwrap()];
                known.max_ttl_s = 60;
            }),
            given.clone(),
            false,
        ),
        (
            "another object",
            Box::new(|known| known.request.action.object.requested.push('x')),
            given.clone(),
            false,
        ),
        ("another type", as_is(), swapped.to_string().into(), false),
        (
            "another's signature",
            as_is(),
            forged.to_string().into(),
            false,
        ),
        ("signed by the host itself", as_is(), own, false),
    ];
    let taken: Vec<_> = table
        .into_iter()
        .filter_map(|(name, change, bytes, used)| offer(change, &bytes, used).ok().map(|_| name))
        .collect();
    assert_eq!(taken, [""; 0], "taken where it does not belong");
}

/// Every `.route("…")` of the sources.
fn paths(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            for rest in source.split(".route(").skip(1) {
                let rest = rest.trim_start().strip_prefix("\"/");
                found.extend(rest.and_then(|rest| Some(format!("/{}", rest.split_once('"')?.0))));
            }
        }
    }
}

/// A scanner that knows every address of both listeners, with a session and with a token.
#[tokio::test]
async fn a_crawler_that_knows_every_address_changes_nothing() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &["privacy"]));
    let cookie = world.cookie(&bob).await;
    let id = host.ask().await.request_id;
    let shown = bob.show(id).await;
    let digest = shown["rendered_sha256"].as_str().unwrap();
    let query = format!(
        "?wait=0&scope=once&rendered_sha256={digest}&reason=x&verdict=approve&id={id}&token={}&_method=POST",
        bob.token
    );
    let mut known = Vec::new();
    paths(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut known,
    );
    for sure in [
        "/v1/approvals/{id}/approve",
        "/v1/requests/{id}/outcome",
        "/approvals/{id}/deny",
        "/link/{token}",
        "/batch",
        "/logout",
        "/style.css",
        "/slack/{name}/interactive",
    ] {
        assert!(known.iter().any(|path| path == sure), "{sure}: {known:?}");
    }
    for path in &known {
        let path = path
            .replace("{token}", "x")
            .replace("{name}", "ops")
            .replace("{order}", &id.to_string())
            .replace("{id}", &id.to_string());
        assert!(!path.contains('{'), "{path}: what goes there?");
        for base in [world.host_url(""), world.people_url("")] {
            for (method, query) in [
                (Method::GET, query.as_str()),
                (Method::GET, ""),
                (Method::HEAD, &query),
            ] {
                let url = format!("{base}{path}{query}");
                for signed_in in [true, false] {
                    let call = world.http.request(method.clone(), &url);
                    let call = if signed_in {
                        call.header("cookie", &cookie)
                    } else {
                        call.bearer_auth(&bob.token)
                    };
                    // The stream of changes has no end: its head is enough.
                    let call = call.header("x-http-method-override", "POST");
                    let answer = tokio::time::timeout(Duration::from_secs(5), call.send());
                    let status = answer.await.unwrap().unwrap().status();
                    assert!(!status.is_server_error(), "{method} {url}: {status}");
                }
            }
        }
    }
    assert_eq!(
        host.poll(id, "?wait=0").await.status(),
        StatusCode::ACCEPTED
    );
    let after = bob.show(id).await;
    for what in ["state", "have", "approvals", "decision", "outcome"] {
        assert_eq!(after[what], shown[what], "{what}");
    }
    let (status, page) = world.page("/", &cookie).await;
    assert!(
        status == StatusCode::OK && page.contains("/logout"),
        "still signed in"
    );
    assert_eq!(bob.get("/v1/me").await.status(), StatusCode::OK);
}
