//! The OpenAPI documents: valid to others, complete, and true of real answers.
use std::collections::BTreeSet;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use syshold_approver::openapi::{HOSTS, PEOPLE};

use crate::python;
use crate::world::World;

#[test]
fn an_independent_validator_finds_them_valid() {
    const VALIDATE: &str = r#"
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator
OpenAPIV31SpecValidator(json.load(sys.stdin)).validate()
print("valid")
"#;
    for document in [PEOPLE, HOSTS] {
        assert_eq!(python::tell(VALIDATE, &[], document), "valid\n");
    }
}

/// `(method, path)` of every route that a source file names.
fn routes(source: &str) -> BTreeSet<(String, String)> {
    let code = source.split("pub fn routes").nth(1).unwrap();
    let code: String = code[..code.find("\n}").unwrap()]
        .split_whitespace()
        .collect();
    let mut found = BTreeSet::new();
    for route in code.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once("\",").unwrap();
        for method in ["get", "put", "post", "delete"] {
            if rest.starts_with(&format!("{method}(")) || rest.contains(&format!(").{method}(")) {
                found.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
    found
}

fn operations(document: &str) -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, verbs)| {
        let verbs = verbs.as_object().unwrap().keys();
        verbs.map(move |verb| (verb.clone(), path.clone()))
    });
    each.filter(|(_, path)| path != "/v1/openapi.json")
        .collect()
}

#[test]
fn every_route_is_in_them_and_nothing_else() {
    assert_eq!(
        routes(include_str!("../../src/people_api.rs")),
        operations(PEOPLE)
    );
    assert_eq!(
        routes(include_str!("../../src/host_api.rs")),
        operations(HOSTS)
    );
}

/// Answers with what they answered: `[document, path, method, status, content type, body]`.
#[derive(Default)]
struct Seen(Vec<Value>);

impl Seen {
    async fn add(&mut self, document: &str, method: &str, path: &str, answer: Response) -> Value {
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type");
        let kind = kind.map(|kind| kind.to_str().unwrap().to_owned());
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        self.0
            .push(json!([document, path, method, status, kind, body]));
        body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_answers_are_as_they_say() {
    let world = World::start().await;
    let host = world.host().await;
    let (bob, alice) = (
        world.person("bob", &["privacy"]),
        world.person("alice", &[]),
    );
    let mut seen = Seen::default();
    let one = "/v1/approvals/{id}";
    let of_host = "/v1/requests/{id}";
    let waits = "/v1/requests/{id}/decision";

    let request = host.request();
    let id = request.request_id;
    seen.add("hosts", "put", of_host, host.put(&request).await)
        .await;
    seen.add("hosts", "put", of_host, host.put(&request).await)
        .await;
    seen.add("hosts", "put", of_host, host.put_bytes(id, "{}").await)
        .await;
    seen.add("hosts", "get", waits, host.poll(id, "?wait=0").await)
        .await;
    seen.add("hosts", "get", waits, host.poll(id, "?wait=x").await)
        .await;
    let unsigned = host
        .http
        .get(format!("{}/v1/requests/{id}/decision", host.url));
    seen.add("hosts", "get", waits, unsigned.send().await.unwrap())
        .await;
    let health = host.http.get(format!("{}/v1/health", host.url));
    seen.add("hosts", "get", "/v1/health", health.send().await.unwrap())
        .await;
    let enrol = host.http.post(format!("{}/v1/enrol", host.url));
    seen.add(
        "hosts",
        "post",
        "/v1/enrol",
        enrol.body("{}").send().await.unwrap(),
    )
    .await;

    seen.add("people", "get", "/v1/me", bob.get("/v1/me").await)
        .await;
    let nobody = world.http.get(world.people_url("/v1/me"));
    seen.add("people", "get", "/v1/me", nobody.send().await.unwrap())
        .await;
    for query in ["", "?state=all", "?state=waiting", "?state=never"] {
        let answer = bob.get(&format!("/v1/approvals{query}")).await;
        seen.add("people", "get", "/v1/approvals", answer).await;
    }
    let shown = seen
        .add(
            "people",
            "get",
            one,
            bob.get(&format!("/v1/approvals/{id}")).await,
        )
        .await;
    seen.add("people", "get", one, bob.get("/v1/approvals/x").await)
        .await;
    let approve = format!("{one}/approve");
    let digest = &shown["rendered_sha256"];
    for (who, body) in [
        (&alice, json!({"scope": "once", "rendered_sha256": digest})),
        (&bob, json!({"scope": "1440m", "rendered_sha256": digest})),
        (
            &bob,
            json!({"scope": "once", "rendered_sha256": "0".repeat(64)}),
        ),
        (
            &bob,
            json!({"scope": "10m", "rendered_sha256": digest, "reason": "nightly"}),
        ),
        (&bob, json!({"scope": "once", "rendered_sha256": digest})),
    ] {
        let answer = who.post(id, "approve", &body).await;
        seen.add("people", "post", &approve, answer).await;
    }
    seen.add("hosts", "get", waits, host.poll(id, "?wait=0").await)
        .await;
    let outcome = format!("{of_host}/outcome");
    seen.add(
        "hosts",
        "post",
        &outcome,
        host.post_outcome(&host.outcome(id)).await,
    )
    .await;
    seen.add(
        "people",
        "get",
        one,
        bob.get(&format!("/v1/approvals/{id}")).await,
    )
    .await;
    let revoke = format!("{one}/revoke");
    for (who, body) in [
        (&bob, json!({})),
        (&bob, json!({"reason": "the wrong bucket"})),
        (&bob, json!({"reason": "again"})),
    ] {
        let answer = who.post(id, "revoke", &body).await;
        seen.add("people", "post", &revoke, answer).await;
    }
    let answer = bob.get(&format!("/v1/approvals/{id}")).await;
    let shown = seen.add("people", "get", one, answer).await;
    assert_eq!(shown["revoked"]["reason"], "the wrong bucket");
    for query in ["?since=0&wait=0", "?since=x"] {
        let answer = host.poll_revocations(query).await;
        seen.add("hosts", "get", "/v1/revocations", answer).await;
    }
    let mut own = host.request();
    own.agent_reason = Some("I need it".to_owned());
    own.agent.owner = None;
    host.put(&own).await;
    let deny = format!("{one}/deny");
    for body in [json!({}), json!({"reason": "no"}), json!({"reason": "no"})] {
        seen.add(
            "people",
            "post",
            &deny,
            bob.post(own.request_id, "deny", &body).await,
        )
        .await;
    }
    seen.add(
        "people",
        "get",
        one,
        bob.get(&format!("/v1/approvals/{}", own.request_id)).await,
    )
    .await;
    let denied = bob
        .post(own.request_id, "revoke", &json!({"reason": "no"}))
        .await;
    seen.add("people", "post", &revoke, denied).await;
    let gone = host.ask().await.request_id;
    seen.add("hosts", "delete", of_host, host.withdraw(gone).await)
        .await;
    seen.add(
        "hosts",
        "delete",
        of_host,
        host.withdraw(own.request_id).await,
    )
    .await;

    const CHECK: &str = r##"
import json, sys
from jsonschema import Draft202012Validator as Validator
documents, seen = json.load(sys.stdin)
for name, path, method, status, kind, body in seen:
    document = documents[name]
    operation = document["paths"][path][method]
    where = f"{method} {path} {status}"
    assert str(status) in operation["responses"], f"approver/src/openapi/{name}.json does not have {where}: {body}"
    content = operation["responses"][str(status)].get("content")
    if content is None:
        assert body is None, where
        continue
    assert kind in content, f"{where}: {kind}"
    schema = {**content[kind]["schema"], "components": document["components"]}
    for error in Validator(schema).iter_errors(body):
        sys.exit(f"approver/src/openapi/{name}.json, {where}, {error.json_path}: {error.message}")
print("true", len(seen))
"##;
    let documents = json!({"people": serde_json::from_str::<Value>(PEOPLE).unwrap(), "hosts": serde_json::from_str::<Value>(HOSTS).unwrap()});
    let count = seen.0.len();
    let input = json!([documents, seen.0]).to_string();
    let said = tokio::task::spawn_blocking(move || python::tell(CHECK, &[], &input))
        .await
        .unwrap();
    assert_eq!(said, format!("true {count}\n"));
}

#[tokio::test]
async fn both_listeners_serve_theirs() {
    let world = World::start().await;
    for (url, document) in [
        (world.people_url("/v1/openapi.json"), PEOPLE),
        (world.host_url("/v1/openapi.json"), HOSTS),
    ] {
        let answer = world.http.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.text().await.unwrap(), document);
    }
}
