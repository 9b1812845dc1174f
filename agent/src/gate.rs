//! Pending holds, deadlines, grants. Pure.
