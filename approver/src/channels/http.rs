//! HTTPS to channels: one client, patience with bounds, secrets kept out of every message.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use zeroize::Zeroizing;

const CALL_TIME: Duration = Duration::from_secs(10);
const MAX_SECRET: u64 = 8 * 1024;
/// The longest that a channel may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
const RETRY_AFTER_UNSAID: Duration = Duration::from_secs(30);

/// Why a channel cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("channel {channel}: {}: {source}\n  fix: make the file, readable for the service alone", path.display())]
    Read {
        channel: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("channel {channel}: {}: {what}", path.display())]
    Secret {
        channel: String,
        path: PathBuf,
        what: &'static str,
    },
    #[error(
        "this machine has no certificate authorities to check channels against: install ca-certificates"
    )]
    NoRoots,
    #[error("{0} makes no address that people can be sent back to")]
    Url(&'static str),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("HTTPS client: {0}")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Why a channel did not take a message. For logs, metrics and the inbox: never a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undelivered(pub String);

/// The one line of a file that holds a secret.
pub(crate) fn secret(channel: &str, path: &Path) -> Result<Zeroizing<String>, ChannelError> {
    let read = || {
        use std::io::Read as _;
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path)?
            .take(MAX_SECRET)
            .read_to_string(&mut text)?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    };
    read().map_err(|source| ChannelError::Read {
        channel: channel.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// A secret that is an https:// URL, or http:// on this machine.
pub(super) fn secret_url(channel: &str, path: &Path) -> Result<Zeroizing<String>, ChannelError> {
    let url = secret(channel, path)?;
    let good = reqwest::Url::parse(&url)
        .is_ok_and(|parsed| parsed.scheme() == "https" && parsed.has_host());
    if good && !url.contains(char::is_whitespace) {
        return Ok(url);
    }
    Err(ChannelError::Secret {
        channel: channel.to_owned(),
        path: path.to_owned(),
        what: "its one line must be an https:// URL",
    })
}

/// A client that trusts the machine's authorities, uses its proxy settings, and follows nothing.
pub(crate) fn builder() -> Result<ClientBuilder, ChannelError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ChannelError::NoRoots);
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(CALL_TIME))
}

/// See [`builder`].
pub(super) fn client() -> Result<Client, ChannelError> {
    builder()?.build().map_err(ChannelError::Client)
}

/// What one attempt came to.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    Done(T),
    /// Worth trying again, after that long if the other side said so.
    Again(Option<Duration>, String),
    Never(String),
}

/// How long to keep trying.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub attempts: u32,
    pub within: Duration,
}

impl Patience {
    /// Somebody else could be asked instead.
    pub(super) const SHORT: Self = Self {
        attempts: 4,
        within: Duration::from_secs(20),
    };
    /// There is nobody else.
    pub(super) const LONG: Self = Self {
        attempts: 6,
        within: Duration::from_secs(300),
    };
}

/// Tries until it is done, refused for good, or too much.
pub(super) async fn persist<T, F>(
    patience: Patience,
    attempt: impl Fn() -> F,
) -> Result<T, Undelivered>
where
    F: Future<Output = Attempt<T>>,
{
    let until = Instant::now() + patience.within;
    let mut last = String::new();
    for count in 0..patience.attempts {
        let pause = match attempt().await {
            Attempt::Done(value) => return Ok(value),
            Attempt::Never(why) => return Err(Undelivered(why)),
            Attempt::Again(after, why) => {
                tracing::debug!(count, why, "not delivered yet");
                last = why;
                after.unwrap_or_else(|| back_off(count))
            }
        };
        if count + 1 == patience.attempts || Instant::now() + pause > until {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    Err(Undelivered(last))
}

/// The pause that 429 asks for.
pub(super) fn retry_after(answer: &Response) -> Duration {
    let seconds = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(RETRY_AFTER_UNSAID, Duration::from_secs);
    seconds.min(MAX_RETRY_AFTER)
}

/// What a status that is not 2xx comes to.
pub(super) fn refused<T>(answer: &Response) -> Attempt<T> {
    let status = answer.status();
    let why = format!("HTTP {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS => Attempt::Again(
            Some(retry_after(answer)),
            "it takes no more messages for now (429)".to_owned(),
        ),
        StatusCode::REQUEST_TIMEOUT => Attempt::Again(None, why),
        status if status.is_server_error() => Attempt::Again(None, why),
        _ => Attempt::Never(why),
    }
}

/// A call that came to no answer. The URL may be a secret.
pub(super) fn unreachable<T>(error: reqwest::Error) -> Attempt<T> {
    let why = if error.is_timeout() {
        "no answer in time"
    } else {
        "not reachable"
    };
    tracing::debug!(error = %error.without_url(), why);
    Attempt::Again(None, why.to_owned())
}

/// An answer's body, if it is short.
pub(super) async fn body(mut answer: Response, most: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if bytes.len() + chunk.len() > most {
            return None;
        }
        bytes.extend_from_slice(&chunk);
    }
    Some(bytes)
}

/// 1, 2, 4 … 30 s, and up to a half more by chance.
pub(super) fn back_off(count: u32) -> Duration {
    let base = Duration::from_secs(1 << count.min(5)).min(Duration::from_secs(30));
    base.mul_f64(
        1.0 + f64::from(rand_core::RngCore::next_u32(&mut rand_core::OsRng))
            / f64::from(u32::MAX)
            / 2.0,
    )
}
