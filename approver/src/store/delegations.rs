//! Who may answer for whom, and until when.
use serde::Serialize;
use syshold_protocol::UnixMs;

use super::people::{Account, account_by_name};
use super::{Store, StoreError, Transaction, ms, time};

/// Nobody delegates for longer without saying so again.
pub const LONGEST_MS: u64 = 90 * 24 * 60 * 60 * 1000;

/// `to` may answer where `from` may, until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delegation {
    pub id: i64,
    pub from: String,
    pub to: String,
    pub made_at: UnixMs,
    pub until: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
}

impl Store {
    /// Files one; `None`: one of the two has no account that may answer.
    pub fn delegate(
        &self,
        from: &str,
        to: &str,
        until: UnixMs,
        now: UnixMs,
    ) -> Result<Option<i64>, StoreError> {
        self.write(|tx| {
            let known = account_by_name(tx, from)?.zip(account_by_name(tx, to)?);
            let Some((from, to)) = known else {
                return Ok(None);
            };
            let sql =
                "INSERT INTO delegation (from_who, to_who, made_at, until) VALUES (?1, ?2, ?3, ?4) RETURNING id";
            let row = (from.name, to.name, ms(now), ms(until));
            Ok(Some(tx.one(sql, row, |row| row.get(0))?))
        })
    }

    /// Ends one at once; false: there is none of that id that goes on.
    pub fn end_delegation(&self, id: i64, now: UnixMs) -> Result<bool, StoreError> {
        self.write(|tx| {
            let sql = "UPDATE delegation SET ended_at = ?2 WHERE id = ?1 AND ended_at IS NULL AND until > ?2";
            Ok(tx.execute(sql, (id, ms(now)))? == 1)
        })
    }

    /// All there were, newest first.
    pub fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        self.write(|tx| {
            let sql = "SELECT id, from_who, to_who, made_at, until, ended_at FROM delegation ORDER BY id DESC LIMIT 1000";
            tx.all(sql, (), |row| {
                Ok(Delegation {
                    id: row.get(0)?,
                    from: row.get(1)?,
                    to: row.get(2)?,
                    made_at: time(row.get(3)?),
                    until: time(row.get(4)?),
                    ended_at: row.get::<Option<i64>>(5)?.map(time),
                })
            })
        })
    }
}

/// Those for whom somebody answers now. Not passed on: whoever answers for bob does not answer for
/// those for whom bob does.
pub fn active(
    tx: &Transaction<'_>,
    now: UnixMs,
) -> Result<Vec<(Account, String, UnixMs)>, StoreError> {
    let sql = "SELECT from_who, to_who, until FROM delegation WHERE until > ?1 AND made_at <= ?1 AND ended_at IS NULL";
    let rows = tx.all(sql, [ms(now)], |row| {
        Ok((
            row.get::<String>(0)?,
            row.get::<String>(1)?,
            row.get::<i64>(2)?,
        ))
    })?;
    let mut found = Vec::new();
    for (from, to, until) in rows {
        if let Some(from) = account_by_name(tx, &from)? {
            found.push((from, to, time(until)));
        }
    }
    Ok(found)
}
