//! A leaf before it is written: its kind, its sections, and the canonical bytes they become.
use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::clock::Stamp;
use crate::tree::TreeHash;
use crate::{LEAF_VERSION, MAX_LEAF, canonical};

pub(crate) mod commit;
mod sections;
pub use sections::{
    Action, Agent, Ancestor, Approver, DecidedBy, Decision, Initiator, Object, Outcome, Policy,
    Process, Verdict,
};

/// What a leaf is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Genesis,
    Start,
    Stop,
    Policy,
    Request,
    Decision,
    Outcome,
    Grant,
    BreakGlass,
    Revoke,
    KeyRotate,
    Anchor,
    Clock,
    Degraded,
    Gap,
    Redact,
    Prune,
    Export,
    Review,
    Selftest,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Genesis,
        Self::Start,
        Self::Stop,
        Self::Policy,
        Self::Request,
        Self::Decision,
        Self::Outcome,
        Self::Grant,
        Self::BreakGlass,
        Self::Revoke,
        Self::KeyRotate,
        Self::Anchor,
        Self::Clock,
        Self::Degraded,
        Self::Gap,
        Self::Redact,
        Self::Prune,
        Self::Export,
        Self::Review,
        Self::Selftest,
    ];

    /// The word in the leaf.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Policy => "policy",
            Self::Request => "request",
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::Grant => "grant",
            Self::BreakGlass => "break_glass",
            Self::Revoke => "revoke",
            Self::KeyRotate => "key_rotate",
            Self::Anchor => "anchor",
            Self::Clock => "clock",
            Self::Degraded => "degraded",
            Self::Gap => "gap",
            Self::Redact => "redact",
            Self::Prune => "prune",
            Self::Export => "export",
            Self::Review => "review",
            Self::Selftest => "selftest",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is to be recorded. The writer adds `v, id, idx, prev, t, t_boot, boot_id, clock, host`.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(crate) kind: Kind,
    fields: Map<String, Value>,
    fault: Option<DraftError>,
}

/// A draft that has no leaf. It fails alone; the others of its batch are written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("field {0:?} is written by the ledger itself")]
    Reserved(String),
    #[error("field {0:?} is not JSON: {1}")]
    NotJson(String, String),
    #[error("{0} is a floating-point number; write an integer or a string")]
    Float(String),
    #[error("{0} is beyond 2^53; write it as a string")]
    WideInteger(String),
    #[error("{0} is nested more than {MAX_DEPTH} deep")]
    TooDeep(String),
    #[error("{0} bytes are more than the {MAX_LEAF} of a leaf; shorten argv or the reason")]
    TooLong(usize),
}

const RESERVED: [&str; 10] = [
    "v", "kind", "id", "idx", "prev", "t", "t_boot", "boot_id", "clock", "host",
];
const MAX_DEPTH: usize = 32;
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

impl Draft {
    /// A draft with no sections.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            fields: Map::new(),
            fault: None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The request it belongs to: what people are asked, which may stand for several holds.
    #[must_use]
    pub fn request(self, id: Uuid) -> Self {
        self.field("request", &id)
    }

    /// The hold it belongs to: the same word in its `decision` and `outcome` leaves, and in no
    /// others of this boot.
    #[must_use]
    pub fn hold(self, id: &str) -> Self {
        self.field("hold", id)
    }

    #[must_use]
    pub fn agent(self, agent: &Agent) -> Self {
        self.field("agent", agent)
    }

    #[must_use]
    pub fn initiator(self, initiator: &Initiator) -> Self {
        self.field("initiator", initiator)
    }

    #[must_use]
    pub fn process(self, process: &Process) -> Self {
        self.field("process", process)
    }

    #[must_use]
    pub fn action(self, action: &Action) -> Self {
        self.field("action", action)
    }

    #[must_use]
    pub fn object(self, object: &Object) -> Self {
        self.field("object", object)
    }

    #[must_use]
    pub fn policy(self, policy: &Policy) -> Self {
        self.field("policy", policy)
    }

    #[must_use]
    pub fn decision(self, decision: &Decision) -> Self {
        self.field("decision", decision)
    }

    /// Everyone who approved or denied.
    #[must_use]
    pub fn approvers(self, approvers: &[Approver]) -> Self {
        self.field("approvers", approvers)
    }

    #[must_use]
    pub fn outcome(self, outcome: &Outcome) -> Self {
        self.field("outcome", outcome)
    }

    /// Any other field. What cannot be written is reported by the append.
    #[must_use]
    pub fn field<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        if RESERVED.contains(&name) {
            self.fault
                .get_or_insert(DraftError::Reserved(name.to_owned()));
        }
        match serde_json::to_value(value) {
            Ok(value) => {
                self.fields.insert(name.to_owned(), value);
            }
            Err(error) => {
                self.fault
                    .get_or_insert(DraftError::NotJson(name.to_owned(), error.to_string()));
            }
        }
        self
    }

    /// Whether something would be let through on the strength of this leaf: no such leaf is taken
    /// while the ledger lives on its ballast.
    pub(crate) fn releases(&self) -> bool {
        match self.kind {
            Kind::Grant | Kind::BreakGlass => true,
            Kind::Decision => {
                self.fields
                    .get("decision")
                    .and_then(|decision| decision.get("verdict"))
                    != Some(&Value::from(Verdict::Deny.as_str()))
            }
            _ => false,
        }
    }

    /// The canonical bytes at this place of the chain; the values at the `openable` paths are only
    /// committed to.
    pub(crate) fn encode(
        &self,
        idx: u64,
        prev: TreeHash,
        stamp: &Stamp<'_>,
        openable: &[String],
    ) -> Result<Encoded, DraftError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        for (name, value) in &self.fields {
            check(name, value, 1)?;
        }
        let mut fields = Cow::Borrowed(&self.fields);
        let openings = if openable.is_empty() {
            Vec::new()
        } else {
            commit::commit(fields.to_mut(), openable)
        };
        let broken =
            |error: serde_json::Error| DraftError::NotJson("leaf".to_owned(), error.to_string());
        let head = Head {
            v: LEAF_VERSION,
            kind: self.kind,
            id: Uuid::now_v7(),
            idx,
            prev: prev.to_string(),
            stamp,
        };
        let Value::Object(head) = serde_json::to_value(&head).map_err(broken)? else {
            return Err(DraftError::NotJson(
                "leaf".to_owned(),
                "no object".to_owned(),
            ));
        };
        let members = head.iter().chain(fields.iter());
        let mut body = Vec::with_capacity(1024);
        canonical::object(
            &mut body,
            members.map(|(name, value)| (name.as_str(), value)),
        )
        .map_err(broken)?;
        let body = String::from_utf8(body)
            .map_err(|error| DraftError::NotJson("leaf".to_owned(), error.to_string()))?;
        if body.len() > MAX_LEAF {
            Err(DraftError::TooLong(body.len()))
        } else {
            Ok(Encoded { body, openings })
        }
    }
}

/// The bytes of a leaf, and what opens its commitments.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) body: String,
    pub(crate) openings: Vec<commit::Opened>,
}

/// Refuses what JSON readers disagree about. `path` is for the message, and only made for it.
pub(crate) fn check(path: &str, value: &Value, depth: usize) -> Result<(), DraftError> {
    if fits(value, depth) {
        Ok(())
    } else {
        Err(fault(path, value, depth))
    }
}

fn fits(value: &Value, depth: usize) -> bool {
    depth <= MAX_DEPTH
        && match value {
            Value::Number(number) => safe_integer(number),
            Value::Array(list) => list.iter().all(|item| fits(item, depth + 1)),
            Value::Object(map) => map.values().all(|item| fits(item, depth + 1)),
            Value::Null | Value::Bool(_) | Value::String(_) => true,
        }
}

fn safe_integer(number: &Number) -> bool {
    let size = number
        .as_u64()
        .or_else(|| number.as_i64().map(i64::unsigned_abs));
    size.is_some_and(|size| size <= MAX_SAFE_INTEGER)
}

/// Where and why a value does not fit.
fn fault(path: &str, value: &Value, depth: usize) -> DraftError {
    let bad = |item: &Value| !fits(item, depth + 1);
    let inner = match value {
        _ if depth > MAX_DEPTH => return DraftError::TooDeep(path.to_owned()),
        Value::Number(number) if number.is_f64() => return DraftError::Float(path.to_owned()),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .find(|(_, item)| bad(item))
            .map(|(n, item)| (format!("{path}[{n}]"), item)),
        Value::Object(map) => map
            .iter()
            .find(|(_, item)| bad(item))
            .map(|(name, item)| (format!("{path}.{name}"), item)),
        _ => None,
    };
    match inner {
        Some((path, item)) => fault(&path, item, depth + 1),
        None => DraftError::WideInteger(path.to_owned()),
    }
}

/// What the ledger itself says of a leaf; the names are reserved.
#[derive(Serialize)]
struct Head<'a> {
    v: u32,
    kind: Kind,
    id: Uuid,
    idx: u64,
    prev: String,
    #[serde(flatten)]
    stamp: &'a Stamp<'a>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::clock::tests::stamp;

    fn encode(draft: &Draft) -> Result<String, DraftError> {
        draft
            .encode(7, TreeHash([0; 32]), &stamp(), &[])
            .map(|leaf| leaf.body)
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        let table = [
            (json!(1.5), DraftError::Float("x".into())),
            (json!(1e300), DraftError::Float("x".into())),
            (json!(1_u64 << 53), DraftError::WideInteger("x".into())),
            (json!(-(1_i64 << 53)), DraftError::WideInteger("x".into())),
            (json!({"a": [1, 2.5]}), DraftError::Float("x.a[1]".into())),
        ];
        for (value, fault) in table {
            assert_eq!(
                encode(&Draft::new(Kind::Start).field("x", &value)),
                Err(fault)
            );
        }
        encode(
            &Draft::new(Kind::Start).field("x", &json!([(1_u64 << 53) - 1, -(1_i64 << 53) + 1])),
        )
        .unwrap();
        for name in RESERVED {
            let draft = Draft::new(Kind::Start).field(name, "forged");
            assert_eq!(encode(&draft), Err(DraftError::Reserved(name.into())));
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert!(matches!(
            encode(&Draft::new(Kind::Start).field("x", &deep)),
            Err(DraftError::TooDeep(_))
        ));
    }

    #[test]
    fn a_leaf_has_a_longest_length() {
        let empty = encode(&Draft::new(Kind::Start).field("x", ""))
            .unwrap()
            .len();
        let most = "y".repeat(MAX_LEAF - empty);
        assert_eq!(
            encode(&Draft::new(Kind::Start).field("x", &most))
                .unwrap()
                .len(),
            MAX_LEAF
        );
        let more = format!("{most}y");
        assert_eq!(
            encode(&Draft::new(Kind::Start).field("x", &more)),
            Err(DraftError::TooLong(MAX_LEAF + 1))
        );
    }

    #[test]
    fn only_denials_release_nothing() {
        let decision = |verdict| Decision {
            verdict,
            by: DecidedBy::Policy,
            cause: None,
            id: None,
            grant: None,
            expires: None,
        };
        assert!(
            !Draft::new(Kind::Decision)
                .decision(&decision(Verdict::Deny))
                .releases()
        );
        assert!(
            Draft::new(Kind::Decision)
                .decision(&decision(Verdict::Allow))
                .releases()
        );
        assert!(
            Draft::new(Kind::Decision).releases(),
            "an unknown verdict counts as one that releases"
        );
        assert!(Draft::new(Kind::Grant).releases());
        assert!(!Draft::new(Kind::Outcome).releases());
    }

    #[test]
    fn kinds_are_spelled_as_serde_spells_them() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53) + 1..1_i64 << 53).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_survives_and_its_canonical_form_is_stable(value in any_json()) {
            let body = encode(&Draft::new(Kind::Review).field("x", &value)).unwrap();
            let back: Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&back["x"], &value);
            prop_assert_eq!(serde_json_canonicalizer::to_string(&back).unwrap(), body);
        }
    }
}
