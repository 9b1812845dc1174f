//! The gateway as hosts and people meet it: real TLS with its CA pinned, real SQLite, real ledger.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod adversary;
mod command_line;
mod docs;
mod evidence;
mod host_table;
mod inbox;
mod people_table;
mod slack;
mod world;
