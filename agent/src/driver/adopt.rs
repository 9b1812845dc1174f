//! What an earlier daemon left in the ledger.
//!
//! What it asked and nobody answered: its holds are asked about anew, under new request ids; without
//! this people would see each question twice, and the old ones would count against the host at the
//! gateway until their holds ended. And the break-glass orders that were used: each counts once.
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use syshold_ledger::{ReadError, Reader};
use syshold_protocol::break_glass::{MAX_AHEAD_MS, MAX_MS};
use syshold_protocol::ids::{DecisionId, RequestId};

/// Leaves looked at, if there are so many: more questions than this are not open at once.
const LOOK_BACK: usize = 5_000;
/// An order is over this long after its leaf.
const ORDER: SignedDuration = SignedDuration::from_millis((MAX_AHEAD_MS + MAX_MS) as i64);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Requests that have neither a decision nor an outcome, newest first.
    pub unanswered: Vec<RequestId>,
    /// Break-glass orders that were in force and may not be over, newest first.
    pub orders: Vec<DecisionId>,
}

/// Reads the end of a ledger that was opened for writing.
pub fn earlier(ledger: &Path, now: Timestamp) -> Result<Earlier, ReadError> {
    let mut pass = Pass::new(now);
    Reader::open(ledger)?.back(|leaf| pass.leaf(&leaf.value()))?;
    Ok(pass.found)
}

/// One way through the leaves, newest first.
struct Pass {
    /// No order is in force that was recorded before.
    horizon: Timestamp,
    seen: usize,
    closed: HashSet<RequestId>,
    found: Earlier,
}

impl Pass {
    fn new(now: Timestamp) -> Self {
        Self {
            horizon: now - ORDER,
            seen: 0,
            closed: HashSet::new(),
            found: Earlier::default(),
        }
    }

    fn leaf(&mut self, leaf: &Value) -> ControlFlow<()> {
        let text = |name: &str| leaf.get(name).and_then(Value::as_str);
        self.seen += 1;
        let recent = self.seen <= LOOK_BACK;
        let at: Option<Timestamp> = text("t").and_then(|text| text.parse().ok());
        if !recent && at.is_none_or(|at| at < self.horizon) {
            return ControlFlow::Break(());
        }
        let request = text("request").and_then(|id| id.parse::<RequestId>().ok());
        match (text("kind"), request) {
            (Some("request"), Some(id)) if recent && !self.closed.contains(&id) => {
                self.found.unanswered.push(id);
            }
            (Some("decision" | "outcome"), Some(id)) => {
                self.closed.insert(id);
            }
            (Some("break_glass"), _) => {
                let order = text("decision_id").and_then(|id| id.parse::<DecisionId>().ok());
                self.found.orders.extend(order);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn found(now: &str, leaves: &[Value]) -> Earlier {
        let mut pass = Pass::new(now.parse().unwrap());
        let _ = leaves.iter().rev().try_for_each(|leaf| pass.leaf(leaf));
        pass.found
    }

    #[test]
    fn a_question_is_open_until_it_is_decided_or_over() {
        let id = |n: u128| RequestId(Uuid::from_u128(n));
        let leaves = [
            json!({"kind": "start"}),
            json!({"kind": "request", "request": id(1).to_string()}),
            json!({"kind": "request", "request": id(2).to_string()}),
            json!({"kind": "request", "request": id(3).to_string()}),
            json!({"kind": "decision", "request": id(1).to_string()}),
            json!({"kind": "outcome", "request": id(3).to_string()}),
            json!({"kind": "decision", "hold": "7"}),
        ];
        let found = found("2026-01-01T00:00:00Z", &leaves);
        assert_eq!(found.unanswered, [id(2)]);
        assert!(found.orders.is_empty());
    }

    #[test]
    fn an_order_that_may_not_be_over_is_found_behind_however_many_leaves() {
        let order = |n: u128, t: &str| {
            let id = DecisionId(Uuid::from_u128(n)).to_string();
            json!({"kind": "break_glass", "decision_id": id, "t": t})
        };
        let busy = || json!({"kind": "decision", "hold": "7", "t": "2026-01-01T12:01:00.000Z"});
        let mut leaves = vec![
            json!({"kind": "request", "request": Uuid::from_u128(9), "t": "2026-01-01T11:40:00.000Z"}),
            order(1, "2026-01-01T11:40:01.000Z"),
            order(2, "2026-01-01T12:00:00.000Z"),
            json!({"kind": "break_glass", "ended": [Uuid::from_u128(2)], "t": "2026-01-01T12:00:30.000Z"}),
            json!({"kind": "break_glass", "refused": "unreadable", "t": "2026-01-01T12:00:31.000Z"}),
        ];
        leaves.extend(std::iter::repeat_with(busy).take(LOOK_BACK));
        let found = found("2026-01-01T12:10:00Z", &leaves);
        assert_eq!(found.orders, [DecisionId(Uuid::from_u128(2))]);
        assert!(
            found.unanswered.is_empty(),
            "an old question is not looked for"
        );
    }
}
