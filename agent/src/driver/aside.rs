//! Leaves and reports that nothing waits for. What became of a hold is recorded a moment later: its
//! thread goes on first, and what ends together is committed together.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use syshold_ledger::Draft;
use syshold_protocol as protocol;
use tokio::time::Instant;

use super::Driver;

/// How long an outcome waits for others.
const SOON: Duration = Duration::from_millis(5);
/// As many wait no longer.
const MOST: usize = 256;

/// Outcomes not yet recorded.
#[derive(Default)]
pub(super) struct Soon {
    waiting: Vec<(Draft, Option<protocol::Outcome>)>,
    since: Option<Instant>,
}

impl Soon {
    /// True: it is time to take them.
    fn push(&mut self, draft: Draft, report: Option<protocol::Outcome>, now: Instant) -> bool {
        self.waiting.push((draft, report));
        self.since.get_or_insert(now);
        self.waiting.len() >= MOST
    }

    /// When the first of them has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + SOON)
    }

    fn take(&mut self) -> Vec<(Draft, Option<protocol::Outcome>)> {
        self.since = None;
        std::mem::take(&mut self.waiting)
    }
}

impl Driver {
    /// A leaf that nothing waits for.
    pub(super) fn record_aside(&self, draft: Draft) {
        let kind = draft.kind();
        let pending = self.ledger.append(draft);
        let leaves = Arc::clone(&self.leaves);
        tokio::spawn(async move {
            match pending.await {
                Ok(committed) => {
                    leaves.fetch_max(committed.idx + 1, Ordering::Relaxed);
                }
                Err(error) => tracing::error!(%kind, %error, "a leaf could not be recorded"),
            }
        });
    }

    /// What became of a hold: for the ledger and, when people were asked, for the gateway.
    pub(super) fn record_soon(&mut self, draft: Draft, report: Option<protocol::Outcome>) {
        if self.soon.push(draft, report, Instant::now()) {
            self.record_outcomes();
        }
    }

    pub(super) fn record_outcomes(&mut self) {
        for (draft, report) in self.soon.take() {
            self.record_aside(draft);
            if let (Some(report), Some(approver)) = (report, &self.approver) {
                approver.outcome(report);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use syshold_ledger::Kind;

    use super::*;

    #[test]
    fn outcomes_wait_for_each_other_but_not_long_and_not_too_many() {
        let mut soon = Soon::default();
        assert_eq!(soon.due(), None);
        let start = Instant::now();
        let outcome = || Draft::new(Kind::Outcome);
        assert!(!soon.push(outcome(), None, start));
        assert!(!soon.push(outcome(), None, start + SOON / 2));
        assert_eq!(soon.due(), Some(start + SOON), "the first one counts");
        assert_eq!(soon.take().len(), 2);
        assert_eq!(soon.due(), None);
        for _ in 1..MOST {
            assert!(!soon.push(outcome(), None, start));
        }
        assert!(soon.push(outcome(), None, start));
        assert_eq!(soon.take().len(), MOST);
    }
}
