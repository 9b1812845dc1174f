//! Orders by which hosts let an agent through without asking.
use syshold_protocol::break_glass::Notice;
use syshold_protocol::{DecisionId, UnixMs};

use super::{Row, StoreError, Transaction, ms, time};

/// More from one host within a day are refused: eight may be in force at once, for a quarter of an
/// hour each.
const MOST_A_DAY: i64 = 64;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many are shown at once.
const MOST_SHOWN: u32 = 20;

/// What a host told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub notice: Notice,
    pub host_name: String,
    pub received_at: UnixMs,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    New,
    /// The same order of the same host.
    Known,
    TooMany,
}

/// Whether that order would be new.
pub fn room(tx: &Transaction<'_>, notice: &Notice, now: UnixMs) -> Result<Told, StoreError> {
    let sql = "SELECT host_id FROM break_glass WHERE order_id = ?1";
    let order = notice.order.order_id.to_string();
    let known: Option<String> = tx.first(sql, [order], |row| row.get(0))?;
    if let Some(host) = known {
        // Another host's: an id that was copied says nothing new, and hides nothing.
        let same = host == notice.host_id.as_str();
        return Ok(if same { Told::Known } else { Told::TooMany });
    }
    let since = UnixMs::new(now.ms().saturating_sub(DAY_MS));
    let sql = "SELECT count(*) FROM break_glass WHERE host_id = ?1 AND received_at > ?2";
    let row = (notice.host_id.as_str(), ms(since));
    let count: i64 = tx.one(sql, row, |row| row.get(0))?;
    Ok(if count < MOST_A_DAY {
        Told::New
    } else {
        Told::TooMany
    })
}

/// Keeps a notice; a second time changes nothing.
pub fn add(tx: &Transaction<'_>, broken: &Broken) -> Result<(), StoreError> {
    let notice =
        serde_json::to_string(&broken.notice).map_err(|_| StoreError::Corrupt("notice"))?;
    tx.execute(
        "INSERT INTO break_glass (order_id, host_id, host_name, notice, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        (
            broken.notice.order.order_id.to_string(),
            broken.notice.host_id.as_str(),
            &broken.host_name,
            notice,
            ms(broken.received_at),
        ),
    )?;
    Ok(())
}

/// Those that channels were not told of; from now on they were.
pub fn take_untold(tx: &Transaction<'_>, now: UnixMs) -> Result<Vec<Broken>, StoreError> {
    let found = tx.all(
        "UPDATE break_glass SET told_at = ?1 WHERE told_at IS NULL
         RETURNING notice, host_name, received_at",
        [ms(now)],
        raw,
    )?;
    found.into_iter().map(broken).collect()
}

/// Those that nobody has reviewed, the oldest first.
pub fn unreviewed(tx: &Transaction<'_>) -> Result<Vec<Broken>, StoreError> {
    let found = tx.all(
        "SELECT notice, host_name, received_at FROM break_glass WHERE reviewed_at IS NULL
         ORDER BY received_at LIMIT ?1",
        [MOST_SHOWN],
        raw,
    )?;
    found.into_iter().map(broken).collect()
}

/// One that nobody has reviewed.
pub fn open(tx: &Transaction<'_>, order: DecisionId) -> Result<Option<Broken>, StoreError> {
    let sql = "SELECT notice, host_name, received_at FROM break_glass
               WHERE order_id = ?1 AND reviewed_at IS NULL";
    tx.first(sql, [order.to_string()], raw)?
        .map(broken)
        .transpose()
}

/// Somebody has looked at what came of it; false: somebody else had.
#[must_use = "false: somebody else had"]
pub fn review(
    tx: &Transaction<'_>,
    order: DecisionId,
    by: &str,
    text: &str,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let sql = "UPDATE break_glass SET reviewed_at = ?2, reviewed_by = ?3, review = ?4
               WHERE order_id = ?1 AND reviewed_at IS NULL";
    Ok(tx.execute(sql, (order.to_string(), ms(now), by, text))? == 1)
}

type Raw = (String, String, i64);

fn raw(row: &Row) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn broken((notice, host_name, received): Raw) -> Result<Broken, StoreError> {
    Ok(Broken {
        notice: serde_json::from_str(&notice).map_err(|_| StoreError::Corrupt("notice"))?,
        host_name,
        received_at: time(received),
    })
}
