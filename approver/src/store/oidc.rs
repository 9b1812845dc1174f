//! Whose account somebody at an identity provider has.
use serde::Serialize;
use syshold_protocol::UnixMs;

use super::people::{Account, account_by_name};
use super::{Store, StoreError, Transaction, ms, time};
use crate::oidc::Identity;

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub issuer: String,
    pub subject: String,
    pub account: String,
    pub made_at: UnixMs,
}

/// What became of a new link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Linked {
    Done,
    NoAccount,
    /// Whose it is already.
    Taken(String),
}

/// The account of somebody, unless it was disabled.
pub fn account_of(tx: &Transaction<'_>, who: &Identity) -> Result<Option<Account>, StoreError> {
    let sql = "SELECT account FROM identity WHERE issuer = ?1 AND subject = ?2";
    let name: Option<String> = tx.first(sql, (&who.issuer, &who.subject), |row| row.get(0))?;
    name.map_or(Ok(None), |name| account_by_name(tx, &name))
}

impl Store {
    /// From now on that subject signs in as `name`.
    pub fn link_identity(
        &self,
        who: &Identity,
        name: &str,
        now: UnixMs,
    ) -> Result<Linked, StoreError> {
        self.write(|tx| {
            let Some(account) = account_by_name(tx, name)? else {
                return Ok(Linked::NoAccount);
            };
            let sql = "SELECT account FROM identity WHERE issuer = ?1 AND subject = ?2";
            let row = (&who.issuer, &who.subject);
            let taken: Option<String> = tx.first(sql, row, |row| row.get(0))?;
            if let Some(other) = taken.filter(|other| !other.eq_ignore_ascii_case(name)) {
                return Ok(Linked::Taken(other));
            }
            let sql = "INSERT INTO identity (issuer, subject, account, made_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
            tx.execute(sql, (&who.issuer, &who.subject, account.name, ms(now)))?;
            Ok(Linked::Done)
        })
    }

    /// Ends a link, and every session of its person; false: there was none.
    pub fn unlink_identity(&self, who: &Identity) -> Result<bool, StoreError> {
        self.write(|tx| {
            let sql = "DELETE FROM identity WHERE issuer = ?1 AND subject = ?2 RETURNING account";
            let name: Option<String> =
                tx.first(sql, (&who.issuer, &who.subject), |row| row.get(0))?;
            if let Some(name) = &name {
                tx.execute("DELETE FROM session WHERE account = ?1", [name])?;
            }
            Ok(name.is_some())
        })
    }

    /// Every link.
    pub fn identities(&self) -> Result<Vec<Link>, StoreError> {
        self.write(|tx| {
            let sql =
                "SELECT issuer, subject, account, made_at FROM identity ORDER BY account, subject";
            tx.all(sql, (), |row| {
                Ok(Link {
                    issuer: row.get(0)?,
                    subject: row.get(1)?,
                    account: row.get(2)?,
                    made_at: time(row.get(3)?),
                })
            })
        })
    }
}
