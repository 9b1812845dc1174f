//! A leaf as auditors read it: one flat record, the same in tables, CSV and reports.
use serde_json::Value;

use crate::leaf::commit::{self, MARK};
use crate::reader::{Leaf, ReadError, Reader};

/// One leaf, flattened. What a leaf does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub idx: u64,
    /// RFC 3339 in UTC.
    pub t: String,
    pub kind: String,
    pub agent: String,
    pub owner: String,
    pub model: String,
    pub op: String,
    /// A path, or a host and address.
    pub object: String,
    pub labels: Vec<String>,
    pub rule: String,
    pub why: String,
    pub verdict: String,
    pub by: String,
    pub cause: String,
    pub approvers: Vec<Person>,
    pub lifespan: String,
    pub request: String,
    pub hold: String,
    pub result: String,
    pub held_ms: Option<u64>,
    /// What happened to the record itself: how much is missing and why, how far the clock jumped,
    /// what was taken away and on whose order.
    pub detail: String,
    /// The leaf hash, hex.
    pub hash: String,
}

/// Who approved or denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    pub subject: String,
    pub channel: String,
    pub method: String,
    pub comment: String,
    pub answered: String,
}

impl Record {
    /// What a leaf says; a value that it only commits to is not in it.
    pub fn of(leaf: &Leaf) -> Self {
        Self::from_value(leaf.idx, &leaf.value(), leaf.hash.to_string())
    }

    /// The same with what opens its commitments.
    pub fn opened(leaf: &Leaf, reader: &Reader) -> Result<Self, ReadError> {
        let mut value = leaf.value();
        if leaf.body.contains(MARK) {
            for (path, opened) in reader.openings(leaf.idx)? {
                let opened = serde_json::from_str(&opened).unwrap_or_default();
                commit::open(&mut value, &path, opened);
            }
        }
        Ok(Self::from_value(leaf.idx, &value, leaf.hash.to_string()))
    }

    pub(crate) fn from_value(idx: u64, leaf: &Value, hash: String) -> Self {
        let text = |pointer: &str| said(leaf.pointer(pointer));
        let path = text("/object/path");
        let addr = text("/object/addr");
        let host = text("/object/host");
        let object = match (path.is_empty(), host.is_empty()) {
            (false, _) => path,
            (true, false) => format!("{host} ({addr})"),
            (true, true) if addr.is_empty() => text("/object/type"),
            (true, true) => addr,
        };
        let list = |pointer: &str| leaf.pointer(pointer).and_then(Value::as_array);
        let people = list("/approvers").into_iter().flatten().map(|person| {
            let text = |name: &str| said(person.get(name));
            Person {
                subject: text("subject"),
                channel: text("channel"),
                method: text("method"),
                comment: text("comment"),
                answered: text("answered"),
            }
        });
        let labels = list("/object/labels").into_iter().flatten();
        Self {
            idx,
            t: text("/t"),
            kind: text("/kind"),
            agent: text("/agent/name"),
            owner: text("/agent/owner"),
            model: text("/agent/model"),
            op: text("/action/op"),
            object,
            labels: labels
                .filter_map(|label| Some(label.as_str()?.to_owned()))
                .collect(),
            rule: text("/policy/rule"),
            why: text("/policy/why"),
            verdict: text("/decision/verdict"),
            by: text("/decision/by"),
            cause: text("/decision/cause"),
            approvers: people.collect(),
            lifespan: text("/decision/grant/lifespan"),
            request: text("/request"),
            hold: text("/hold"),
            result: text("/outcome/result"),
            held_ms: leaf.pointer("/outcome/held_ms").and_then(Value::as_u64),
            detail: detail(leaf),
            hash,
        }
    }

    /// Everyone who decided it.
    pub fn who(&self) -> String {
        let names: Vec<_> = self
            .approvers
            .iter()
            .map(|person| person.subject.as_str())
            .collect();
        names.join(", ")
    }

    /// Everyone's reason.
    pub fn comments(&self) -> String {
        let comments: Vec<_> = self
            .approvers
            .iter()
            .map(|person| person.comment.as_str())
            .filter(|comment| !comment.is_empty())
            .collect();
        comments.join("; ")
    }

    /// Whether a person let through what the policy would not without one.
    pub fn is_override(&self) -> bool {
        let people = matches!(self.by.as_str(), "human" | "break_glass");
        self.kind == "decision" && self.verdict == "allow" && people
    }

    /// Whether it was let through by an order, without the people that the rule asks.
    pub fn broke_glass(&self) -> bool {
        self.kind == "decision" && self.by == "break_glass"
    }

    /// Whether the owner of an agent let it through: never, where the host's own check runs.
    pub fn self_approved(&self) -> bool {
        let owner = |person: &Person| !self.owner.is_empty() && person.subject == self.owner;
        self.is_override() && self.approvers.iter().any(owner)
    }

    /// The names of [`fields`](Self::fields).
    pub const COLUMNS: [&str; 20] = [
        "idx",
        "time",
        "kind",
        "agent",
        "owner",
        "model",
        "op",
        "object",
        "labels",
        "rule",
        "verdict",
        "by",
        "cause",
        "approvers",
        "comments",
        "request",
        "hold",
        "result",
        "held_ms",
        "leaf_hash",
    ];

    /// One value a column.
    pub fn fields(&self) -> [String; 20] {
        [
            self.idx.to_string(),
            self.t.clone(),
            self.kind.clone(),
            self.agent.clone(),
            self.owner.clone(),
            self.model.clone(),
            self.op.clone(),
            self.object.clone(),
            self.labels.join(" "),
            self.rule.clone(),
            self.verdict.clone(),
            self.by.clone(),
            self.cause.clone(),
            self.who(),
            self.comments(),
            self.request.clone(),
            self.hold.clone(),
            self.result.clone(),
            self.held_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            self.hash.clone(),
        ]
    }
}

fn detail(leaf: &Value) -> String {
    let text = |pointer: &str| said(leaf.pointer(pointer));
    let number = |pointer: &str| leaf.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    match leaf["kind"].as_str() {
        Some("start") => match text("/version") {
            version if version.is_empty() => version,
            version => format!("version {version}"),
        },
        Some("stop") if number("/pending") > 0 => format!("{} still held", number("/pending")),
        Some("policy") => format!("SHA-256 {}", text("/policy/sha256")),
        Some("key_rotate") => text("/keys/epoch"),
        Some("gap") => format!(
            "{} not recorded: {}",
            number("/gap/lost"),
            text("/gap/cause")
        ),
        Some("degraded") => {
            let causes = ["/degraded/cause", "/canary", "/gateway", "/revocations"].map(&text);
            causes
                .into_iter()
                .find(|cause| !cause.is_empty())
                .unwrap_or_default()
        }
        Some("clock") => {
            let ms = number("/step/ms");
            let sign = if ms < 0 { '-' } else { '+' };
            let (s, ms) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
            format!("{sign}{s}.{ms:03} s, from {}", text("/step/from"))
        }
        Some("redact") => {
            let paths = leaf["redact"]["paths"].as_array().into_iter().flatten();
            let paths: Vec<_> = paths.filter_map(Value::as_str).collect();
            format!(
                "leaf {}: {}; by {}: {}",
                number("/redact/idx"),
                paths.join(", "),
                text("/redact/by"),
                text("/redact/reason")
            )
        }
        Some("review") => format!(
            "leaves {} to {}; by {}: {}",
            number("/review/from"),
            number("/review/to"),
            text("/review/by"),
            text("/review/note")
        ),
        Some("export") => format!(
            "{} of {} leaves: {}; by {}",
            text("/export/format"),
            number("/export/size"),
            text("/export/query"),
            text("/export/by")
        ),
        // Whoever was asked knows no grants, only the host does.
        Some("revoke") if leaf["revoke"].get("count").is_none() => text("/revoke/cause"),
        Some("revoke") => format!(
            "{} grants: {}",
            number("/revoke/count"),
            text("/revoke/cause")
        ),
        Some("prune") => format!(
            "leaves before {}, older than {} days; by {}",
            number("/prune/to"),
            number("/prune/retention_days"),
            text("/prune/by")
        ),
        _ => String::new(),
    }
}

/// A text; a commitment says that it is one.
fn said(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map)) if map.contains_key(MARK) => "(committed to)".to_owned(),
        _ => String::new(),
    }
}

/// One line of RFC 4180 CSV, with its line end. A value that a spreadsheet would take for a formula
/// is preceded by an apostrophe.
pub fn csv_line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (n, field) in fields.into_iter().enumerate() {
        if n > 0 {
            line.push(',');
        }
        let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let guard = if formula { "'" } else { "" };
        if formula || field.contains(['"', ',', '\n', '\r']) {
            line.push_str(&format!("\"{guard}{}\"", field.replace('"', "\"\"")));
        } else {
            line.push_str(field);
        }
    }
    line.push_str("\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_runs_nothing() {
        let fields = ["=1+1", "a,b", "say \"no\"", "-x", "two\nlines", "plain"];
        let line = csv_line(fields);
        assert_eq!(
            line,
            "\"'=1+1\",\"a,b\",\"say \"\"no\"\"\",\"'-x\",\"two\nlines\",plain\r\n"
        );
    }
}
