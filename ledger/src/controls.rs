//! Which records support which control. "Supports", never "satisfies": a control is met by an
//! organisation, and a ledger is evidence of a part of it.
use crate::record::Record;

/// One control, or a group that the same records support.
#[derive(Debug)]
pub struct Control {
    /// As `--control` takes it.
    pub ids: &'static [&'static str],
    pub framework: &'static str,
    /// What the ledger shows for it.
    pub evidence: &'static str,
    supports: fn(&Record) -> bool,
}

impl Control {
    /// Whether a record is part of the evidence.
    pub fn supports(&self, record: &Record) -> bool {
        (self.supports)(record)
    }

    /// The ids, for people.
    pub fn names(&self) -> String {
        self.ids.join(", ")
    }
}

/// The control of that id, in any spelling of case.
pub fn find(id: &str) -> Option<&'static Control> {
    let is = |known: &&str| known.eq_ignore_ascii_case(id.trim());
    CONTROLS.iter().find(|control| control.ids.iter().any(is))
}

const NIST: &str = "NIST SP 800-53";
const ISO: &str = "ISO/IEC 27001:2022 Annex A";
const SOC2: &str = "SOC 2";

fn decided(record: &Record) -> bool {
    record.kind == "decision"
}

fn any(_: &Record) -> bool {
    true
}

fn access(record: &Record) -> bool {
    decided(record) && !record.object.is_empty()
}

fn by_people(record: &Record) -> bool {
    decided(record) && record.by == "human"
}

fn privileged(record: &Record) -> bool {
    let op = |name: &str| record.op.split([',', ' ', '+']).any(|op| op == name);
    decided(record) && (op("exec") || op("privilege"))
}

fn granted(record: &Record) -> bool {
    matches!(record.kind.as_str(), "grant" | "revoke") || !record.lifespan.is_empty()
}

fn labelled(record: &Record) -> bool {
    record.kind == "redact" || !record.labels.is_empty()
}

fn egress(record: &Record) -> bool {
    let op = |name: &str| record.op.split([',', ' ', '+']).any(|op| op == name);
    decided(record) && (op("connect") || op("send"))
}

fn failing(record: &Record) -> bool {
    matches!(record.kind.as_str(), "degraded" | "gap")
}

fn policy(record: &Record) -> bool {
    record.kind == "policy"
}

fn integrity(record: &Record) -> bool {
    matches!(record.kind.as_str(), "genesis" | "key_rotate" | "anchor")
}

fn kept(record: &Record) -> bool {
    matches!(record.kind.as_str(), "prune" | "redact")
}

fn read_again(record: &Record) -> bool {
    matches!(record.kind.as_str(), "review" | "export")
}

fn timed(record: &Record) -> bool {
    !record.t.is_empty()
}

fn separated(record: &Record) -> bool {
    by_people(record) && !record.self_approved()
}

macro_rules! control {
    ($framework:expr, [$($id:literal),+], $evidence:literal, $supports:expr) => {
        Control {
            ids: &[$($id),+],
            framework: $framework,
            evidence: $evidence,
            supports: $supports,
        }
    };
}

/// All of them, in the order of the report.
pub const CONTROLS: &[Control] = &[
    control!(
        NIST,
        ["AU-2", "AU-12"],
        "the policies that name the gated events, and what they recorded",
        |r| policy(r) || decided(r)
    ),
    control!(
        NIST,
        ["AU-3", "AU-3(1)"],
        "kind, time, host, process, object, source, outcome and identities of every record",
        decided
    ),
    control!(
        NIST,
        ["AU-5"],
        "failures of recording: degraded operation and counted gaps",
        failing
    ),
    control!(
        NIST,
        ["AU-6", "AU-7"],
        "reviews and exports of the record",
        read_again
    ),
    control!(
        NIST,
        ["AU-8"],
        "UTC time, state of synchronisation and largest error of every record",
        timed
    ),
    control!(
        ISO,
        ["8.17"],
        "UTC time, state of synchronisation and largest error of every record",
        timed
    ),
    control!(
        NIST,
        ["AU-9", "AU-9(3)"],
        "keys and epochs of the signed tree; see the integrity section",
        integrity
    ),
    control!(
        ISO,
        ["5.33"],
        "keys and epochs of the signed tree; see the integrity section",
        integrity
    ),
    control!(
        NIST,
        ["AU-10"],
        "the approver and the signed answer of each human decision",
        by_people
    ),
    control!(
        NIST,
        ["AU-11"],
        "what was pruned or redacted, when and on whose order",
        kept
    ),
    control!(
        ISO,
        ["8.10"],
        "what was pruned or redacted, when and on whose order",
        kept
    ),
    control!(
        NIST,
        ["AC-3"],
        "each decision with its rule and object",
        access
    ),
    control!(
        ISO,
        ["5.15", "8.3"],
        "each decision with its rule and object",
        access
    ),
    control!(
        SOC2,
        ["CC6.1"],
        "each decision with its rule and object",
        access
    ),
    control!(
        NIST,
        ["AC-5"],
        "human decisions by others than the agent's owner",
        separated
    ),
    control!(
        ISO,
        ["5.3"],
        "human decisions by others than the agent's owner",
        separated
    ),
    control!(
        SOC2,
        ["CC6.3"],
        "human decisions by others than the agent's owner",
        separated
    ),
    control!(
        NIST,
        ["AC-6(9)"],
        "decisions about commands and privileges",
        privileged
    ),
    control!(
        ISO,
        ["8.2", "8.18"],
        "decisions about commands and privileges",
        privileged
    ),
    control!(ISO, ["5.18"], "grants, their extent and their end", granted),
    control!(
        SOC2,
        ["CC6.2"],
        "grants, their extent and their end",
        granted
    ),
    control!(
        ISO,
        ["5.12", "5.34", "8.11"],
        "access to labelled data, and redactions",
        labelled
    ),
    control!(
        ISO,
        ["8.12"],
        "decisions about data leaving the host",
        egress
    ),
    control!(
        SOC2,
        ["CC6.7"],
        "decisions about data leaving the host",
        egress
    ),
    control!(ISO, ["8.15", "8.16"], "the whole record", any),
    control!(SOC2, ["CC7.2", "CC7.3"], "the whole record", any),
    control!(
        ISO,
        ["8.9"],
        "each policy that came into force, by its digest",
        policy
    ),
    control!(
        SOC2,
        ["CC8.1"],
        "each policy that came into force, by its digest",
        policy
    ),
    control!(
        "ISO/IEC 42001",
        ["A.6.2.8"],
        "the log of the AI system's operation",
        any
    ),
    control!(
        "EU AI Act",
        ["Art. 12"],
        "events over the system's lifetime",
        any
    ),
    control!(
        "EU AI Act",
        ["Art. 14", "Art. 26(6)"],
        "human oversight: who approved, denied or overrode, and why",
        by_people
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_its_control_only() {
        assert_eq!(find("ac-6(9)").unwrap().framework, NIST);
        assert_eq!(find(" 8.12 ").unwrap().framework, ISO);
        assert!(find("8.1").is_none());
        let mut ids: Vec<_> = CONTROLS.iter().flat_map(|control| control.ids).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "an id stands once");
        for text in CONTROLS.iter().map(|control| control.evidence) {
            assert!(!text.contains("satisf"), "{text}");
        }
    }
}
