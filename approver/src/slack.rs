//! Tells a Slack channel that somebody is asked, through an incoming webhook: a link, no buttons,
//! because whoever holds the URL could post look-alikes.
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use syshold_protocol::{RequestId, RequestPhase, display};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::desk::{Desk, Sheet};
use crate::host_api::now;
use crate::render;

/// Slack takes about one message a second and channel.
const PACE: Duration = Duration::from_secs(1);
/// More than so many at once are one message.
const MAX_AT_ONCE: usize = 3;
const ATTEMPTS: u32 = 6;
const CALL_TIME: Duration = Duration::from_secs(10);
/// The longest that Slack may ask us to wait.
const MAX_RETRY_AFTER_S: u64 = 120;

/// Where notifications go. The URL is a secret.
#[expect(
    missing_debug_implementations,
    reason = "a secret must not be printable"
)]
pub struct Slack {
    url: Zeroizing<String>,
    http: Client,
    inbox_url: String,
}

/// Why there are no notifications.
#[derive(Debug, thiserror::Error)]
pub enum SlackError {
    #[error("slack_webhook_url_file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("slack_webhook_url_file {}: its one line must be an https:// URL", .0.display())]
    NotAUrl(PathBuf),
    #[error(
        "this machine has no certificate authorities to check Slack against: install ca-certificates"
    )]
    NoRoots,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("HTTPS client: {0}")]
    Client(#[source] reqwest::Error),
}

impl Slack {
    /// Reads the webhook's URL from `path`.
    pub fn from_file(path: &Path, inbox_url: &str) -> Result<Self, SlackError> {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| SlackError::Read {
            path: path.to_owned(),
            source,
        })?;
        let url = Zeroizing::new(text.trim().to_owned());
        let good = url.starts_with("https://")
            && reqwest::Url::parse(&url).is_ok_and(|url| url.has_host());
        if !good || url.contains(char::is_whitespace) {
            return Err(SlackError::NotAUrl(path.to_owned()));
        }
        Ok(Self {
            url,
            http: client()?,
            inbox_url: inbox_url.to_owned(),
        })
    }

    /// Announces each request that `filed` names while it still waits, until `stop`.
    pub async fn run(
        self,
        desk: Arc<Desk>,
        mut filed: mpsc::Receiver<RequestId>,
        mut stop: watch::Receiver<bool>,
    ) {
        let announce = async {
            while let Some(first) = filed.recv().await {
                let mut ids = vec![first];
                while let Ok(next) = filed.try_recv() {
                    ids.push(next);
                }
                self.announce(&desk, ids).await;
            }
        };
        tokio::select! {
            () = announce => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn announce(&self, desk: &Desk, ids: Vec<RequestId>) {
        let mut waiting = Vec::new();
        for id in ids {
            match desk.sheet(id, now()).await {
                Ok(Some(sheet)) if sheet.filed.phase == RequestPhase::Waiting => {
                    waiting.push(sheet);
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%id, %error, "no notification"),
            }
        }
        if waiting.len() > MAX_AT_ONCE {
            self.post(&flood(&waiting, &self.inbox_url)).await;
            return tokio::time::sleep(PACE).await;
        }
        for sheet in waiting {
            self.post(&message(&sheet, &self.inbox_url)).await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Tries until it is taken or refused for good. The URL stays out of every log line.
    async fn post(&self, message: &Value) {
        for attempt in 0..ATTEMPTS {
            let pause = match self.http.post(self.url.as_str()).json(message).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    let seconds = answer
                        .headers()
                        .get(RETRY_AFTER)
                        .and_then(|value| value.to_str().ok()?.parse().ok());
                    Duration::from_secs(seconds.unwrap_or(30).min(MAX_RETRY_AFTER_S))
                }
                Ok(answer) if answer.status().is_client_error() => {
                    let status = answer.status().as_u16();
                    return tracing::error!(
                        status,
                        "Slack refuses the notification: check the webhook, make a new one"
                    );
                }
                Ok(answer) => {
                    tracing::warn!(
                        status = answer.status().as_u16(),
                        attempt,
                        "Slack did not take the notification"
                    );
                    back_off(attempt)
                }
                Err(error) => {
                    tracing::warn!(error = %error.without_url(), attempt, "Slack is not reachable");
                    back_off(attempt)
                }
            };
            tokio::time::sleep(pause).await;
        }
        tracing::error!("notification given up: Slack took none of {ATTEMPTS} attempts");
    }
}

/// 1, 2, 4 … seconds, and up to a quarter more, so that several gateways do not come together.
fn back_off(attempt: u32) -> Duration {
    use rand_core::RngCore as _;
    let base = 1000_u64 << attempt.min(5);
    Duration::from_millis(base + u64::from(rand_core::OsRng.next_u32()) % (base / 4))
}

fn client() -> Result<Client, SlackError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(SlackError::NoRoots);
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(CALL_TIME);
    client.build().map_err(SlackError::Client)
}

/// One request as Block Kit: within Slack's limits, nothing in it formatted by the agent.
fn message(sheet: &Sheet, inbox_url: &str) -> Value {
    let request = &sheet.filed.request;
    let hidden = Cell::new(false);
    let short = |raw: &str, most| {
        let shown = display::shown(raw, most);
        hidden.set(hidden.get() | shown.hidden);
        shown.text
    };
    let agent = short(&request.agent.name, 80);
    let object = {
        let raw = match &request.action.exec {
            Some(_) => render::title(request),
            None => render::object(&request.action.object),
        };
        // Escaped already: only the cut is wanted.
        cut(&raw, 1500, &hidden)
    };
    let mut fields = vec![
        field("Host", &short(&sheet.filed.host_name, 200)),
        field("Action", request.action.kind.as_str()),
    ];
    if let Some(taint) = &request.taint {
        // The readings are in the inbox: Slack takes ten fields.
        let last = taint
            .readings
            .last()
            .map(|last| format!("; last {}", last.what));
        let read = format!("{}{}", taint.classes.join(", "), last.unwrap_or_default());
        fields.push(field("Has read before", &short(&read, 300)));
    }
    if !request.data.classes.is_empty() {
        fields.push(field("Data", &short(&request.data.classes.join(", "), 200)));
    }
    fields.push(field("Rule", &short(&request.policy.title, 200)));
    fields.push(field("Risk", render::risk(request.risk)));
    fields.push(field(
        "Owner",
        &request
            .agent
            .owner
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |owner| short(owner.as_str(), 200)),
    ));
    if sheet.rendered.need > 1 {
        fields.push(field("People needed", &sheet.rendered.need.to_string()));
    }
    let why = short(&request.policy.why, 600);
    let until = request.hold_until;
    let mut context = format!("`{}`", render::short_code(request));
    if request.waiting > 1 {
        context.push_str(&format!(" · {} identical holds waiting", request.waiting));
    }
    context.push_str(&format!(
        " · fails <!date^{}^{{date_short_pretty}} {{time_secs}}|{until}> without an answer",
        until.ms() / 1000
    ));
    if hidden.get() {
        context.push_str(" · some values are cut here, none in the inbox");
    }
    let link = format!(
        "*<{inbox_url}/approvals/{}|Review and answer in the inbox>*",
        request.request_id
    );
    let title = cut(
        &format!("{agent} asks: {}", request.action.kind),
        150,
        &hidden,
    );
    json!({
        "text": inert(&format!("{title} on {}", display::shown(&sheet.filed.host_name, 100).text)),
        "unfurl_links": false,
        "unfurl_media": false,
        "blocks": [
            {"type": "header", "text": plain(&title)},
            {"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": object}]}]},
            {"type": "section", "text": plain(&why)},
            {"type": "section", "fields": fields},
            {"type": "section", "text": {"type": "mrkdwn", "text": link, "verbatim": true}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": context}]},
        ]
    })
}

/// Many requests as one alert.
fn flood(waiting: &[Sheet], inbox_url: &str) -> Value {
    let text = format!("{} requests are waiting at once", waiting.len());
    let link = format!("*<{inbox_url}/|Review and answer in the inbox>*");
    json!({
        "text": text,
        "unfurl_links": false,
        "unfurl_media": false,
        "blocks": [
            {"type": "header", "text": plain(&text)},
            {"type": "section", "text": {"type": "mrkdwn", "text": link, "verbatim": true}},
        ]
    })
}

/// Text that Slack shows as it is: no markup, no emoji, no links.
fn plain(text: &str) -> Value {
    // An empty text object is refused.
    let text = if text.is_empty() { "–" } else { text };
    json!({"type": "plain_text", "text": text, "emoji": false})
}

/// The notification's own text is markup: nothing in it may mention, link or format.
fn inert(text: &str) -> String {
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    escaped.replace(['*', '_', '~', '`', '|'], " ")
}

fn field(label: &str, value: &str) -> Value {
    plain(&format!("{label}\n{value}"))
}

/// The first `most` characters.
fn cut(text: &str, most: usize, hidden: &Cell<bool>) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    hidden.set(true);
    text.chars().take(most - 1).chain(['…']).collect()
}
