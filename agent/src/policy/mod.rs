//! The policy file: parsed into types that cannot be wrong.
