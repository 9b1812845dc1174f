//! Which other group is asked as well, and when, because nobody has answered.
use syshold_protocol::{RequestId, UnixMs};

use super::{StoreError, Transaction, ms, time};

/// Plans that `group` is asked at `due`; a second time changes nothing.
pub fn plan(
    tx: &Transaction<'_>,
    id: RequestId,
    group: &str,
    due: UnixMs,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO escalation (request_id, asked, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    tx.execute(sql, (id.to_string(), group, ms(due)))?;
    Ok(())
}

/// When the next group is to be asked.
pub fn next(tx: &Transaction<'_>) -> Result<Option<UnixMs>, StoreError> {
    let sql = "SELECT min(due) FROM escalation WHERE told_at IS NULL";
    let due: Option<i64> = tx.one(sql, (), |row| row.get(0))?;
    Ok(due.map(time))
}

/// Groups that are due, from now on told. Of requests that are decided nobody is.
pub fn take(tx: &Transaction<'_>, now: UnixMs) -> Result<Vec<(RequestId, String)>, StoreError> {
    tx.execute(
        "DELETE FROM escalation WHERE told_at IS NULL AND due <= ?1 AND request_id NOT IN
         (SELECT request_id FROM request WHERE phase = 'waiting')",
        [ms(now)],
    )?;
    let due: Vec<(String, String)> = tx.all(
        "UPDATE escalation SET told_at = ?1 WHERE told_at IS NULL AND due <= ?1 RETURNING request_id, asked",
        [ms(now)],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    due.into_iter()
        .map(|(id, group)| {
            let id = id.parse().map_err(|_| StoreError::Corrupt("request id"))?;
            Ok((id, group))
        })
        .collect()
}

/// Which groups were asked as well, and since when.
pub fn of(tx: &Transaction<'_>, id: RequestId) -> Result<Vec<(String, UnixMs)>, StoreError> {
    tx.all(
        "SELECT asked, told_at FROM escalation WHERE request_id = ?1 AND told_at IS NOT NULL ORDER BY told_at, asked",
        [id.to_string()], |row| Ok((row.get(0)?, time(row.get::<i64>(1)?))))
}
