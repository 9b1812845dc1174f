//! Break-glass: every order in the ledger is signed by enough of the people whose offline keys the
//! policy in force pins, for this host, and says what its leaf says; every decision by one names it.
use jiff::Timestamp;
use serde_json::Value;
use syshold_protocol::PublicKey;
use syshold_protocol::break_glass::{self, MAX_AHEAD_MS, Order, Terms};
use syshold_protocol::ids::{HostId, Subject, UnixMs};

use crate::chain::{Code, Finding};
use crate::clock;

/// How much later than it happened something may be recorded, in milliseconds.
const LATER_MS: u64 = 60 * 1000;

#[derive(Default)]
pub(super) struct Orders {
    /// When there are any, no other key counts, whatever a leaf names.
    trusted: Vec<PublicKey>,
    /// As the last `start` leaf says.
    host_id: Option<HostId>,
    /// Of the policy in force: its digest, and whose keys it pins.
    policy: String,
    keys: Vec<(Subject, PublicKey)>,
    /// Of this policy and run of the daemon: neither outlives an order.
    orders: Vec<Known>,
}

/// What decisions are held against.
struct Known {
    id: String,
    agent: String,
    rules: Vec<String>,
    people: Vec<String>,
    /// Milliseconds after boot.
    ends: Option<i64>,
}

/// What was expected and found.
type Wrong = (String, String);

impl Orders {
    pub(super) fn new(trusted: &[PublicKey]) -> Self {
        Self {
            trusted: trusted.to_vec(),
            ..Self::default()
        }
    }

    /// What pruned leaves said; the orders among them were checked before they went.
    pub(super) fn carry(&mut self, carried: &Value) {
        self.began(&carried["gateway"]);
        let policy = &carried["break_glass"]["policy"];
        self.pinned(policy["sha256"].as_str(), &policy["keys"]);
        let orders = carried["break_glass"]["orders"].as_array();
        self.orders = orders.into_iter().flatten().map(Known::of).collect();
    }

    pub(super) fn check(&mut self, idx: u64, leaf: &Value, out: &mut Vec<Finding>) {
        let checked = match leaf["kind"].as_str() {
            Some("start") => return self.began(&leaf["gateway"]),
            Some("policy") => {
                return self.pinned(leaf["policy"]["sha256"].as_str(), &leaf["break_glass"]);
            }
            Some("break_glass") if leaf["ended"].is_array() => {
                return self.orders.retain(|order| !ended(leaf, &order.id));
            }
            Some("break_glass") if is_order(leaf) => {
                let known = Known::of(leaf);
                let judged = self.order(leaf, &known);
                // Found once, and not again with every decision by it.
                self.orders.push(known);
                judged
            }
            Some("decision") if leaf["decision"]["by"] == "break_glass" => self.decision(leaf),
            _ => return,
        };
        if let Err((expected, found)) = checked {
            out.push(Finding::new(Code::ApproverSig, idx, expected, found));
        }
    }

    fn began(&mut self, gateway: &Value) {
        self.host_id = gateway["host_id"].as_str().and_then(|id| id.parse().ok());
        self.orders.clear();
    }

    fn pinned(&mut self, sha256: Option<&str>, keys: &Value) {
        sha256.unwrap_or_default().clone_into(&mut self.policy);
        let pair = |one: &Value| {
            let subject = one["subject"].as_str()?.parse().ok()?;
            Some((subject, one["key"].as_str()?.parse().ok()?))
        };
        let listed = keys.as_array().into_iter().flatten().filter_map(pair);
        let counts = |key: &PublicKey| self.trusted.is_empty() || self.trusted.contains(key);
        self.keys = listed.filter(|(_, key)| counts(key)).collect();
        self.orders.clear();
    }

    fn order(&self, leaf: &Value, said: &Known) -> Result<(), Wrong> {
        let none = |what: &str| (what.to_owned(), "none".to_owned());
        let envelope = leaf["order"]
            .as_str()
            .ok_or_else(|| none("the signed order"))?;
        let host_id = self
            .host_id
            .as_ref()
            .ok_or_else(|| none("a start leaf that names the host"))?;
        if leaf["policy"]["sha256"] != *self.policy {
            let found = leaf["policy"]["sha256"].to_string();
            return Err((format!("the policy in force, {}", self.policy), found));
        }
        let terms = Terms {
            host_id,
            keys: &self.keys,
        };
        let (order, people) = break_glass::signed(envelope.as_bytes(), &terms).map_err(|why| {
            let expected = "an order signed by two people whose keys the policy in force pins";
            (expected.to_owned(), why.to_string())
        })?;
        let order_id = order.order_id.to_string();
        same("id", &said.id, &order_id)?;
        same("agent", &said.agent, &order.agent)?;
        same("rules", &said.rules.join(", "), &order.rules.join(", "))?;
        let until = leaf["until"].as_str().unwrap_or_default();
        same("end", until, &order.until.to_string())?;
        let people: Vec<_> = people.iter().map(Subject::as_str).collect();
        same("people", &said.people.join(", "), &people.join(", "))?;
        in_time(&order, leaf)
    }

    fn decision(&self, leaf: &Value) -> Result<(), Wrong> {
        let id = leaf["decision"]["id"].as_str().unwrap_or_default();
        let known = self.orders.iter().find(|order| order.id == id);
        let order = known.ok_or_else(|| {
            let expected = "a break_glass leaf with its order before it, still in force";
            (expected.to_owned(), format!("none for {id:?}"))
        })?;
        let said = Known::of(leaf);
        same("agent", &said.agent, &order.agent)?;
        same("people", &said.people.join(", "), &order.people.join(", "))?;
        // Of one run of the daemon, so of one boot; the wall clock may have been set meanwhile.
        let at = leaf["t_boot"].as_i64();
        if let (Some(at), Some(ends)) = (at, order.ends)
            && at.saturating_sub(ends) > LATER_MS as i64
        {
            let expected = format!("an order that is good {at} ms after boot");
            return Err((expected, format!("one until {ends} ms")));
        }
        let rule = leaf["policy"]["rule"].as_str().unwrap_or_default();
        if order.rules.is_empty() || order.rules.iter().any(|named| named == rule) {
            Ok(())
        } else {
            let rules = order.rules.join(", ");
            Err((format!("an order for the rule {rule}"), rules))
        }
    }
}

impl Known {
    fn of(leaf: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Self {
            id: text(&leaf["decision_id"]),
            agent: text(&leaf["agent"]["name"]),
            rules: list(&leaf["rules"]).iter().map(text).collect(),
            people: list(&leaf["approvers"])
                .iter()
                .map(|one| text(&one["subject"]))
                .collect(),
            ends: end_of(leaf),
        }
    }
}

/// Whether a leaf puts an order in force on this host. A gateway notes an order of one of its hosts,
/// and has it from there.
pub(crate) fn is_order(leaf: &Value) -> bool {
    leaf["kind"] == "break_glass" && leaf["decision_id"].is_string() && leaf["asker"].is_null()
}

/// When an order ends, in milliseconds after boot: by its leaf, or by what was carried of that.
pub(crate) fn end_of(leaf: &Value) -> Option<i64> {
    let reckoned = || {
        let at = clock::parse(leaf["t"].as_str()?)?;
        let until: Timestamp = leaf["until"].as_str()?.parse().ok()?;
        let left = until.as_millisecond() - at.as_millisecond();
        Some(leaf["t_boot"].as_i64()?.saturating_add(left))
    };
    reckoned().or_else(|| leaf["ends"].as_i64())
}

/// Whether a leaf says that the order of this id is over.
pub(crate) fn ended(leaf: &Value, id: &str) -> bool {
    let mut ids = leaf["ended"].as_array().into_iter().flatten();
    ids.any(|ended| ended == id)
}

fn same(what: &str, expected: &str, found: &str) -> Result<(), Wrong> {
    if expected == found {
        Ok(())
    } else {
        let expected = format!("an order with the {what} {expected:?}");
        Err((expected, format!("{found:?}")))
    }
}

/// Recorded while it was good, or a moment later.
fn in_time(order: &Order, leaf: &Value) -> Result<(), Wrong> {
    let text = leaf["t"].as_str().unwrap_or_default();
    let at = clock::parse(text).map_or(0, Timestamp::as_millisecond);
    let at = UnixMs::new(u64::try_from(at).unwrap_or(0));
    let early = order.from.since(at) > MAX_AHEAD_MS;
    if early || at.since(order.until) > LATER_MS {
        let expected = format!("an order that is good at {text}");
        return Err((expected, format!("{} to {}", order.from, order.until)));
    }
    Ok(())
}
