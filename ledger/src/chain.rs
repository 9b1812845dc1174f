//! What makes leaves a chain, and the checks that need nothing but the leaves in order.
use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::tree::{TreeHash, leaf_hash};
use crate::{LEAF_VERSION, MAX_LEAF, clock, leaf};

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// What `verify` can find, in the order in which it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The file is damaged.
    Db,
    /// The tables are not the ones this version makes.
    Schema,
    /// An index is missing, or a leaf stands at another's.
    Gap,
    /// The stored hash is not the hash of the body.
    LeafHash,
    /// The body is not canonical JSON of a leaf.
    Noncanonical,
    /// A leaf does not name the one before it.
    Prev,
    /// A stored node is not the hash of what is below it, is missing, or is one too many.
    Node,
    /// The latest checkpoint is not of this tree, or does not cover all of it.
    Root,
    /// A checkpoint is no signed note of three lines.
    CkptFormat,
    /// A checkpoint of another log.
    Origin,
    /// The identity key did not sign a checkpoint.
    CkptSig,
    /// A checkpoint is not signed by exactly the epoch key of its size.
    EpochKey,
    /// A new epoch key that the one before it does not vouch for.
    EpochGap,
    /// An earlier checkpoint is not of this tree: the past was rewritten.
    Inconsistent,
    /// A checkpoint is of more leaves than there are: the end was cut off.
    Truncated,
    /// A witness has seen more leaves than there are.
    Rollback,
    /// A witness has seen another history.
    Fork,
    /// A cosignature that its witness did not make.
    Cosig,
    /// Time runs backwards with no `clock` leaf.
    TimeOrder,
    /// A human decision without its request, something that went on without its decision.
    Orphan,
    /// A human decision whose signed answer is not the one it names.
    ApproverSig,
    /// A policy that no `policy` leaf introduced, or none where one belongs.
    PolicyRef,
    /// An opening that is not of its commitment, or one that vanished with no `redact` leaf.
    Opening,
    /// Leaves that are missing at the beginning with no `prune` leaf that says so.
    Prune,
    /// Leaves that no witness has seen.
    Unanchored,
    /// Leaves written while the clock was not synchronised.
    ClockUnsynced,
}

impl Code {
    /// As printed and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Db => "E_DB",
            Self::Schema => "E_SCHEMA",
            Self::Gap => "E_GAP",
            Self::LeafHash => "E_LEAF_HASH",
            Self::Noncanonical => "E_NONCANONICAL",
            Self::Prev => "E_PREV",
            Self::Node => "E_NODE",
            Self::Root => "E_ROOT",
            Self::CkptFormat => "E_CKPT_FORMAT",
            Self::Origin => "E_ORIGIN",
            Self::CkptSig => "E_CKPT_SIG",
            Self::EpochKey => "E_EPOCH_KEY",
            Self::EpochGap => "E_EPOCH_GAP",
            Self::Inconsistent => "E_INCONSISTENT",
            Self::Truncated => "E_TRUNCATED",
            Self::Rollback => "E_ROLLBACK",
            Self::Fork => "E_FORK",
            Self::Cosig => "E_COSIG",
            Self::TimeOrder => "E_TIME_ORDER",
            Self::Orphan => "E_ORPHAN",
            Self::ApproverSig => "E_APPROVER_SIG",
            Self::PolicyRef => "E_POLICY_REF",
            Self::Opening => "E_OPENING",
            Self::Prune => "E_PRUNE",
            Self::Unanchored => "W_UNANCHORED",
            Self::ClockUnsynced => "W_CLOCK_UNSYNCED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: Code,
    /// The leaf it is about; none when it is about the file.
    pub idx: Option<u64>,
    pub expected: String,
    pub found: String,
}

impl Finding {
    pub(crate) fn new(
        code: Code,
        idx: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            code,
            idx: Some(idx),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(idx) = self.idx {
            write!(f, " at leaf {idx}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

/// The last leaf, as far as the next one depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) idx: u64,
    pub(crate) hash: TreeHash,
    pub(crate) now: clock::Now,
    pub(crate) boot_id: String,
}

/// A body as it was read: all that can be said of it without the leaves before.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) hash: TreeHash,
    fields: Result<(Fields, Value), Finding>,
}

impl Body {
    pub(crate) fn read(idx: u64, bytes: &[u8]) -> Self {
        Self {
            hash: leaf_hash(bytes),
            fields: Fields::read(idx, bytes),
        }
    }
}

/// Checks leaves one after the other.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    tail: Option<Tail>,
}

impl Chain {
    /// The last leaf pushed, when its body could be read.
    pub(crate) fn into_tail(self) -> Option<Tail> {
        self.tail
    }

    /// Goes on after a leaf of which only the hash is left.
    pub(crate) fn resume(&mut self, idx: u64, hash: TreeHash) {
        self.tail = Some(Tail {
            idx,
            hash,
            now: clock::Now {
                t: Timestamp::UNIX_EPOCH,
                t_boot: 0,
            },
            boot_id: String::new(),
        });
    }

    /// Begins in the middle: the leaf itself is checked, its link to the one before is not.
    pub(crate) fn begin_at(&mut self, idx: u64, body: Body, hash: &[u8], out: &mut Vec<Finding>) {
        if idx > 0 {
            let fields = body.fields.map_err(|finding| out.push(finding)).ok();
            check_hash(idx, body.hash, hash, out);
            self.advance(idx, body.hash, fields.as_ref().map(|(fields, _)| fields));
        } else {
            self.push(idx, body, hash, out);
        }
    }

    /// Checks one leaf against the one before; gives its parsed body if it has one.
    pub(crate) fn push(
        &mut self,
        idx: u64,
        body: Body,
        hash: &[u8],
        out: &mut Vec<Finding>,
    ) -> Option<Value> {
        let expected = self.tail.as_ref().map_or(0, |tail| tail.idx + 1);
        if idx != expected {
            // The first leaf that is not there: everything before it may still be good.
            out.push(Finding::new(
                Code::Gap,
                expected.min(idx),
                format!("leaf {expected}"),
                format!("leaf {idx}"),
            ));
        }
        check_hash(idx, body.hash, hash, out);
        let read = body.fields.map_err(|finding| out.push(finding)).ok();
        if let Some((fields, _)) = &read {
            self.check_link(idx, fields, out);
        }
        self.advance(idx, body.hash, read.as_ref().map(|(fields, _)| fields));
        read.map(|(_, value)| value)
    }

    /// When the last leaf was written, as far as it can be read.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.tail.as_ref().map(|tail| tail.now.t)
    }

    fn check_link(&self, idx: u64, fields: &Fields, out: &mut Vec<Finding>) {
        let prev = self.tail.as_ref().map_or(TreeHash::NONE, |tail| tail.hash);
        // After a gap the leaf before is not there to be compared with.
        let adjacent = idx == self.tail.as_ref().map_or(0, |tail| tail.idx + 1);
        if adjacent && fields.prev != prev.to_string() {
            out.push(Finding::new(
                Code::Prev,
                idx,
                prev.to_string(),
                &fields.prev,
            ));
        }
        if fields.idx != idx {
            out.push(Finding::new(
                Code::Gap,
                idx,
                format!("idx {idx} in the body"),
                format!("idx {}", fields.idx),
            ));
        }
        let Some(tail) = &self.tail else { return };
        if fields.now.t < tail.now.t && fields.kind != leaf::Kind::Clock.as_str() {
            let expected = format!("not before {}", clock::format(tail.now.t));
            out.push(Finding::new(
                Code::TimeOrder,
                idx,
                expected,
                clock::format(fields.now.t),
            ));
        }
        if fields.boot_id == tail.boot_id && fields.now.t_boot < tail.now.t_boot {
            let expected = format!("not before {} ms after boot", tail.now.t_boot);
            out.push(Finding::new(
                Code::TimeOrder,
                idx,
                expected,
                format!("{} ms", fields.now.t_boot),
            ));
        }
    }

    /// The next leaf is compared with what this one really is, so that one change is one finding.
    fn advance(&mut self, idx: u64, hash: TreeHash, fields: Option<&Fields>) {
        let before = self.tail.take();
        let (now, boot_id) = match (fields, before) {
            (Some(fields), _) => (fields.now, fields.boot_id.clone()),
            (None, Some(before)) => (before.now, before.boot_id),
            (None, None) => (
                clock::Now {
                    t: Timestamp::UNIX_EPOCH,
                    t_boot: 0,
                },
                String::new(),
            ),
        };
        self.tail = Some(Tail {
            idx,
            hash,
            now,
            boot_id,
        });
    }
}

fn check_hash(idx: u64, computed: TreeHash, hash: &[u8], out: &mut Vec<Finding>) {
    if computed.0 != hash {
        out.push(Finding::new(
            Code::LeafHash,
            idx,
            computed.to_string(),
            hex(hash),
        ));
    }
}

/// The fields of a body that make the chain.
#[derive(Debug)]
struct Fields {
    idx: u64,
    kind: String,
    prev: String,
    now: clock::Now,
    boot_id: String,
}

impl Fields {
    fn read(idx: u64, body: &[u8]) -> Result<(Self, Value), Finding> {
        let wrong = |expected: &str, found: String| {
            Err(Finding::new(Code::Noncanonical, idx, expected, found))
        };
        if body.len() > MAX_LEAF {
            return wrong("at most 65535 bytes", format!("{} bytes", body.len()));
        }
        let value: Value = match serde_json::from_slice(body) {
            Ok(value @ Value::Object(_)) => value,
            Ok(_) => return wrong("a JSON object", "another JSON value".to_owned()),
            Err(error) => return wrong("JSON", error.to_string()),
        };
        if let Err(fault) = leaf::check("leaf", &value, 0) {
            return wrong(
                "integers below 2^53 and nothing nested too deep",
                fault.to_string(),
            );
        }
        match serde_json_canonicalizer::to_vec(&value) {
            Ok(canonical) if canonical == body => {}
            Ok(_) => {
                return wrong(
                    "RFC 8785 form",
                    "another spelling of the same JSON".to_owned(),
                );
            }
            Err(error) => return wrong("RFC 8785 form", error.to_string()),
        }
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let integer = |name: &str| value.get(name).and_then(Value::as_u64);
        let fields = (|| {
            let now = clock::Now {
                t: clock::parse(text("t")?)?,
                t_boot: integer("t_boot")?,
            };
            let known = leaf::Kind::ALL
                .iter()
                .any(|kind| Some(kind.as_str()) == text("kind"));
            let complete = integer("v")? == u64::from(LEAF_VERSION)
                && known
                && text("id").is_some()
                && text("host").is_some();
            complete.then_some(Self {
                idx: integer("idx")?,
                kind: text("kind")?.to_owned(),
                prev: text("prev")?.to_owned(),
                now,
                boot_id: text("boot_id")?.to_owned(),
            })
        })();
        match fields {
            Some(fields) => Ok((fields, value)),
            None => wrong(
                "v, kind, id, idx, prev, t, t_boot, boot_id and host of a leaf",
                "a leaf without one of them".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962: the hash of a leaf with no bytes, from the transparency-dev test data.
    #[test]
    fn rfc6962_empty_leaf() {
        assert_eq!(
            leaf_hash(b"").to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
    }
}
