//! The state in PostgreSQL, for gateways that share it: see docs/approver.md, "More than one gateway".
//!
//! One writing connection a gateway. Every transaction first takes one advisory lock of the database,
//! so transactions of all replicas run one after the other, as they do in a SQLite file: what is
//! compared is still so when it is set.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::types::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::StoreError;
use super::db::{Database, Row, Running};
use crate::config::Postgres as Settings;

mod connect;
mod listen;
mod replica;
mod values;

use self::connect::Target;
pub use self::listen::{Change, Changes};
use self::values::{Param, row};

/// Append only, as in SQLite.
const MIGRATIONS: [&str; 2] = [
    include_str!("../postgres.sql"),
    include_str!("../postgres_revocations.sql"),
];
/// Whose turn it is to write; "syshold" and one.
const TURN: i64 = 0x73_79_73_68_6f_6c_64_01;
/// Longer than the server allows any statement or any wait for the turn.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a session is told first. A gateway that dies, or whose machine does, has its turn no longer
/// than this; nothing is handed out that a crash of the server could lose.
const SESSION: &str = "
    SET statement_timeout = '10s'; SET lock_timeout = '8s';
    SET idle_in_transaction_session_timeout = '10s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2;
    SET standard_conforming_strings = on; SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// The server, and the connection to it while there is one.
pub(super) struct Postgres {
    /// The connections run here, whatever thread asks. None: being dropped.
    runtime: Option<Runtime>,
    target: Arc<Target>,
    session: Option<Session>,
    keeper: i64,
    serving: bool,
}

struct Session {
    client: Arc<Client>,
    /// By their text in this crate.
    statements: HashMap<String, Statement>,
}

impl Postgres {
    /// Connects, and brings the database up to date. `serving`: as the one gateway of the folder `dir`.
    pub(super) fn open(dir: &Path, settings: &Settings, serving: bool) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Postgres(error.to_string()))?;
        let mut postgres = Self {
            runtime: Some(runtime),
            target: Arc::new(Target::new(settings)?),
            session: None,
            keeper: replica::id(dir)?,
            serving,
        };
        postgres.migrate()?;
        Ok(postgres)
    }

    /// What other replicas change.
    pub(super) fn changes(&self) -> Changes {
        Changes::new(Arc::clone(&self.target))
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let running = self.running()?;
        running.batch("CREATE TABLE IF NOT EXISTS syshold_format (version BIGINT NOT NULL)")?;
        let version = match running
            .query("SELECT version FROM syshold_format", &[])?
            .first()
        {
            Some(row) => row.get(0)?,
            None => 0,
        };
        let mut now = 0;
        for migration in MIGRATIONS {
            now += 1;
            if now > version {
                running.batch(migration)?;
            }
        }
        if version > now {
            return Err(StoreError::Newer {
                path: "the PostgreSQL database".into(),
                found: version,
                known: now,
            });
        }
        running.execute("DELETE FROM syshold_format", &[])?;
        let sql = "INSERT INTO syshold_format (version) VALUES (?1)";
        running.execute(sql, &[now.into()])?;
        Box::new(running).commit()
    }

    fn running(&mut self) -> Result<Turn<'_>, StoreError> {
        // Once more on a new connection: nothing was done on the one that is gone.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({TURN})"
        );
        for fresh in [false, true] {
            if self.session.as_ref().is_none_or(|s| s.client.is_closed()) {
                self.session = None;
                self.session = Some(self.connect()?);
            }
            match self.batch(&begin) {
                Ok(()) => break,
                Err(error) if fresh || self.session.is_some() => {
                    self.undo();
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Ok(Turn {
            postgres: RefCell::new(self),
            failed: Cell::new(false),
            over: false,
        })
    }

    fn connect(&self) -> Result<Session, StoreError> {
        let target = Arc::clone(&self.target);
        let mine = self.serving.then_some(self.keeper);
        let client = self.wait(async move {
            let (client, connection) = target.connect().await?;
            tokio::spawn(connection);
            client.batch_execute(SESSION).await?;
            if let Some(mine) = mine {
                // Held as long as the session: a replica whose lock is free is gone.
                let lock = format!(
                    "SET lock_timeout = '3s'; SELECT pg_advisory_lock({mine}); SET lock_timeout = '8s'"
                );
                client.batch_execute(&lock).await?;
            }
            Ok(client)
        });
        let client = client.map_err(|failure| match failure {
            Failure::Sql(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                StoreError::SameReplica
            }
            failure => failure.into(),
        })?;
        Ok(Session {
            client: Arc::new(client),
            statements: HashMap::new(),
        })
    }

    /// Runs it where the connection runs: also a thread that may not block may wait here.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>> + Send + 'static,
    ) -> Result<T, Failure> {
        let runtime = self.runtime.as_ref().ok_or(Failure::Late)?;
        let (done, result) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = done.send(timeout(PATIENCE, work).await);
        });
        match result.recv() {
            Ok(Ok(result)) => result.map_err(Failure::Sql),
            Ok(Err(_)) | Err(_) => Err(Failure::Late),
        }
    }

    fn client(&self) -> Result<Arc<Client>, StoreError> {
        let lost = || StoreError::Postgres("the connection was lost".to_owned());
        let session = self.session.as_ref().ok_or_else(lost)?;
        Ok(Arc::clone(&session.client))
    }

    /// A connection that did not answer is not used again.
    fn kept<T>(&mut self, result: Result<T, Failure>) -> Result<T, StoreError> {
        result.map_err(|failure| {
            let lost = matches!(failure, Failure::Late)
                || self.session.as_ref().is_none_or(|s| s.client.is_closed());
            if lost {
                self.session = None;
            }
            failure.into()
        })
    }

    fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        let (client, sql) = (self.client()?, sql.to_owned());
        let done = self.wait(async move { client.batch_execute(&sql).await });
        self.kept(done)
    }

    fn statement(&mut self, sql: &str) -> Result<Statement, StoreError> {
        let known = self.session.as_ref().and_then(|s| s.statements.get(sql));
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let (client, text) = (self.client()?, sql.replace('?', "$"));
        let made = self.wait(async move { client.prepare(&text).await });
        let made = self.kept(made)?;
        if let Some(session) = &mut self.session {
            session.statements.insert(sql.to_owned(), made.clone());
        }
        Ok(made)
    }

    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        let (statement, client) = (self.statement(sql)?, self.client()?);
        let params = Param::all(params);
        let done = self.wait(async move { client.execute_raw(&statement, slices(&params)).await });
        let rows = self.kept(done)?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let (statement, client) = (self.statement(sql)?, self.client()?);
        let params = Param::all(params);
        let found = self.wait(async move {
            let params: Vec<&(dyn ToSql + Sync)> = slices(&params).collect();
            client.query(&statement, &params).await
        });
        self.kept(found)?.iter().map(row).collect()
    }

    fn undo(&mut self) {
        if self.session.is_some() && self.batch("ROLLBACK").is_err() {
            // The server undoes what it hears no more of.
            self.session = None;
        }
    }
}

fn slices(params: &[Param]) -> impl ExactSizeIterator<Item = &(dyn ToSql + Sync)> {
    params.iter().map(|param| param as &(dyn ToSql + Sync))
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.session = None;
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops this may be async.
            runtime.shutdown_background();
        }
    }
}

impl Database for Postgres {
    fn begin(&mut self) -> Result<Box<dyn Running + '_>, StoreError> {
        Ok(Box::new(self.running()?))
    }
}

/// A transaction that has the turn.
struct Turn<'a> {
    postgres: RefCell<&'a mut Postgres>,
    /// The server has forgotten what was done before an error, and calls that a commit.
    failed: Cell<bool>,
    over: bool,
}

impl Turn<'_> {
    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.note(self.postgres.borrow_mut().batch(sql))
    }

    fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed.set(self.failed.get() || result.is_err());
        result
    }
}

impl Running for Turn<'_> {
    fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        self.note(self.postgres.borrow_mut().execute(sql, params))
    }

    fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.note(self.postgres.borrow_mut().query(sql, params))
    }

    fn keeper(&self) -> i64 {
        self.postgres.borrow().keeper
    }

    fn runs(&self, keeper: i64) -> Result<bool, StoreError> {
        // Taken by its session; see `connect`.
        let sql = "SELECT pg_try_advisory_xact_lock_shared(?1)";
        let rows = self.query(sql, &[keeper.into()])?;
        let free: Option<bool> = rows.first().map(|row| row.get(0)).transpose()?;
        Ok(free == Some(false))
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.failed.get() {
            return Err(StoreError::Postgres("nothing was changed".to_owned()));
        }
        self.over = true;
        self.batch("COMMIT")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.postgres.get_mut().undo();
        }
    }
}

/// Why something was not done there.
enum Failure {
    Sql(tokio_postgres::Error),
    /// No answer in time.
    Late,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Sql(error) => values::said(&error),
            Failure::Late => Self::Postgres("no answer in 15 s".to_owned()),
        }
    }
}
