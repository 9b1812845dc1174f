//! Kernel and user types.
