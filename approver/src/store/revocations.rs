//! Approvals that people took back, and the list of them that each host gets.
use syshold_protocol::revocation::{MAX_ENTRIES, Revocation, Revocations};
use syshold_protocol::{Approver, Decision, DecisionId, HostId, RequestId, UnixMs, VERSION};

use super::requests::{Filed, Made, by_id, decision, json, parse};
use super::{Row, StoreError, Transaction, ms};

/// As JSON, of one list: signed and in an envelope it is within what a host takes.
const MOST_BYTES: usize = 24 * 1024;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub decision_id: DecisionId,
    pub request_id: RequestId,
    pub host_id: HostId,
    /// Who took it back, when and why.
    pub by: Approver,
}

/// Whether that decision was taken back.
pub fn of(tx: &Transaction<'_>, id: DecisionId) -> Result<Option<Revoked>, StoreError> {
    let sql = format!("{SELECT} WHERE decision_id = ?1");
    tx.first(&sql, [id.to_string()], raw)?
        .map(revoked)
        .transpose()
}

/// Whether an approval of that request was taken back.
pub(super) fn is_any(tx: &Transaction<'_>, id: RequestId) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM revocation WHERE request_id = ?1)";
    tx.one(sql, [id.to_string()], |row| row.get(0))
}

/// Files one, not recorded yet.
pub fn add(
    tx: &Transaction<'_>,
    decision: &Decision,
    by: Approver,
    now: UnixMs,
) -> Result<Revoked, StoreError> {
    tx.execute(
        "INSERT INTO revocation (decision_id, request_id, host_id, approver, at, keeper)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            decision.decision_id.to_string(),
            decision.request_id.to_string(),
            decision.host_id.as_str(),
            json(&by)?,
            ms(now),
            tx.keeper(),
        ),
    )?;
    Ok(Revoked {
        decision_id: decision.decision_id,
        request_id: decision.request_id,
        host_id: decision.host_id.clone(),
        by,
    })
}

/// Those that the ledger of `keeper` is to have, oldest first, with what they are about.
pub(super) fn unrecorded(
    tx: &Transaction<'_>,
    keeper: i64,
    most: usize,
) -> Result<Vec<(Filed, Made, Revoked)>, StoreError> {
    let sql = format!("{SELECT} WHERE n IS NULL AND keeper = ?1 ORDER BY at LIMIT {most}");
    let mut all = Vec::new();
    for row in tx.all(&sql, [keeper], raw)? {
        let revoked = revoked(row)?;
        let id = revoked.request_id;
        let about = by_id(tx, id)?.zip(decision(tx, id)?);
        let (filed, made) = about.ok_or(StoreError::Corrupt("revocation"))?;
        all.push((filed, made, revoked));
    }
    Ok(all)
}

/// The ledger has it: it gets its place in the list of its host. Places are given in the order of
/// recording, so that no host is past one that is still to come.
pub(super) fn set_recorded(tx: &Transaction<'_>, id: DecisionId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE revocation SET keeper = ?2, n = (
             SELECT coalesce(max(other.n), 0) + 1 FROM revocation AS other
             WHERE other.host_id = revocation.host_id)
         WHERE decision_id = ?1 AND n IS NULL",
        (id.to_string(), tx.keeper()),
    )?;
    Ok(())
}

/// What a host that has heard of `since` has not heard of.
pub fn list(
    tx: &Transaction<'_>,
    host: &HostId,
    since: u64,
    now: UnixMs,
) -> Result<Revocations, StoreError> {
    let sql = "SELECT coalesce(max(n), 0) FROM revocation WHERE host_id = ?1";
    let latest: i64 = tx.one(sql, [host.as_str()], |row| row.get(0))?;
    let sql = format!(
        "SELECT decision_id, request_id, host_id, approver, n FROM revocation
         WHERE host_id = ?1 AND n > ?2 ORDER BY n LIMIT {MAX_ENTRIES}"
    );
    let after = i64::try_from(since).unwrap_or(i64::MAX);
    let rows = tx.all(&sql, (host.as_str(), after), |row| {
        Ok((raw(row)?, row.get::<i64>(4)?))
    })?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (row, n) in rows {
        let found = revoked(row)?;
        let entry = Revocation {
            n: number(n)?,
            decision_id: found.decision_id,
            request_id: found.request_id,
            by: found.by,
        };
        bytes += json(&entry)?.len();
        if bytes > MOST_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(Revocations {
        v: VERSION,
        host_id: host.clone(),
        since,
        entries,
        latest: number(latest)?,
        issued_at: now,
    })
}

fn number(n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| StoreError::Corrupt("revocation"))
}

const SELECT: &str = "SELECT decision_id, request_id, host_id, approver FROM revocation";

type Raw = (String, String, String, String);

fn raw(row: &Row) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn revoked((decision, request, host, by): Raw) -> Result<Revoked, StoreError> {
    let corrupt = || StoreError::Corrupt("revocation");
    Ok(Revoked {
        decision_id: decision.parse().map_err(|_| corrupt())?,
        request_id: request.parse().map_err(|_| corrupt())?,
        host_id: host.parse().map_err(|_| corrupt())?,
        by: parse(&by, "approver")?,
    })
}
