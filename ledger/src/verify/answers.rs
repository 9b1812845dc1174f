//! What people decided, as the gateway signed it: every such leaf carries the signed answer, by a key
//! that a `start` leaf names as pinned, to this very request, and saying what the leaf says. So does a
//! leaf about an approval that was taken back, with the signed list that says so.
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use syshold_protocol::dsse::{self, Payload};
use syshold_protocol::{Decision, PinnedKeys, PublicKey, Revocations};

use crate::chain::{Code, Finding};
use crate::leaf::commit::MARK;

/// Where the answer is in a leaf.
const PLACE: &str = "envelope";

/// What is compared of an answer; what else it says is nobody's concern here, also in years.
#[derive(Serialize, Deserialize)]
struct Answer {
    decision_id: String,
    request_id: String,
    host_id: String,
    verdict: String,
    approvers: Vec<Person>,
}

#[derive(Serialize, Deserialize)]
struct Person {
    subject: String,
}

impl Payload for Answer {
    const TYPE: &'static str = Decision::TYPE;
}

/// What is compared of a list of revocations.
#[derive(Serialize, Deserialize)]
struct TakenBack {
    host_id: String,
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    decision_id: String,
    request_id: String,
    by: Person,
}

impl Payload for TakenBack {
    const TYPE: &'static str = Revocations::TYPE;
}

/// What was expected, and what was found.
type Mismatch = (String, String);

/// Whose answers count.
struct Gateway {
    host_id: String,
    keys: Vec<PublicKey>,
}

impl Gateway {
    fn of(said: &Value) -> Option<Self> {
        let keys = said["keys"].as_array()?.iter();
        Some(Self {
            host_id: said["host_id"].as_str()?.to_owned(),
            keys: keys.filter_map(|key| key.as_str()?.parse().ok()).collect(),
        })
    }
}

pub(super) struct Answers<'c> {
    conn: &'c Connection,
    gateway: Option<Gateway>,
    /// When there are any, no other key counts, whatever a leaf names.
    trusted: &'c [PublicKey],
}

impl<'c> Answers<'c> {
    pub(super) fn new(conn: &'c Connection, trusted: &'c [PublicKey]) -> Self {
        Self {
            conn,
            gateway: None,
            trusted,
        }
    }

    /// What a pruned `start` leaf said.
    pub(super) fn carry(&mut self, carried: &Value) {
        self.gateway = Gateway::of(&carried["gateway"]);
    }

    pub(super) fn check(
        &mut self,
        idx: u64,
        leaf: &Value,
        out: &mut Vec<Finding>,
    ) -> rusqlite::Result<()> {
        let kind = leaf["kind"].as_str().unwrap_or_default();
        if kind == "start" {
            self.gateway = Gateway::of(&leaf["gateway"]);
        }
        let human = leaf["decision"]["by"] == "human";
        let revoked = kind == "revoke" && leaf["revoke"]["cause"] == "revoked";
        let bad =
            |expected: String, found: String| Finding::new(Code::ApproverSig, idx, expected, found);
        let Some(envelope) = self.envelope(idx, &leaf[PLACE])? else {
            return Ok(());
        };
        match (envelope, &self.gateway) {
            (None, None) => {}
            (None, Some(_)) if human || revoked || kind == "grant" => {
                out.push(bad("the signed answer".to_owned(), "none".to_owned()));
            }
            (None, Some(_)) => {}
            (Some(_), None) => out.push(bad(
                "a start leaf that names the gateway's keys".to_owned(),
                "an answer, and none".to_owned(),
            )),
            (Some(envelope), Some(gateway)) => {
                let judged = if revoked {
                    self.judge_revoked(gateway, &envelope, leaf)
                } else {
                    self.judge(gateway, &envelope, leaf, human)
                };
                if let Err((expected, found)) = judged {
                    out.push(bad(expected, found));
                }
            }
        }
        Ok(())
    }

    /// None: it was redacted, or its opening is missing, which is found elsewhere.
    fn envelope(&self, idx: u64, said: &Value) -> rusqlite::Result<Option<Option<String>>> {
        if said[MARK].is_string() {
            let opened: Option<String> = self
                .conn
                .prepare_cached("SELECT value FROM opening WHERE idx = ?1 AND path = ?2")?
                .query_row(params![idx, PLACE], |row| row.get(0))
                .optional()?;
            let text = opened.and_then(|value| serde_json::from_str(&value).ok());
            return Ok(text.map(Some));
        }
        Ok(Some(said.as_str().map(str::to_owned)))
    }

    /// What was expected and found, when the answer is not the leaf's.
    fn judge(
        &self,
        gateway: &Gateway,
        envelope: &str,
        leaf: &Value,
        human: bool,
    ) -> Result<(), Mismatch> {
        let answer: Answer = self.open(gateway, envelope)?;
        let text = |pointer: &str| leaf.pointer(pointer).and_then(Value::as_str);
        let id = text("/decision/id").or(text("/decision_id"));
        same("request", text("/request"), &answer.request_id)?;
        same("host", Some(&gateway.host_id), &answer.host_id)?;
        same("id", id, &answer.decision_id)?;
        let signed: Vec<_> = answer.approvers.iter().map(|one| &*one.subject).collect();
        same("people", Some(&people_of(leaf)), &signed.join(", "))?;
        let approved = matches!(&*answer.verdict, "approve" | "approve_modified");
        let allowed = leaf["kind"] == "grant" || leaf["decision"]["verdict"] == "allow";
        if (human || leaf["kind"] == "grant") && approved != allowed {
            let verdict = if allowed { "approves" } else { "denies" };
            return Err((format!("an answer that {verdict}"), answer.verdict));
        }
        Ok(())
    }

    /// As [`Self::judge`], of an approval that was taken back.
    fn judge_revoked(
        &self,
        gateway: &Gateway,
        envelope: &str,
        leaf: &Value,
    ) -> Result<(), Mismatch> {
        let list: TakenBack = self.open(gateway, envelope)?;
        same("host", Some(&gateway.host_id), &list.host_id)?;
        let id = leaf["decision_id"].as_str();
        let listed = |entry: &&Entry| Some(&*entry.decision_id) == id;
        let Some(entry) = list.entries.iter().find(listed) else {
            let id = id.unwrap_or("the leaf's approval");
            return Err((format!("a list that takes back {id}"), "none".to_owned()));
        };
        same("request", leaf["request"].as_str(), &entry.request_id)?;
        same("people", Some(&people_of(leaf)), &entry.by.subject)
    }

    /// What a key that counts has signed.
    fn open<T: Payload>(&self, gateway: &Gateway, envelope: &str) -> Result<T, Mismatch> {
        let counts = |key: &&PublicKey| self.trusted.is_empty() || self.trusted.contains(key);
        let keys = PinnedKeys::new(gateway.keys.iter().filter(counts).copied().collect());
        match dsse::open::<T>(envelope.as_bytes(), &keys) {
            Ok(opened) => Ok(opened.value),
            Err(error) => {
                let names: Vec<_> = keys.as_slice().iter().map(ToString::to_string).collect();
                Err((
                    format!("an answer signed by {}", names.join(" or ")),
                    error.to_string(),
                ))
            }
        }
    }
}

fn same(what: &str, expected: Option<&str>, found: &str) -> Result<(), Mismatch> {
    if expected == Some(found) {
        return Ok(());
    }
    let expected = expected.unwrap_or("one that the leaf names");
    Err((
        format!("an answer with the {what} {expected}"),
        found.to_owned(),
    ))
}

fn people_of(leaf: &Value) -> String {
    let listed = leaf["approvers"].as_array().into_iter().flatten();
    let listed: Vec<_> = listed.filter_map(|one| one["subject"].as_str()).collect();
    listed.join(", ")
}
