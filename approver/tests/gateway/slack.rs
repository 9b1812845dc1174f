//! Notifications of the real program, caught by an HTTPS server that plays the webhook, and checked
//! by Slack's own library.
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use syshold_approver::keys::Keys;
use syshold_approver::store::Store;
use syshold_protocol::{EnrolRequest, EnrolResponse, EnrolToken, PinnedKeys, SigningKey};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::world::{Host, client, now};

/// What arrived, and what is answered next.
#[derive(Clone, Default)]
struct Webhook {
    got: Arc<Mutex<Vec<(Instant, Value)>>>,
    answers: Arc<Mutex<Vec<Response>>>,
}

impl Webhook {
    async fn start(&self, dir: &Path) -> SocketAddr {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(dir.join("slack-ca.pem"), certificate.pem()).unwrap();
        let tls =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
                )
                .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .route("/services/T0/B0/secret", axum::routing::post(catch))
            .with_state(self.clone());
        let server =
            axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))
                .unwrap();
        tokio::spawn(server.serve(app.into_make_service()));
        address
    }

    async fn wait_for(&self, count: usize) -> Vec<(Instant, Value)> {
        for _ in 0..200 {
            if self.got.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.got.lock().unwrap().clone()
    }
}

async fn catch(State(hook): State<Webhook>, body: String) -> Response {
    hook.got
        .lock()
        .unwrap()
        .push((Instant::now(), serde_json::from_str(&body).unwrap()));
    hook.answers
        .lock()
        .unwrap()
        .pop()
        .unwrap_or_else(|| "ok".into_response())
}

/// The program itself, with a host enrolled.
struct Program {
    dir: TempDir,
    child: Child,
    host: Host,
}

impl Program {
    async fn start(hook: &Webhook) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slack = hook.start(dir.path()).await;
        let [hosts, people] = [0, 0].map(|_| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .unwrap()
                .local_addr()
                .unwrap()
        });
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(
            path("url"),
            format!("https://localhost:{}/services/T0/B0/secret\n", slack.port()),
        )
        .unwrap();
        let config = format!(
            "dir = \"{}\"\nhost_listen = \"{hosts}\"\npeople_listen = \"{people}\"\ninbox_url = \"https://gw.example.com\"\nslack_webhook_url_file = \"{}\"\n",
            path("state"),
            path("url")
        );
        std::fs::write(path("approver.toml"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
            .args(["serve", "--config", &path("approver.toml")])
            .env("SSL_CERT_FILE", path("slack-ca.pem"))
            .env("SYSHOLD_LOG", "trace")
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for _ in 0..100 {
            if std::net::TcpStream::connect(people).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let host = enrol(&dir.path().join("state"), hosts).await;
        Self { dir, child, host }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

async fn enrol(state: &Path, hosts: SocketAddr) -> Host {
    let token = EnrolToken::generate(Keys::open(state).unwrap().ca_sha256());
    Store::open(state)
        .unwrap()
        .add_enrol_token(&token, now(), 60_000)
        .unwrap();
    let key = SigningKey::generate();
    let http = client(&std::fs::read(state.join("ca.pem")).unwrap());
    let asked = EnrolRequest {
        token,
        public_key: key.public(),
        host_name: "web-1".to_owned(),
    };
    let url = format!("https://{hosts}");
    let answer = http
        .post(format!("{url}/v1/enrol"))
        .json(&asked)
        .send()
        .await
        .unwrap();
    let enrolled: EnrolResponse = answer.json().await.unwrap();
    Host {
        id: enrolled.host_id,
        key,
        gateway: PinnedKeys::new(enrolled.gateway_keys),
        url,
        http,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_has_the_facts_and_a_link_and_no_button() {
    let hook = Webhook::default();
    let mut program = Program::start(&hook).await;
    let plain = program.host.ask().await;
    let mut nasty = program.host.request();
    nasty.agent.name = "<!channel> *x* \u{202e}".repeat(40);
    nasty.agent.owner = None;
    nasty.policy.title = "<https://evil.example|click>".repeat(100);
    nasty.policy.why.clear();
    nasty.action.object.requested = "a".repeat(30_000);
    nasty.data.classes = vec!["c".repeat(300); 20];
    nasty.waiting = 7;
    assert_eq!(program.host.put(&nasty).await.status(), StatusCode::CREATED);
    let got = hook.wait_for(2).await;
    assert_eq!(got.len(), 2);

    let (first, second) = (got[0].1.to_string(), got[1].1.to_string());
    for fact in [
        "example.com (192.0.2.7:443)",
        "support-bot",
        "web-1",
        "pii",
        "alice@example.com",
        "medium",
    ] {
        assert!(first.contains(fact), "{fact} is missing in {first}");
    }
    assert!(first.contains(&format!(
        "<https://gw.example.com/approvals/{}|",
        plain.request_id
    )));
    assert!(second.contains("7 identical holds") && second.contains("some values are cut"));
    for message in got.iter().map(|(_, message)| message) {
        let text = message.to_string();
        assert!(
            !text.contains("\"button\"")
                && !text.contains("\"actions\"")
                && !text.contains('\u{202e}')
        );
        assert!(text.chars().count() <= 8000, "{}", text.len());
        assert_eq!(
            (&message["unfurl_links"], &message["unfurl_media"]),
            (&false.into(), &false.into())
        );
    }
    let texts = markup(&got[1].1);
    assert!(
        texts
            .iter()
            .all(|text| !text.contains("evil.example") && !text.contains("<!channel")),
        "{texts:?}"
    );
    slack_sdk_accepts(
        &got.iter()
            .map(|(_, message)| message.clone())
            .collect::<Vec<_>>(),
    );

    program.child.kill().await.unwrap();
    assert!(
        !program.log().contains("T0/B0/secret"),
        "the URL is a secret"
    );
}

/// Every text that Slack would read as markup.
fn markup(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) if map.get("type") == Some(&"mrkdwn".into()) => {
            vec![map["text"].as_str().unwrap().to_owned()]
        }
        Value::Object(map) => {
            let fallback = map.get("text").filter(|_| map.contains_key("blocks"));
            let fallback = fallback.and_then(Value::as_str).map(str::to_owned);
            map.values().flat_map(markup).chain(fallback).collect()
        }
        Value::Array(list) => list.iter().flat_map(markup).collect(),
        _ => vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_floods() {
    let hook = Webhook::default();
    let wait = (
        StatusCode::TOO_MANY_REQUESTS,
        [("retry-after", "3")],
        "slow down",
    )
        .into_response();
    let broken = (StatusCode::BAD_GATEWAY, "oops").into_response();
    // Taken from the end.
    *hook.answers.lock().unwrap() = vec![broken, wait];
    let program = Program::start(&hook).await;
    program.host.ask().await;
    hook.wait_for(1).await;
    for _ in 0..30 {
        program.host.ask().await;
    }
    let got = hook.wait_for(4).await;
    let gaps: Vec<_> = got.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(
        gaps[0] >= Duration::from_secs(3),
        "Retry-After is obeyed: {gaps:?}"
    );
    assert!(
        gaps[1] >= Duration::from_secs(2),
        "then it backs off: {gaps:?}"
    );
    assert!(
        gaps[2] >= Duration::from_secs(1),
        "one message a second: {gaps:?}"
    );
    assert_eq!(got[0].1, got[2].1, "the same message again");
    assert_eq!(got[3].1["text"], "30 requests are waiting at once");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(hook.got.lock().unwrap().len(), 4, "a flood is one alert");
    assert!(
        !program.log().contains("T0/B0/secret"),
        "the URL is a secret, also in errors"
    );
}

/// Slack's own Block Kit classes read every block and run their validators.
fn slack_sdk_accepts(messages: &[Value]) {
    const CHECK: &str = r#"
import json, sys
from slack_sdk.models.blocks import Block, PlainTextObject
for message in json.load(sys.stdin):
    blocks = Block.parse_all(message["blocks"])
    assert len(blocks) == len(message["blocks"]) <= 50
    for block, raw in zip(blocks, message["blocks"]):
        assert type(block) is not Block, raw["type"]
        block.validate_json()
        assert block.to_dict()["type"] == raw["type"]
        for text in [raw.get("text")] + raw.get("fields", []):
            if text and text["type"] == "plain_text":
                PlainTextObject(**{k: text[k] for k in ("text", "emoji")}).validate_json()
                assert 1 <= len(text["text"]) <= (150 if raw["type"] == "header" else 2000 if text in raw.get("fields", []) else 3000)
print("accepted")
"#;
    let python = slack_sdk();
    let mut child = std::process::Command::new(python)
        .args(["-c", CHECK])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(serde_json::to_string(messages).unwrap().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "accepted\n");
}

/// A Python with slack_sdk, made once under `target/`.
fn slack_sdk() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slack-sdk");
    let python = venv.join("bin/python3");
    let run = |program: &Path, args: &[&str]| {
        let status = std::process::Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{} {args:?}: needs python3 with venv, and PyPI",
            program.display()
        );
    };
    if !venv.join("ready").exists() {
        run(
            Path::new("python3"),
            &["-m", "venv", "--clear", &venv.display().to_string()],
        );
        run(
            &python,
            &["-m", "pip", "install", "--quiet", "slack_sdk==3.41.0"],
        );
        std::fs::write(venv.join("ready"), "").unwrap();
    }
    python
}
