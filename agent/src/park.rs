//! Threads into the freezer and out again.
