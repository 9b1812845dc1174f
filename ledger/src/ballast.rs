//! Space kept back, so that a full disk can still be recorded: a file with nothing in it, removed
//! when the disk is full and made again when it is not.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

use crate::store::inherit_owner;

#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file at its full size, unless it is there.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        if self.is_there() {
            return Ok(());
        }
        self.fill().inspect_err(|_| {
            // Half a ballast would only take space from the ledger.
            let _gone = std::fs::remove_file(&self.path);
        })
    }

    fn is_there(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| file.len() >= self.bytes)
    }

    fn fill(&self) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        inherit_owner(&file, &self.path)?;
        let len = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        posix_fallocate(&file, 0, len)?;
        file.sync_all()
    }

    /// Makes it again, if it is gone, once the disk has room for it and as much again.
    pub(crate) fn restore(&self) -> io::Result<()> {
        if !self.is_there() && self.free()? < self.bytes * 2 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.ensure()
    }

    /// Gives the space back.
    pub(crate) fn release(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        // The directory entry must be gone before the blocks can be used.
        self.path
            .parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// Whether the disk is as good as full.
    pub(crate) fn disk_full(&self) -> bool {
        self.free().is_ok_and(|free| free < self.bytes / 4)
    }

    fn free(&self) -> io::Result<u64> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let stat = statvfs(dir)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}
