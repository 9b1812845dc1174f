//! The SQLite file: how it is made, migrated, written and checked. All SQL that writes is here.
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior};

use crate::chain::{Body, Chain, Code, Finding, Tail};
use crate::note::{Checkpoint, Note, VerifierKey, parse_checkpoint};
use crate::tree::Frontier;

mod error;
mod write;
pub use error::OpenError;
pub(crate) use write::{Batch, Opening, Row, hash_at, missing_node};
use write::{build_nodes, insert, introduced_epoch};

/// `PRAGMA application_id` of a ledger: "SysL".
pub(crate) const APPLICATION_ID: i32 = 0x5379_734c;

/// Append-only: an entry that was released is never changed. `user_version` counts those applied.
/// The columns that are queried are computed from the body, so they cannot differ from what was
/// hashed.
pub(crate) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE leaf (
  idx       INTEGER PRIMARY KEY,
  body      TEXT NOT NULL,
  hash      BLOB NOT NULL CHECK (length(hash) = 32),
  kind      TEXT GENERATED ALWAYS AS (json_extract(body, '$.kind')) VIRTUAL,
  t         TEXT GENERATED ALWAYS AS (json_extract(body, '$.t')) VIRTUAL,
  request   TEXT GENERATED ALWAYS AS (json_extract(body, '$.request')) VIRTUAL,
  hold      TEXT GENERATED ALWAYS AS (json_extract(body, '$.hold')) VIRTUAL,
  agent     TEXT GENERATED ALWAYS AS (json_extract(body, '$.agent.name')) VIRTUAL,
  op        TEXT GENERATED ALWAYS AS (json_extract(body, '$.action.op')) VIRTUAL,
  rule      TEXT GENERATED ALWAYS AS (json_extract(body, '$.policy.rule')) VIRTUAL,
  verdict   TEXT GENERATED ALWAYS AS (json_extract(body, '$.decision.verdict')) VIRTUAL,
  by        TEXT GENERATED ALWAYS AS (json_extract(body, '$.decision.by')) VIRTUAL,
  approvers TEXT GENERATED ALWAYS AS (json_extract(body, '$.approvers')) VIRTUAL
) STRICT;
",
    "
CREATE TABLE node (
  level INTEGER NOT NULL,
  n     INTEGER NOT NULL,
  hash  BLOB NOT NULL CHECK (length(hash) = 32),
  PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (
  size INTEGER PRIMARY KEY,
  note TEXT NOT NULL
) STRICT;
CREATE TABLE opening (
  idx   INTEGER NOT NULL,
  path  TEXT NOT NULL,
  salt  BLOB NOT NULL CHECK (length(salt) = 16),
  value TEXT NOT NULL,
  PRIMARY KEY (idx, path)
) STRICT, WITHOUT ROWID;
",
];

/// How many of the last leaves are checked when a file is opened for writing.
pub(crate) const TAIL_CHECK: u64 = 1000;

/// A ledger file open for writing.
#[derive(Debug)]
pub(crate) struct Store {
    conn: Connection,
    path: PathBuf,
}

/// The end of a ledger that was found in order.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) tail: Tail,
    pub(crate) edge: Frontier,
    /// None in a ledger that has no keys yet.
    pub(crate) checkpoint: Option<(Note, Checkpoint)>,
    /// The epoch key that the last leaf introduces.
    pub(crate) epoch: Option<VerifierKey>,
}

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the file was changed by someone else: its last leaf is {found}, not {expected}")]
    Foreign { expected: u64, found: String },
    #[error("a reader keeps the write-ahead log busy")]
    Busy,
}

impl CommitError {
    pub(crate) fn disk_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }
}

/// The lock that makes this process the only writer; the kernel drops it with the process.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    check_directory(path)?;
    let lock = path.with_extension("lock");
    let wrong = |source| OpenError::Io {
        path: lock.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(wrong)?;
    inherit_owner(&file, &lock).map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(wrong(source)),
    }
}

fn check_directory(path: &Path) -> Result<(), OpenError> {
    let dir = directory(path);
    let wrong = |why: String| OpenError::Directory {
        path: dir.to_owned(),
        why,
    };
    let found = std::fs::metadata(dir).map_err(|error| wrong(error.to_string()))?;
    if !found.is_dir() {
        return Err(wrong("not a directory".to_owned()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(wrong(format!(
            "mode {:o} lets others write",
            found.mode() & 0o7777
        )));
    }
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.is_file() => Err(OpenError::Directory {
            path: path.to_owned(),
            why: "not a regular file".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The directory of the ledger; `.` for a bare file name.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

impl Store {
    /// Opens or makes the file; `genesis` gives the first leaf of a new one. The caller holds the
    /// [`lock`].
    pub(crate) fn open(
        path: &Path,
        genesis: impl FnOnce() -> Result<Batch, OpenError>,
    ) -> Result<Self, OpenError> {
        create_file(path).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut store = Self::connect(path)?;
        let wrong = |source| OpenError::sqlite(path, source);
        let (application, version, tables) = identity(&store.conn).map_err(wrong)?;
        let fresh = version == 0 && tables == 0;
        if !fresh && application != APPLICATION_ID {
            return Err(OpenError::NotALedger {
                path: path.to_owned(),
            });
        }
        let known = MIGRATIONS.len();
        let done = usize::try_from(version)
            .ok()
            .filter(|done| *done <= known)
            .ok_or(OpenError::Newer {
                path: path.to_owned(),
                found: version,
                known,
            })?;
        if done < known {
            let transaction = store
                .conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(wrong)?;
            migrate(&transaction, done).map_err(wrong)?;
            if fresh {
                insert(&transaction, &genesis()?).map_err(wrong)?;
            } else if done == 1 {
                build_nodes(&transaction).map_err(wrong)?;
            }
            transaction.commit().map_err(wrong)?;
            sync_directory(path).map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(store)
    }

    /// Opens the file again after a failure. What a failed fsync left in the page cache is marked
    /// clean and may never reach the disk, so all of the log is copied into the database, as new
    /// pages with an fsync of their own, before anything else is written.
    pub(crate) fn reopen(path: &Path) -> Result<Self, CommitError> {
        let store = Self::connect(path).map_err(|error| match error {
            OpenError::Sqlite { source, .. } | OpenError::Damaged { source, .. } => {
                CommitError::Sqlite(source)
            }
            _ => CommitError::Busy,
        })?;
        store.forget().map(|()| store)
    }

    fn connect(path: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        // Only the file itself may be no link: systemd makes the directory of a DynamicUser= one.
        let real = match (directory(path).canonicalize(), path.file_name()) {
            (Ok(dir), Some(name)) => dir.join(name),
            _ => path.to_owned(),
        };
        let open = || -> rusqlite::Result<Connection> {
            let conn = Connection::open_with_flags(&real, flags)?;
            conn.busy_timeout(Duration::from_secs(2))?;
            conn.pragma_update(None, "trusted_schema", false)?;
            conn.pragma_update(None, "cell_size_check", true)?;
            // What is redacted or pruned is overwritten, not only unlinked.
            conn.pragma_update(None, "secure_delete", true)?;
            conn.query_row("PRAGMA journal_mode = WAL", [], |row| {
                row.get::<_, String>(0)
            })?;
            conn.pragma_update(None, "synchronous", "FULL")?;
            Ok(conn)
        };
        let conn = open().map_err(|source| OpenError::sqlite(path, source))?;
        Ok(Self {
            conn,
            path: path.to_owned(),
        })
    }

    /// Checks the last leaves, the right edge of the tree and its checkpoint.
    pub(crate) fn head(&self) -> Result<Head, OpenError> {
        let wrong = |source| OpenError::sqlite(&self.path, source);
        let mut chain = Chain::default();
        let mut findings = Vec::new();
        let mut statement = self
            .conn
            .prepare(
                "SELECT idx, CAST(body AS BLOB), hash FROM leaf \
                 WHERE idx >= (SELECT max(idx) FROM leaf) - ?1 ORDER BY idx",
            )
            .map_err(wrong)?;
        let mut rows = statement.query([TAIL_CHECK]).map_err(wrong)?;
        let mut last: Option<Vec<u8>> = None;
        while let Some(row) = rows.next().map_err(wrong)? {
            let (idx, body, hash): (u64, Vec<u8>, Vec<u8>) =
                (|| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))().map_err(wrong)?;
            let read = Body::read(idx, &body);
            if last.is_none() {
                chain.begin_at(idx, read, &hash, &mut findings);
            } else {
                chain.push(idx, read, &hash, &mut findings);
            }
            if let Some(finding) = findings.pop() {
                return Err(self.tampered(finding));
            }
            last = Some(body);
        }
        let tail = chain.into_tail().ok_or(OpenError::Emptied {
            path: self.path.clone(),
        })?;
        let edge = Frontier::load(tail.idx + 1, |place| {
            let hash = hash_at(&self.conn, place).map_err(wrong)?;
            hash.ok_or_else(|| self.tampered(missing_node(place)))
        })?;
        let checkpoint = self.checkpoint(&edge)?;
        Ok(Head {
            tail,
            edge,
            checkpoint,
            epoch: last.as_deref().and_then(introduced_epoch),
        })
    }

    /// The latest checkpoint, which has to be of this very tree.
    fn checkpoint(&self, edge: &Frontier) -> Result<Option<(Note, Checkpoint)>, OpenError> {
        let wrong = |source| OpenError::sqlite(&self.path, source);
        let note: Option<String> = self
            .conn
            .query_row(
                "SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(wrong)?;
        let last = edge.size() - 1;
        let Some(raw) = note else {
            let genesis: Option<String> = self
                .conn
                .query_row("SELECT body FROM leaf WHERE idx = 0", [], |row| row.get(0))
                .optional()
                .map_err(wrong)?;
            return match genesis {
                Some(body) if introduced_epoch(body.as_bytes()).is_none() => Ok(None),
                _ => Err(self.tampered(Finding::new(
                    Code::Root,
                    last,
                    format!("a checkpoint of {} leaves", edge.size()),
                    "no checkpoint at all",
                ))),
            };
        };
        let (note, checkpoint) = parse_checkpoint(&raw).map_err(|error| {
            self.tampered(Finding::new(
                Code::CkptFormat,
                last,
                "a signed checkpoint",
                error.to_string(),
            ))
        })?;
        let expected = format!("{} leaves, root {}", edge.size(), edge.root());
        let found = format!("{} leaves, root {}", checkpoint.size, checkpoint.root);
        if checkpoint.size > edge.size() {
            return Err(self.tampered(Finding::new(Code::Truncated, last, found, expected)));
        }
        if (checkpoint.size, checkpoint.root) != (edge.size(), edge.root()) {
            return Err(self.tampered(Finding::new(Code::Root, last, expected, found)));
        }
        Ok(Some((note, checkpoint)))
    }

    pub(crate) fn tampered(&self, finding: Finding) -> OpenError {
        OpenError::Tampered {
            path: self.path.clone(),
            finding,
        }
    }

    /// Takes what was deleted out of the log as well.
    pub(crate) fn forget(&self) -> Result<(), CommitError> {
        let busy: i64 = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 {
            Ok(())
        } else {
            Err(CommitError::Busy)
        }
    }

    /// The paths of the openings of a leaf.
    pub(crate) fn opened(&self, idx: u64) -> rusqlite::Result<Vec<String>> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT path FROM opening WHERE idx = ?1 ORDER BY path")?;
        let paths = statement.query_map([idx], |row| row.get(0))?;
        paths.collect()
    }

    /// The stored hash of one leaf.
    pub(crate) fn hash_at(&self, idx: u64) -> rusqlite::Result<Option<Vec<u8>>> {
        self.conn
            .query_row("SELECT hash FROM leaf WHERE idx = ?1", [idx], |row| {
                row.get(0)
            })
            .optional()
    }

    /// Writes `batch` after `tail`, in one transaction. When this returns Ok it is on disk.
    pub(crate) fn commit(&mut self, tail: &Tail, batch: &Batch) -> Result<(), CommitError> {
        let transaction = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last: Option<(u64, Vec<u8>)> = transaction
            .prepare_cached("SELECT idx, hash FROM leaf ORDER BY idx DESC LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match last {
            Some((idx, hash)) if idx == tail.idx && hash == tail.hash.0 => {}
            other => {
                let found = other.map_or("missing".to_owned(), |(idx, _)| idx.to_string());
                return Err(CommitError::Foreign {
                    expected: tail.idx,
                    found,
                });
            }
        }
        insert(&transaction, batch)?;
        Ok(transaction.commit()?)
    }
}

/// Applies what is missing after the first `done` migrations.
pub(crate) fn migrate(conn: &Connection, done: usize) -> rusqlite::Result<()> {
    for migration in &MIGRATIONS[done..] {
        conn.execute_batch(migration)?;
    }
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", MIGRATIONS.len())
}

/// `application_id`, `user_version`, and the number of things in the schema.
pub(crate) fn identity(conn: &Connection) -> rusqlite::Result<(i32, i64, i64)> {
    Ok((
        conn.pragma_query_value(None, "application_id", |row| row.get(0))?,
        conn.pragma_query_value(None, "user_version", |row| row.get(0))?,
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    ))
}

/// Mode 0640 whatever the umask: who may read the directory may read the ledger. SQLite gives its
/// side files the same mode and owner.
fn create_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
    {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o640))?;
            inherit_owner(&file, path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What root makes belongs to whoever owns the directory, so that a service with a user of its own
/// can go on with what an administrator's command began.
pub(crate) fn inherit_owner(file: &File, path: &Path) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (dir, own) = (std::fs::metadata(directory(path))?, file.metadata()?);
    if (dir.uid(), dir.gid()) == (own.uid(), own.gid()) {
        return Ok(());
    }
    fchown(file, Some(dir.uid()), Some(dir.gid()))
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}
