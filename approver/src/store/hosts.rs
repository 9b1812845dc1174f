//! Hosts and the tokens they enrol with.
use syshold_protocol::{Digest, EnrolToken, HostId, PublicKey, UnixMs};
use uuid::Uuid;

use super::{Row, Store, StoreError, Transaction, ms, time};

/// How long an enrolment token is good, at most.
pub const TOKEN_LIFE_MS: u64 = 60 * 60 * 1000;

/// An enrolled host.
#[derive(Debug, Clone)]
pub struct Host {
    pub id: HostId,
    pub name: String,
    pub key: PublicKey,
    pub enrolled_at: UnixMs,
    pub disabled_at: Option<UnixMs>,
}

/// What a token was worth.
#[derive(Debug)]
pub enum Enrolment {
    /// Also when the same host repeats itself because it did not get the answer.
    Done(HostId),
    BadToken,
    /// The key belongs to a host that was disabled.
    Disabled,
}

impl Store {
    /// Keeps a token's lookup value.
    pub fn add_enrol_token(
        &self,
        token: &EnrolToken,
        now: UnixMs,
        life_ms: u64,
    ) -> Result<UnixMs, StoreError> {
        let expires_at = now.plus(life_ms.min(TOKEN_LIFE_MS));
        let row = (token.lookup().0, ms(now), ms(expires_at));
        self.write(|tx| {
            tx.execute(
                "DELETE FROM enrol_token WHERE expires_at < ?1 AND used_by IS NULL",
                [ms(now)],
            )?;
            tx.execute(
                "INSERT INTO enrol_token (lookup, made_at, expires_at) VALUES (?1, ?2, ?3)",
                row,
            )?;
            Ok(expires_at)
        })
    }

    /// Uses `lookup` up for `key`. A host that enrols again with its old key keeps its id.
    pub async fn enrol(
        &self,
        lookup: Digest,
        key: PublicKey,
        name: String,
        now: UnixMs,
    ) -> Result<Enrolment, StoreError> {
        self.run(move |tx| enrol(tx, lookup, key, &name, now)).await
    }

    /// The host of that id.
    pub async fn host(&self, id: HostId) -> Result<Option<Host>, StoreError> {
        self.run(move |tx| host_where(tx, "host_id", id.as_str()))
            .await
    }

    /// Every host, oldest first.
    pub fn hosts(&self) -> Result<Vec<Host>, StoreError> {
        self.write(|tx| {
            let found = tx.all(&format!("{SELECT} ORDER BY enrolled_at, host_id"), (), raw)?;
            found.into_iter().map(host).collect()
        })
    }

    /// A disabled host is believed no more; false: there is none of that id.
    pub fn disable_host(&self, id: &HostId, now: UnixMs) -> Result<bool, StoreError> {
        self.write(|tx| {
            let sql = "UPDATE host SET disabled_at = coalesce(disabled_at, ?2) WHERE host_id = ?1";
            Ok(tx.execute(sql, (id.as_str(), ms(now)))? == 1)
        })
    }
}

fn enrol(
    tx: &Transaction<'_>,
    lookup: Digest,
    key: PublicKey,
    name: &str,
    now: UnixMs,
) -> Result<Enrolment, StoreError> {
    let used_by: Option<Option<String>> = tx.first(
        "SELECT used_by FROM enrol_token WHERE lookup = ?1 AND expires_at > ?2",
        (lookup.0, ms(now)),
        |row| row.get(0),
    )?;
    let Some(used_by) = used_by else {
        return Ok(Enrolment::BadToken);
    };
    let known = host_where(tx, "public_key", &key.to_string())?;
    if known
        .as_ref()
        .is_some_and(|host| host.disabled_at.is_some())
    {
        return Ok(Enrolment::Disabled);
    }
    let id = match (used_by, known) {
        (Some(used_by), Some(host)) if used_by == host.id.as_str() => {
            return Ok(Enrolment::Done(host.id));
        }
        (Some(_), _) => return Ok(Enrolment::BadToken),
        (None, Some(host)) => host.id,
        (None, None) => {
            let id = new_id(name)?;
            let sql =
                "INSERT INTO host (host_id, name, public_key, enrolled_at) VALUES (?1, ?2, ?3, ?4)";
            tx.execute(sql, (id.as_str(), name, key.to_string(), ms(now)))?;
            id
        }
    };
    tx.execute(
        "UPDATE enrol_token SET used_by = ?2 WHERE lookup = ?1",
        (lookup.0, id.as_str()),
    )?;
    tx.execute(
        "UPDATE host SET name = ?2 WHERE host_id = ?1",
        (id.as_str(), name),
    )?;
    Ok(Enrolment::Done(id))
}

/// The name a person knows the host by, and what makes it unique.
fn new_id(name: &str) -> Result<HostId, StoreError> {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
                c
            } else {
                '-'
            }
        })
        .take(48)
        .collect();
    let random = Uuid::new_v4().simple().to_string();
    format!("{plain}-{}", &random[..12])
        .parse()
        .map_err(|_| StoreError::Corrupt("host id"))
}

const SELECT: &str = "SELECT host_id, name, public_key, enrolled_at, disabled_at FROM host";

type Raw = (String, String, String, i64, Option<i64>);

fn raw(row: &Row) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
    ))
}

fn host((id, name, key, enrolled_at, disabled_at): Raw) -> Result<Host, StoreError> {
    Ok(Host {
        id: id.parse().map_err(|_| StoreError::Corrupt("host id"))?,
        name,
        key: key.parse().map_err(|_| StoreError::Corrupt("host key"))?,
        enrolled_at: time(enrolled_at),
        disabled_at: disabled_at.map(time),
    })
}

/// `column` is one of ours.
fn host_where(
    tx: &Transaction<'_>,
    column: &'static str,
    value: &str,
) -> Result<Option<Host>, StoreError> {
    tx.first(&format!("{SELECT} WHERE {column} = ?1"), [value], raw)?
        .map(host)
        .transpose()
}
