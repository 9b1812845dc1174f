//! The one loop that owns all mutable state.
