//! Names in rules, resolved and kept fresh.
