//! A gateway on loopback, hosts that sign, people with tokens.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use syshold_approver::config::Config;
use syshold_approver::keys::Keys;
use syshold_approver::serve::Gateway;
use syshold_approver::store::Store;
use syshold_approver::store::people::Account;
use syshold_approver::token::{PERSONAL, Secret};
use syshold_protocol::dsse::{self, Call};
use syshold_protocol::{
    Decision, EnrolRequest, EnrolResponse, EnrolToken, HostId, Nonce, Outcome, OutcomeResult,
    PinnedKeys, Request, RequestId, SigningKey, UnixMs,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) hosts: SocketAddr,
    pub(crate) people: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) http: Client,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

pub(crate) fn now() -> UnixMs {
    SystemTime::now().into()
}

pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::parse(Path::new("test.toml"), "").unwrap();
    config.dir = dir.to_owned();
    config.host_listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.people_listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.limits.pending_per_host = 5;
    config
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        let gateway = Gateway::start(&config).await.unwrap();
        let (hosts, people, metrics) = (gateway.hosts, gateway.people, gateway.metrics);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            gateway.until(async { drop(stopped.await) }).await.unwrap();
        });
        let http = client(&std::fs::read(dir.path().join("ca.pem")).unwrap());
        Self {
            dir,
            hosts,
            people,
            metrics,
            http,
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Stops the gateway and gives its folder back.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.running.take().unwrap())
            .await
            .expect("stops in time")
            .unwrap();
        self.dir
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.dir.path()).unwrap()
    }

    pub(crate) fn host_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.hosts)
    }

    pub(crate) fn people_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.people)
    }

    pub(crate) fn enrol_token(&self) -> EnrolToken {
        let token = EnrolToken::generate(Keys::open(self.dir.path()).unwrap().ca_sha256());
        self.store().add_enrol_token(&token, now(), 60_000).unwrap();
        token
    }

    pub(crate) async fn host(&self) -> Host {
        let key = SigningKey::generate();
        let asked = EnrolRequest {
            token: self.enrol_token(),
            public_key: key.public(),
            host_name: "web-1".to_owned(),
        };
        let answer = self
            .http
            .post(self.host_url("/v1/enrol"))
            .json(&asked)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let enrolled: EnrolResponse = answer.json().await.unwrap();
        Host {
            id: enrolled.host_id,
            key,
            gateway: PinnedKeys::new(enrolled.gateway_keys),
            url: self.host_url(""),
            http: client(enrolled.ca_pem.as_bytes()),
        }
    }

    pub(crate) fn person(&self, name: &str, groups: &[&str]) -> Person {
        let token = Secret::generate(PERSONAL);
        let account = Account {
            name: name.to_owned(),
            email: format!("{name}@example.com").parse().unwrap(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            made_at: now(),
            disabled_at: None,
        };
        self.store().add_account(&account, token.digest()).unwrap();
        Person {
            token: token.reveal().to_owned(),
            url: self.people_url(""),
            http: self.http.clone(),
        }
    }
}

/// Trusts that CA and no other.
pub(crate) fn client(ca_pem: &[u8]) -> Client {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem).unwrap())
        .unwrap();
    client_with(roots)
}

/// Trusts nobody: for calls in the clear on this machine.
pub(crate) fn clear_client() -> Client {
    client_with(RootCertStore::empty())
}

fn client_with(roots: RootCertStore) -> Client {
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) key: SigningKey,
    pub(crate) gateway: PinnedKeys,
    pub(crate) url: String,
    pub(crate) http: Client,
}

impl Host {
    /// A request of this host that holds for a minute.
    pub(crate) fn request(&self) -> Request {
        let mut request: Request = serde_json::from_str(include_str!("request.json")).unwrap();
        request.request_id = RequestId(Uuid::now_v7());
        request.nonce = Nonce(*Uuid::new_v4().as_bytes());
        request.host_id = self.id.clone();
        request.created_at = now();
        request.hold_until = now().plus(60_000);
        request
    }

    pub(crate) fn seal(&self, request: &Request) -> Vec<u8> {
        dsse::seal(request, &self.key).unwrap().envelope
    }

    pub(crate) async fn put_bytes(&self, id: RequestId, bytes: impl Into<Vec<u8>>) -> Response {
        self.http
            .put(format!("{}/v1/requests/{id}", self.url))
            .body(bytes.into())
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn put(&self, request: &Request) -> Response {
        self.put_bytes(request.request_id, self.seal(request)).await
    }

    /// Files a fresh request.
    pub(crate) async fn ask(&self) -> Request {
        let request = self.request();
        assert_eq!(self.put(&request).await.status(), StatusCode::CREATED);
        request
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        Call {
            v: 1,
            host_id: self.id.clone(),
            method: method.to_owned(),
            path: path.to_owned(),
            at: now(),
        }
    }

    pub(crate) fn header(&self, call: &Call) -> String {
        BASE64.encode(dsse::seal(call, &self.key).unwrap().envelope)
    }

    pub(crate) fn signed(&self, method: Method, path: &str) -> RequestBuilder {
        let header = self.header(&self.call(method.as_str(), path));
        self.http
            .request(method, format!("{}{path}", self.url))
            .header("Syshold-Auth", header)
    }

    pub(crate) async fn poll(&self, id: RequestId, query: &str) -> Response {
        self.signed(Method::GET, &format!("/v1/requests/{id}/decision{query}"))
            .send()
            .await
            .unwrap()
    }

    /// The decision, its signature checked.
    pub(crate) async fn decision(&self, id: RequestId, query: &str) -> Decision {
        let answer = self.poll(id, query).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let bytes = answer.bytes().await.unwrap();
        dsse::open::<Decision>(&bytes, &self.gateway).unwrap().value
    }

    pub(crate) async fn withdraw(&self, id: RequestId) -> Response {
        self.signed(Method::DELETE, &format!("/v1/requests/{id}"))
            .send()
            .await
            .unwrap()
    }

    pub(crate) fn outcome(&self, id: RequestId) -> Outcome {
        Outcome {
            v: 1,
            request_id: id,
            host_id: self.id.clone(),
            decision_id: None,
            result: OutcomeResult::Resumed,
            errno: None,
            held_ms: 1200,
            at: now(),
            detail: None,
        }
    }

    pub(crate) async fn post_outcome(&self, outcome: &Outcome) -> Response {
        let bytes = dsse::seal(outcome, &self.key).unwrap().envelope;
        let url = format!("{}/v1/requests/{}/outcome", self.url, outcome.request_id);
        self.http.post(url).body(bytes).send().await.unwrap()
    }
}

pub(crate) struct Person {
    pub(crate) token: String,
    pub(crate) url: String,
    pub(crate) http: Client,
}

impl Person {
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn show(&self, id: RequestId) -> Value {
        let answer = self.get(&format!("/v1/approvals/{id}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, id: RequestId, verb: &str, body: &Value) -> Response {
        let url = format!("{}/v1/approvals/{id}/{verb}", self.url);
        self.http
            .post(url)
            .bearer_auth(&self.token)
            .json(body)
            .send()
            .await
            .unwrap()
    }

    /// Approves what is shown now.
    pub(crate) async fn approve(&self, id: RequestId, scope: &str) -> Response {
        let shown = self.show(id).await;
        self.post(
            id,
            "approve",
            &json!({"scope": scope, "rendered_sha256": shown["rendered_sha256"]}),
        )
        .await
    }

    pub(crate) async fn deny(&self, id: RequestId) -> Response {
        self.post(id, "deny", &json!({"reason": "not this one"}))
            .await
    }
}

/// The status and the word of a problem.
pub(crate) async fn problem(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(
        answer.headers()["content-type"],
        "application/problem+json",
        "{status}"
    );
    let problem: syshold_protocol::Problem = answer.json().await.unwrap();
    assert_eq!(problem.status, status);
    (status, problem.word().unwrap_or_default().to_owned())
}
