//! A server that speaks TLS properly and answers whatever a test tells it to.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::response::Response;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use syshold_agent::approver::Gateway;
use syshold_protocol::{Digest, SigningKey};

/// A CA of a test.
pub(crate) struct Ca {
    pub(crate) pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn sha256(&self) -> Digest {
        Digest::of(&self.der)
    }

    /// A server certificate for `name`, under this CA; the chain shows `shown`.
    pub(crate) fn tls(&self, name: &str, shown: &Self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), shown.der.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) version: Version,
    pub(crate) method: Method,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What to answer, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Say {
    status: u16,
    body: Vec<u8>,
    headers: Vec<(&'static str, String)>,
    after: Duration,
}

pub(crate) fn say(status: u16, body: impl Into<Vec<u8>>) -> Say {
    Say {
        status,
        body: body.into(),
        ..Say::default()
    }
}

impl Say {
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

/// Not decided; 24 s is a decent server's patience, cut short for the tests.
pub(crate) fn waiting() -> Say {
    let state = r#"{"state":"waiting","have":0,"need":1,"expires_at":1800000000000}"#;
    say(202, state).after(Duration::from_millis(300))
}

pub(crate) fn problem(status: u16, word: &str) -> Say {
    let body =
        format!(r#"{{"type":"urn:syshold:problem:{word}","title":"{word}","status":{status}}}"#);
    say(status, body).header("content-type", "application/problem+json")
}

/// `times`: how often the same method was called before.
type Script = dyn Fn(&Seen, usize) -> Say + Send + Sync;

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    /// Polls for what is taken back, beside all else.
    pub(crate) polls: Arc<Mutex<Vec<Seen>>>,
    handle: Handle<SocketAddr>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

struct Stage {
    seen: Arc<Mutex<Vec<Seen>>>,
    polls: Arc<Mutex<Vec<Seen>>>,
    script: Box<Script>,
    revocations: Box<Script>,
}

impl Scripted {
    /// A gateway that knows no revocations.
    pub(crate) fn start(
        tls: ServerConfig,
        script: impl Fn(&Seen, usize) -> Say + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(tls, script, |_, _| problem(404, "not-found"))
    }

    /// And one that says this to those who ask for them.
    pub(crate) fn start_with(
        tls: ServerConfig,
        script: impl Fn(&Seen, usize) -> Say + Send + Sync + 'static,
        revocations: impl Fn(&Seen, usize) -> Say + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let polls = Arc::new(Mutex::new(Vec::new()));
        let stage = Stage {
            seen: Arc::clone(&seen),
            polls: Arc::clone(&polls),
            script: Box::new(script),
            revocations: Box::new(revocations),
        };
        let routes = Router::new().fallback(answer).with_state(Arc::new(stage));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Handle::new();
        let server =
            axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))
                .unwrap()
                .handle(handle.clone())
                .serve(routes.into_make_service());
        tokio::spawn(server);
        Self {
            address,
            seen,
            polls,
            handle,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn seen(&self, method: &Method) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        // The probe at the start is not what the tests are about.
        seen.iter()
            .filter(|seen| seen.method == *method && seen.path != "/v1/health")
            .cloned()
            .collect()
    }

    /// An enrolment with this server, as if `syshold enrol` had made it.
    pub(crate) fn gateway(&self, ca: &Ca, key: &SigningKey, decides: &SigningKey) -> Gateway {
        Gateway {
            url: self.url().parse().unwrap(),
            host_id: "web-1".parse().unwrap(),
            ca_pem: ca.pem.clone(),
            gateway_keys: decides.public().into(),
            witness: String::new(),
            host_key: key.public(),
            proxy: None,
        }
    }
}

async fn answer(
    State(stage): State<Arc<Stage>>,
    version: Version,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let seen = Seen {
        version,
        method,
        path: uri.path_and_query().unwrap().to_string(),
        headers,
        body,
    };
    let news = seen.path.starts_with("/v1/revocations?");
    let times = {
        let mut all = if news { &stage.polls } else { &stage.seen }
            .lock()
            .unwrap();
        let times = all
            .iter()
            .filter(|old| old.method == seen.method && old.path != "/v1/health")
            .count();
        all.push(seen.clone());
        times
    };
    let say = match seen.path.as_str() {
        "/v1/health" => say(204, ""),
        _ if news => (stage.revocations)(&seen, times),
        _ => (stage.script)(&seen, times),
    };
    tokio::time::sleep(say.after).await;
    let mut response = Response::builder().status(StatusCode::from_u16(say.status).unwrap());
    for (name, value) in say.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(say.body)).unwrap()
}
