//! The real gateway, the real command line, and the client between them.
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use syshold_agent::approver::{Approver, Event, Gateway};
use syshold_approver::config::Config;
use syshold_approver::keys::Keys;
use syshold_approver::serve;
use syshold_approver::store::Store;
use syshold_approver::store::people::Account;
use syshold_approver::token::{PERSONAL, Secret};
use syshold_protocol::{EnrolToken, Outcome, OutcomeResult, Request, RequestId, Ruling};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::{judge, next, now, request};

/// A gateway with one person, and a host that enrolled with the command line.
pub(super) struct World {
    dir: TempDir,
    people: String,
    _stop: oneshot::Sender<()>,
}

impl World {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::parse(Path::new("test.toml"), "").unwrap();
        config.dir = dir.path().join("gateway");
        config.host_listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.people_listen = (Ipv4Addr::LOCALHOST, 0).into();
        let gateway = serve::Gateway::start(&config).await.unwrap();
        let (hosts, people) = (gateway.hosts, gateway.people);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(gateway.until(async { drop(stopped.await) }));
        let store = Store::open(&config.dir).unwrap();
        let token = Secret::generate(PERSONAL);
        let bob = Account {
            name: "bob".to_owned(),
            email: "bob@example.com".parse().unwrap(),
            groups: Vec::new(),
            made_at: now(),
            disabled_at: None,
        };
        store.add_account(&bob, token.digest()).unwrap();
        write(&dir.path().join("token"), token.reveal());
        let enrol = EnrolToken::generate(Keys::open(&config.dir).unwrap().ca_sha256());
        store.add_enrol_token(&enrol, now(), 60_000).unwrap();
        write(&dir.path().join("enrol"), &enrol.reveal());
        let world = Self {
            people: format!("https://localhost:{}", people.port()),
            dir,
            _stop: stop,
        };
        let url = format!("https://localhost:{}", hosts.port());
        let enrolled = world
            .syshold(&[
                "enrol",
                "--gateway",
                &url,
                "--token-file",
                world.path("enrol").to_str().unwrap(),
                "--state",
                world.path("host").to_str().unwrap(),
            ])
            .await;
        assert!(enrolled.status.success(), "{enrolled:?}");
        world
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The command line, as bob, with a proxy in the environment that must not be used.
    pub(super) async fn syshold(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syshold"));
        command
            .args(args)
            .arg("--socket")
            .arg(self.path("no.sock"))
            .env("SYSHOLD_GATEWAY", &self.people)
            .env("SYSHOLD_TOKEN_FILE", self.path("token"))
            .env("SYSHOLD_CA_FILE", self.path("gateway/ca.pem"))
            .env("HOME", self.dir.path())
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    pub(super) async fn json(&self, args: &[&str]) -> Value {
        let output = self.syshold(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(super) fn client(&self) -> (Approver, mpsc::Receiver<Event>) {
        let (gateway, key) = Gateway::load(&self.path("host")).unwrap();
        let (to, events) = mpsc::channel(64);
        (Approver::start(gateway, key, to).unwrap(), events)
    }
}

fn write(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn resumed(request: &Request) -> Outcome {
    Outcome {
        v: 1,
        request_id: request.request_id,
        host_id: request.host_id.clone(),
        decision_id: None,
        result: OutcomeResult::Resumed,
        errno: None,
        held_ms: 7,
        at: now(),
        detail: None,
    }
}

async fn until(world: &World, id: RequestId, pointer: &str, expected: &str) {
    for _ in 0..100 {
        let shown = world
            .json(&["approvals", "show", &id.to_string(), "--json"])
            .await;
        if shown.pointer(pointer).and_then(Value::as_str) == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{pointer} did not become {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_approved_and_told_how_it_ended() {
    let world = World::start().await;
    let (mut approver, mut events) = world.client();
    let request = request(&approver.gateway().host_id.clone(), Duration::from_secs(60));
    let id = request.request_id;
    let sha256 = approver.ask(&request).unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::Waiting {
            id,
            have: 0,
            need: 1
        }
    );

    let list = world.json(&["approvals", "list", "--json"]).await;
    assert_eq!(list[0]["id"], id.to_string());
    let code = list[0]["code"].as_str().unwrap();
    let shown = world.syshold(&["approvals", "show", code]).await;
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("192.0.2.7:443") && text.contains("support-bot"),
        "{text}"
    );
    let approved = world
        .syshold(&["approvals", "approve", code, "--for", "10m"])
        .await;
    assert!(approved.status.success(), "{approved:?}");
    // What was approved was shown first.
    let text = String::from_utf8(approved.stdout).unwrap();
    assert!(
        text.find("192.0.2.7:443").unwrap() < text.find("Approved (10m).").unwrap(),
        "{text}"
    );

    let Event::Answer {
        id: answered,
        envelope,
    } = next(&mut events).await
    else {
        panic!("no answer")
    };
    assert_eq!(answered, id);
    let accepted = judge(&envelope, &request, sha256, approver.gateway()).unwrap();
    let Ruling::Allow(allowance) = accepted.ruling else {
        panic!("{:?}", accepted.ruling)
    };
    assert!(allowance.ttl_ms <= 600_000);
    approver.done(id);
    approver.outcome(resumed(&request));
    until(&world, id, "/outcome/result", "resumed").await;
    assert!(approver.health().trouble.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_with_a_reason() {
    let world = World::start().await;
    let (mut approver, mut events) = world.client();
    let request = request(&approver.gateway().host_id.clone(), Duration::from_secs(60));
    let id = request.request_id;
    let sha256 = approver.ask(&request).unwrap();
    assert!(matches!(next(&mut events).await, Event::Waiting { .. }));
    let answered = world
        .json(&[
            "approvals",
            "deny",
            &id.to_string(),
            "--reason",
            "not this one",
            "--json",
        ])
        .await;
    assert_eq!(answered["decided"], true);
    let Event::Answer { envelope, .. } = next(&mut events).await else {
        panic!("no answer")
    };
    let accepted = judge(&envelope, &request, sha256, approver.gateway()).unwrap();
    assert!(matches!(accepted.ruling, Ruling::Deny(_)));
    // Decided is decided.
    let again = world
        .syshold(&["approvals", "approve", &id.to_string()])
        .await;
    assert_eq!(again.status.code(), Some(77), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_when_the_process_is_gone() {
    let world = World::start().await;
    let (mut approver, mut events) = world.client();
    let request = request(&approver.gateway().host_id.clone(), Duration::from_secs(60));
    approver.ask(&request).unwrap();
    assert!(matches!(next(&mut events).await, Event::Waiting { .. }));
    approver.withdraw(request.request_id);
    until(&world, request.request_id, "/state", "withdrawn").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_restarts_asks_the_same_question() {
    let world = World::start().await;
    let (mut approver, mut events) = world.client();
    let request = request(&approver.gateway().host_id.clone(), Duration::from_secs(60));
    let id = request.request_id;
    let first = approver.ask(&request).unwrap();
    assert!(matches!(next(&mut events).await, Event::Waiting { .. }));
    drop(approver);
    let (mut approver, mut events) = world.client();
    assert_eq!(approver.ask(&request).unwrap(), first);
    assert!(matches!(next(&mut events).await, Event::Waiting { .. }));
    let approved = world
        .syshold(&["approvals", "approve", &id.to_string()])
        .await;
    assert!(approved.status.success(), "{approved:?}");
    let Event::Answer { envelope, .. } = next(&mut events).await else {
        panic!("no answer")
    };
    judge(&envelope, &request, first, approver.gateway()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_host() {
    let world = World::start().await;
    let (gateway, _) = Gateway::load(&world.path("host")).unwrap();
    let args = |state: &str| {
        [
            "enrol".to_owned(),
            "--gateway".to_owned(),
            gateway.url.to_string(),
            "--token-file".to_owned(),
            world.path("enrol").to_str().unwrap().to_owned(),
            "--state".to_owned(),
            world.path(state).to_str().unwrap().to_owned(),
        ]
    };
    let enrol = async |state| {
        let args = args(state);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        world.syshold(&args).await
    };
    let there = enrol("host").await;
    assert_eq!(there.status.code(), Some(78), "{there:?}");
    let spent = enrol("other").await;
    assert_eq!(spent.status.code(), Some(1), "{spent:?}");
    assert!(!Gateway::enrolled(&world.path("other")));
    let secret = std::fs::read_to_string(world.path("enrol")).unwrap();
    let said = [there.stderr, spent.stderr].concat();
    assert!(!String::from_utf8(said).unwrap().contains(&secret[8..40]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::start().await;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(world.path("token"), open).unwrap();
    let refused = world.syshold(&["approvals", "list"]).await;
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("chmod 600")
    );
}
