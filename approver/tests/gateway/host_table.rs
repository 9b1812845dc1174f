//! Every row of the host API's table, with its error answers.
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use syshold_protocol::{
    DecisionVerdict, EnrolRequest, EnrolToken, Lifespan, OutcomeResult, RequestPhase, RequestState,
    Scope, SigningKey, dsse,
};

use crate::world::{World, now, problem};

#[tokio::test]
async fn enrolment_takes_a_token_once() {
    let world = World::start().await;
    let url = world.host_url("/v1/enrol");
    let token = world.enrol_token();
    let key = SigningKey::generate();
    let asked = EnrolRequest {
        token: token.clone(),
        public_key: key.public(),
        host_name: "db-1".to_owned(),
    };
    let first = world.http.post(&url).json(&asked).send().await.unwrap();
    assert_eq!(first.status(), StatusCode::CREATED);
    let first: Value = first.json().await.unwrap();
    assert!(first["host_id"].as_str().unwrap().starts_with("db-1-"));
    let repeated: Value = world
        .http
        .post(&url)
        .json(&asked)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        first, repeated,
        "a host that missed the answer may ask again"
    );

    let thief = EnrolRequest {
        public_key: SigningKey::generate().public(),
        ..asked.clone()
    };
    let answer = world.http.post(&url).json(&thief).send().await.unwrap();
    assert_eq!(
        problem(answer).await,
        (401, "bad-token".to_owned()),
        "used by another key"
    );
    let unknown = EnrolRequest {
        token: EnrolToken::generate(token.ca_sha256()),
        ..thief.clone()
    };
    assert_eq!(
        problem(world.http.post(&url).json(&unknown).send().await.unwrap())
            .await
            .0,
        401
    );
    let old = EnrolToken::generate(token.ca_sha256());
    let hours = syshold_protocol::UnixMs::new(now().ms() - 7_200_000);
    world
        .store()
        .add_enrol_token(&old, hours, u64::MAX)
        .unwrap();
    let late = EnrolRequest {
        token: old,
        ..thief.clone()
    };
    assert_eq!(
        problem(world.http.post(&url).json(&late).send().await.unwrap())
            .await
            .0,
        401,
        "an hour is the most"
    );
    let nameless = EnrolRequest {
        token: world.enrol_token(),
        host_name: "a\nb".to_owned(),
        ..thief
    };
    assert_eq!(
        problem(world.http.post(&url).json(&nameless).send().await.unwrap())
            .await
            .0,
        422
    );
    for bad in ["", "null", "{}", "[]", "{\"token\":\"x\"}", "<html>"] {
        let answer = world.http.post(&url).body(bad).send().await.unwrap();
        assert_eq!(
            problem(answer).await,
            (400, "malformed".to_owned()),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn the_first_connection_can_pin_the_ca_by_its_digest() {
    let world = World::start().await;
    let token = world.enrol_token();
    let shown = tokio::process::Command::new("openssl")
        .args([
            "s_client",
            "-showcerts",
            "-connect",
            &world.hosts.to_string(),
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let sent: Vec<_> = text
        .match_indices("-----BEGIN CERTIFICATE-----")
        .map(|(at, _)| &text[at..])
        .collect();
    assert_eq!(sent.len(), 2, "the certificate and the CA's");
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let ca = CertificateDer::from_pem_slice(sent[1].as_bytes()).unwrap();
    assert_eq!(syshold_protocol::Digest::of(&ca), token.ca_sha256());
}

#[tokio::test]
async fn filing_a_request() {
    let world = World::start().await;
    let host = world.host().await;
    let request = host.ask().await;
    let id = request.request_id;
    assert_eq!(
        host.put(&request).await.status(),
        StatusCode::OK,
        "the same bytes again"
    );

    let mut other = request.clone();
    other.process.cwd = "/elsewhere".to_owned();
    assert_eq!(
        problem(host.put(&other).await).await,
        (409, "conflict".to_owned()),
        "other bytes"
    );
    let mut same_nonce = host.request();
    same_nonce.nonce = request.nonce;
    assert_eq!(
        problem(host.put(&same_nonce).await).await,
        (409, "conflict".to_owned()),
        "a nonce counts once"
    );

    let mut flipped: Value = serde_json::from_slice(&host.seal(&request)).unwrap();
    let signature = flipped["signatures"][0]["sig"].as_str().unwrap().replacen(
        ['a', 'b', 'c', 'd', 'e', 'f'],
        "A",
        1,
    );
    flipped["signatures"][0]["sig"] = signature.into();
    let answer = host.put_bytes(id, flipped.to_string()).await;
    assert_eq!(problem(answer).await, (401, "bad-signature".to_owned()));

    let big = format!("{{\"payload\":\"{}\"}}", "A".repeat(65 * 1024));
    assert_eq!(
        problem(host.put_bytes(id, big).await).await,
        (413, "too-large".to_owned())
    );

    let elsewhere = host
        .put_bytes(host.request().request_id, host.seal(&host.request()))
        .await;
    assert_eq!(
        problem(elsewhere).await,
        (422, "unacceptable".to_owned()),
        "another id than the path's"
    );
    let mut backwards = host.request();
    backwards.hold_until = backwards.created_at;
    assert_eq!(problem(host.put(&backwards).await).await.0, 422);
    let mut tomorrow = host.request();
    tomorrow.created_at = now().plus(10 * 60_000);
    tomorrow.hold_until = now().plus(20 * 60_000);
    assert_eq!(
        problem(host.put(&tomorrow).await).await.0,
        422,
        "from the future"
    );
    let mut forever = host.request();
    forever.hold_until = now().plus(48 * 3_600_000);
    assert_eq!(
        problem(host.put(&forever).await).await.0,
        422,
        "nobody waits two days"
    );

    let mut crowd = host.request();
    crowd.quorum = 11;
    assert_eq!(problem(host.put(&crowd).await).await.0, 422);

    for _ in 0..4 {
        host.ask().await;
    }
    let sixth = host.put(&host.request()).await;
    assert_eq!(sixth.headers()["retry-after"], "5");
    assert_eq!(problem(sixth).await, (429, "too-many-pending".to_owned()));
    assert_eq!(
        problem(world.host().await.put(&request).await).await.0,
        401,
        "another host's, signed by this one"
    );
    world.host().await.ask().await;

    world.store().disable_host(&host.id, now()).unwrap();
    assert_eq!(
        problem(host.put(&request).await).await,
        (403, "host-disabled".to_owned())
    );
    assert_eq!(
        problem(host.poll(id, "?wait=0").await).await,
        (403, "host-disabled".to_owned())
    );
}

#[tokio::test]
async fn a_poll_waits_and_wakes() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let request = host.ask().await;
    let id = request.request_id;

    let waiting = host.poll(id, "?wait=0").await;
    assert_eq!(waiting.status(), StatusCode::ACCEPTED);
    let state: RequestState = waiting.json().await.unwrap();
    assert_eq!(
        state,
        RequestState {
            state: RequestPhase::Waiting,
            have: 0,
            need: 1,
            expires_at: request.hold_until
        }
    );

    let started = Instant::now();
    assert_eq!(
        host.poll(id, "?wait=1").await.status(),
        StatusCode::ACCEPTED
    );
    assert!(started.elapsed() >= Duration::from_secs(1), "it waits");

    let (decision, answer) = tokio::join!(host.decision(id, "?wait=25"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = bob.approve(id, "10m").await;
        (answer, Instant::now())
    });
    let (answer, answered) = answer;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answered.elapsed() < Duration::from_secs(1), "it wakes");
    assert_eq!(decision.verdict, DecisionVerdict::Approve);
    let grant = decision.grant.unwrap();
    assert_eq!((grant.lifespan, grant.max_uses), (Lifespan::Until, None));
    assert_eq!(
        grant.expires_at.unwrap().since(decision.issued_at),
        600_000,
        "a time limit starts at the approval"
    );
    assert_eq!(grant.objects, std::slice::from_ref(&request.action.object));
    assert_eq!(
        decision.request_sha256,
        dsse::seal(&request, &host.key).unwrap().payload_sha256
    );
    assert_eq!(
        (decision.nonce, decision.policy_sha256),
        (request.nonce, request.policy.sha256)
    );
    assert_eq!(decision.approvers[0].subject.as_str(), "bob@example.com");

    for bad in ["?wait=x", "?wait=-1", "?after=x", "?surprise=1"] {
        assert_eq!(
            problem(host.poll(id, bad).await).await,
            (400, "malformed".to_owned()),
            "{bad}"
        );
    }
    let nobody = host.request().request_id;
    assert_eq!(problem(host.poll(nobody, "?wait=0").await).await.0, 404);
    assert_eq!(
        problem(world.host().await.poll(id, "?wait=0").await)
            .await
            .0,
        404,
        "another host's"
    );
}

#[tokio::test]
async fn the_host_accepts_what_the_gateway_signs() {
    use syshold_protocol::{Assurance, Outstanding, Ruling, accept};
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    for (scope, lifespan) in [
        ("once", Lifespan::Single),
        ("process", Lifespan::Process),
        ("10m", Lifespan::Until),
        ("3m", Lifespan::Until),
    ] {
        let mut request = host.request();
        request.waiting = 3;
        assert_eq!(host.put(&request).await.status(), StatusCode::CREATED);
        assert_eq!(
            bob.approve(request.request_id, scope).await.status(),
            StatusCode::OK,
            "{scope}"
        );
        let envelope = host
            .poll(request.request_id, "")
            .await
            .bytes()
            .await
            .unwrap();
        let outstanding = Outstanding {
            request_sha256: dsse::seal(&request, &host.key).unwrap().payload_sha256,
            allowed_scopes: request.allowed_scopes.clone(),
            max_ttl_s: request.max_ttl_s,
            quorum: 1,
            owner: request.agent.owner.clone(),
            launched_by: request.agent.launched_by.clone(),
            assurance: Assurance::Token,
            passkeys: Vec::new(),
            request,
        };
        let accepted = accept(&envelope, &outstanding, &host.gateway, now(), &|_| false).unwrap();
        let Ruling::Allow(allowance) = accepted.ruling else {
            panic!("{scope}: {:?}", accepted.ruling)
        };
        assert_eq!(allowance.lifespan, lifespan);
        assert_eq!(
            allowance.max_uses,
            (scope == "once").then_some(3),
            "an approval covers the count shown"
        );
    }
}

#[tokio::test]
async fn withdrawing() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let id = host.ask().await.request_id;
    let (decision, gone) = tokio::join!(host.decision(id, "?wait=25"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        host.withdraw(id).await
    });
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        (decision.verdict, decision.grant),
        (DecisionVerdict::Withdrawn, None)
    );
    assert_eq!(
        host.withdraw(id).await.status(),
        StatusCode::NO_CONTENT,
        "twice is once"
    );
    assert_eq!(
        problem(bob.approve(id, "once").await).await,
        (409, "decided".to_owned())
    );

    let approved = host.ask().await.request_id;
    bob.approve(approved, "once").await;
    assert_eq!(
        problem(host.withdraw(approved).await).await,
        (409, "decided".to_owned())
    );
    assert_eq!(
        problem(host.withdraw(host.request().request_id).await)
            .await
            .0,
        404
    );
    assert_eq!(
        problem(
            world
                .host()
                .await
                .withdraw(host.ask().await.request_id)
                .await
        )
        .await
        .0,
        404,
        "another host's"
    );
}

#[tokio::test]
async fn outcomes() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let id = host.ask().await.request_id;
    bob.approve(id, "once").await;
    let decision = host.decision(id, "").await;
    let mut outcome = host.outcome(id);
    outcome.decision_id = Some(decision.decision_id);
    assert_eq!(
        host.post_outcome(&outcome).await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        host.post_outcome(&outcome).await.status(),
        StatusCode::NO_CONTENT,
        "the same bytes again"
    );
    assert_eq!(bob.show(id).await["outcome"]["result"], "resumed");
    for held_ms in 0..7 {
        outcome.held_ms = held_ms;
        assert_eq!(
            host.post_outcome(&outcome).await.status(),
            StatusCode::NO_CONTENT
        );
    }
    outcome.result = OutcomeResult::ProcessGone;
    assert_eq!(
        problem(host.post_outcome(&outcome).await).await,
        (409, "conflict".to_owned())
    );
    assert_eq!(
        problem(
            host.post_outcome(&host.outcome(host.request().request_id))
                .await
        )
        .await
        .0,
        404
    );
    assert_eq!(
        problem(world.host().await.post_outcome(&host.outcome(id)).await).await,
        (401, "bad-signature".to_owned())
    );
}

#[tokio::test]
async fn a_hold_expires_and_a_late_approval_is_for_one_retry() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &[]));
    let mut request = host.request();
    request.hold_until = now().plus(1200);
    host.put(&request).await;
    let id = request.request_id;
    let before = bob.show(id).await;
    let started = Instant::now();
    let expired = host.decision(id, "?wait=25").await;
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(
        (expired.verdict, expired.grant, expired.approvers.len()),
        (DecisionVerdict::Expired, None, 0)
    );

    let after = format!("?wait=1&after={}", expired.decision_id);
    let state: RequestState = host.poll(id, &after).await.json().await.unwrap();
    assert_eq!(state.state, RequestPhase::Late);
    assert_eq!(state.expires_at.since(request.hold_until), 30 * 60_000);
    let stale = json!({"scope": "once", "rendered_sha256": before["rendered_sha256"]});
    assert_eq!(
        problem(bob.post(id, "approve", &stale).await).await,
        (412, "stale".to_owned()),
        "it means something else now"
    );
    assert_eq!(bob.show(id).await["scopes"], json!([Scope::Once]));
    assert_eq!(
        problem(bob.approve(id, "10m").await).await,
        (422, "scope".to_owned())
    );
    let long = format!("?wait=25&after={}", expired.decision_id);
    let (late, answer) = tokio::join!(host.decision(id, &long), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bob.approve(id, "once").await
    });
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(late.verdict, DecisionVerdict::Approve);
    assert_eq!(late.grant.unwrap().lifespan, Lifespan::Single);
}

#[tokio::test]
async fn other_paths_and_methods_are_problems() {
    let world = World::start().await;
    let host = world.host().await;
    let id = host.ask().await.request_id;
    assert_eq!(
        world
            .http
            .get(world.host_url("/v1/health"))
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NO_CONTENT
    );
    for path in [
        "/",
        "/v1",
        "/v1/approvals",
        "/v1/requests",
        "/v1/requests/x/decision",
        "/v2/enrol",
    ] {
        let answer = host.signed(Method::GET, path).send().await.unwrap();
        assert_eq!(problem(answer).await.0, 404, "{path}");
    }
    for spelling in [
        id.to_string().to_uppercase(),
        id.0.simple().to_string(),
        format!("{{{id}}}"),
    ] {
        let path = format!("/v1/requests/{spelling}/decision?wait=0");
        assert_eq!(
            problem(host.signed(Method::GET, &path).send().await.unwrap())
                .await
                .0,
            404,
            "{spelling}"
        );
    }
    for (method, path) in [
        (Method::GET, "/v1/enrol"),
        (Method::POST, "/v1/requests/x"),
        (Method::DELETE, "/v1/requests/x/decision"),
    ] {
        assert_eq!(
            problem(host.signed(method, path).send().await.unwrap())
                .await
                .0,
            405,
            "{path}"
        );
    }
}
