//! The gateway's state in one SQLite file. All SQL of this crate is in this folder.
//!
//! Evidence is elsewhere, in the ledger; here is what the gateway needs to go on after a restart.
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use syshold_protocol::{Digest, UnixMs};

use crate::keys::give_to_dir_owner;

pub mod hosts;
pub mod people;
pub mod requests;

/// Append only: a file of a newer program is refused, one of an older is brought up.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// The open file. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Connection>>);

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
    #[error("state: the gateway is shutting down")]
    Closed,
}

impl Store {
    /// Opens `state.db` in `dir`, made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("state.db");
        let at = |source| StoreError::Open {
            path: path.clone(),
            source,
        };
        create_private(&path).map_err(|source| StoreError::Create {
            path: path.clone(),
            source,
        })?;
        let mut connection = Connection::open(&path).map_err(at)?;
        connection
            .busy_timeout(Duration::from_secs(10))
            .map_err(at)?;
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;")
            .map_err(at)?;
        migrate(&mut connection, &path)?;
        // Root may run this for a service that is not root.
        give_to_dir_owner(&path).map_err(|source| StoreError::Owner {
            path: path.clone(),
            source,
        })?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `work` in one write transaction; an error from it undoes everything.
    pub fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(StoreError::from)?;
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

/// Mode 0600 whatever the umask; SQLite gives its side files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut now = 0;
    for migration in MIGRATIONS {
        now += 1;
        if now > version {
            transaction.execute_batch(migration)?;
        }
    }
    if version > now {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: now,
        });
    }
    transaction.pragma_update(None, "user_version", now)?;
    Ok(transaction.commit()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let path = dir.path().join("state.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Newer { found: 99, .. })
        ));
        let version: u32 = Connection::open(&path)
            .unwrap()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 99);
    }
}
