//! The gateway as hosts and people meet it: real TLS with its CA pinned, real SQLite, real ledger.
mod adversary;
mod host_table;
mod inbox;
mod people_table;
mod world;
