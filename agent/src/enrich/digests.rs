//! Digests of executables: each is read once, until its inode changes, however many ask at once.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use syshold_protocol::Digest;

/// Executables remembered; then all are forgotten, which costs time only.
const REMEMBERED: usize = 1024;
/// Nothing larger is read: a request must not wait for it.
const LARGEST: u64 = 1 << 30;

/// Changes whenever the content does: ctime cannot be set by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Locked while the file is read: whoever asks meanwhile waits for the one reading.
type Slot = Arc<Mutex<Option<Digest>>>;

#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<Stamp, Slot>>);

impl Digests {
    /// None: it is no regular file, too large, or changed while it was read.
    pub(super) fn of(&self, mut file: File) -> io::Result<Option<Digest>> {
        let Some(before) = stamp(&file)? else {
            return Ok(None);
        };
        let slot = self.slot(before);
        let mut known = lock(&slot);
        if known.is_some() {
            return Ok(*known);
        }
        let digest = hash(&mut file, before.size)?;
        if stamp(&file)? == Some(before) {
            *known = Some(digest);
        }
        Ok(*known)
    }

    fn slot(&self, stamp: Stamp) -> Slot {
        let mut slots = lock(&self.0);
        if slots.len() >= REMEMBERED && !slots.contains_key(&stamp) {
            slots.clear();
        }
        Arc::clone(slots.entry(stamp).or_default())
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(file: &File) -> io::Result<Option<Stamp>> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.size() > LARGEST {
        return Ok(None);
    }
    Ok(Some(Stamp {
        dev: meta.dev(),
        ino: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    }))
}

fn hash(file: &mut File, size: u64) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    // A byte more than the size: a file that grows is seen as changed afterwards.
    io::copy(&mut file.take(size + 1), &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn of(digests: &Digests, path: &Path) -> Option<Digest> {
        digests.of(File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_changed_file_has_a_new_digest_even_with_its_old_mtime() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        let digests = Digests::default();
        fs::write(&path, "one").unwrap();
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(of(&digests, &path), Some(Digest::of(b"one")));
        assert_eq!(of(&digests, &path), Some(Digest::of(b"one")));
        assert_eq!(lock(&digests.0).len(), 1);
        // Past the clock tick that ctime counts in.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "two").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        assert_eq!(of(&digests, &path), Some(Digest::of(b"two")));
    }

    #[test]
    fn only_regular_files_are_read() {
        let digests = Digests::default();
        assert_eq!(of(&digests, Path::new("/dev/zero")), None);
        assert_eq!(of(&digests, Path::new("/")), None);
    }

    #[test]
    fn memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let digests = Digests::default();
        for i in 0..REMEMBERED + 10 {
            let path = dir.path().join(i.to_string());
            fs::write(&path, i.to_string()).unwrap();
            assert!(of(&digests, &path).is_some());
        }
        assert!(lock(&digests.0).len() <= REMEMBERED);
    }
}
