//! What time has ended.
use syshold_protocol::{LATE_APPROVAL_MS, UnixMs};

use super::requests::{Filed, SELECT, filed, raw};
use super::{StoreError, Transaction, ms};

/// Requests whose hold (`waiting`) or late time (`late`) is over.
pub fn due(tx: &Transaction<'_>, now: UnixMs) -> Result<Vec<Filed>, StoreError> {
    let found = tx.all(&sql(SELECT), times(now), raw(tx))?;
    found.into_iter().map(filed).collect()
}

/// Whether there is any.
pub fn is_any(tx: &Transaction<'_>, now: UnixMs) -> Result<bool, StoreError> {
    let any = format!("SELECT EXISTS ({})", sql("SELECT 1 FROM request"));
    tx.one(&any, times(now), |row| row.get(0))
}

fn times(now: UnixMs) -> [i64; 2] {
    let late = UnixMs::new(now.ms().saturating_sub(LATE_APPROVAL_MS));
    [ms(now), ms(late)]
}

/// Every poll asks this, so it reads what is due and nothing else: each half is a range of the index of
/// open requests, which SQLite takes only where the index's condition stands literally. `late_until` is
/// [`LATE_APPROVAL_MS`] after `hold_until`, so ?2 bounds the second half by the same index.
fn sql(select: &str) -> String {
    let open = "phase IN ('waiting', 'late')";
    format!(
        "{select} WHERE {open} AND phase = 'waiting' AND hold_until <= ?1 UNION ALL
         {select} WHERE {open} AND phase = 'late' AND hold_until <= ?2 AND late_until <= ?1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// Every poll asks what is due: with years of requests in the file that must not read them.
    #[test]
    fn what_is_due_is_found_by_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let plan = store.write(|tx| {
            let plan = format!("EXPLAIN QUERY PLAN {}", sql(SELECT));
            tx.all(&plan, (0, 0), |row| row.get::<String>(3))
        });
        let plan: Vec<String> = plan.map_err(|error: StoreError| error).unwrap();
        assert!(plan.iter().all(|step| !step.contains("SCAN")), "{plan:#?}");
        let ranges = plan
            .iter()
            .filter(|step| step.contains("request_open (phase=? AND hold_until<?)"));
        assert_eq!(ranges.count(), 2, "{plan:#?}");
    }
}
