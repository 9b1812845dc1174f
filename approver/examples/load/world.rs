//! The gateway's program in a process of its own, and those who speak with it: hosts, a person.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use syshold_approver::keys::Keys;
use syshold_approver::store::Store;
use syshold_approver::store::people::Account;
use syshold_approver::token::{PERSONAL, Secret};
use syshold_protocol::dsse::{self, Call};
use syshold_protocol::{
    Decision, EnrolRequest, EnrolResponse, EnrolToken, HostId, Nonce, Outcome, OutcomeResult,
    PinnedKeys, Request, RequestId, SigningKey, UnixMs,
};
use uuid::Uuid;

use crate::Error;

/// How many polls were told to come again.
pub(crate) static REFUSED: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn now() -> UnixMs {
    SystemTime::now().into()
}

/// A client with a connection of its own, as each host has.
fn client(ca: &[u8]) -> Result<Client, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let mut tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    // One connection for all of a host's calls, as hosts do it.
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let client = Client::builder().use_preconfigured_tls(tls).no_proxy();
    Ok(client.timeout(Duration::from_secs(120)).build()?)
}

pub(crate) struct Host {
    id: HostId,
    key: SigningKey,
    gateway: PinnedKeys,
    url: String,
    http: Client,
}

impl Host {
    pub(crate) async fn ask(&self, index: usize) -> Result<RequestId, Error> {
        let mut request: Request =
            serde_json::from_str(include_str!("../../tests/gateway/request.json"))?;
        request.request_id = RequestId(Uuid::now_v7());
        request.nonce = Nonce(*Uuid::new_v4().as_bytes());
        request.host_id = self.id.clone();
        request.agent.name = format!("agent-{}", index % 7);
        request.coalesce_key = format!("load|{index}");
        request.created_at = now();
        request.hold_until = now().plus(60 * 60 * 1000);
        let id = request.request_id;
        let body = dsse::seal(&request, &self.key)?.envelope;
        let call = self.http.put(format!("{}/v1/requests/{id}", self.url));
        expect(call.body(body).send().await?, StatusCode::CREATED).await?;
        Ok(id)
    }

    /// Polls until there is a decision, and checks its signature.
    pub(crate) async fn decided(&self, id: RequestId) -> Result<Decision, Error> {
        loop {
            let path = format!("/v1/requests/{id}/decision?wait=25");
            let answer = self.signed(Method::GET, path).await?;
            match answer.status() {
                StatusCode::ACCEPTED => {}
                StatusCode::SERVICE_UNAVAILABLE => {
                    REFUSED.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                StatusCode::OK => {
                    let bytes = answer.bytes().await?;
                    return Ok(dsse::open::<Decision>(&bytes, &self.gateway)?.value);
                }
                status => return Err(format!("{status}: {}", answer.text().await?).into()),
            }
        }
    }

    pub(crate) async fn withdraw(&self, id: RequestId) -> Result<(), Error> {
        let path = format!("/v1/requests/{id}");
        let answer = self.signed(Method::DELETE, path).await?;
        expect(answer, StatusCode::NO_CONTENT).await
    }

    async fn signed(&self, method: Method, path: String) -> Result<reqwest::Response, Error> {
        let url = format!("{}{path}", self.url);
        let call = Call {
            v: 1,
            host_id: self.id.clone(),
            method: method.to_string(),
            path,
            at: now(),
        };
        let auth = BASE64.encode(dsse::seal(&call, &self.key)?.envelope);
        let call = self.http.request(method, url);
        Ok(call.header("Syshold-Auth", auth).send().await?)
    }

    pub(crate) async fn report(&self, id: RequestId, decision: &Decision) -> Result<(), Error> {
        let outcome = Outcome {
            v: 1,
            request_id: id,
            host_id: self.id.clone(),
            decision_id: Some(decision.decision_id),
            result: if decision.verdict.approves() {
                OutcomeResult::Resumed
            } else {
                OutcomeResult::Denied
            },
            errno: None,
            held_ms: 1200,
            at: now(),
            detail: None,
        };
        let body = dsse::seal(&outcome, &self.key)?.envelope;
        let call = self
            .http
            .post(format!("{}/v1/requests/{id}/outcome", self.url));
        expect(call.body(body).send().await?, StatusCode::NO_CONTENT).await
    }
}

pub(crate) struct Person {
    token: String,
    url: String,
    http: Client,
}

impl Person {
    /// The digest of what is shown.
    pub(crate) async fn show(&self, id: RequestId) -> Result<Value, Error> {
        let call = self.http.get(format!("{}/v1/approvals/{id}", self.url));
        let shown: Value = call.bearer_auth(&self.token).send().await?.json().await?;
        Ok(shown["rendered_sha256"].clone())
    }

    pub(crate) async fn approve(&self, id: RequestId, shown: &Value) -> Result<(), Error> {
        let body = json!({"scope": "once", "rendered_sha256": shown});
        self.answer(id, "approve", &body).await
    }

    pub(crate) async fn deny(&self, id: RequestId) -> Result<(), Error> {
        self.answer(id, "deny", &json!({"reason": "not now"})).await
    }

    async fn answer(&self, id: RequestId, verb: &str, body: &Value) -> Result<(), Error> {
        let call = self
            .http
            .post(format!("{}/v1/approvals/{id}/{verb}", self.url));
        let answer = call.bearer_auth(&self.token).json(body).send().await?;
        expect(answer, StatusCode::OK).await
    }
}

async fn expect(answer: reqwest::Response, status: StatusCode) -> Result<(), Error> {
    if answer.status() == status {
        return Ok(());
    }
    Err(format!("{}: {}", answer.status(), answer.text().await?).into())
}

/// The real program; killed and removed at the end.
pub(crate) struct Gateway {
    dir: tempfile::TempDir,
    child: Child,
    hosts: SocketAddr,
    people: SocketAddr,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Gateway {
    pub(crate) async fn start(program: &Path) -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let (hosts, people) = (free()?, free()?);
        let config = dir.path().join("approver.toml");
        std::fs::write(
            &config,
            format!(
                "dir = {:?}\nhost_listen = \"{hosts}\"\npeople_listen = \"{people}\"\nmax_pending_per_agent = 100\n",
                dir.path().join("state")
            ),
        )?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()?;
        let gateway = Self {
            dir,
            child,
            hosts,
            people,
        };
        for _ in 0..200 {
            if std::net::TcpStream::connect(people).is_ok() {
                return Ok(gateway);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(std::fs::read_to_string(gateway.dir.path().join("log"))?.into())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn person(&self) -> Result<Arc<Person>, Error> {
        let token = Secret::generate(PERSONAL);
        let account = Account {
            name: "bob".to_owned(),
            email: "bob@example.com".parse()?,
            groups: vec![],
            made_at: now(),
            disabled_at: None,
        };
        Store::open(&self.state())?.add_account(&account, token.digest())?;
        Ok(Arc::new(Person {
            token: token.reveal().to_owned(),
            url: format!("https://{}", self.people),
            http: client(&std::fs::read(self.state().join("ca.pem"))?)?,
        }))
    }

    pub(crate) async fn enrol(&self, count: usize) -> Result<Vec<Arc<Host>>, Error> {
        let ca = std::fs::read(self.state().join("ca.pem"))?;
        let (store, keys) = (Store::open(&self.state())?, Keys::open(&self.state())?);
        let mut hosts = Vec::new();
        for index in 0..count {
            let token = EnrolToken::generate(keys.ca_sha256());
            store.add_enrol_token(&token, now(), 60_000)?;
            let (key, http) = (SigningKey::generate(), client(&ca)?);
            let asked = EnrolRequest {
                token,
                public_key: key.public(),
                host_name: format!("web-{index}"),
            };
            let url = format!("https://{}", self.hosts);
            let answer = http
                .post(format!("{url}/v1/enrol"))
                .json(&asked)
                .send()
                .await?;
            let enrolled: EnrolResponse = answer.error_for_status()?.json().await?;
            hosts.push(Arc::new(Host {
                id: enrolled.host_id,
                key,
                gateway: PinnedKeys::new(enrolled.gateway_keys),
                url,
                http,
            }));
        }
        Ok(hosts)
    }

    /// MiB resident now.
    pub(crate) fn memory(&self) -> Result<f64, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or("no VmRSS")?
            .parse()?;
        Ok(kib / 1024.0)
    }

    /// Seconds used so far.
    pub(crate) fn cpu(&self) -> Result<f64, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit_once(')').ok_or("no name")?.1;
        let fields: Vec<f64> = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(fields.iter().sum::<f64>() / 100.0)
    }

    /// MiB of what is kept.
    pub(crate) fn disk(&self) -> Result<f64, Error> {
        let mut bytes = 0;
        for name in ["state.db", "ledger.db"] {
            bytes += std::fs::metadata(self.state().join(name))?.len();
        }
        Ok(bytes as f64 / 1024.0 / 1024.0)
    }
}
