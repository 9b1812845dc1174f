//! Reading kernel structs: offsets come from the running kernel's BTF, so nothing is compiled in.
//!
//! `OFFSETS` is in a frozen read-only map: the verifier knows each offset as a constant and
//! checks it against the pointer's BTF type, and the JIT turns the read into one load that
//! yields 0 on a fault. Where the verifier knows no type, `bpf_probe_read_kernel` is used.
use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use syshold_abi::Offsets;

/// Set by the daemon before loading.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = {
    // SAFETY: integers only.
    unsafe { core::mem::zeroed() }
};

/// A typed kernel pointer.
pub type Kernel = *const c_void;

macro_rules! offset {
    ($field:ident) => {
        // Volatile: the compiler must not take the zeros above for the values.
        core::ptr::read_volatile(&raw const $crate::field::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// One load through a pointer whose type the verifier knows.
///
/// # Safety
/// `base` is a kernel pointer typed by BTF and `T` is the type of the field at `offset`.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: Kernel, offset: u32) -> T {
    core::ptr::read_volatile(base.byte_add(offset as usize).cast::<T>())
}

/// The address of an embedded struct.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn inside(base: Kernel, offset: u32) -> Kernel {
    base.byte_add(offset as usize)
}

/// A copy of memory whose type the verifier does not know; None on a fault.
///
/// # Safety
/// `T` is plain bytes.
#[inline(always)]
pub unsafe fn copy<T>(from: *const T) -> Option<T> {
    bpf_probe_read_kernel(from).ok()
}

/// A word of memory whose type the verifier does not know; 0 on a fault. Unlike [`copy`] it makes
/// no second way through the program for the verifier to follow.
///
/// # Safety
/// None: a bad address is a fault.
#[inline(always)]
pub unsafe fn word(at: u64, offset: u32) -> u64 {
    let mut word = 0u64;
    let from = (at + u64::from(offset)) as *const _;
    generated::bpf_probe_read_kernel((&raw mut word).cast(), 8, from);
    word
}

/// The same number, but one that the verifier does not know: it need not follow the rest of the
/// program once for each.
///
/// # Safety
/// None.
#[inline(always)]
pub unsafe fn opaque(number: u32) -> u32 {
    let mut same = 0u32;
    generated::bpf_probe_read_kernel((&raw mut same).cast(), 4, (&raw const number).cast());
    same
}

/// Atomic addition; the value before. The target has no compare-and-swap, so `core::sync::atomic`
/// offers none of this. Relaxed would do, but LLVM makes of that an instruction that does not
/// fetch, and what it "returns" is `by`: hold ids would all be the same.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, by: u64) -> u64 {
    core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
        word, by,
    )
}

/// Atomic or; the word before.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) -> u64 {
    core::intrinsics::atomic_or::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
        word, bits,
    )
}
