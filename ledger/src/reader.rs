//! Reading a ledger while it is written, or a copy of one on a medium that cannot be written.
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, params_from_iter,
    types::Value as SqlValue,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::store::{self, APPLICATION_ID, MIGRATIONS};
use crate::tree::TreeHash;

/// A ledger open for reading only.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    path: PathBuf,
    /// A ledger from before there were any has none.
    has_openings: bool,
    opened: Opened,
}

/// What the connection is to.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    /// More of the URI.
    more: &'static str,
    /// Where the copy is that is read in place of the file.
    _copy: Option<TempDir>,
}

/// A stored leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub idx: u64,
    /// The bytes that were hashed.
    pub body: String,
    /// As stored; [`crate::verify`](fn@crate::verify) compares.
    pub hash: TreeHash,
}

impl Leaf {
    /// The body as JSON; null when it is none.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Which leaves to read: all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub from_idx: u64,
    pub kind: Option<String>,
    /// The id of a request.
    pub request: Option<String>,
    pub hold: Option<String>,
    pub agent: Option<String>,
    pub rule: Option<String>,
    pub verdict: Option<String>,
    /// The subject of one of the approvers.
    pub approver: Option<String>,
    /// Who or what decided.
    pub by: Option<String>,
    pub op: Option<String>,
    /// One of the object's data labels.
    pub label: Option<String>,
    /// Not before this time, as leaves write it.
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
}

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "{path}: {source}; is the path right, and are you root or in the group that may read it?"
    )]
    Missing {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: not a ledger")]
    NotALedger { path: PathBuf },
    #[error(
        "{path}: written by a newer version (schema {found}, this program knows {known}); update this program"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: usize,
    },
    #[error("{path}: cannot be read in place, and not copied to be read: {source}")]
    Copy {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Sqlite {
        path: PathBuf,
        source: rusqlite::Error,
    },
}

impl Reader {
    /// Opens the file at `path` without ever writing to it.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        // A plain error for what SQLite calls "unable to open database file". Not by opening it:
        // closing it again would end the locks of a writer in this very process (POSIX).
        eaccess(path, AccessFlags::R_OK).map_err(|errno| ReadError::Missing {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        let (conn, opened) = connect(path)?;
        let mut reader = Self {
            conn,
            path: path.to_owned(),
            has_openings: false,
            opened,
        };
        let (application, version, _) =
            store::identity(&reader.conn).map_err(|source| reader.wrong(source))?;
        reader.has_openings = version >= 2;
        if application != APPLICATION_ID {
            return Err(ReadError::NotALedger { path: reader.path });
        }
        let known = MIGRATIONS.len();
        if usize::try_from(version).is_ok_and(|version| version <= known) {
            Ok(reader)
        } else {
            Err(ReadError::Newer {
                path: reader.path,
                found: version,
                known,
            })
        }
    }

    /// How many leaves there are.
    pub fn len(&self) -> Result<u64, ReadError> {
        let count = self
            .conn
            .query_row("SELECT count(*) FROM leaf", [], |row| row.get::<_, i64>(0));
        count
            .map(|count| u64::try_from(count).unwrap_or(0))
            .map_err(|source| self.wrong(source))
    }

    /// How many leaves the tree is of, those that were pruned included.
    pub fn size(&self) -> Result<u64, ReadError> {
        let last = self.conn.query_row("SELECT max(idx) FROM leaf", [], |row| {
            row.get::<_, Option<i64>>(0)
        });
        last.map(|last| {
            last.and_then(|idx| u64::try_from(idx).ok())
                .map_or(0, |idx| idx + 1)
        })
        .map_err(|source| self.wrong(source))
    }

    /// Whether there are none: so it is only when the file was tampered with.
    pub fn is_empty(&self) -> Result<bool, ReadError> {
        Ok(self.len()? == 0)
    }

    /// The last `n` leaves, oldest first.
    pub fn tail(&self, n: u64) -> Result<Vec<Leaf>, ReadError> {
        let mut leaves = self.select(
            "SELECT idx, body, hash FROM leaf ORDER BY idx DESC LIMIT ?1",
            vec![integer(n)],
        )?;
        leaves.reverse();
        Ok(leaves)
    }

    /// One leaf.
    pub fn show(&self, idx: u64) -> Result<Option<Leaf>, ReadError> {
        self.conn
            .query_row(
                "SELECT idx, body, hash FROM leaf WHERE idx = ?1",
                [integer(idx)],
                leaf_of,
            )
            .optional()
            .map_err(|source| self.wrong(source))
    }

    /// What opens the commitments of a leaf: path and value, as JSON.
    pub fn openings(&self, idx: u64) -> Result<Vec<(String, String)>, ReadError> {
        if !self.has_openings {
            return Ok(Vec::new());
        }
        let read = || {
            let mut statement = self
                .conn
                .prepare_cached("SELECT path, value FROM opening WHERE idx = ?1 ORDER BY path")?;
            let rows = statement.query_map([integer(idx)], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.wrong(source))
    }

    /// The same for somebody who checks them: with the salt, hex.
    pub(crate) fn salted(&self, idx: u64) -> Result<Vec<Value>, ReadError> {
        let read = || {
            let mut statement = self.conn.prepare_cached(
                "SELECT path, salt, value FROM opening WHERE idx = ?1 ORDER BY path",
            )?;
            let rows = statement.query_map([integer(idx)], |row| {
                let salt = crate::chain::hex(&row.get::<_, [u8; 16]>(1)?);
                let (path, value): (String, String) = (row.get(0)?, row.get(2)?);
                Ok(serde_json::json!({"idx": idx, "path": path, "salt": salt, "value": value}))
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.wrong(source))
    }

    /// Writes a copy of the ledger to `to`, which must not exist: one plain database file.
    pub fn snapshot(&self, to: &Path) -> Result<(), ReadError> {
        let copy = |source| ReadError::Copy {
            path: to.to_owned(),
            source,
        };
        // SQLite would make it readable for all.
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(to)
            .map_err(copy)?;
        let conn = open(&self.path, "").map_err(|source| self.wrong(source))?;
        let name = to.to_string_lossy();
        conn.pragma_update(None, "query_only", false)
            .and_then(|()| conn.execute("VACUUM INTO ?1", [name]))
            .map(drop)
            .map_err(|source| self.wrong(source))
    }

    /// Hands over every leaf the filter lets through, oldest first, until told to stop.
    pub fn scan(
        &self,
        filter: &Filter,
        each: impl FnMut(Leaf) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let (sql, values) = filter.sql();
        self.each(&sql, values, each)
    }

    /// Hands over every leaf, newest first, until told to stop.
    pub fn back(&self, each: impl FnMut(Leaf) -> ControlFlow<()>) -> Result<(), ReadError> {
        let sql = "SELECT idx, body, hash FROM leaf ORDER BY idx DESC";
        self.each(sql, Vec::new(), each)
    }

    fn each(
        &self,
        sql: &str,
        values: Vec<SqlValue>,
        mut each: impl FnMut(Leaf) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut statement = self
            .conn
            .prepare_cached(sql)
            .map_err(|source| self.wrong(source))?;
        let mut rows = statement
            .query(params_from_iter(values))
            .map_err(|source| self.wrong(source))?;
        while let Some(row) = rows.next().map_err(|source| self.wrong(source))? {
            if each(leaf_of(row).map_err(|source| self.wrong(source))?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Hands over leaves as they are committed, from `filter.from_idx` on, until told to stop. Looks
    /// every `pause`; a look that finds no commit reads one page.
    pub fn follow(
        &self,
        filter: &Filter,
        pause: Duration,
        mut each: impl FnMut(Leaf) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut filter = filter.clone();
        let mut seen = None;
        loop {
            let version: i64 = self
                .conn
                .pragma_query_value(None, "data_version", |row| row.get(0))
                .map_err(|source| self.wrong(source))?;
            if seen.replace(version) != Some(version) {
                let mut stopped = ControlFlow::Continue(());
                let mut next = filter.from_idx;
                self.scan(&filter, |leaf| {
                    next = leaf.idx + 1;
                    stopped = each(leaf);
                    stopped
                })?;
                filter.from_idx = next;
                if stopped.is_break() {
                    return Ok(());
                }
            }
            std::thread::sleep(pause);
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Another connection to the same file, for another thread.
    pub(crate) fn again(&self) -> rusqlite::Result<Connection> {
        open(&self.opened.path, self.opened.more)
    }

    pub(crate) fn wrong(&self, source: rusqlite::Error) -> ReadError {
        wrong(&self.path, source)
    }

    fn select(&self, sql: &str, values: Vec<SqlValue>) -> Result<Vec<Leaf>, ReadError> {
        let read = || {
            let mut statement = self.conn.prepare_cached(sql)?;
            let leaves = statement.query_map(params_from_iter(values), leaf_of)?;
            leaves.collect::<rusqlite::Result<Vec<Leaf>>>()
        };
        read().map_err(|source| self.wrong(source))
    }
}

impl Filter {
    fn sql(&self) -> (String, Vec<SqlValue>) {
        let mut sql = "SELECT idx, body, hash FROM leaf NOT INDEXED WHERE idx >= ?".to_owned();
        let mut values = vec![integer(self.from_idx)];
        let columns = [
            (" AND kind = ?", &self.kind),
            (" AND request = ?", &self.request),
            (" AND hold = ?", &self.hold),
            (" AND agent = ?", &self.agent),
            (" AND rule = ?", &self.rule),
            (" AND verdict = ?", &self.verdict),
            (" AND by = ?", &self.by),
            (" AND op = ?", &self.op),
            (" AND t >= ?", &self.since),
            (" AND t < ?", &self.until),
            (
                " AND EXISTS (SELECT 1 FROM json_each(body, '$.object.labels') WHERE value = ?)",
                &self.label,
            ),
            (
                " AND EXISTS (SELECT 1 FROM json_each(approvers) WHERE json_extract(value, '$.subject') = ?)",
                &self.approver,
            ),
        ];
        for (condition, value) in columns {
            if let Some(value) = value {
                sql.push_str(condition);
                values.push(SqlValue::Text(value.clone()));
            }
        }
        sql.push_str(" ORDER BY idx");
        (sql, values)
    }
}

/// In place; else, when the medium or the directory cannot be written: in place as an unchanging
/// file if nothing is in its log, or as a copy.
fn connect(path: &Path) -> Result<(Connection, Opened), ReadError> {
    let opened = |path: &Path, more, copy| Opened {
        path: path.to_owned(),
        more,
        _copy: copy,
    };
    match open(path, "") {
        Ok(conn) => return Ok((conn, opened(path, "", None))),
        Err(error) if !in_the_way(&error) => return Err(wrong(path, error)),
        Err(_) => {}
    }
    if fs::metadata(side_file(path, "-wal")).map_or(0, |log| log.len()) == 0 {
        const UNCHANGING: &str = "&immutable=1";
        return open(path, UNCHANGING)
            .map(|conn| (conn, opened(path, UNCHANGING, None)))
            .map_err(|source| wrong(path, source));
    }
    let copied = copy(path).map_err(|source| ReadError::Copy {
        path: path.to_owned(),
        source,
    })?;
    let file = copied.path().join("ledger.db");
    let conn = open(&file, "").map_err(|source| wrong(path, source))?;
    Ok((conn, opened(&file, "", Some(copied))))
}

fn open(path: &Path, more: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(format!("file:{}?mode=ro{more}", percent(path)), flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "query_only", true)?;
    // The first read tells whether the log's index can be used.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    Ok(conn)
}

/// Errors that mean "there is a log and no way to write its index here".
fn in_the_way(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
                | ErrorCode::PermissionDenied
        )
    )
}

fn copy(path: &Path) -> std::io::Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("syshold-ledger-")
        .tempdir()?;
    let to = dir.path().join("ledger.db");
    // The log first: what a checkpoint moves meanwhile is then in both, not in neither.
    fs::copy(side_file(path, "-wal"), side_file(&to, "-wal"))?;
    fs::copy(path, &to)?;
    Ok(dir)
}

fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path inside a `file:` URI.
fn percent(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_');
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let bytes = absolute.as_os_str().as_bytes();
    bytes
        .iter()
        .map(|byte| {
            if plain(*byte) {
                char::from(*byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn wrong(path: &Path, source: rusqlite::Error) -> ReadError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => ReadError::NotALedger { path },
        _ => ReadError::Sqlite { path, source },
    }
}

fn integer(n: u64) -> SqlValue {
    SqlValue::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn leaf_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Leaf> {
    let idx: i64 = row.get(0)?;
    Ok(Leaf {
        idx: u64::try_from(idx).unwrap_or(u64::MAX),
        body: row.get(1)?,
        hash: TreeHash(row.get(2)?),
    })
}
