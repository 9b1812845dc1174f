//! The state in one SQLite file, for one gateway.
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, TransactionBehavior, params_from_iter};

use super::StoreError;
use super::db::{Database, Row, Running, owned};
use crate::keys::give_to_dir_owner;

/// Append only: a file of a newer program is refused, one of an older is brought up.
const MIGRATIONS: [&str; 9] = [
    include_str!("schema.sql"),
    include_str!("channels.sql"),
    include_str!("standing.sql"),
    include_str!("escalations.sql"),
    include_str!("logs.sql"),
    include_str!("break_glass.sql"),
    include_str!("oidc.sql"),
    include_str!("keepers.sql"),
    include_str!("revocations.sql"),
];
/// Every statement of this folder, with room.
const STATEMENTS: usize = 128;

/// The open file.
pub(super) struct Sqlite(Connection);

impl Sqlite {
    /// Opens `state.db` in `dir`, made if it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
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
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;")
            .map_err(at)?;
        migrate(&mut connection, &path)?;
        // Root may run this for a service that is not root.
        give_to_dir_owner(&path).map_err(|source| StoreError::Owner {
            path: path.clone(),
            source,
        })?;
        Ok(Self(connection))
    }
}

impl Database for Sqlite {
    fn begin(&mut self) -> Result<Box<dyn Running + '_>, StoreError> {
        let transaction = self
            .0
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        Ok(Box::new(transaction))
    }
}

impl Running for rusqlite::Transaction<'_> {
    fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        Ok(self
            .prepare_cached(sql)?
            .execute(params_from_iter(params))?)
    }

    fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.prepare_cached(sql)?;
        Ok(read(&mut statement, params)?)
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(rusqlite::Transaction::commit(*self)?)
    }
}

fn read(statement: &mut Statement<'_>, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let columns = statement.column_count();
    let rows = statement.query_map(params_from_iter(params), |row| {
        let values = (0..columns).map(|column| owned(row.get_ref(column)?));
        values.collect::<rusqlite::Result<_>>().map(Row)
    })?;
    rows.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

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
