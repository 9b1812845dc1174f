//! The host agent: everything sysholdd and syshold share.
//!
//! `driver → gate → rules → request`, `driver → {kernel, park, approver, ledger}`; the last
//! four never import each other. Where a line goes: about time or order → `gate`; about what
//! is allowed → `rules`; a syscall or a pointer → `kernel`; HTTP → `approver`; SQL → the ledger.
pub mod anchor;
pub mod approver;
pub mod canary;
pub mod capabilities;
pub mod cli;
pub mod control;
pub mod driver;
pub mod enrich;
pub mod gate;
pub mod governing;
pub mod journal;
pub mod kernel;
pub mod names;
pub mod park;
pub mod policy;
pub mod request;
pub mod rules;
