//! Accounts, personal tokens and web sessions. Of a secret only its SHA-256 is kept.
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use syshold_protocol::{Digest, Subject, UnixMs};

use super::{Row, Store, StoreError, Transaction, digest, ms, time};

/// How long a web session lasts.
pub const SESSION_MS: u64 = 12 * 60 * 60 * 1000;

/// Somebody who may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    pub name: String,
    pub email: Subject,
    pub groups: Vec<String>,
    pub made_at: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<UnixMs>,
}

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error(
        "an account with that name or mail address exists; see `syshold-approver accounts list`"
    )]
    Exists,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// A new account, reachable by the token with that digest.
    pub fn add_account(&self, account: &Account, token: Digest) -> Result<(), AccountError> {
        let groups = serde_json::to_string(&account.groups)
            .map_err(|_| StoreError::Corrupt("list of groups"))?;
        let row = (
            &account.name,
            account.email.as_str(),
            groups,
            token.0,
            ms(account.made_at),
        );
        self.write(|tx| {
            let sql = "INSERT INTO account (name, email, groups, token_sha256, made_at) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT DO NOTHING";
            if tx.execute(sql, row)? == 1 { Ok(()) } else { Err(AccountError::Exists) }
        })
    }

    /// Every account, by name.
    pub fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        self.write(|tx| {
            let found = tx.all(
                &format!("SELECT {COLUMNS} FROM account ORDER BY name"),
                (),
                raw,
            )?;
            found.into_iter().map(account).collect()
        })
    }

    /// Replaces the token and ends every session; also brings a disabled account back.
    pub fn replace_token(&self, name: &str, token: Digest) -> Result<bool, StoreError> {
        self.write(|tx| {
            tx.execute("DELETE FROM session WHERE account = ?1", [name])?;
            let sql = "UPDATE account SET token_sha256 = ?2, disabled_at = NULL WHERE name = ?1";
            Ok(tx.execute(sql, (name, token.0))? == 1)
        })
    }

    /// Ends what the account may do, at once.
    pub fn disable_account(&self, name: &str, now: UnixMs) -> Result<bool, StoreError> {
        self.write(|tx| {
            tx.execute("DELETE FROM session WHERE account = ?1", [name])?;
            tx.execute("DELETE FROM passkey_link WHERE account = ?1", [name])?;
            let sql = "UPDATE account SET disabled_at = coalesce(disabled_at, ?2) WHERE name = ?1";
            Ok(tx.execute(sql, (name, ms(now)))? == 1)
        })
    }

    /// Whose token has that digest.
    pub async fn account_by_token(&self, token: Digest) -> Result<Option<Account>, StoreError> {
        self.run(move |tx| account_by_token(tx, token)).await
    }

    /// A session for the holder of that token.
    pub async fn open_session(
        &self,
        token: Digest,
        session: Digest,
        now: UnixMs,
    ) -> Result<Option<Account>, StoreError> {
        self.run(move |tx| {
            let Some(account) = account_by_token(tx, token)? else {
                return Ok(None);
            };
            add_session(tx, &account.name, session, now)?;
            Ok(Some(account))
        })
        .await
    }

    /// Whose session it is.
    pub async fn account_by_session(
        &self,
        session: Digest,
        now: UnixMs,
    ) -> Result<Option<Account>, StoreError> {
        self.run(move |tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM account JOIN session ON session.account = account.name
                 WHERE sha256 = ?1 AND expires_at > ?2 AND disabled_at IS NULL"
            );
            tx.first(&sql, (session.0, ms(now)), raw)?
                .map(account)
                .transpose()
        })
        .await
    }

    /// Ends one session.
    pub async fn close_session(&self, session: Digest) -> Result<(), StoreError> {
        self.run(move |tx| {
            tx.execute("DELETE FROM session WHERE sha256 = ?1", [session.0])?;
            Ok(())
        })
        .await
    }
}

/// A session for an account that has proven itself otherwise.
pub fn add_session(
    tx: &Transaction<'_>,
    name: &str,
    session: Digest,
    now: UnixMs,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM session WHERE expires_at <= ?1", [ms(now)])?;
    let row = (session.0, name, ms(now.plus(SESSION_MS)));
    let sql = "INSERT INTO session (sha256, account, expires_at) VALUES (?1, ?2, ?3)";
    tx.execute(sql, row)?;
    Ok(())
}

/// The account of that name, unless it was disabled.
pub fn account_by_name(tx: &Transaction<'_>, name: &str) -> Result<Option<Account>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM account WHERE name = ?1 AND disabled_at IS NULL");
    tx.first(&sql, [name], raw)?.map(account).transpose()
}

/// Every token is looked at, each in constant time: how long it takes says nothing about any.
fn account_by_token(tx: &Transaction<'_>, token: Digest) -> Result<Option<Account>, StoreError> {
    let mut found = None;
    let sql = format!("SELECT {COLUMNS}, token_sha256 FROM account WHERE disabled_at IS NULL");
    for (row, stored) in tx.all(&sql, (), |row| Ok((raw(row)?, row.get(5)?)))? {
        if bool::from(digest(stored)?.0.ct_eq(&token.0)) {
            found = Some(account(row)?);
        }
    }
    Ok(found)
}

/// The account of that name, unless it was disabled.
pub(super) fn enabled(tx: &Transaction<'_>, name: &str) -> Result<Option<Account>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM account WHERE name = ?1 AND disabled_at IS NULL");
    tx.first(&sql, [name], raw)?.map(account).transpose()
}

const COLUMNS: &str = "account.name, email, groups, made_at, disabled_at";

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

fn account((name, email, groups, made_at, disabled_at): Raw) -> Result<Account, StoreError> {
    Ok(Account {
        name,
        email: email
            .try_into()
            .map_err(|_| StoreError::Corrupt("mail address"))?,
        groups: serde_json::from_str(&groups).map_err(|_| StoreError::Corrupt("list of groups"))?,
        made_at: time(made_at),
        disabled_at: disabled_at.map(time),
    })
}
