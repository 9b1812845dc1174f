//! A Slack incoming webhook: a link, no buttons, because whoever holds the URL could post look-alikes.
use std::path::Path;

use reqwest::Client;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Alert;
use super::http::{self, Attempt, ChannelError, Patience, Undelivered};
use super::slack::message;
use super::summary::Summary;

/// Where messages go. The URL is a secret.
pub(super) struct SlackWebhook {
    url: Zeroizing<String>,
    http: Client,
    inbox_url: String,
}

impl SlackWebhook {
    pub(super) fn open(name: &str, url: &Path, inbox_url: &str) -> Result<Self, ChannelError> {
        Ok(Self {
            url: http::secret_url(name, url)?,
            http: http::client()?,
            inbox_url: inbox_url.to_owned(),
        })
    }

    pub(super) async fn announce(
        &self,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        self.post(&message::plain_message(summary), patience).await
    }

    pub(super) async fn alert(&self, alert: &Alert, patience: Patience) -> Result<(), Undelivered> {
        self.post(&message::alert(alert, &self.inbox_url), patience)
            .await
    }

    async fn post(&self, message: &Value, patience: Patience) -> Result<(), Undelivered> {
        http::persist(patience, || async {
            match self.http.post(self.url.as_str()).json(message).send().await {
                Ok(answer) if answer.status().is_success() => Attempt::Done(()),
                Ok(answer) => http::refused(&answer),
                Err(error) => http::unreachable(error),
            }
        })
        .await
    }
}
