//! A Slack app: messages with buttons, and clicks that become answers.
//!
//! Clicks come over Socket Mode ([`socket`], no way in from outside) or over HTTP ([`interactive`],
//! signed). Either way: kept, acknowledged, then handled once, in [`interact`].
use std::sync::Arc;

use base64::Engine as _;
use rand_core::RngCore as _;
use serde_json::{Value, json};
use syshold_protocol::Digest;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::config::Slack as Settings;
use super::http::{self, Attempt, ChannelError, Patience, Undelivered};
use super::summary::Summary;
use super::{Alert, Hub, Sent};
use crate::desk::Sheet;
use crate::store::notices::{Buttons, Notice, Place};

mod api;
mod click;
mod interact;
pub mod interactive;
pub(super) mod message;
mod modal;
mod socket;
pub mod verify;

/// So many clicks are handled at once; more are refused, and come again.
const MAX_CLICKS: usize = 256;

/// One app in one channel of one workspace.
pub(super) struct Slack {
    settings: Settings,
    bot_token: Zeroizing<String>,
    app_token: Option<Zeroizing<String>>,
    signing_secret: Option<Zeroizing<String>>,
    http: reqwest::Client,
    inbox_url: String,
    clicks: Arc<Semaphore>,
}

impl Slack {
    pub(super) fn open(
        name: &str,
        settings: &Settings,
        inbox_url: &str,
    ) -> Result<Self, ChannelError> {
        let token = |path: &std::path::Path, prefix: &'static str, what| {
            let token = http::secret(name, path)?;
            let good = token.starts_with(prefix) && token.bytes().all(|b| b.is_ascii_graphic());
            if good && token.len() > prefix.len() {
                return Ok(token);
            }
            Err(ChannelError::Secret {
                channel: name.to_owned(),
                path: path.to_owned(),
                what,
            })
        };
        let bot_token = token(
            &settings.bot_token_file,
            "xoxb-",
            "its one line must be the bot token, xoxb-…",
        )?;
        let app_token = settings.app_token_file.as_deref();
        let app_token = app_token
            .map(|path| {
                token(
                    path,
                    "xapp-",
                    "its one line must be the app-level token, xapp-…",
                )
            })
            .transpose()?;
        let signing_secret = settings.signing_secret_file.as_deref();
        let signing_secret = signing_secret
            .map(|path| {
                let secret = token(path, "", "its one line must be the app's signing secret")?;
                if secret.len() >= 16 {
                    return Ok(secret);
                }
                Err(ChannelError::Secret {
                    channel: name.to_owned(),
                    path: path.to_owned(),
                    what: "a signing secret has 32 characters",
                })
            })
            .transpose()?;
        Ok(Self {
            settings: settings.clone(),
            bot_token,
            app_token,
            signing_secret,
            http: http::client()?,
            inbox_url: inbox_url.to_owned(),
            clicks: Arc::new(Semaphore::new(MAX_CLICKS)),
        })
    }

    /// Posts a message with buttons; what is kept of it, and the digest of what it says.
    pub(super) async fn announce(
        &self,
        sheet: &Sheet,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(Sent, Digest), Undelivered> {
        let handle = new_handle();
        let mut message = message::with_buttons(summary, sheet, &handle);
        let shown = digest(&message);
        message["channel"] = self.settings.channel.as_str().into();
        let answer = self.call("chat.postMessage", &message, patience).await?;
        let place = place(&answer)
            .ok_or_else(|| Undelivered("Slack does not say where the message is".to_owned()))?;
        let buttons = message::can_decide(summary, sheet).then_some(Buttons {
            handle,
            rendered: sheet.rendered_sha256,
        });
        let place = Some(place);
        Ok((Sent { place, buttons }, shown))
    }

    /// Brings a message up to date; false: it is.
    pub(super) async fn update(
        &self,
        sheet: &Sheet,
        summary: &Summary,
        notice: &mut Notice,
    ) -> Result<bool, Undelivered> {
        let Some(place) = &notice.place else {
            return Ok(false);
        };
        // Buttons are for what was shown beside them: something else gets others.
        let buttons = message::can_decide(summary, sheet).then(|| {
            let kept = notice.buttons.clone();
            kept.filter(|buttons| buttons.rendered == sheet.rendered_sha256)
                .unwrap_or_else(|| Buttons {
                    handle: new_handle(),
                    rendered: sheet.rendered_sha256,
                })
        });
        let handle = buttons
            .as_ref()
            .map_or("", |buttons| buttons.handle.as_str());
        let mut message = message::with_buttons(summary, sheet, handle);
        let shown = digest(&message);
        if notice.shown == Some(shown) {
            return Ok(false);
        }
        message["channel"] = place.channel.as_str().into();
        message["ts"] = place.ts.as_str().into();
        self.call("chat.update", &message, Patience::SHORT).await?;
        notice.buttons = buttons;
        notice.shown = Some(shown);
        Ok(true)
    }

    pub(super) async fn alert(&self, alert: &Alert, patience: Patience) -> Result<(), Undelivered> {
        let mut message = message::alert(alert, &self.inbox_url);
        message["channel"] = self.settings.channel.as_str().into();
        self.call("chat.postMessage", &message, patience).await?;
        Ok(())
    }

    /// A text that only `user` sees.
    async fn whisper(&self, user: &str, blocks: Value) {
        let message = json!({
            "channel": self.settings.channel, "user": user,
            "text": "Syshold", "blocks": blocks,
        });
        if let Err(why) = self
            .call("chat.postEphemeral", &message, Patience::SHORT)
            .await
        {
            tracing::warn!(user, %why, "nobody was told why a click did nothing");
        }
    }

    async fn call(
        &self,
        method: &str,
        body: &Value,
        patience: Patience,
    ) -> Result<Value, Undelivered> {
        http::persist(patience, || async {
            api::call(
                &self.http,
                &self.settings.api_url,
                method,
                &self.bot_token,
                body,
            )
            .await
        })
        .await
    }
}

/// Handles what a restart left, then listens where clicks come over Socket Mode.
pub(super) async fn run(hub: Arc<Hub>, index: usize) {
    interact::left_over(&hub, index).await;
    socket::run(hub, index).await;
}

/// 128 random bits.
fn new_handle() -> String {
    let mut bytes = [0; 16];
    rand_core::OsRng.fill_bytes(&mut bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn digest(message: &Value) -> Digest {
    Digest::of(message.to_string().as_bytes())
}

fn place(answer: &Value) -> Option<Place> {
    Some(Place {
        channel: answer.get("channel")?.as_str()?.to_owned(),
        ts: answer.get("ts")?.as_str()?.to_owned(),
    })
}
