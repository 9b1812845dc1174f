//! The witness: what grew is cosigned, what shrank or forked is not, and is on record.
use std::path::PathBuf;
use std::process::Command;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use syshold_approver::keys::Keys;
use syshold_ledger::note::{Note, VerifierKey};
use syshold_ledger::witness::{Submission, accept};
use syshold_ledger::{Draft, Kind, Ledger, Published, Reader};
use syshold_protocol::{LogClaim, LogState, Nonce, dsse};
use tempfile::TempDir;
use uuid::Uuid;

use crate::world::{Host, World, now, problem};

/// A host's ledger.
struct Own {
    _dir: TempDir,
    path: PathBuf,
    ledger: Ledger,
}

impl Own {
    async fn new(leaves: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let ledger = Ledger::open(&path, "web-1".parse().unwrap()).unwrap();
        let own = Self {
            _dir: dir,
            path,
            ledger,
        };
        own.grow(leaves).await;
        own
    }

    async fn grow(&self, leaves: u32) {
        for _ in 0..leaves {
            self.ledger.append(Draft::new(Kind::Review)).await.unwrap();
        }
    }

    fn latest(&self) -> Published {
        self.ledger.published().borrow().clone().unwrap()
    }

    fn submission(&self, old: u64) -> Submission {
        let reader = Reader::open(&self.path).unwrap();
        reader.submission(old, &self.latest()).unwrap()
    }

    fn claim(&self, host: &Host) -> LogClaim {
        LogClaim {
            v: 1,
            host_id: host.id.clone(),
            nonce: Nonce(*Uuid::new_v4().as_bytes()),
            at: now(),
            key: self.ledger.identity().to_string(),
            checkpoint: self.latest().note.to_string(),
        }
    }
}

impl Host {
    async fn put_claim(&self, claim: &LogClaim) -> Response {
        let bytes = dsse::seal(claim, &self.key).unwrap().envelope;
        let url = format!("{}/v1/log", self.url);
        self.http.put(url).body(bytes).send().await.unwrap()
    }

    /// What the gateway has seen, its signature checked.
    async fn claimed(&self, own: &Own) -> Option<String> {
        let claim = own.claim(self);
        let answer = self.put_claim(&claim).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let bytes = answer.bytes().await.unwrap();
        let state = dsse::open::<LogState>(&bytes, &self.gateway).unwrap().value;
        assert_eq!((state.nonce, &state.host_id), (claim.nonce, &self.id));
        state.seen
    }

    async fn submit(&self, submission: impl ToString) -> Response {
        let url = format!("{}/add-checkpoint", self.url);
        let body = submission.to_string();
        self.http.post(url).body(body).send().await.unwrap()
    }

    /// The cosigned checkpoint.
    async fn cosigned(&self, own: &Own, old: u64, witness: &VerifierKey) -> Note {
        let answer = self.submit(own.submission(old)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let line = answer.text().await.unwrap();
        accept(&own.latest().note, &line, witness).unwrap()
    }
}

fn witness(world: &World) -> VerifierKey {
    Keys::open(world.dir.path()).unwrap().witness.verifier()
}

/// What the gateway's own ledger says of hosts' ledgers.
fn on_record(world: &World, kind: &str) -> Vec<Value> {
    let reader = Reader::open(&world.dir.path().join("ledger.db")).unwrap();
    let leaves = reader.tail(1000).unwrap();
    let leaves = leaves.iter().map(syshold_ledger::Leaf::value);
    leaves
        .filter(|leaf| leaf["kind"] == kind && leaf["log"].is_object())
        .map(|leaf| leaf["log"].clone())
        .collect()
}

fn command(world: &World, words: &[&str]) -> (bool, String) {
    let dir = world.dir.path().display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
        .args(["--dir", &dir])
        .args(words)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn what_only_grew_is_cosigned_and_remembered() {
    let world = World::start().await;
    let (host, key) = (world.host().await, witness(&world));
    let own = Own::new(5).await;
    assert_eq!(
        problem(host.submit(own.submission(0)).await).await,
        (404, "unknown-log".to_owned()),
        "nobody claimed it"
    );
    assert_eq!(host.claimed(&own).await, None);
    let first = host.cosigned(&own, 0, &key).await;
    // The answer to that may be lost: it is asked for again.
    host.cosigned(&own, 6, &key).await;
    own.grow(9).await;
    let late = host.submit(own.submission(0)).await;
    assert_eq!(late.status(), StatusCode::CONFLICT);
    assert_eq!(late.headers()["content-type"], "text/x.tlog.size");
    assert_eq!(late.text().await.unwrap(), "6\n");
    let second = host.cosigned(&own, 6, &key).await;
    assert_ne!(first.text, second.text);
    assert_eq!(
        host.claimed(&own).await.unwrap().lines().nth(1),
        Some("15"),
        "the last one"
    );
    // By another process, after a restart.
    let (id, gateway, secret) = (host.id.clone(), host.gateway.clone(), host.key.clone());
    let world = World::start_in(world.stop().await, |_| {}).await;
    assert_eq!(witness(&world), key);
    let host = Host {
        id,
        gateway,
        key: secret,
        url: world.host_url(""),
        http: world.http.clone(),
    };
    assert_eq!(host.claimed(&own).await.unwrap().lines().nth(1), Some("15"));
    let id = host.id.to_string();
    let (_, printed) = command(&world, &["hosts", "checkpoint", &id]);
    let note: Note = printed.parse().unwrap();
    assert_eq!(note.text, second.text);
    assert!(note.signatures.iter().any(|line| line.claims(&key)));
    assert_eq!(command(&world, &["witness-key"]).1.trim(), key.to_string());
    assert_eq!(on_record(&world, "anchor").len(), 1);
    assert!(on_record(&world, "degraded").is_empty());
}

#[tokio::test]
async fn what_shrank_or_forked_is_refused_and_on_record() {
    let world = World::start().await;
    let (host, key) = (world.host().await, witness(&world));
    let own = Own::new(20).await;
    let early = own.claim(&host);
    host.claimed(&own).await;
    own.grow(10).await;
    host.cosigned(&own, 0, &key).await;
    own.grow(10).await;

    let good = own.submission(31);
    let mut bent = good.clone();
    bent.proof[0].0[0] ^= 1;
    let refused = problem(host.submit(&bent).await).await;
    assert_eq!(refused, (422, "inconsistent".to_owned()));
    let alarms = on_record(&world, "degraded");
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!(alarms[0]["alarm"].as_str().unwrap().starts_with("E_FORK"));
    host.submit(&bent).await;
    assert_eq!(on_record(&world, "degraded").len(), 1, "once is enough");
    assert!(command(&world, &["hosts", "list"]).1.contains("E_FORK"));

    // An older copy of the ledger comes back: its own claim gives it away.
    let answer = host.put_claim(&early).await;
    assert_eq!(answer.status(), StatusCode::OK, "the host finds out itself");
    let alarms = on_record(&world, "degraded");
    assert_eq!(alarms[1]["alarm"], "E_ROLLBACK: 21 leaves of 31");
    assert_eq!(alarms[1]["host_id"], host.id.as_str());
    // All is well again.
    host.cosigned(&own, 31, &key).await;
    assert!(!command(&world, &["hosts", "list"]).1.contains("E_"));

    for (submission, status) in [
        (String::new(), 400),
        ("old 31\n\nnot a note".to_owned(), 400),
        (good.to_string().replacen("old 31", "old 310", 1), 400),
        // Another line under the same text.
        (good.to_string().replace("— web-1", "— web-2"), 403),
        (good.to_string().replacen("\n\nweb-1", "\n\nweb-2", 1), 404),
    ] {
        let answer = host.submit(&submission).await;
        assert_eq!(answer.status(), status, "{submission}");
    }
    let long = "x".repeat(70_000);
    assert_eq!(
        host.submit(&long).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    // What a host that is not believed any more shows is nobody's.
    let id = host.id.to_string();
    assert!(command(&world, &["hosts", "disable", &id]).0);
    own.grow(1).await;
    let refused = problem(host.submit(own.submission(41)).await).await;
    assert_eq!(refused, (404, "unknown-log".to_owned()));
}

#[tokio::test]
async fn a_host_has_one_ledger_until_somebody_allows_another() {
    let world = World::start().await;
    let (host, key) = (world.host().await, witness(&world));
    let (own, other) = (Own::new(5).await, Own::new(1).await);
    host.claimed(&own).await;
    host.cosigned(&own, 0, &key).await;
    for _ in 0..2 {
        let answer = host.put_claim(&other.claim(&host)).await;
        assert_eq!(problem(answer).await, (409, "other-log".to_owned()));
    }
    let alarms = on_record(&world, "degraded");
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let id = host.id.to_string();
    assert!(command(&world, &["hosts", "new-ledger", &id]).0);
    assert!(!command(&world, &["hosts", "new-ledger", &id]).0, "once");
    assert_eq!(host.claimed(&other).await, None);
    host.cosigned(&other, 0, &key).await;
    // What was seen of the old one is kept, though it is no host's now.
    let answer = host.put_claim(&own.claim(&host)).await;
    assert_eq!(problem(answer).await, (409, "other-log".to_owned()));
    assert!(command(&world, &["hosts", "new-ledger", &id]).0);
    assert!(host.claimed(&own).await.unwrap().contains("\n6\n"));

    // A host that enrolled again brings its ledger along, with what was seen of it.
    let again = world.host().await;
    assert!(again.claimed(&own).await.unwrap().contains("\n6\n"));
    own.grow(3).await;
    again.cosigned(&own, 6, &key).await;
}

#[tokio::test]
async fn a_claim_is_the_hosts_own_and_of_now() {
    let world = World::start().await;
    let (host, other) = (world.host().await, world.host().await);
    let (own, theirs) = (Own::new(2).await, Own::new(2).await);
    let good = own.claim(&host);
    let mut unsigned = good.clone();
    unsigned.checkpoint = theirs.latest().note.to_string();
    let mut old = good.clone();
    old.at = syshold_protocol::UnixMs::new(now().ms() - 200_000);
    let mut of_other = good.clone();
    of_other.host_id = other.id.clone();
    let mut keyless = good.clone();
    keyless.key = witness(&world).to_string();
    for (claim, status) in [
        (&unsigned, 422),
        (&keyless, 422),
        (&old, 401),
        (&of_other, 401),
    ] {
        assert_eq!(host.put_claim(claim).await.status(), status, "{claim:?}");
    }
    let bare = host
        .http
        .put(format!("{}/v1/log", host.url))
        .json(&json!(good))
        .send()
        .await
        .unwrap();
    assert_eq!(bare.status(), StatusCode::BAD_REQUEST);
    assert!(on_record(&world, "anchor").is_empty());
    assert_eq!(host.put_claim(&good).await.status(), StatusCode::OK);
}

/// Of many continuations at once of the same tree, one is cosigned.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_at_once_is_cosigned() {
    let world = World::start().await;
    let (host, key) = (world.host().await, witness(&world));
    let own = Own::new(3).await;
    host.claimed(&own).await;
    host.cosigned(&own, 0, &key).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        own.grow(1).await;
        all.push(own.submission(4).to_string());
    }
    let mut answers = tokio::task::JoinSet::new();
    for body in all {
        let (http, url) = (host.http.clone(), format!("{}/add-checkpoint", host.url));
        answers.spawn(async move { http.post(url).body(body).send().await.unwrap().status() });
    }
    let answers = answers.join_all().await;
    let won = answers.iter().filter(|status| **status == StatusCode::OK);
    assert_eq!(won.count(), 1, "{answers:?}");
}
