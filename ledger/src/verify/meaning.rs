//! What leaves say about each other: a decision its request, an outcome its decision, all of them
//! their policy.
use std::collections::HashSet;

use serde_json::Value;
use uuid::Uuid;

use crate::chain::{Code, Finding};
use crate::prune::hold_of;
use crate::tree::{TreeHash, leaf_hash};

/// What leaves say about each other.
#[derive(Default)]
pub(super) struct Meaning {
    policies: HashSet<String>,
    requested: HashSet<Uuid>,
    decided: HashSet<Held>,
}

impl Meaning {
    /// What pruned leaves said that later ones refer to.
    pub(super) fn carry(&mut self, carried: &Value) {
        let texts = |name: &str| {
            let list = carried[name].as_array().into_iter().flatten();
            list.filter_map(Value::as_str)
        };
        self.policies.extend(texts("policies").map(str::to_owned));
        self.requested
            .extend(texts("requests").filter_map(|id| Uuid::try_parse(id).ok()));
        self.decided.extend(texts("holds").map(Held::named));
    }

    pub(super) fn check(&mut self, idx: u64, leaf: &Value, out: &mut Vec<Finding>) {
        let kind = leaf["kind"].as_str().unwrap_or_default();
        let request = leaf["request"]
            .as_str()
            .and_then(|text| Uuid::try_parse(text).ok());
        let by = leaf["decision"]["by"].as_str();
        self.check_policy(idx, kind, by, leaf["policy"]["sha256"].as_str(), out);
        match kind {
            "request" => match request {
                Some(request) => drop(self.requested.insert(request)),
                None => out.push(Finding::new(Code::Orphan, idx, "a request id", "none")),
            },
            "decision" => {
                if by == Some("human")
                    && !request.is_some_and(|request| self.requested.contains(&request))
                {
                    let found = request.map_or("no request id".to_owned(), |request| {
                        format!("none for {request}")
                    });
                    out.push(Finding::new(
                        Code::Orphan,
                        idx,
                        "a request leaf before a human decision",
                        found,
                    ));
                }
                self.decided.extend(Held::of(leaf));
            }
            "outcome"
                if !nothing_went_on(leaf)
                    && !Held::of(leaf).is_some_and(|held| self.decided.contains(&held)) =>
            {
                let found = format!(
                    "none for hold {}, request {}",
                    leaf["hold"], leaf["request"]
                );
                out.push(Finding::new(
                    Code::Orphan,
                    idx,
                    "a decision leaf before the outcome",
                    found,
                ));
            }
            _ => {}
        }
    }

    fn check_policy(
        &mut self,
        idx: u64,
        kind: &str,
        by: Option<&str>,
        sha256: Option<&str>,
        out: &mut Vec<Finding>,
    ) {
        let needs_one =
            matches!(kind, "policy" | "request") || matches!(by, Some("policy" | "human"));
        match sha256 {
            Some(sha256) if kind == "policy" => drop(self.policies.insert(sha256.to_owned())),
            Some(sha256) if !self.policies.contains(sha256) => {
                out.push(Finding::new(
                    Code::PolicyRef,
                    idx,
                    "a policy leaf before this one",
                    sha256,
                ));
            }
            None if needs_one => out.push(Finding::new(
                Code::PolicyRef,
                idx,
                "the digest of a policy",
                "none",
            )),
            _ => {}
        }
    }
}

/// What a decision and its outcome share: the hold, within a boot; else the request. A digest of
/// it, because there may be millions.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Held([u8; 16]);

impl Held {
    pub(super) fn of(leaf: &Value) -> Option<Self> {
        hold_of(leaf).map(|name| Self::named(&name))
    }

    fn named(name: &str) -> Self {
        let TreeHash(digest) = leaf_hash(name.as_bytes());
        let mut held = [0; 16];
        held.copy_from_slice(&digest[..16]);
        Self(held)
    }
}

/// Outcomes in which nothing went on need no decision before them: the process died, a signal ended
/// the call, nobody saw how, an answer was not accepted, or the call was denied while the ledger
/// could not be written (a gap leaf counts what is missing then).
fn nothing_went_on(leaf: &Value) -> bool {
    const RESULTS: [&str; 7] = [
        "process_gone",
        "abandoned",
        "interrupted",
        "unconfirmed",
        "refused:decision",
        "denied",
        "expired",
    ];
    leaf["outcome"]["result"]
        .as_str()
        .is_some_and(|result| RESULTS.contains(&result))
}
