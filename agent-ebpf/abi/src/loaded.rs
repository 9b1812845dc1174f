//! What is attached, so that a later daemon goes on with it.

/// As many programs as the record has room for.
pub const MAX_PROGRAMS: usize = 96;

/// Kept by the daemon, for daemons; no program reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// SHA-256 of all that the programs were made of; all zero: nothing here is to be relied on.
    pub made_of: [u8; 32],
    /// By position in the daemon's list. All zero: this kernel has no such hook.
    pub programs: [Attached; MAX_PROGRAMS],
}

/// The kernel's numbers of a link and of its program: unique until the next boot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    pub link: u32,
    pub program: u32,
}

impl Loaded {
    pub const NOTHING: Self = Self {
        made_of: [0; 32],
        programs: [Attached {
            link: 0,
            program: 0,
        }; MAX_PROGRAMS],
    };
}
