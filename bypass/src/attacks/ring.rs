//! io_uring: what it does is done by the kernel on somebody's behalf, later.
use crate::act::Act;
use crate::attacks::local4;
use crate::scene::SECRET;
use crate::sys::{self, N, Out};

const ENTRIES: u32 = 4;
const PARAMS: usize = 120;
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const OP_READ: u8 = 22;

/// A ring with its two queues mapped; the children of who made it have it too.
#[derive(Debug)]
pub(crate) struct Ring {
    fd: i64,
    queue: i64,
    entries: i64,
    at: Offsets,
}

/// Offsets into the queue, from `io_uring_params`.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    sq_tail: usize,
    sq_array: usize,
    sq_mask: usize,
    cq_head: usize,
    cq_mask: usize,
    cq_entries: usize,
}

/// What is submitted.
struct Operation {
    code: u8,
    fd: i64,
    address: u64,
    len: u32,
    offset: u64,
}

impl Ring {
    /// None where rings are switched off.
    pub(crate) fn new() -> Option<Self> {
        let mut params = [0u8; PARAMS];
        let fd = sys::call(
            libc::SYS_io_uring_setup,
            &mut [N(ENTRIES.into()), Out(&mut params)],
        );
        if fd < 0 {
            return None;
        }
        let word = |at: usize| -> usize {
            let bytes = [params[at], params[at + 1], params[at + 2], params[at + 3]];
            u32::from_ne_bytes(bytes) as usize
        };
        // Both queues are one mapping since 5.4 (IORING_FEAT_SINGLE_MMAP).
        let map = |offset: i64| {
            let both = i64::from(libc::PROT_READ | libc::PROT_WRITE);
            let shared = i64::from(libc::MAP_SHARED);
            sys::call(
                libc::SYS_mmap,
                &mut [N(0), N(4096), N(both), N(shared), N(fd), N(offset)],
            )
        };
        let ring = Self {
            fd,
            queue: map(0),
            entries: map(0x1000_0000),
            at: Offsets {
                sq_tail: word(40 + 4),
                sq_mask: word(40 + 8),
                sq_array: word(40 + 24),
                cq_head: word(80),
                cq_mask: word(80 + 8),
                cq_entries: word(80 + 20),
            },
        };
        (ring.queue > 0 && ring.entries > 0).then_some(ring)
    }

    fn word(&self, at: usize) -> *mut u32 {
        (self.queue + at as i64) as *mut u32
    }

    /// Submits one operation and waits; the result in its completion.
    fn run(&self, what: &Operation) -> i64 {
        let mut entry = [0u8; 64];
        entry[0] = what.code;
        entry[4..8].copy_from_slice(&(what.fd as i32).to_ne_bytes());
        entry[8..16].copy_from_slice(&what.offset.to_ne_bytes());
        entry[16..24].copy_from_slice(&what.address.to_ne_bytes());
        entry[24..28].copy_from_slice(&what.len.to_ne_bytes());
        // SAFETY: the kernel gave these offsets for the two mappings made in `new`; nobody else
        // uses this ring at the same time, for attacks run one after the other.
        let head = unsafe {
            let tail = self.word(self.at.sq_tail).read_volatile();
            let slot = tail & self.word(self.at.sq_mask).read_volatile();
            let to = (self.entries as *mut u8).add(slot as usize * 64);
            std::ptr::copy_nonoverlapping(entry.as_ptr(), to, 64);
            self.word(self.at.sq_array + slot as usize * 4)
                .write_volatile(slot);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            self.word(self.at.sq_tail)
                .write_volatile(tail.wrapping_add(1));
            self.word(self.at.cq_head).read_volatile()
        };
        const GETEVENTS: i64 = 1;
        let entered = sys::call(
            libc::SYS_io_uring_enter,
            &mut [N(self.fd), N(1), N(1), N(GETEVENTS), N(0), N(0)],
        );
        if entered < 0 {
            return entered;
        }
        // SAFETY: as above; the completion is there, for the kernel waited for it.
        unsafe {
            let mask = self.word(self.at.cq_mask).read_volatile();
            let at = self.at.cq_entries + (head & mask) as usize * 16;
            let result = self.word(at + 8).read_volatile() as i32;
            self.word(self.at.cq_head)
                .write_volatile(head.wrapping_add(1));
            result.into()
        }
    }
}

pub(crate) fn setup(act: &mut Act<'_>) {
    let mut params = [0u8; PARAMS];
    let fd = act.call(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        &mut [N(1), Out(&mut params)],
    );
    act.did(fd >= 0);
}

const NO_RINGS: &str = "io_uring is switched off on this host";

pub(crate) fn connect(act: &mut Act<'_>) {
    let Some(ring) = act.ring else {
        return act.not_applicable(NO_RINGS);
    };
    let fd = act.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let to = local4(act.scene.ports.tcp4);
    let done = ring.run(&Operation {
        code: OP_CONNECT,
        fd,
        address: to.as_ptr() as u64,
        len: 0,
        offset: 16,
    });
    act.tell("IORING_OP_CONNECT", done);
}

pub(crate) fn open(act: &mut Act<'_>) {
    let Some(ring) = act.ring else {
        return act.not_applicable(NO_RINGS);
    };
    let path = sys::path(&act.scene.protected.join(SECRET));
    let opened = ring.run(&Operation {
        code: OP_OPENAT,
        fd: libc::AT_FDCWD.into(),
        address: path.as_ptr() as u64,
        len: 0,
        offset: 0,
    });
    act.tell("IORING_OP_OPENAT", opened);
    // A descriptor that is there already is tried through the ring all the same.
    let fd = if opened < 0 {
        i64::from(act.inherited.file)
    } else {
        opened
    };
    let mut bytes = [0u8; 256];
    let len = ring.run(&Operation {
        code: OP_READ,
        fd,
        address: bytes.as_mut_ptr() as u64,
        len: 256,
        offset: 0,
    });
    act.tell("IORING_OP_READ", len);
    act.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
}
