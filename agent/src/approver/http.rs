//! HTTPS to the gateway: one pinned CA, no redirects, no proxy of the environment's, answers of
//! bounded size, and one small set of causes for whatever goes wrong.
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, StatusCode, redirect};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use syshold_protocol::Problem;

use super::gateway::Gateway;

/// Longest answer read; a decision is at most 64 KiB.
const MAX_ANSWER: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

pub const JSON: &str = "application/json";
pub const DSSE: &str = "application/vnd.dsse.envelope.v1+json";

/// What stands between us and an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("the gateway cannot be reached: {0}")]
    Unreachable(String),
    #[error("the gateway's certificate is not accepted: {0}")]
    Tls(String),
    #[error("the gateway refuses with {status}{}", .text.as_deref().map(|t| format!(": {t}")).unwrap_or_default())]
    Refused { status: u16, text: Option<String> },
    #[error("the gateway's answer makes no sense: {0}")]
    Malformed(&'static str),
}

impl Cause {
    /// Whether telling people again would tell them nothing new.
    #[must_use]
    pub fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused { status: a, .. }, Self::Refused { status: b, .. }) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the gateway itself says so, not something on the way to it.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        serde_json::from_slice::<Problem>(&self.body).is_ok_and(|problem| problem.word().is_some())
    }

    /// As a refusal, in the gateway's own words if it has some.
    #[must_use]
    pub fn refused(&self) -> Cause {
        let text = serde_json::from_slice::<Problem>(&self.body)
            .ok()
            .map(|problem| match problem.detail {
                Some(detail) => format!("{} ({detail})", problem.title),
                None => problem.title,
            })
            .filter(|text| !text.is_empty())
            .map(|text| {
                syshold_protocol::display::escape(&text)
                    .chars()
                    .take(300)
                    .collect()
            });
        Cause::Refused {
            status: self.status.as_u16(),
            text,
        }
    }
}

/// A problem with what enrolment left behind.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("the gateway's CA certificate does not parse; get it from the gateway again")]
    Ca,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the HTTPS client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// A client that trusts the gateway's CA only.
pub fn pinned(gateway: &Gateway) -> Result<Client, SetUpError> {
    trusting(&gateway.ca_pem, gateway.proxy.as_deref())
}

/// A client that trusts these CAs only.
pub fn trusting(ca_pem: &str, proxy: Option<&str>) -> Result<Client, SetUpError> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let ca = ca.map_err(|_| SetUpError::Ca)?;
        roots.add(ca).map_err(|_| SetUpError::Ca)?;
    }
    if roots.is_empty() {
        return Err(SetUpError::Ca);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client(config, proxy)
}

/// A client whose trust is `verifier`'s to give.
pub fn verified_by(
    verifier: Arc<dyn ServerCertVerifier>,
    proxy: Option<&str>,
) -> Result<Client, SetUpError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    client(config, proxy)
}

fn client(mut config: ClientConfig, proxy: Option<&str>) -> Result<Client, SetUpError> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut builder = Client::builder()
        .use_preconfigured_tls(config)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(CONNECT)
        .tcp_keepalive(KEEP_ALIVE)
        .user_agent(concat!("syshold/", env!("CARGO_PKG_VERSION")));
    if let Some(proxy) = proxy {
        builder = builder.proxy(reqwest::Proxy::https(proxy)?);
    }
    Ok(builder.build()?)
}

/// One call. `limit` covers all of it, from the look-up of the name to the last byte.
pub async fn send(
    client: &Client,
    call: (Method, reqwest::Url),
    headers: &[(&'static str, String)],
    body: Option<(&'static str, Vec<u8>)>,
    limit: Duration,
) -> Result<Answer, Cause> {
    let mut request = client.request(call.0, call.1).timeout(limit);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if let Some((kind, bytes)) = body {
        request = request.header("Content-Type", kind).body(bytes);
    }
    let mut response = request.send().await.map_err(|e| cause(&e))?;
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| cause(&e))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Cause::Malformed("it is longer than 1 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}

/// The innermost error says what happened; the layers around it only say where.
fn cause(error: &reqwest::Error) -> Cause {
    if let Some(tls) = tls(error) {
        return Cause::Tls(tls.to_string());
    }
    if error.is_timeout() {
        return Cause::Unreachable("no answer in time".to_owned());
    }
    let mut deepest = error.source();
    while let Some(inner) = deepest.and_then(StdError::source) {
        deepest = Some(inner);
    }
    Cause::Unreachable(match deepest {
        Some(deepest) => deepest.to_string(),
        // Without its sources a reqwest error is only the address again.
        None => "the connection failed".to_owned(),
    })
}

fn tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An io::Error hides the error it wraps from `source`.
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => tls(wrapped),
        None => tls(error.source()?),
    }
}
