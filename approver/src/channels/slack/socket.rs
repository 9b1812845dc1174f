//! Clicks over Socket Mode: a WebSocket that this gateway opens, so that nothing listens for Slack.
//!
//! ```text
//!  apps.connections.open ─▶ wss URL, good once ─▶ hello ─▶ interactive: keep, acknowledge ─▶ …
//!     disconnect (warning, refresh_requested): the next connection first, then this one is drained
//!     silence: ping, and if that stays unanswered, the next connection
//! ```
//! reqwest opens the connection (proxies, TLS), tungstenite speaks on it.
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{StatusCode, Upgraded};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::interact::{self, Taken};
use super::{Attempt, Slack, api, http};
use crate::channels::{ChannelError, Hub, Kind};

const DIAL_TIME: Duration = Duration::from_secs(15);
/// Slack pings every few seconds: after so long without a frame we ping, after twice that it is dead.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a connection that Slack wants to end is still read.
const DRAIN: Duration = Duration::from_secs(30);
/// A connection that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(30);
/// The pause when Slack refuses for good, until somebody mends the app.
const REFUSED: Duration = Duration::from_secs(300);
const MAX_FRAME: usize = 1024 * 1024;

type Socket = WebSocketStream<Upgraded>;

/// Why a connection came to nothing. The URL carries a ticket: it is in no message.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("{0}")]
    Again(String),
    #[error("{0}; see the app's Socket Mode page and its app-level token (connections:write)")]
    Never(String),
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Slack asked for it: the next one comes first.
    Refresh,
    /// Socket Mode was turned off.
    Disabled,
    TooMany,
    Lost,
}

/// Keeps one connection open until the task ends.
pub(super) async fn run(hub: Arc<Hub>, index: usize) {
    let name = hub.channels[index].name.clone();
    let Kind::Slack(slack) = &hub.channels[index].kind else {
        return;
    };
    if slack.app_token.is_none() {
        return;
    }
    let client = match client() {
        Ok(client) => client,
        Err(error) => return tracing::error!(channel = name, %error, "no Socket Mode"),
    };
    let mut connections = JoinSet::new();
    let mut failures = 0;
    loop {
        while connections.try_join_next().is_some() {}
        let since = Instant::now();
        let pause = match dial(slack, &client).await {
            Ok(socket) => {
                hub.desk.metrics.connected(&name, true);
                let (leave, leaving) = oneshot::channel();
                connections.spawn(read(Arc::clone(&hub), index, socket, leave));
                let why = leaving.await.unwrap_or(Leaving::Lost);
                if since.elapsed() >= GOOD {
                    failures = 0;
                }
                if why != Leaving::Refresh {
                    hub.desk.metrics.connected(&name, false);
                }
                tracing::info!(channel = name, ?why, "Socket Mode connects anew");
                match why {
                    // A refresh that comes at once, again and again, is no refresh.
                    Leaving::Refresh if failures < 3 => Duration::ZERO,
                    Leaving::Refresh | Leaving::Lost => http::back_off(failures),
                    Leaving::TooMany => DRAIN,
                    Leaving::Disabled => REFUSED,
                }
            }
            Err(error) => {
                hub.desk.metrics.connected(&name, false);
                tracing::warn!(channel = name, %error, "Socket Mode is not connected: clicks do not arrive");
                match error {
                    DialError::Again(_) => http::back_off(failures),
                    DialError::Never(_) => REFUSED,
                }
            }
        };
        failures += 1;
        tokio::time::sleep(pause).await;
    }
}

/// HTTP/1.1 only, for the upgrade, and without a limit on how long a connection lasts.
fn client() -> Result<reqwest::Client, ChannelError> {
    let builder = http::builder()?
        .http1_only()
        .timeout(Duration::from_secs(60 * 60 * 24 * 365));
    builder.build().map_err(ChannelError::Client)
}

async fn dial(slack: &Slack, client: &reqwest::Client) -> Result<Socket, DialError> {
    let token = slack.app_token.as_deref().map_or("", String::as_str);
    let api_url = &slack.settings.api_url;
    let opened = api::call(
        &slack.http,
        api_url,
        "apps.connections.open",
        token,
        &json!({}),
    )
    .await;
    let answer = match opened {
        Attempt::Done(answer) => answer,
        Attempt::Again(None, why) => return Err(DialError::Again(why)),
        Attempt::Again(Some(pause), why) => {
            tokio::time::sleep(pause).await;
            return Err(DialError::Again(why));
        }
        Attempt::Never(why) => return Err(DialError::Never(why)),
    };
    let url = answer
        .get("url")
        .and_then(Value::as_str)
        .and_then(|url| socket_url(url, api_url))
        .ok_or_else(|| DialError::Again("Slack gives no wss:// address".to_owned()))?;
    let dialled = timeout(DIAL_TIME, upgrade(client, &url)).await;
    dialled.unwrap_or_else(|_| Err(DialError::Again("no answer in time".to_owned())))
}

/// As reqwest calls it. In the clear only where the API is too, which is on this machine.
fn socket_url(url: &str, api_url: &str) -> Option<String> {
    if let Some(rest) = url.strip_prefix("wss://") {
        return Some(format!("https://{rest}"));
    }
    let rest = url.strip_prefix("ws://")?;
    api_url
        .starts_with("http://")
        .then(|| format!("http://{rest}"))
}

async fn upgrade(client: &reqwest::Client, url: &str) -> Result<Socket, DialError> {
    let again = |what: &str| DialError::Again(what.to_owned());
    let key = generate_key();
    let answer = client
        .get(url)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .send()
        .await
        .map_err(|_| again("the WebSocket's address is not reachable"))?;
    let is = |headers: &HeaderMap, name, wanted: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    let accepted = answer
        .headers()
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS
        || !is(answer.headers(), UPGRADE, "websocket")
        || !accepted
    {
        return Err(again("no WebSocket at the address Slack gave"));
    }
    let stream = answer
        .upgrade()
        .await
        .map_err(|_| again("the WebSocket broke off"))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

/// Reads one connection to its end; `leave` says once that the next one is wanted.
async fn read(hub: Arc<Hub>, index: usize, mut socket: Socket, leave: oneshot::Sender<Leaving>) {
    let mut leave = Some(leave);
    let mut until = None::<Instant>;
    let mut pinged = false;
    loop {
        let patience = until.map_or(SILENCE, |until| {
            until.saturating_duration_since(Instant::now())
        });
        let message = match timeout(patience, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => break,
            Err(_) if pinged || until.is_some() => break,
            Err(_) => {
                pinged = true;
                if socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    break;
                }
                continue;
            }
        };
        pinged = false;
        let Message::Text(text) = message else {
            continue;
        };
        match Frame::parse(&text) {
            Frame::Deliver {
                envelope_id,
                payload,
            } => {
                let taken = match payload {
                    Some(payload) => interact::take(&hub, index, payload.as_bytes()).await,
                    None => Taken::Yes,
                };
                // Without an acknowledgement it comes again.
                let ack = Message::text(json!({"envelope_id": envelope_id}).to_string());
                if taken == Taken::Yes && socket.send(ack).await.is_err() {
                    break;
                }
            }
            Frame::Disconnect(why) => {
                if let Some(leave) = leave.take() {
                    let _nobody_waits = leave.send(why);
                }
                until.get_or_insert(Instant::now() + DRAIN);
            }
            Frame::Other => {}
        }
    }
    let _gone = socket.close(None).await;
    if let Some(leave) = leave {
        let _nobody_waits = leave.send(Leaving::Lost);
    }
}

/// One frame of Slack's.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Deliver {
        envelope_id: String,
        /// Of a click; other deliveries are acknowledged and forgotten.
        payload: Option<String>,
    },
    Disconnect(Leaving),
    Other,
}

impl Frame {
    fn parse(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(rename = "type")]
            kind: String,
            envelope_id: Option<String>,
            reason: Option<String>,
            payload: Option<Value>,
        }
        let Ok(raw) = serde_json::from_str::<Raw>(text) else {
            return Self::Other;
        };
        if raw.kind == "disconnect" {
            return Self::Disconnect(match raw.reason.as_deref() {
                Some("link_disabled") => Leaving::Disabled,
                Some("too_many_websockets") => Leaving::TooMany,
                _ => Leaving::Refresh,
            });
        }
        match raw.envelope_id.filter(|id| (1..=256).contains(&id.len())) {
            Some(envelope_id) => Self::Deliver {
                envelope_id,
                payload: raw
                    .payload
                    .filter(|_| raw.kind == "interactive")
                    .map(|payload| payload.to_string()),
            },
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames() {
        let deliver = |payload: Option<&str>| Frame::Deliver {
            envelope_id: "e1".to_owned(),
            payload: payload.map(str::to_owned),
        };
        let table = [
            (r#"{"type":"hello","num_connections":1}"#, Frame::Other),
            (
                r#"{"type":"interactive","envelope_id":"e1","payload":{"a":1},"accepts_response_payload":true}"#,
                deliver(Some(r#"{"a":1}"#)),
            ),
            (
                r#"{"type":"events_api","envelope_id":"e1","payload":{}}"#,
                deliver(None),
            ),
            (r#"{"type":"interactive","payload":{}}"#, Frame::Other),
            (
                r#"{"type":"disconnect","reason":"warning"}"#,
                Frame::Disconnect(Leaving::Refresh),
            ),
            (
                r#"{"type":"disconnect","reason":"refresh_requested"}"#,
                Frame::Disconnect(Leaving::Refresh),
            ),
            (
                r#"{"type":"disconnect","reason":"link_disabled"}"#,
                Frame::Disconnect(Leaving::Disabled),
            ),
            (
                r#"{"type":"disconnect","reason":"too_many_websockets"}"#,
                Frame::Disconnect(Leaving::TooMany),
            ),
            ("null", Frame::Other),
            ("", Frame::Other),
        ];
        for (text, frame) in table {
            assert_eq!(Frame::parse(text), frame, "{text}");
        }
    }

    #[test]
    fn a_socket_in_the_clear_only_on_this_machine() {
        let real = "https://slack.com/api";
        assert_eq!(
            socket_url("wss://a/b?t=1", real).as_deref(),
            Some("https://a/b?t=1")
        );
        assert_eq!(socket_url("ws://a/b", real), None);
        assert_eq!(socket_url("https://a/b", real), None);
        assert_eq!(
            socket_url("ws://a/b", "http://127.0.0.1:1/api").as_deref(),
            Some("http://a/b")
        );
    }

    proptest! {
        #[test]
        fn any_text_at_all_is_some_frame(text in ".{0,200}") {
            let _any = Frame::parse(&text);
        }

        #[test]
        fn an_envelope_is_acknowledged_by_its_id(id in "[ -~]{1,256}", kind in "[a-z_]{1,12}") {
            prop_assume!(kind != "disconnect");
            let frame = Frame::parse(&json!({"type": kind, "envelope_id": id}).to_string());
            prop_assert_eq!(frame, Frame::Deliver { envelope_id: id, payload: None });
        }
    }
}
