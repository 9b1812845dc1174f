//! What binds an approved exec to the arguments that were approved.

/// The arguments of an exec that was approved. The daemon stores them before it publishes the
/// verdict. The kernel reads a program's arguments from the caller's memory again when the syscall
/// goes on, and another thread may have changed them by then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// [`SipHash`] of all of them, a NUL behind each.
    pub all: u64,
    /// The same without the first, which a script loses.
    pub rest: u64,
    /// `bprm->p` when the exec began; 0: it has not come by yet.
    pub begin: u64,
    /// Bytes of all of them, their NULs included.
    pub len: u32,
    /// Bytes of the first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    pub _pad: u32,
}

impl Arguments {
    /// Of an exec whose arguments no rule and nobody asked for.
    pub const FREE: Self = Self {
        all: 0,
        rest: 0,
        begin: 0,
        len: 0,
        first: 0,
        count: u32::MAX,
        _pad: 0,
    };

    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.count == u32::MAX
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) over words of eight bytes, little-endian. Keyed, so
/// that nobody can look for other arguments with the same hash.
#[derive(Clone, Copy)]
pub struct SipHash {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHash {
    #[must_use]
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Eight more bytes.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// The hash of `len` bytes; `last` are those that fill no word, zeros behind them.
    #[must_use]
    #[inline(always)]
    pub fn end(mut self, last: u64, len: u32) -> u64 {
        self.word(last | (len as u64) << 56);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// How many bytes of a word are 0.
#[must_use]
#[inline(always)]
pub const fn zeros_in(word: u64) -> u32 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // A byte's high bit is 0 afterwards if and only if the byte is.
    let filled = ((word & LOW) + LOW) | word | LOW;
    let ones = !filled >> 7;
    // Adds the eight bytes up in the highest.
    (ones.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}
