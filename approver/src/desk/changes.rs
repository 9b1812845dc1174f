//! Which requests changed since channels last looked. Bounded by how many requests there are.
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use syshold_protocol::RequestId;
use tokio::sync::Notify;

/// How soon [`Changes::add_later`] counts.
const LATER: Duration = Duration::from_secs(1);

/// A set of ids, and a wake-up.
#[derive(Debug, Default)]
pub struct Changes {
    ids: Mutex<Ids>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Ids {
    now: BTreeSet<uuid::Uuid>,
    later: BTreeSet<uuid::Uuid>,
}

impl Changes {
    /// Something about that request is new.
    pub fn add(&self, id: RequestId) {
        self.lock().now.insert(id.0);
        self.wake.notify_one();
    }

    /// Look at that request again in a while.
    pub fn add_later(&self, id: RequestId) {
        self.lock().later.insert(id.0);
        self.wake.notify_one();
    }

    /// Waits for changes and takes them all.
    pub async fn next(&self) -> Vec<RequestId> {
        loop {
            let (now, later) = {
                let mut ids = self.lock();
                (std::mem::take(&mut ids.now), !ids.later.is_empty())
            };
            if !now.is_empty() {
                return now.into_iter().map(RequestId).collect();
            }
            if later {
                tokio::time::sleep(LATER).await;
                let mut ids = self.lock();
                let later = std::mem::take(&mut ids.later);
                ids.now.extend(later);
            } else {
                self.wake.notified().await;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
