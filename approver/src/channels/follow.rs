//! What becomes of a request, said where people were told of it.
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::{Digest, RequestId};

use super::http::Patience;
use super::summary::{Mark, Summary};
use super::{Channel, Hub, Job, Kind, Undelivered};
use crate::desk::DeskError;
use crate::host_api::now;
use crate::store::notices;
use crate::store::requests::{self, Made};

/// How soon what could not be queued is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

impl Hub {
    /// Hands what has changed to the channels that told of it.
    pub(super) async fn follow_changes(self: Arc<Self>) {
        match self.desk.store.run(|tx| notices::told(tx, now())).await {
            Ok(told) => told.into_iter().for_each(|id| self.desk.changes.add(id)),
            Err(error) => tracing::error!(%error, "messages of before the start stay as they are"),
        }
        loop {
            let changed = self.desk.changes.next().await;
            let mut later = Vec::new();
            for id in changed {
                let told = match self.desk.store.run(move |tx| notices::of(tx, id)).await {
                    Ok(told) => told,
                    Err(error) => {
                        tracing::error!(%id, %error, "messages are not brought up to date");
                        later.push(id);
                        continue;
                    }
                };
                for notice in told.iter().filter(|notice| notice.error.is_none()) {
                    let channel = self.channels.iter().find(|c| c.name == notice.channel);
                    let full = channel.is_some_and(|c| c.queue.try_send(Job::Follow(id)).is_err());
                    if full {
                        later.push(id);
                    }
                }
            }
            if !later.is_empty() {
                tokio::time::sleep(AGAIN).await;
                later.into_iter().for_each(|id| self.desk.changes.add(id));
            }
        }
    }

    /// Brings a message up to date, or sends the next one, if there is more to say than was said.
    pub(super) async fn follow(&self, channel: &Channel, id: RequestId) -> Result<(), FollowError> {
        let Some(sheet) = self.desk.sheet(id, now()).await? else {
            return Ok(());
        };
        let Some(mut notice) = sheet
            .notices
            .iter()
            .find(|n| n.channel == channel.name && n.error.is_none())
            .cloned()
        else {
            return Ok(());
        };
        let before: Vec<_> = sheet
            .notices
            .iter()
            .filter(|n| n.channel != channel.name)
            .cloned()
            .collect();
        let summary = Summary::new(&sheet, &self.inbox_url, &before);
        let said = Digest::of(
            summary
                .standing
                .as_ref()
                .map_or("", |s| s.text.as_str())
                .as_bytes(),
        );
        let over = summary
            .standing
            .as_ref()
            .is_some_and(|s| s.mark != Mark::Open);
        match &channel.kind {
            Kind::SlackWebhook(_) => return Ok(()),
            Kind::Slack(slack) => {
                if !slack.update(&sheet, &summary, &mut notice).await? {
                    return Ok(());
                }
            }
            Kind::Teams(teams) => {
                if !over || notice.shown == Some(said) {
                    return Ok(());
                }
                teams.follow(&summary, Patience::SHORT).await?;
                notice.shown = Some(said);
            }
            Kind::Webhook(hook) => {
                if sheet.decision.is_none() || notice.shown == Some(said) {
                    return Ok(());
                }
                // A decision is in the ledger before anybody is given it.
                let made = self
                    .desk
                    .store
                    .run(move |tx| requests::decision(tx, id))
                    .await?;
                let Some(Made {
                    envelope,
                    recorded: true,
                    ..
                }) = made
                else {
                    self.desk.changes.add_later(id);
                    return Ok(());
                };
                hook.follow(&sheet, &summary, Some(&envelope), Patience::LONG)
                    .await?;
                notice.shown = Some(said);
            }
        }
        self.keep(notice).await;
        Ok(())
    }
}

/// Why a message says less than is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Undelivered(#[from] Undelivered),
}
