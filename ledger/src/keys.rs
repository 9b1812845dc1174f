//! The private keys of a ledger, in files beside it (0600): `ledger.identity`, which stock tools
//! pin, and `ledger.epoch`, which is erased when the next one takes over.
//!
//! A rotation is: write `ledger.epoch-next`, sync; commit the `key_rotate` leaf with its public
//! half and the checkpoint at that size, signed by the old key; rename over the old key; erase its
//! bytes. After a crash the ledger tells which of the two files is the key of the current epoch.
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::note::{Checkpoint, Note, NoteError, NoteSigner, Role, Signature, VerifierKey};
use crate::store::{inherit_owner, sync_directory};

/// What checkpoints are signed with.
pub(crate) struct Keys {
    path: PathBuf,
    pub(crate) identity: NoteSigner,
    pub(crate) epoch: NoteSigner,
    /// Written, but not yet the key of the current epoch.
    next: Option<NoteSigner>,
}

/// Why a ledger has no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}; restore it from a backup", path.display())]
    Format { path: PathBuf, source: NoteError },
    #[error(
        "{} is missing although the ledger beside it was signed with it; restore it from a backup, or move the ledger away as evidence to begin a new one", .0.display()
    )]
    Missing(PathBuf),
    #[error(
        "{} is not the key of the ledger's current epoch, {expected}; restore the key and the ledger from the same backup, or move the ledger away as evidence to begin a new one", path.display()
    )]
    Epoch { path: PathBuf, expected: String },
}

impl Keys {
    /// New keys for the ledger at `db`, on disk when this returns. Keys that are there are kept: a
    /// crash before the first leaf leaves them behind.
    pub(crate) fn create(db: &Path, origin: &str) -> Result<Self, KeysError> {
        let (identity, epoch) = (db.with_extension("identity"), db.with_extension("epoch"));
        for path in [&identity, &epoch] {
            if !path.exists() {
                let new = NoteSigner::generate(origin).map_err(|source| KeysError::Format {
                    path: path.clone(),
                    source,
                })?;
                write(path, &new)?;
            }
        }
        Self::load(db)
    }

    /// The keys of the ledger at `db`.
    pub(crate) fn load(db: &Path) -> Result<Self, KeysError> {
        let next = db.with_extension("epoch-next");
        Ok(Self {
            path: db.to_owned(),
            identity: read(&db.with_extension("identity"))?,
            epoch: read(&db.with_extension("epoch"))?,
            // One that cannot be read is no leaf's key.
            next: if next.exists() {
                read(&next).ok()
            } else {
                None
            },
        })
    }

    /// The log's name.
    pub(crate) fn origin(&self) -> String {
        self.identity.verifier().name().to_owned()
    }

    /// A checkpoint with both signatures.
    pub(crate) fn sign(&self, checkpoint: &Checkpoint) -> Note {
        let text = checkpoint.to_string();
        let signatures = vec![self.identity.sign(&text, 0), self.epoch.sign(&text, 0)];
        Note { text, signatures }
    }

    /// A key for the next epoch, on disk when this returns.
    pub(crate) fn prepare_next(&mut self) -> Result<VerifierKey, KeysError> {
        let path = self.path.with_extension("epoch-next");
        let next = NoteSigner::generate(&self.origin()).map_err(|source| KeysError::Format {
            path: path.clone(),
            source,
        })?;
        write(&path, &next)?;
        let key = next.verifier();
        self.next = Some(next);
        Ok(key)
    }

    /// Makes the key that the ledger names the current one: the other file is erased.
    pub(crate) fn settle(&mut self, expected: &VerifierKey) -> Result<(), KeysError> {
        let (path, next) = (
            self.path.with_extension("epoch"),
            self.path.with_extension("epoch-next"),
        );
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| KeysError::File { path, source }
        };
        if self.epoch.verifier() == *expected {
            self.next = None;
            return erase(&next, None).map_err(wrong(&next));
        }
        match self.next.take() {
            Some(key) if key.verifier() == *expected => {
                erase(&path, Some(&next)).map_err(wrong(&path))?;
                self.epoch = key;
                Ok(())
            }
            other => {
                self.next = other;
                Err(KeysError::Epoch {
                    path,
                    expected: expected.to_string(),
                })
            }
        }
    }

    /// Which of the keys here made the epoch signature of a checkpoint.
    pub(crate) fn epoch_of(&self, note: &Note) -> Option<VerifierKey> {
        let made = |key: &VerifierKey| {
            let by = |line: &Signature| line.verify(key, &note.text).is_some();
            note.signatures.iter().any(by)
        };
        let own = [Some(&self.epoch), self.next.as_ref()];
        let mut keys = own.into_iter().flatten().map(NoteSigner::verifier);
        keys.find(made)
    }
}

fn read(path: &Path) -> Result<NoteSigner, KeysError> {
    let mut text = Zeroizing::new(String::new());
    let mut file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeysError::Missing(path.to_owned()),
        _ => KeysError::File {
            path: path.to_owned(),
            source,
        },
    })?;
    file.read_to_string(&mut text)
        .map_err(|source| KeysError::File {
            path: path.to_owned(),
            source,
        })?;
    NoteSigner::from_secret_text(&text)
        .and_then(|key| match key.verifier().role() {
            Role::Log => Ok(key),
            Role::Witness => Err(NoteError::Key("a witness's key")),
        })
        .map_err(|source| KeysError::Format {
            path: path.to_owned(),
            source,
        })
}

fn write(path: &Path, key: &NoteSigner) -> Result<(), KeysError> {
    let wrong = |source| KeysError::File {
        path: path.to_owned(),
        source,
    };
    let put = || -> io::Result<()> {
        // Under another name until it is whole: a crash leaves a key or none.
        let new = path.with_extension("key-new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        inherit_owner(&file, path)?;
        file.write_all(key.secret_text().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        sync_directory(path)
    };
    put().map_err(wrong)
}

/// Overwrites the bytes of `path` and takes its name away, or gives it to `successor`. On a file
/// system that copies on write the old bytes may live on until they are reused; nothing here can
/// change that.
fn erase(path: &Path, successor: Option<&Path>) -> io::Result<()> {
    let old = match OpenOptions::new().write(true).open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // The name first: a crash in between must leave a whole key under it.
    match successor {
        Some(successor) => std::fs::rename(successor, path)?,
        None if old.is_some() => std::fs::remove_file(path)?,
        None => return Ok(()),
    }
    sync_directory(path)?;
    if let Some(mut old) = old {
        let length = usize::try_from(old.metadata()?.len()).unwrap_or(0);
        old.write_all(&vec![0; length])?;
        old.sync_all()?;
    }
    Ok(())
}
