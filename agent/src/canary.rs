//! Proof that enforcement is live.
