//! Nobody has answered: the fallback group is told, by its own channel.
use std::time::Duration;

use syshold_protocol::{RequestId, RequestPhase, UnixMs, display};

use super::{Alert, Hub};
use crate::desk::Sheet;
use crate::host_api::now;
use crate::render;
use crate::store::{StoreError, escalations};

/// How soon what could not be looked up is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

impl Hub {
    /// Files when which other group is to be told; the time when the first of them is.
    pub(super) async fn plan(&self, sheet: &Sheet) -> Option<UnixMs> {
        let id = sheet.filed.request.request_id;
        let fallback = sheet.roster.fallback(&sheet.filed.request)?.clone();
        let due = sheet.filed.received_at.plus(fallback.after_ms);
        let planned = self.desk.store.run(move |tx| {
            let mut groups = fallback.to.iter();
            groups.try_for_each(|group| escalations::plan(tx, id, group, due))
        });
        if let Err(error) = planned.await {
            let error: StoreError = error;
            tracing::error!(%id, %error, "the fallback group will not be told");
        }
        Some(due)
    }

    /// When the next group is to be told, of what was planned before a restart too.
    pub(super) async fn next_escalation(&self) -> Option<UnixMs> {
        match self.desk.store.run(escalations::next).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%error, "fallback groups are told later");
                Some(now().plus(2000))
            }
        }
    }

    /// Tells every group whose time has come.
    pub(super) async fn escalate(&self) {
        let due = match self.desk.store.run(|tx| escalations::take(tx, now())).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "fallback groups are told later");
                return tokio::time::sleep(AGAIN).await;
            }
        };
        for (id, group) in due {
            match self.desk.sheet(id, now()).await {
                Ok(Some(sheet)) if sheet.filed.phase == RequestPhase::Waiting => {
                    self.escalate_to(&sheet, id, group).await;
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%id, %error, group, "the fallback group is not told"),
            }
        }
    }

    async fn escalate_to(&self, sheet: &Sheet, id: RequestId, group: String) {
        tracing::info!(%id, group, "nobody has answered: a fallback group is told");
        self.desk.metrics.escalated();
        // Messages of before say that somebody else is asked as well.
        self.desk.changes.add(id);
        let route = self.settings.route(Some(&group));
        let told = |index: &&usize| {
            let name = &self.channels[**index].name;
            let mut notices = sheet.notices.iter();
            notices.any(|notice| notice.channel == *name && notice.error.is_none())
        };
        if route.iter().any(|index| told(&index)) {
            // The message is there already, and a message that changes wakes nobody.
            let alert = Alert::Escalated {
                code: render::short_code(&sheet.filed.request),
                title: display::shorten(&sheet.rendered.title, 200).text,
                group: group.clone(),
            };
            return self.alert_on(alert, Some(group), 0);
        }
        self.pass_on(sheet, Some(&group), 0).await;
    }
}

/// Until then; for ever if nothing is planned.
pub(super) async fn wait_until(due: Option<UnixMs>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_millis(due.since(now()))).await,
        None => std::future::pending().await,
    }
}
