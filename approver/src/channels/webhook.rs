//! Standard Webhooks 1.0 (<https://www.standardwebhooks.com>): requests and signed decisions, for
//! programs of your own. What is sent is in docs/approver.md.
//!
//! Retries carry the same `webhook-id`. 410 Gone ends the channel until the next start.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};
use sha2::Sha256;
use syshold_protocol::{RequestId, UnixMs};
use zeroize::Zeroizing;

use super::Alert;
use super::config::Webhook as Settings;
use super::http::{self, Attempt, ChannelError, Patience, Undelivered};
use super::summary::Summary;
use crate::desk::Sheet;
use crate::host_api::now;
use crate::store::requests::word;

const PREFIX: &str = "whsec_";

/// An endpoint and the secret shared with it.
pub(super) struct Webhook {
    url: reqwest::Url,
    secret: Zeroizing<Vec<u8>>,
    allow_private: bool,
    http: Client,
    gone: AtomicBool,
}

impl Webhook {
    pub(super) fn open(name: &str, settings: &Settings) -> Result<Self, ChannelError> {
        let bad = |what| ChannelError::Secret {
            channel: name.to_owned(),
            path: settings.secret_file.clone(),
            what,
        };
        let text = http::secret(name, &settings.secret_file)?;
        let secret = text
            .strip_prefix(PREFIX)
            .and_then(|text| BASE64.decode(text).ok())
            .map(Zeroizing::new)
            .filter(|secret| (24..=64).contains(&secret.len()))
            .ok_or_else(|| bad("its one line must be whsec_ and 24 to 64 bytes as base64"))?;
        let url = reqwest::Url::parse(&settings.url).map_err(|_| bad("url is not one"))?;
        let mut builder = http::builder()?;
        if !settings.allow_private {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        Ok(Self {
            url,
            secret,
            allow_private: settings.allow_private,
            http: builder.build().map_err(ChannelError::Client)?,
            gone: AtomicBool::new(false),
        })
    }

    /// `approval.requested`
    pub(super) async fn announce(
        &self,
        sheet: &Sheet,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        let id = sheet.filed.request.request_id;
        self.send(
            &message_id("req", id, ""),
            &body("approval.requested", sheet, summary, None),
            patience,
        )
        .await
    }

    /// `approval.decided`, with the signed decision, `approval.revoked` or `approval.outcome`.
    pub(super) async fn follow(
        &self,
        sheet: &Sheet,
        summary: &Summary,
        envelope: Option<&[u8]>,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        let id = sheet.filed.request.request_id;
        let news = sheet.revoked.as_ref().filter(|revoked| {
            let outcome = sheet.outcome.as_ref();
            outcome.is_none_or(|outcome| outcome.at <= revoked.by.at)
        });
        let (kind, message) = match &sheet.outcome {
            _ if news.is_some() => ("approval.revoked", message_id("rev", id, "")),
            Some(outcome) => {
                let digest = syshold_protocol::Digest::of(format!("{outcome:?}").as_bytes());
                (
                    "approval.outcome",
                    message_id("out", id, &digest.to_string()[..16]),
                )
            }
            None => (
                "approval.decided",
                message_id("dec", id, word(sheet.filed.phase)),
            ),
        };
        self.send(&message, &body(kind, sheet, summary, envelope), patience)
            .await
    }

    /// `approval.flood`, `approval.escalated`, `break_glass`
    pub(super) async fn alert(&self, alert: &Alert, patience: Patience) -> Result<(), Undelivered> {
        let at = now();
        let kind = match alert {
            Alert::Flood(_) | Alert::TooOften { .. } => "approval.flood",
            Alert::Escalated { .. } => "approval.escalated",
            Alert::BreakGlass { .. } => "break_glass",
        };
        let value =
            json!({"type": kind, "timestamp": at.to_string(), "data": {"text": alert.to_string()}});
        self.send(
            &format!("msg_alert_{}", uuid::Uuid::now_v7().simple()),
            &value,
            patience,
        )
        .await
    }

    async fn send(&self, id: &str, body: &Value, patience: Patience) -> Result<(), Undelivered> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Undelivered(
                "it answered 410 Gone: no more until the gateway starts again".to_owned(),
            ));
        }
        if !self.allow_private
            && self
                .url
                .host_str()
                .and_then(literal)
                .is_some_and(is_private)
        {
            return Err(Undelivered(PRIVATE.to_owned()));
        }
        let body = serde_json::to_vec(body).unwrap_or_default();
        http::persist(patience, || async {
            let at = now().ms() / 1000;
            let call = self
                .http
                .post(self.url.clone())
                .header(header::CONTENT_TYPE, "application/json")
                .header("webhook-id", id)
                .header("webhook-timestamp", at)
                .header("webhook-signature", sign(&self.secret, id, at, &body))
                .body(body.clone());
            match call.send().await {
                Ok(answer) if answer.status().is_success() => Attempt::Done(()),
                Ok(answer) if answer.status() == StatusCode::GONE => {
                    self.gone.store(true, Ordering::Relaxed);
                    Attempt::Never("it answered 410 Gone".to_owned())
                }
                Ok(answer) => match http::refused(&answer) {
                    // The standard has every other refusal tried again.
                    Attempt::Never(why) => Attempt::Again(None, why),
                    other => other,
                },
                Err(error) if is_refused_address(&error) => Attempt::Never(PRIVATE.to_owned()),
                Err(error) => http::unreachable(error),
            }
        })
        .await
    }
}

/// `v1,` and the HMAC of `id.timestamp.body`.
fn sign(secret: &[u8], id: &str, at: u64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return String::new();
    };
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// The same at every try, and for every gateway that tells of the same thing.
fn message_id(kind: &str, id: RequestId, more: &str) -> String {
    format!("msg_{kind}_{}_{more}", id.0.simple())
}

fn body(kind: &str, sheet: &Sheet, summary: &Summary, envelope: Option<&[u8]>) -> Value {
    let envelope = envelope.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let revoked = sheet.revoked.as_ref().map(|revoked| &revoked.by);
    let at: UnixMs = match (kind, &sheet.outcome, &sheet.decision) {
        ("approval.requested", ..) => sheet.filed.received_at,
        ("approval.revoked", ..) => revoked.map_or(sheet.filed.received_at, |by| by.at),
        (_, Some(outcome), _) => outcome.at,
        (_, _, Some(decision)) => decision.issued_at,
        _ => sheet.filed.received_at,
    };
    let request = &sheet.filed.request;
    json!({
        "type": kind,
        "timestamp": at.to_string(),
        "data": {
            "id": request.request_id,
            "code": summary.code,
            "state": sheet.filed.phase,
            "host": sheet.filed.host_name,
            "host_id": request.host_id,
            "agent": request.agent.name,
            "group": request.policy.approvers,
            "title": sheet.rendered.title,
            "facts": sheet.rendered.facts,
            "scopes": sheet.rendered.scopes,
            "risk": request.risk,
            "have": sheet.have,
            "need": sheet.rendered.need,
            "hold_until": request.hold_until,
            "rendered_sha256": sheet.rendered_sha256,
            "url": summary.link,
            "standing": summary.standing.as_ref().map(|standing| &standing.text),
            "decision": envelope,
            "revoked": revoked,
            "outcome": sheet.outcome,
        },
    })
}

const PRIVATE: &str =
    "its address is private or local, and allow_private is not set for this channel";

/// Resolves to public addresses only, so that a name cannot point the gateway at its own network.
struct PublicOnly;

#[derive(Debug, thiserror::Error)]
#[error("{PRIVATE}")]
struct Private;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|a| !is_private(a.ip())).collect();
            if public.is_empty() {
                return Err(Private.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn is_refused_address(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<Private>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// A host of a URL that is an address.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether an address is of this machine, its networks, or reserved.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || a & 0xfe00 == 0xfc00
                || a & 0xffc0 == 0xfe80
                || a & 0xffc0 == 0xfec0
                || (a == 0x2001 && b == 0xdb8)
                || embedded(ip).is_some_and(|ip| is_private(ip.into()))
        }
    }
}

/// The IPv4 address within a NAT64, 6to4 or IPv4-compatible one.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let at = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0x64, 0xff9b, _, _, _, _, high, low] => Some(at(high, low)),
        [0x2002, high, low, ..] => Some(at(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] => Some(at(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_of_the_inside_is_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
            "2001:db8::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.128.0.1",
            "2606:4700:4700::1111",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
        assert_eq!(literal("[::1]"), Some("::1".parse().unwrap()));
        assert_eq!(literal("example.com"), None);
    }

    /// The example of the specification's own libraries.
    #[test]
    fn the_published_signature() {
        let secret = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let made = sign(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
