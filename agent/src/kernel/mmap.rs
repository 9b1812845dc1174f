//! Array maps shared with the kernel: a verdict or a PID's byte is published by one store.
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// x86-64 has no other.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A stretch of a `BPF_F_MMAPABLE` array map, from its start unless by [`Bytes`].
#[derive(Debug)]
pub(super) struct Shared {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain shared memory, and every access below is atomic.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `len` bytes: entries × the value size rounded up to 8.
    pub(super) fn map(map: impl AsFd, len: NonZeroUsize) -> nix::Result<Self> {
        Self::map_at(map, len, 0)
    }

    fn map_at(map: impl AsFd, len: NonZeroUsize, offset: usize) -> nix::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let offset = libc::off_t::try_from(offset).map_err(|_| nix::Error::EOVERFLOW)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map, offset) }?;
        Ok(Self {
            base: base.cast(),
            len: len.get(),
        })
    }

    /// Stores word `index`, whole.
    pub(super) fn store_word(&self, index: usize, word: u64) {
        assert!(index < self.len / 8, "word index within the map");
        // SAFETY: in bounds (asserted), aligned (the mapping is page-aligned), and shared with
        // the kernel, which only ever accesses it whole.
        unsafe { AtomicU64::from_ptr(self.base.cast::<u64>().add(index).as_ptr()) }
            .store(word, Ordering::Release);
    }

    /// Adds one to word `index`, as the kernel side does: atomically.
    pub(super) fn count_up(&self, index: usize) {
        assert!(index < self.len / 8, "word index within the map");
        // SAFETY: in bounds (asserted), aligned, and shared with the kernel, which adds
        // atomically too.
        unsafe { AtomicU64::from_ptr(self.base.cast::<u64>().add(index).as_ptr()) }
            .fetch_add(1, Ordering::Relaxed);
    }
}

/// An array of bytes too large to stay mapped: a mapping is filled in at once and counts as the
/// daemon's memory, all of it. Whoever needs a byte maps its page.
#[derive(Debug)]
pub(super) struct Bytes {
    map: OwnedFd,
    len: usize,
}

impl Bytes {
    /// `len` bytes, whole pages.
    pub(super) fn new(map: impl AsFd, len: usize) -> io::Result<Self> {
        let map = map.as_fd().try_clone_to_owned()?;
        Ok(Self { map, len })
    }

    pub(super) fn at(&self, index: usize) -> nix::Result<Byte> {
        assert!(index < self.len, "byte index within the map");
        let place = index % PAGE.get();
        let page = Shared::map_at(&self.map, PAGE, index - place)?;
        Ok(Byte { page, place })
    }
}

/// One byte of [`Bytes`], mapped.
#[derive(Debug)]
pub(super) struct Byte {
    page: Shared,
    place: usize,
}

impl Byte {
    fn atomic(&self) -> &AtomicU8 {
        // SAFETY: `place` is within the page (made so); shared with the kernel, which stores
        // single bytes.
        unsafe { AtomicU8::from_ptr(self.page.base.add(self.place).as_ptr()) }
    }

    pub(super) fn load(&self) -> u8 {
        self.atomic().load(Ordering::Acquire)
    }

    pub(super) fn store(&self, byte: u8) {
        self.atomic().store(byte, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped only here. A failure leaves it mapped: harmless.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Forgets the pages of a constant of this program that is not needed again: whoever reads it after
/// all has them read from the program's file.
pub(super) fn let_go(constant: &'static [u8]) {
    let page = PAGE.get();
    let before = constant.as_ptr().align_offset(page);
    let whole = constant.len().saturating_sub(before) / page * page;
    let Some(first) = constant.get(before..).map(<[u8]>::as_ptr) else {
        return;
    };
    let Some(first) = NonNull::new(first.cast_mut()) else {
        return;
    };
    // SAFETY: whole pages of a constant: never written, so that the file has what they held. A
    // failure leaves them where they are: harmless.
    let _ = unsafe { madvise(first.cast(), whole, MmapAdvise::MADV_DONTNEED) };
}

/// Maps a page of a file and lets it go, for the canary.
pub(super) fn map_and_unmap(file: impl AsFd) {
    // SAFETY: a fresh private mapping at an address of the kernel's choice, never touched.
    let mapped = unsafe {
        mmap(
            None,
            PAGE,
            ProtFlags::PROT_READ,
            MapFlags::MAP_PRIVATE,
            file,
            0,
        )
    };
    if let Ok(base) = mapped {
        // SAFETY: mapped just above, and nothing points into it.
        let _ = unsafe { munmap(base, PAGE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSTANT: [u8; 5 * 4096] = [7; 5 * 4096];

    #[test]
    fn what_was_let_go_reads_as_before() {
        assert!(CONSTANT.iter().all(|byte| *byte == 7));
        let_go(&CONSTANT);
        let_go(&CONSTANT[..3]);
        let_go(&[]);
        assert!(CONSTANT.iter().all(|byte| *byte == 7));
    }
}
