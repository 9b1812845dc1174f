//! The gateway as hosts and people meet it: real TLS with its CA pinned, real SQLite, real ledger.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod adversary;
mod break_glass;
mod command_line;
mod copied;
mod docs;
mod dsse_peer;
mod evidence;
mod fake_slack;
mod hook;
mod host_table;
mod inbox;
mod limits;
mod node;
mod oidc;
mod oidc_attacks;
mod oidc_outage;
mod oidc_people;
mod openapi;
mod people_table;
mod postgres;
mod python;
mod replicas;
mod revoked;
mod schemathesis;
mod slack;
mod slack_app;
mod slack_refusals;
mod standing;
mod teams;
mod webhook;
mod witness;
mod world;
