//! Pruning: what may go, and what has to be said before it does. Leaves go by whole epochs, only
//! below a cosigned checkpoint, and only those older than the retention; their hashes stay, so every
//! proof, also of a pruned leaf that somebody kept, still holds.
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::clock;
use crate::note::VerifierKey;
use crate::prove::ProveError;
use crate::reader::{Filter, Leaf, ReadError, Reader};
use crate::verify::orders::{end_of, ended, is_order};
use crate::verify::{Exit, Report};

/// How long leaves are kept unless somebody says otherwise, in days.
pub const RETENTION_DAYS: u32 = 400;

/// What is to be pruned, ready to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The first leaf that stays.
    pub to: u64,
    /// How many go.
    pub leaves: u64,
    /// The body of the `prune` leaf.
    pub(crate) said: Value,
}

/// Why nothing is pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error("the ledger does not prove itself; run `syshold ledger verify`, and prune nothing")]
    Tampered,
    #[error(
        "no witness has cosigned this ledger, so nothing would prove what was pruned; anchor it first, or name the witness with --witness"
    )]
    NotCosigned,
    #[error(
        "no whole epoch is older than {days} days and cosigned; the next to go ends with leaf {next:?}"
    )]
    NothingOld { days: u32, next: Option<u64> },
}

/// Finds what is older than `days`, in a ledger that `verify` found clean; `witnesses` are those that
/// it was verified with.
pub fn plan(
    reader: &Reader,
    proof: &Report,
    now: Timestamp,
    days: u32,
    witnesses: &[VerifierKey],
) -> Result<Plan, PruneError> {
    if matches!(proof.exit(), Exit::Tampered | Exit::Unreadable) {
        return Err(PruneError::Tampered);
    }
    let cosigned = proof.cosigned.as_ref().ok_or(PruneError::NotCosigned)?;
    let age = (i64::from(days) * 24).hours();
    let cutoff = clock::format(now.checked_sub(age).unwrap_or(Timestamp::MIN));
    let rotations = Filter {
        kind: Some("key_rotate".to_owned()),
        ..Filter::default()
    };
    let (mut to, mut next) = (None, None);
    reader.scan(&rotations, |leaf| {
        let old = leaf.value()["t"]
            .as_str()
            .is_some_and(|t| t < cutoff.as_str());
        if leaf.idx <= proof.first {
            return ControlFlow::Continue(());
        }
        if old && leaf.idx < cosigned.size {
            to = Some(leaf.idx);
            ControlFlow::Continue(())
        } else {
            next = leaf.idx.checked_sub(1);
            ControlFlow::Break(())
        }
    })?;
    let Some(to) = to else {
        return Err(PruneError::NothingOld { days, next });
    };
    let mut carried = carried(reader, to)?;
    // Whoever verifies without naming the witness again has to find it.
    let named = witnesses
        .iter()
        .filter(|key| key.name() == cosigned.witness);
    if let Some(list) = carried["witnesses"].as_array_mut() {
        list.extend(named.map(|key| Value::from(key.to_string())));
    }
    let said = json!({
        "to": to,
        "before": cutoff,
        "retention_days": days,
        "cosigned": {"size": cosigned.size, "witness": cosigned.witness, "at": cosigned.at},
        "root": reader.root(to)?.to_string(),
        "carried": carried,
    });
    Ok(Plan {
        to,
        leaves: to - proof.first,
        said,
    })
}

/// What pruned leaves said that those which stay, or come, refer to.
#[derive(Default)]
struct Carried {
    policies: BTreeSet<String>,
    requests: BTreeSet<String>,
    holds: BTreeSet<String>,
    witnesses: BTreeSet<String>,
    identity: Value,
    /// The last `keys`, and where.
    epoch: Value,
    /// Whose answers count, as the last `start` said.
    gateway: Value,
    /// Whose offline keys count, as the last `policy` said.
    offline: Value,
    /// Orders that may still be in force, as far as decisions by them are held against.
    orders: Vec<Value>,
}

impl Carried {
    /// From an earlier pruning.
    fn take(&mut self, carried: &Value) {
        for (name, set) in [
            ("policies", &mut self.policies),
            ("requests", &mut self.requests),
            ("holds", &mut self.holds),
            ("witnesses", &mut self.witnesses),
        ] {
            let list = carried[name].as_array().into_iter().flatten();
            set.extend(list.filter_map(|item| item.as_str().map(str::to_owned)));
        }
        self.gateway = carried["gateway"].clone();
        self.offline = carried["break_glass"]["policy"].clone();
        let orders = carried["break_glass"]["orders"].as_array();
        self.orders = orders.cloned().unwrap_or_default();
        if let Some(keys) = carried["keys"].as_array().and_then(|keys| keys.last()) {
            self.identity = keys["identity"].clone();
            self.epoch = json!({"idx": keys["idx"], "epoch": keys["epoch"]});
        }
    }

    fn note(&mut self, leaf: &Leaf) {
        let value = leaf.value();
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        match text("/kind") {
            Some("policy") => {
                self.policies
                    .extend(text("/policy/sha256").map(str::to_owned));
                let sha256 = &value["policy"]["sha256"];
                self.offline = json!({"sha256": sha256, "keys": value["break_glass"]});
                self.orders.clear();
            }
            Some("start") => {
                self.gateway = value["gateway"].clone();
                self.orders.clear();
            }
            Some("break_glass") if is_order(&value) => self.orders.push(json!({
                "decision_id": value["decision_id"],
                "agent": {"name": value["agent"]["name"]},
                "rules": value["rules"],
                "approvers": people(&value),
                "ends": end_of(&value),
            })),
            Some("break_glass") => self.orders.retain(|order| {
                let id = order["decision_id"].as_str().unwrap_or_default();
                !ended(&value, id)
            }),
            Some("request") => self.requests.extend(text("/request").map(str::to_owned)),
            Some("decision") => self.holds.extend(hold_of(&value)),
            Some("anchor") => self
                .witnesses
                .extend(text("/anchor/witness").map(str::to_owned)),
            Some("genesis" | "key_rotate") if value["keys"].is_object() => {
                if value["keys"]["identity"].is_string() {
                    self.identity = value["keys"]["identity"].clone();
                }
                self.epoch = json!({"idx": leaf.idx, "epoch": value["keys"]["epoch"]});
            }
            _ => {}
        }
    }
}

/// Of everybody only who they are.
fn people(leaf: &Value) -> Vec<Value> {
    let list = leaf["approvers"].as_array().into_iter().flatten();
    list.map(|one| json!({"subject": one["subject"]})).collect()
}

/// As `verify` names a hold.
pub(crate) fn hold_of(leaf: &Value) -> Option<String> {
    match (leaf["hold"].as_str(), leaf["request"].as_str()) {
        (Some(hold), _) => Some(format!("{}/{hold}", leaf["boot_id"].as_str()?)),
        (None, Some(request)) => Some(format!("request/{request}")),
        (None, None) => None,
    }
}

fn carried(reader: &Reader, to: u64) -> Result<Value, ReadError> {
    let mut known = Carried::default();
    let earlier = Filter {
        kind: Some("prune".to_owned()),
        ..Filter::default()
    };
    reader.scan(&earlier, |leaf| {
        known.take(&leaf.value()["prune"]["carried"]);
        ControlFlow::Continue(())
    })?;
    let (mut requests, mut holds) = (BTreeSet::new(), BTreeSet::new());
    reader.scan(&Filter::default(), |leaf| {
        if leaf.idx < to {
            known.note(&leaf);
            return ControlFlow::Continue(());
        }
        let value = leaf.value();
        if let Some(request) = value["request"].as_str()
            && known.requests.contains(request)
        {
            requests.insert(request.to_owned());
        }
        holds.extend(hold_of(&value).filter(|hold| known.holds.contains(hold)));
        ControlFlow::Continue(())
    })?;
    let mut keys = known.epoch;
    keys["identity"] = known.identity;
    Ok(json!({
        // All of them: one of them is in force, and leaves that come will name it.
        "policies": known.policies,
        "requests": requests,
        "holds": holds,
        "witnesses": known.witnesses,
        "gateway": known.gateway,
        "break_glass": {"policy": known.offline, "orders": known.orders},
        "keys": [keys],
    }))
}
