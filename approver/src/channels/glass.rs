//! The glass was broken on a host: everybody who would have been asked is told, loudly.
use std::collections::BTreeSet;
use std::time::Duration;

use syshold_protocol::display;

use super::{Alert, Hub};
use crate::host_api::now;
use crate::store::break_glass::{self, Broken};

const AGAIN: Duration = Duration::from_secs(2);

impl Hub {
    /// Tells of each order, those of before a restart first.
    pub(super) async fn alarms(self: std::sync::Arc<Self>) {
        loop {
            let untold = self
                .desk
                .store
                .run(|tx| break_glass::take_untold(tx, now()));
            match untold.await {
                Ok(all) => all.iter().for_each(|broken| self.sound(broken)),
                Err(error) => {
                    tracing::error!(%error, "who is to hear of break-glass is told later");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            self.desk.alarm.notified().await;
        }
    }

    /// Each route of a group that would have been asked, of its fallbacks, and of nobody in
    /// particular; a channel that stands in several has it once.
    fn sound(&self, broken: &Broken) {
        let groups = self.desk.roster.with_fallbacks(&broken.notice.groups);
        let mut told = BTreeSet::new();
        for group in groups.into_iter().map(Some).chain([None]) {
            let route = self.settings.route(group.as_deref());
            if route.first().is_some_and(|first| told.insert(*first)) {
                self.alert_on(alert(broken), group, 0);
            }
        }
    }
}

fn alert(broken: &Broken) -> Alert {
    let (notice, order) = (&broken.notice, &broken.notice.order);
    let names: Vec<_> = notice
        .signers
        .iter()
        .map(syshold_protocol::Subject::as_str)
        .collect();
    Alert::BreakGlass {
        host: display::shown(&broken.host_name, 100).text,
        agent: display::shown(&order.agent, 80).text,
        until: order.until,
        signers: display::shown(&names.join(", "), 300).text,
        reason: display::shown(&order.reason, 500).text,
    }
}
