//! The remote approver: hosts ask it over one listener, people answer over another.
//!
//! `serve` joins: [`host_api`] and [`people_api`] + [`inbox`] → [`desk`] → [`judge`] (pure),
//! [`store`] (SQL), [`evidence`] (ledger). What people see is made in [`render`].
pub mod channels;
pub mod cli;
pub mod config;
pub mod desk;
pub mod evidence;
pub mod host_api;
pub mod http;
pub mod inbox;
pub mod judge;
pub mod keys;
mod limit;
pub mod limits;
pub mod metrics;
pub mod oidc;
pub mod openapi;
pub mod passkeys;
pub mod people_api;
pub mod render;
pub mod revocations;
pub mod roster;
pub mod serve;
pub mod store;
pub mod token;
pub mod witness;

#[cfg(test)]
mod sample;
