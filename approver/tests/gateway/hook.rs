//! The real program, and an HTTPS server that plays what it notifies.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use syshold_approver::keys::Keys;
use syshold_approver::store::Store;
use syshold_approver::store::people::Account;
use syshold_approver::token::{PERSONAL, Secret};
use syshold_protocol::{EnrolRequest, EnrolResponse, EnrolToken, PinnedKeys, SigningKey};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::world::{Host, Person, client, now};

/// What arrived, and what is answered next.
#[derive(Clone, Default)]
pub(crate) struct Webhook {
    pub(crate) got: Arc<Mutex<Vec<(Instant, Value)>>>,
    /// Of each call: what was sent, to the byte.
    pub(crate) raw: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    pub(crate) answers: Arc<Mutex<Vec<Response>>>,
}

impl Webhook {
    pub(crate) async fn start(&self, dir: &Path) -> SocketAddr {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(dir.join("slack-ca.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("slack-key.pem"), key.serialize_pem()).unwrap();
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

    pub(crate) async fn wait_for(&self, count: usize) -> Vec<(Instant, Value)> {
        for _ in 0..200 {
            if self.got.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.got.lock().unwrap().clone()
    }
}

async fn catch(State(hook): State<Webhook>, headers: HeaderMap, body: String) -> Response {
    hook.raw.lock().unwrap().push((headers, body.clone()));
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
pub(crate) struct Program {
    pub(crate) dir: TempDir,
    pub(crate) child: Child,
    pub(crate) host: Host,
    people: SocketAddr,
}

impl Program {
    /// With a channel that `table` describes, `URL` in it being the hook's.
    pub(crate) async fn start(hook: &Webhook, table: &str) -> Self {
        Self::start_with(hook, table, |_| {}).await
    }

    /// The same, after `prepare` had the folder.
    pub(crate) async fn start_with(
        hook: &Webhook,
        table: &str,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let slack = hook.start(dir.path()).await;
        Self::start_in(dir, slack, table).await
    }

    /// The same, with another certificate that it trusts.
    pub(crate) async fn start_trusting(hook: &Webhook, table: &str, ca: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slack = hook.start(dir.path()).await;
        let roots = dir.path().join("slack-ca.pem");
        let mut all = std::fs::read(&roots).unwrap();
        all.extend_from_slice(ca);
        std::fs::write(roots, all).unwrap();
        Self::start_in(dir, slack, table).await
    }

    async fn start_in(dir: TempDir, slack: SocketAddr, table: &str) -> Self {
        let [hosts, people] = [0, 0].map(|_| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .unwrap()
                .local_addr()
                .unwrap()
        });
        let path = |name: &str| dir.path().join(name).display().to_string();
        let url = format!("https://localhost:{}/services/T0/B0/secret", slack.port());
        std::fs::write(path("url"), format!("{url}\n")).unwrap();
        let config = format!(
            "dir = \"{}\"\nhost_listen = \"{hosts}\"\npeople_listen = \"{people}\"\ninbox_url = \"https://gw.example.com\"\nmax_pending_per_agent = 100\nmax_prompts_per_agent = 100\n[channel.ops]\n{}\n",
            path("state"),
            table
                .replace("URL_FILE", &path("url"))
                .replace("URL", &url)
                .replace("DIR", &dir.path().display().to_string()),
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
        Self {
            dir,
            child,
            host,
            people,
        }
    }

    /// Somebody with a token.
    pub(crate) async fn person(&self, name: &str) -> Person {
        let state = self.dir.path().join("state");
        let token = Secret::generate(PERSONAL);
        let account = Account {
            name: name.to_owned(),
            email: format!("{name}@example.com").parse().unwrap(),
            groups: vec![],
            made_at: now(),
            disabled_at: None,
        };
        let store = Store::open(&state).unwrap();
        store.add_account(&account, token.digest()).unwrap();
        Person {
            token: token.reveal().to_owned(),
            url: format!("https://{}", self.people),
            http: client(&std::fs::read(state.join("ca.pem")).unwrap()),
        }
    }

    pub(crate) fn log(&self) -> String {
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
