//! `hosts …`: who is believed, and which ledger is whose; the keys that hosts pin.
use clap::Subcommand;
use serde_json::json;
use syshold_protocol::HostId;

use super::{Failure, Out, ended, open};
use crate::config::Config;
use crate::host_api::now;
use crate::witness;

#[derive(Debug, Subcommand)]
pub(super) enum Hosts {
    /// List every host, and how much of its ledger was cosigned
    List {
        #[command(flatten)]
        out: Out,
    },
    /// Believe a host no more, at once
    Disable {
        host_id: HostId,
        #[command(flatten)]
        out: Out,
    },
    /// Print the last checkpoint of a host's ledger that was cosigned, for `syshold ledger verify
    /// --witnessed`
    Checkpoint {
        host_id: HostId,
        #[command(flatten)]
        out: Out,
    },
    /// Take the next ledger that a host shows for its own: its old one is lost, or kept as evidence
    NewLedger {
        host_id: HostId,
        #[command(flatten)]
        out: Out,
    },
}

pub(super) fn run(config: &Config, verb: Hosts) -> Result<(), Failure> {
    let (_, store) = open(config)?;
    match verb {
        Hosts::List { out } => {
            let all = store.hosts()?;
            let (mut rows, mut values) = (Vec::new(), Vec::new());
            for host in &all {
                let log = store.log_of_now(&host.id)?;
                rows.push(vec![
                    host.id.to_string(),
                    host.name.clone(),
                    host.key.keyid().to_string(),
                    host.enrolled_at.to_string(),
                    ended(host.disabled_at),
                    witness::brief(log.as_ref()),
                ]);
                values.push(json!({
                    "host_id": host.id, "name": host.name, "keyid": host.key.keyid().to_string(),
                    "enrolled_at": host.enrolled_at, "disabled_at": host.disabled_at,
                    "ledger": log.map(|log| json!({
                        "key": log.key.to_string(), "claimed_at": log.claimed_at, "alarm": log.alarm,
                        "cosigned": log.seen.map(|seen| json!({"size": seen.checkpoint.size, "at": seen.at})),
                    })),
                }));
            }
            let header = ["host", "name", "key", "enrolled", "state", "ledger"];
            out.table(&values, &header, rows.into_iter())
        }
        Hosts::Disable { host_id, out } => {
            if !store.disable_host(&host_id, now())? {
                return Err(Failure::NoHost(host_id));
            }
            out.print(
                &json!({"host_id": host_id, "disabled": true}),
                &format!("{host_id} is believed no more"),
            )
        }
        Hosts::Checkpoint { host_id, out } => {
            let seen = store.log_of_now(&host_id)?.and_then(|log| log.seen);
            let Some(seen) = seen else {
                return Err(Failure::NoLog(host_id));
            };
            out.print(
                &json!({"host_id": host_id, "checkpoint": seen.note}),
                seen.note.trim_end(),
            )
        }
        Hosts::NewLedger { host_id, out } => {
            if !store.forget_log(&host_id)? {
                return Err(Failure::NoLog(host_id));
            }
            out.print(
                &json!({"host_id": host_id, "new_ledger": true}),
                &format!("the next ledger that {host_id} shows is its own; what was seen of the old one is kept"),
            )
        }
    }
}

pub(super) fn witness_key(config: &Config, out: &Out) -> Result<(), Failure> {
    let key = open(config)?.0.witness.verifier().to_string();
    out.print(&json!({"witness": key}), &key)
}

pub(super) fn decision_key(config: &Config, out: &Out) -> Result<(), Failure> {
    let key = open(config)?.0.decision.public().to_string();
    out.print(&json!({"decision": key}), &key)
}
