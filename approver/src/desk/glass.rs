//! Break-glass, as hosts tell of it: into the ledger, then to everybody, until somebody has reviewed
//! it who did not sign.
use syshold_protocol::break_glass::Notice;
use syshold_protocol::{DecisionId, UnixMs};

use super::{Desk, DeskError};
use crate::judge::Refusal;
use crate::store::break_glass::{self, Broken, Told};
use crate::store::people::Account;

impl Desk {
    /// A host says that an order is in force there.
    pub async fn break_glass(
        &self,
        notice: Notice,
        host_name: String,
        now: UnixMs,
    ) -> Result<Told, DeskError> {
        let asked = notice.clone();
        let told = self
            .store
            .run(move |tx| Ok::<_, DeskError>(break_glass::room(tx, &asked, now)?))
            .await?;
        if told != Told::New {
            return Ok(told);
        }
        self.evidence.break_glass(&notice, &host_name).await?;
        let broken = Broken {
            notice,
            host_name,
            received_at: now,
        };
        self.store
            .run(move |tx| Ok::<_, DeskError>(break_glass::add(tx, &broken)?))
            .await?;
        self.metrics.broke_glass();
        self.alarm.notify_one();
        self.touch();
        Ok(told)
    }

    /// Orders whose review is due.
    pub async fn review_due(&self) -> Result<Vec<Broken>, DeskError> {
        Ok(self.store.run(break_glass::unreviewed).await?)
    }

    /// Somebody says what came of an order.
    pub async fn review(
        &self,
        order: DecisionId,
        who: Account,
        text: String,
        now: UnixMs,
    ) -> Result<(), DeskError> {
        let _one = self.recording.lock().await;
        let open = self
            .store
            .run(move |tx| Ok::<_, DeskError>(break_glass::open(tx, order)?))
            .await?
            .ok_or(DeskError::Unknown)?;
        if open.notice.signers.iter().any(|one| one.may_be(&who.email)) {
            return Err(Refusal::OwnOrder.into());
        }
        self.evidence.review(order, &who.email, &text).await?;
        let reviewed = self
            .store
            .run(move |tx| {
                Ok::<_, DeskError>(break_glass::review(tx, order, &who.name, &text, now)?)
            })
            .await?;
        self.touch();
        if reviewed {
            Ok(())
        } else {
            Err(DeskError::Unknown)
        }
    }
}
