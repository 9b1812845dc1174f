//! Why a ledger cannot be opened for writing, and whether that may pass.
use std::io;
use std::path::{Path, PathBuf};

use crate::chain::{Code, Finding};
use crate::keys::KeysError;

/// Why a ledger cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{path}: {why}; the ledger's directory must be a directory that only its owner can write"
    )]
    Directory { path: PathBuf, why: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}: another process writes this ledger; stop it first, or leave out --db to have the daemon do it"
    )]
    InUse { path: PathBuf },
    #[error("{path}: not a ledger; move it away or name another file")]
    NotALedger { path: PathBuf },
    #[error(
        "{path}: written by a newer version (schema {found}, this program knows {known}); update this program"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: usize,
    },
    #[error("{path}: {finding}; keep the file as evidence and run `syshold ledger verify`")]
    Tampered { path: PathBuf, finding: Finding },
    #[error("{path}: the ledger is empty although it was in use; keep the file as evidence")]
    Emptied { path: PathBuf },
    #[error("{path}: cannot keep {bytes} bytes back for a full disk: {source}; free some space")]
    Ballast {
        path: PathBuf,
        bytes: u64,
        source: io::Error,
    },
    #[error("{path}: {code}: {source}; keep the file as evidence and run `syshold ledger verify`", code = Code::Db)]
    Damaged {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("{path}: {source}")]
    Sqlite {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("the first leaf cannot be written: {0}")]
    Genesis(String),
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl OpenError {
    /// Whether somebody has to look at the file: trying again changes nothing.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotALedger { .. }
            | Self::Newer { .. }
            | Self::Tampered { .. }
            | Self::Emptied { .. }
            | Self::Damaged { .. } => true,
            Self::Directory { .. }
            | Self::Io { .. }
            | Self::InUse { .. }
            | Self::Ballast { .. }
            | Self::Sqlite { .. }
            | Self::Genesis(_)
            | Self::Keys(_) => false,
        }
    }

    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::NotALedger { path },
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => Self::Damaged { path, source },
            _ => Self::Sqlite { path, source },
        }
    }
}
