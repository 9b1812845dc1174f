//! Ledgers of hosts, as their witness knows them.
use syshold_ledger::note::{Checkpoint, VerifierKey, parse_checkpoint};
use syshold_protocol::{HostId, UnixMs};

use super::{Store, StoreError, Transaction, ms, time};

/// A ledger of a host.
#[derive(Debug, Clone)]
pub struct Log {
    pub key: VerifierKey,
    /// None: it is no host's any more.
    pub host: Option<HostId>,
    pub claimed_at: UnixMs,
    /// The last checkpoint that was cosigned.
    pub seen: Option<Cosigned>,
    pub alarm: Option<String>,
}

/// A checkpoint with the log's signature and our cosignature.
#[derive(Debug, Clone)]
pub struct Cosigned {
    pub note: String,
    pub checkpoint: Checkpoint,
    pub at: UnixMs,
}

impl Store {
    /// The ledger that is the host's now.
    pub async fn log_of(&self, host: HostId) -> Result<Option<Log>, StoreError> {
        self.run(move |tx| of_host(tx, &host)).await
    }

    /// The same outside async code.
    pub fn log_of_now(&self, host: &HostId) -> Result<Option<Log>, StoreError> {
        self.write(|tx| of_host(tx, host))
    }

    /// The next ledger that this host claims is taken for its own. False: it has none.
    pub fn forget_log(&self, host: &HostId) -> Result<bool, StoreError> {
        self.write(|tx| {
            let sql = "UPDATE log SET host_id = NULL, alarm = NULL WHERE host_id = ?1";
            Ok(tx.execute(sql, [host.as_str()])? == 1)
        })
    }
}

const SELECT: &str = "SELECT key, host_id, claimed_at, note, cosigned_at, alarm FROM log";

type Raw = (
    String,
    Option<String>,
    i64,
    Option<String>,
    Option<i64>,
    Option<String>,
);

/// The ledger of that host.
pub fn of_host(tx: &Transaction<'_>, host: &HostId) -> Result<Option<Log>, StoreError> {
    find(tx, &format!("{SELECT} WHERE host_id = ?1"), host.as_str())
}

/// The ledger of that name, whosever it is.
pub fn of_origin(tx: &Transaction<'_>, origin: &str) -> Result<Option<Log>, StoreError> {
    find(tx, &format!("{SELECT} WHERE origin = ?1"), origin)
}

/// The same, when its host is believed.
pub fn of_origin_believed(tx: &Transaction<'_>, origin: &str) -> Result<Option<Log>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE origin = ?1 AND EXISTS \
         (SELECT 1 FROM host WHERE host.host_id = log.host_id AND disabled_at IS NULL)"
    );
    find(tx, &sql, origin)
}

/// The ledger is that host's from now on.
pub fn give(
    tx: &Transaction<'_>,
    key: &VerifierKey,
    host: &HostId,
    now: UnixMs,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO log (origin, key, host_id, claimed_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (origin) DO UPDATE SET host_id = ?3, claimed_at = ?4",
        (key.name(), key.to_string(), host.as_str(), ms(now)),
    )?;
    Ok(())
}

/// What was cosigned: stored before anybody has the cosignature.
pub fn set_seen(
    tx: &Transaction<'_>,
    origin: &str,
    note: &str,
    now: UnixMs,
) -> Result<(), StoreError> {
    let sql = "UPDATE log SET note = ?2, cosigned_at = ?3, alarm = NULL WHERE origin = ?1";
    tx.execute(sql, (origin, note, ms(now)))?;
    Ok(())
}

/// False: that is known already.
pub fn set_alarm(tx: &Transaction<'_>, origin: &str, alarm: &str) -> Result<bool, StoreError> {
    let sql = "UPDATE log SET alarm = ?2 WHERE origin = ?1 AND alarm IS DISTINCT FROM ?2";
    Ok(tx.execute(sql, (origin, alarm))? == 1)
}

fn find(tx: &Transaction<'_>, sql: &str, value: &str) -> Result<Option<Log>, StoreError> {
    let row: Option<Raw> = tx.first(sql, [value], |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
        ))
    })?;
    row.map(log).transpose()
}

fn log((key, host, claimed_at, note, cosigned_at, alarm): Raw) -> Result<Log, StoreError> {
    let seen = note.zip(cosigned_at).map(|(note, at)| {
        let (_, checkpoint) =
            parse_checkpoint(&note).map_err(|_| StoreError::Corrupt("checkpoint"))?;
        Ok::<_, StoreError>(Cosigned {
            note,
            checkpoint,
            at: time(at),
        })
    });
    Ok(Log {
        key: key.parse().map_err(|_| StoreError::Corrupt("ledger key"))?,
        host: host
            .map(|id| id.parse().map_err(|_| StoreError::Corrupt("host id")))
            .transpose()?,
        claimed_at: time(claimed_at),
        seen: seen.transpose()?,
        alarm,
    })
}
