//! The inbox in a real browser: Chromium, driven by Playwright, with Chromium's own virtual
//! authenticator. The gateway runs here; `*.py` is the person, and asks over a pipe for what a person
//! cannot do: file a request as a host, or look at a decision as its host does.
//!
//! What a machine lacks is listed as not run; in CI that is an error.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

/// A ledger with something of everything, as the ledger's own tests make it.
#[path = "../../../ledger/tests/common/story.rs"]
mod story;
#[expect(dead_code, reason = "shared with the other tests")]
#[path = "../gateway/world.rs"]
mod world;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};
use syshold_ledger::leaf::Policy;
use syshold_ledger::{Draft, Exit, Kind, Reader, query::Query, report, verify};
use syshold_protocol::{
    ActionKind, Assurance, Digest, Outstanding, Pin, RequestId, Risk, Subject, accept, dsse,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use world::{Host, Person, World, now};

/// Pinned: another version may find other things.
const PACKAGES: [&str; 2] = ["playwright==1.65.2", "axe-playwright-python==0.1.8"];

/// The policy that the story's leaves name.
const POLICY: &str = "abababababababababababababababababababababababababababababababab";

fn policy() -> Draft {
    Draft::new(Kind::Policy).policy(&Policy {
        sha256: POLICY.into(),
        ..Policy::default()
    })
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let python = match python() {
        Ok(python) => python,
        Err(what) => {
            assert!(std::env::var_os("CI").is_none(), "{what}");
            println!("test browser ... ignored, {what}");
            println!(
                "\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"
            );
            return ExitCode::SUCCESS;
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (passed, failed) = runtime.block_on(run(&python, &wanted));
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Python with a driver for the machine's own Chromium, kept between runs.
fn python() -> Result<PathBuf, String> {
    let found = Command::new("chromium").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        return Err("needs chromium; `cargo xtask setup` installs it".to_owned());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let (python, ready) = (venv.join("bin/python3"), venv.join("ready"));
    if std::fs::read_to_string(&ready).is_ok_and(|made| made == PACKAGES.join(" ")) {
        return Ok(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output();
        done.is_ok_and(|done| done.status.success())
            .then_some(())
            .ok_or_else(|| format!("{arguments:?}: needs python3 with venv, and PyPI"))
    };
    let at = venv.display().to_string();
    run(Path::new("python3"), &["-m", "venv", "--clear", &at])?;
    run(
        &python,
        &[&["-m", "pip", "install", "--quiet"], &PACKAGES[..]].concat(),
    )?;
    std::fs::write(ready, PACKAGES.join(" ")).map_err(|error| error.to_string())?;
    Ok(python)
}

/// The gateway, its host, and what its policy would pin.
struct Stage {
    world: World,
    host: Host,
    people: Vec<Person>,
}

async fn run(python: &Path, wanted: &[String]) -> (u32, u32) {
    // Passkeys belong to a name and the page's address holds the port, so it has to be known before.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("https://localhost:{port}");
    let world = World::start_with(|config| {
        config.people_listen = (Ipv4Addr::LOCALHOST, port).into();
        config.inbox_url = Some(url.clone());
        config.limits.pending_per_host = 100;
        config.limits.pending_per_agent = 100;
        // Denying much in a row is the test, not fatigue.
        config.limits.auto_deny_after = 0;
    })
    .await;
    let host = world.host().await;
    let mut stage = Stage {
        world,
        host,
        people: vec![],
    };
    let mut child = tokio::process::Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/run.py"))
        .arg(&url)
        .arg(stage.world.dir.path().join("ca.pem"))
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots"))
        .args(wanted)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut passed, mut failed) = (0, 0);
    while let Some(line) = lines.next_line().await.unwrap() {
        let Ok(call) = serde_json::from_str::<Value>(&line) else {
            println!("{line}");
            continue;
        };
        match call["do"].as_str() {
            Some("passed") => {
                println!("test {} ... ok", text(&call, "name"));
                passed += 1;
            }
            Some("failed") => {
                println!(
                    "test {} ... FAILED\n{}",
                    text(&call, "name"),
                    text(&call, "why")
                );
                failed += 1;
            }
            _ => {
                let answer = stage.serve(&call).await.to_string() + "\n";
                answers.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
    let ended = child.wait().await.unwrap();
    if !ended.success() {
        println!("run.py ended with {ended}");
        failed += 1;
    }
    (passed, failed)
}

fn text<'a>(call: &'a Value, key: &str) -> &'a str {
    call[key].as_str().unwrap_or_default()
}

impl Stage {
    async fn serve(&mut self, call: &Value) -> Value {
        let id = || text(call, "id").parse::<RequestId>().unwrap();
        match text(call, "do") {
            "person" => {
                let groups: Vec<&str> = call["groups"]
                    .as_array()
                    .map(|groups| groups.iter().filter_map(Value::as_str).collect())
                    .unwrap_or_default();
                let person = self.world.person(text(call, "name"), &groups);
                let token = person.token.clone();
                self.people.push(person);
                json!({ "token": token })
            }
            "invite" => {
                let link = syshold_approver::token::Secret::generate("sypass_");
                let store = self.world.store();
                let known = store.add_link(text(call, "name"), link.digest(), now());
                assert!(known.unwrap());
                json!({ "path": format!("/welcome#{}", link.reveal()) })
            }
            "pins" => {
                let all = self.world.store().passkeys().unwrap();
                json!(all)
            }
            "spki" => {
                let pin: Pin = text(call, "pin").parse().unwrap();
                json!(pin.to_spki())
            }
            "ask" => json!({ "id": self.ask(call).await }),
            "withdraw" => {
                self.host.withdraw(id()).await;
                json!({})
            }
            "outcome" => {
                let outcome = self.host.outcome(id());
                self.host.post_outcome(&outcome).await;
                json!({})
            }
            "decision" => self.decision(id(), call).await,
            "report" => {
                let dir = self.world.dir.path().join("reports");
                let made = tokio::task::spawn_blocking(move || reports(&dir));
                made.await.unwrap()
            }
            other => panic!("{other}?"),
        }
    }

    async fn ask(&self, call: &Value) -> RequestId {
        let mut request = self.host.request();
        if call["passkey"] == true {
            request.assurance = Some(Assurance::Passkey);
        }
        if let Some(quorum) = call["quorum"].as_u64() {
            request.quorum = u32::try_from(quorum).unwrap();
        }
        // Longer than a browser takes on a busy machine.
        let hold = call["hold_ms"].as_u64().unwrap_or(15 * 60_000);
        request.hold_until = now().plus(hold);
        if let Some(path) = call["path"].as_str() {
            request.action.kind = ActionKind::Read;
            request.action.object = serde_json::from_value(
                json!({"requested": path, "resolved": path, "dev": "1", "inode": "2"}),
            )
            .unwrap();
            request.data.classes = vec!["customer-pii".to_owned()];
            request.risk = Risk::High;
        }
        if let Some(agent) = call["agent"].as_str() {
            agent.clone_into(&mut request.agent.name);
        }
        if let Some(group) = call["approvers"].as_str() {
            request.policy.approvers = Some(group.to_owned());
        }
        if let Some(waiting) = call["waiting"].as_u64() {
            request.waiting = u32::try_from(waiting).unwrap();
        }
        if let Some(reason) = call["reason"].as_str() {
            request.agent_reason = Some(reason.to_owned());
        }
        assert_eq!(self.host.put(&request).await.status(), 201);
        request.request_id
    }

    /// The decision as the host sees it: every check of its own, with the keys its policy pins (those
    /// registered, unless the call names others).
    async fn decision(&self, id: RequestId, call: &Value) -> Value {
        let answer = self.host.poll(id, "?wait=0").await;
        if answer.status() != 200 {
            return json!({ "open": true });
        }
        let envelope = answer.bytes().await.unwrap();
        let sheet: Value = self.people[0].show(id).await;
        let made = dsse::open::<syshold_protocol::Decision>(&envelope, &self.host.gateway);
        let made = made.unwrap().value;
        let mut request = self.host.request();
        request.request_id = id;
        request.nonce = made.nonce;
        request.created_at = serde_json::from_value(sheet["created_at"].clone()).unwrap();
        let object = made.grant.as_ref().map(|grant| grant.objects[0].clone());
        if let Some(object) = object {
            request.action.object = object;
        }
        let pins: Vec<(Subject, Pin)> = match call["pins"].as_array() {
            Some(pins) => serde_json::from_value(json!(pins)).unwrap(),
            None => self
                .world
                .store()
                .passkeys()
                .unwrap()
                .into_iter()
                .map(|key| {
                    (
                        format!("{}@example.com", key.account).parse().unwrap(),
                        key.pin,
                    )
                })
                .collect(),
        };
        let outstanding = Outstanding {
            request_sha256: call["request_sha256"]
                .as_str()
                .map_or(made.request_sha256, |other| {
                    other.parse::<Digest>().unwrap()
                }),
            allowed_scopes: request.allowed_scopes.clone(),
            max_ttl_s: request.max_ttl_s,
            quorum: 1,
            owner: request.agent.owner.clone(),
            launched_by: request.agent.launched_by.clone(),
            assurance: Assurance::Passkey,
            passkeys: pins,
            request,
        };
        let judged = accept(&envelope, &outstanding, &self.host.gateway, now(), &|_| {
            false
        });
        json!({
            "verdict": made.verdict,
            "decision": made,
            "refusal": judged.err().map(|refusal| refusal.to_string()),
        })
    }
}

/// The report of a ledger that proves itself, and of one that somebody changed.
fn reports(dir: &Path) -> Value {
    std::fs::create_dir(dir).unwrap();
    let db = dir.join("ledger.db");
    story::story(&db);
    let page = |name: &str, expected: Exit| {
        let (reader, proof) = (Reader::open(&db).unwrap(), verify(&db, |_, _| {}).unwrap());
        assert_eq!(proof.exit(), expected, "{:?}", proof.first_bad);
        let now = jiff::Timestamp::now();
        let text = report::html(&reader, &Query::default(), &proof, now).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let clean = page("clean.html", Exit::Clean);
    let forger = rusqlite::Connection::open(&db).unwrap();
    let forged = "UPDATE leaf SET body = replace(body, 'dave', 'dora') WHERE idx = 4";
    forger.execute(forged, []).unwrap();
    let changed = page("changed.html", Exit::Tampered);
    json!({"clean": clean, "changed": changed})
}
