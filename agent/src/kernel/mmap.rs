//! Array maps shared with the kernel: a verdict or a PID's byte is published by one store.
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A whole `BPF_F_MMAPABLE` array map.
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
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map, 0) }?;
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

    fn byte(&self, index: usize) -> &AtomicU8 {
        assert!(index < self.len, "byte index within the map");
        // SAFETY: in bounds (asserted); shared with the kernel, which stores single bytes.
        unsafe { AtomicU8::from_ptr(self.base.add(index).as_ptr()) }
    }

    pub(super) fn load_byte(&self, index: usize) -> u8 {
        self.byte(index).load(Ordering::Acquire)
    }

    pub(super) fn store_byte(&self, index: usize, byte: u8) {
        self.byte(index).store(byte, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped only here. A failure leaves it mapped: harmless.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Maps a page of a file and lets it go, for the canary.
pub(super) fn map_and_unmap(file: impl AsFd) {
    let Some(len) = NonZeroUsize::new(4096) else {
        return;
    };
    // SAFETY: a fresh private mapping at an address of the kernel's choice, never touched.
    let mapped = unsafe {
        mmap(
            None,
            len,
            ProtFlags::PROT_READ,
            MapFlags::MAP_PRIVATE,
            file,
            0,
        )
    };
    if let Ok(base) = mapped {
        // SAFETY: mapped just above, and nothing points into it.
        let _ = unsafe { munmap(base, len.get()) };
    }
}
