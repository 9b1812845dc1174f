//! Passkeys, the one-time links they are registered by, and the challenges that are open.
use serde::Serialize;
use syshold_protocol::{Digest, Pin, UnixMs};

use super::people::{Account, account_by_name};
use super::{Params, Store, StoreError, Transaction, ms, time};

/// How long a one-time link is good, at most.
pub const LINK_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// How long an authenticator may take.
const CHALLENGE_LIFE_MS: u64 = 5 * 60 * 1000;
/// Open challenges of one purpose; anybody can ask to sign in, so the oldest makes way.
const MOST_CHALLENGES: u32 = 4096;
/// Passkeys of one account.
const MOST_PASSKEYS: u32 = 20;

/// A registered passkey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passkey {
    /// Hex.
    pub id: String,
    pub account: String,
    /// What a host's policy names it by.
    pub pin: Pin,
    pub label: String,
    /// The authenticator's signature counter, 0 where it has none.
    #[serde(skip)]
    pub counter: u32,
    pub made_at: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<UnixMs>,
    #[serde(skip)]
    pub credential_id: Vec<u8>,
}

/// What a challenge was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Register,
    SignIn,
    Approve,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::SignIn => "sign_in",
            Self::Approve => "approve",
        }
    }
}

/// What became of a new passkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Done,
    /// The link was used, is too old, or never was.
    BadLink,
    /// That key is registered already.
    Known,
    TooMany,
}

impl Store {
    /// Keeps a one-time link for `name`; false: there is no such account that may answer.
    pub fn add_link(&self, name: &str, link: Digest, now: UnixMs) -> Result<bool, StoreError> {
        self.write(|tx| {
            tx.execute("DELETE FROM passkey_link WHERE expires_at <= ?1", [ms(now)])?;
            let Some(account) = account_by_name(tx, name)? else {
                return Ok(false);
            };
            let row = (link.0, account.name, ms(now.plus(LINK_LIFE_MS)));
            let sql = "INSERT INTO passkey_link (sha256, account, expires_at) VALUES (?1, ?2, ?3)";
            Ok(tx.execute(sql, row)? == 1)
        })
    }

    /// Every passkey, by account.
    pub fn passkeys(&self) -> Result<Vec<Passkey>, StoreError> {
        self.write(|tx| many(tx, "ORDER BY account, made_at", ()))
    }

    /// Takes a passkey away, and the sessions of its account; false: there is none of that id.
    pub fn remove_passkey(&self, id: &str) -> Result<bool, StoreError> {
        self.write(|tx| {
            let all = many(tx, "", ())?;
            let Some(passkey) = all.into_iter().find(|passkey| passkey.id == id) else {
                return Ok(false);
            };
            tx.execute("DELETE FROM session WHERE account = ?1", [passkey.account])?;
            let sql = "DELETE FROM passkey WHERE credential_id = ?1";
            Ok(tx.execute(sql, [passkey.credential_id])? == 1)
        })
    }
}

/// Whose link it is, while it is good.
pub fn link_account(
    tx: &Transaction<'_>,
    link: Digest,
    now: UnixMs,
) -> Result<Option<Account>, StoreError> {
    let sql = "SELECT account FROM passkey_link WHERE sha256 = ?1 AND expires_at > ?2";
    let name: Option<String> = tx.first(sql, (link.0, ms(now)), |row| row.get(0))?;
    name.map_or(Ok(None), |name| account_by_name(tx, &name))
}

/// Files a passkey and uses the link up.
pub fn add(
    tx: &Transaction<'_>,
    link: Digest,
    passkey: &Passkey,
    now: UnixMs,
) -> Result<Added, StoreError> {
    let count: u32 = tx.one(
        "SELECT count(*) FROM passkey WHERE account = ?1",
        [&passkey.account],
        |row| row.get(0),
    )?;
    if count >= MOST_PASSKEYS {
        return Ok(Added::TooMany);
    }
    let sql = "DELETE FROM passkey_link WHERE sha256 = ?1 AND account = ?2 AND expires_at > ?3";
    if tx.execute(sql, (link.0, &passkey.account, ms(now)))? != 1 {
        return Ok(Added::BadLink);
    }
    let sql = "INSERT INTO passkey (credential_id, account, pin, label, counter, made_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let row = (
        &passkey.credential_id,
        &passkey.account,
        passkey.pin.to_string(),
        &passkey.label,
        passkey.counter,
        ms(passkey.made_at),
    );
    Ok(if tx.execute(sql, row)? == 1 {
        Added::Done
    } else {
        Added::Known
    })
}

/// The passkeys of one account.
pub fn of_account(tx: &Transaction<'_>, name: &str) -> Result<Vec<Passkey>, StoreError> {
    many(tx, "WHERE account = ?1 ORDER BY made_at", [name])
}

/// The passkey of that credential.
pub fn by_credential(tx: &Transaction<'_>, id: &[u8]) -> Result<Option<Passkey>, StoreError> {
    Ok(many(tx, "WHERE credential_id = ?1", [id])?.pop())
}

/// Notes a use. False: the counter did not go up, so there are two of this key, and it is not to be
/// believed.
#[must_use = "false: the key was copied"]
pub fn used(
    tx: &Transaction<'_>,
    passkey: &Passkey,
    counter: u32,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let sql = "UPDATE passkey SET counter = ?2, used_at = ?3
               WHERE credential_id = ?1 AND (counter < ?2 OR (counter = 0 AND ?2 = 0))";
    Ok(tx.execute(sql, (&passkey.credential_id, counter, ms(now)))? == 1)
}

/// Opens a challenge.
pub fn open(
    tx: &Transaction<'_>,
    challenge: &[u8],
    purpose: Purpose,
    account: Option<&str>,
    now: UnixMs,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM challenge WHERE expires_at <= ?1", [ms(now)])?;
    let sql = "DELETE FROM challenge WHERE purpose = ?1 AND sha256 NOT IN
               (SELECT sha256 FROM challenge WHERE purpose = ?1 ORDER BY expires_at DESC LIMIT ?2)";
    tx.execute(sql, (purpose.word(), MOST_CHALLENGES - 1))?;
    let row = (
        Digest::of(challenge).0,
        purpose.word(),
        account,
        ms(now.plus(CHALLENGE_LIFE_MS)),
    );
    let sql =
        "INSERT INTO challenge (sha256, purpose, account, expires_at) VALUES (?1, ?2, ?3, ?4)";
    tx.execute(sql, row)?;
    Ok(())
}

/// Uses a challenge up. False: it is not open for that.
#[must_use = "false: it was not asked for, or was used"]
pub fn take(
    tx: &Transaction<'_>,
    challenge: &[u8],
    purpose: Purpose,
    account: Option<&str>,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM challenge WHERE sha256 = ?1 AND purpose = ?2 AND account IS NOT DISTINCT FROM ?3 AND expires_at > ?4";
    let row = (Digest::of(challenge).0, purpose.word(), account, ms(now));
    Ok(tx.execute(sql, row)? == 1)
}

fn many(
    tx: &Transaction<'_>,
    which: &'static str,
    params: impl Params,
) -> Result<Vec<Passkey>, StoreError> {
    type Raw = (Vec<u8>, String, String, String, u32, i64, Option<i64>);
    let sql = "SELECT credential_id, account, pin, label, counter, made_at, used_at FROM passkey";
    let rows = tx.all(
        &format!("{sql} {which}"),
        params,
        |row| -> rusqlite::Result<Raw> {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
            ))
        },
    )?;
    rows.into_iter()
        .map(|row| {
            let (credential_id, account, pin, label, counter, made_at, used_at) = row;
            Ok(Passkey {
                id: credential_id.iter().map(|b| format!("{b:02x}")).collect(),
                account,
                pin: pin.parse().map_err(|_| StoreError::Corrupt("passkey"))?,
                label,
                counter,
                made_at: time(made_at),
                used_at: used_at.map(time),
                credential_id,
            })
        })
        .collect()
}
