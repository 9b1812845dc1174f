//! What an earlier daemon asked and nobody answered. Its holds are asked about anew, under new
//! request ids; without this people would see each question twice, and the old ones would count
//! against the host at the gateway until their holds ended.
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use syshold_ledger::Reader;
use syshold_protocol::ids::RequestId;

/// Leaves looked at: more questions than this are not open at once.
const LOOK_BACK: u64 = 5_000;

/// Requests in the ledger that have neither a decision nor an outcome. Empty where there is no
/// ledger yet; one that cannot be read is the writer's to refuse.
#[must_use]
pub fn unanswered(ledger: &Path) -> Vec<RequestId> {
    let Ok(leaves) = Reader::open(ledger).and_then(|reader| reader.tail(LOOK_BACK)) else {
        return Vec::new();
    };
    open_after(leaves.iter().map(syshold_ledger::Leaf::value))
}

fn open_after(leaves: impl Iterator<Item = Value>) -> Vec<RequestId> {
    let mut open = BTreeSet::new();
    for leaf in leaves {
        let request = leaf.get("request").and_then(Value::as_str);
        let Some(request) = request.and_then(|text| text.parse::<RequestId>().ok()) else {
            continue;
        };
        match leaf.get("kind").and_then(Value::as_str) {
            Some("request") => {
                open.insert(request);
            }
            Some("decision" | "outcome") => {
                open.remove(&request);
            }
            _ => {}
        }
    }
    open.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_is_open_until_it_is_decided_or_over() {
        let id = |n: u128| RequestId(uuid::Uuid::from_u128(n));
        let leaves = [
            json!({"kind": "start"}),
            json!({"kind": "request", "request": id(1).to_string()}),
            json!({"kind": "request", "request": id(2).to_string()}),
            json!({"kind": "request", "request": id(3).to_string()}),
            json!({"kind": "decision", "request": id(1).to_string()}),
            json!({"kind": "outcome", "request": id(3).to_string()}),
            json!({"kind": "decision", "hold": "7"}),
        ];
        assert_eq!(open_after(leaves.into_iter()), [id(2)]);
    }
}
