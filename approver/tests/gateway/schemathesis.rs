//! PyPI `schemathesis` reads both OpenAPI documents as they are served, makes calls up from them, good and
//! bad, and holds every answer against them.
use serde_json::Value;
use syshold_approver::openapi::{HOSTS, PEOPLE};

use crate::python;
use crate::world::World;

/// Leaves nothing in the folder it is started in.
const RUN: &str = r#"
import os, sys, tempfile
from schemathesis.cli import schemathesis
with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    try:
        schemathesis(sys.argv[1:])
    except SystemExit as end:
        print("exit", end.code)
    os.chdir("/")
"#;

/// Holds the listener at `base` against the document that it serves: all of `document`. How
/// many calls there are is bounded, not their time: what a busy machine has no time for would not be held.
async fn hold(world: &World, base: String, document: &str, more: &[&str]) {
    let ca = world.dir.path().join("ca.pem").display().to_string();
    let place = format!("{base}/v1/openapi.json");
    let mut words = vec!["run", &place, "--url", &base, "--tls-verify", &ca];
    words.extend(["--max-examples", "4", "--request-timeout", "30"]);
    words.extend(["--phases", "examples,coverage,fuzzing", "--seed", "7"]);
    words.extend(["--continue-on-failure", "--no-color", "--checks", "all"]);
    words.extend(more);
    let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    let said = tokio::task::spawn_blocking(move || {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        python::tell(RUN, &words, "")
    });
    let said = said.await.unwrap();
    assert!(said.ends_with("exit 0\n"), "{said}");
    let count = operation_count(document);
    assert!(said.contains(&format!("Tested: {count}\n")), "{said}");
}

/// All but where the document itself is: that it does not try.
fn operation_count(document: &str) -> usize {
    let document: Value = serde_json::from_str(document).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|path| path.as_object().unwrap().len()).sum();
    operations - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_answered_as_the_document_says() {
    let world = World::start().await;
    let (host, bob) = (world.host().await, world.person("bob", &["privacy"]));
    // Decided: an answer made up for one that waits is right and refused, because the digest is not.
    let id = host.ask().await.request_id;
    assert_eq!(bob.deny(id).await.status(), 200);
    let token = format!("Authorization: Bearer {}", bob.token);
    hold(&world, world.people_url(""), PEOPLE, &["-H", &token]).await;
}

/// A document cannot say what is signed how: what fits it is refused all the same, and that is right.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_answered_as_the_document_says() {
    let world = World::start().await;
    let but = ["--exclude-checks", "positive_data_acceptance"];
    hold(&world, world.host_url(""), HOSTS, &but).await;
}
