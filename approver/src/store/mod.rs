//! The gateway's state, in one SQLite file or in PostgreSQL. All SQL of this crate is in this folder,
//! written once for both; a change of the tables is a migration of `sqlite.rs` and one of `postgres/`.
//!
//! Evidence is elsewhere, in the ledger; here is what the gateway needs to go on after a restart.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use syshold_protocol::{Digest, UnixMs};

use self::db::Database;
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use crate::config::Config;

mod db;
mod postgres;
mod sqlite;

pub use db::{Params, Row, Transaction};
pub use postgres::{Change, Changes};

pub mod break_glass;
pub mod delegations;
pub mod due;
pub mod escalations;
pub mod history;
pub mod hosts;
pub mod logs;
pub mod notices;
pub mod oidc;
pub mod passkeys;
pub mod people;
pub mod report;
pub mod requests;
pub mod revocations;
pub mod unrecorded;

/// The open state. Cloning shares it.
#[derive(Clone)]
pub struct Store(Arc<Mutex<dyn Database>>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}; is the disk full, or the folder owned by another user?", path.display())]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("{}: {source}; run as root, or as the user the service runs as", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Owner { path: PathBuf, source: io::Error },
    #[error("{}: made by a newer syshold-approver (format {found}, this one knows {known}); install that one", path.display())]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("state: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("state: a stored {0} does not read back; restore state.db from a backup")]
    Corrupt(&'static str),
    #[error("PostgreSQL: {0}")]
    Postgres(String),
    #[error("{}: no PEM certificate; name the file with the CA of the PostgreSQL server", .0.display())]
    Ca(PathBuf),
    #[error(
        "PostgreSQL: a gateway with this folder's number runs already; end it, or, if the folder was copied, remove `replica` and every `ledger…` file from the copy"
    )]
    SameReplica,
    #[error(
        "PostgreSQL: the {0} of this gateway is not that of the gateways whose state this is; copy ca.key, ca.pem, decision.key and witness.key from the folder of one of them"
    )]
    OtherGateway(&'static str),
    #[error("state: the gateway is shutting down")]
    Closed,
}

impl Store {
    /// Opens `state.db` in `dir`, made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Mutex::new(Sqlite::open(dir)?))))
    }

    /// The state that `config` names. `serving`: as the one gateway of its folder. Beside the store,
    /// what other gateways change in it.
    pub fn of(config: &Config, serving: bool) -> Result<(Self, Option<Changes>), StoreError> {
        let Some(settings) = &config.postgres else {
            return Ok((Self::open(&config.dir)?, None));
        };
        let postgres = Postgres::open(&config.dir, settings, serving)?;
        let changes = postgres.changes();
        Ok((Self(Arc::new(Mutex::new(postgres))), Some(changes)))
    }

    /// Checks that gateways with other keys do not share this state: hosts believe one set only.
    pub fn check_keys(&self, keys: &[(&'static str, String)]) -> Result<(), StoreError> {
        self.write(|tx| {
            for (what, value) in keys {
                let sql =
                    "INSERT INTO gateway (what, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                tx.execute(sql, (what, value))?;
                let sql = "SELECT value FROM gateway WHERE what = ?1";
                let known: String = tx.one(sql, [what], |row| row.get(0))?;
                if known != *value {
                    return Err(StoreError::OtherGateway(what));
                }
            }
            Ok(())
        })
    }

    /// Runs `work` in one write transaction; an error from it undoes everything.
    pub fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = Transaction::new(database.begin()?);
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// [`Self::write`] off the async threads.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.write(work))
            .await
            .unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }
}

/// Times are stored as SQLite's signed integers.
fn ms(time: UnixMs) -> i64 {
    i64::try_from(time.ms()).unwrap_or(i64::MAX)
}

fn time(ms: i64) -> UnixMs {
    UnixMs::new(u64::try_from(ms).unwrap_or(0))
}

fn digest(bytes: Vec<u8>) -> Result<Digest, StoreError> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| StoreError::Corrupt("digest"))
}
