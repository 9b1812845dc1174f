//! What a host asks: the facts of one hold, taken from the kernel, and what became of it.
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::decision::{Assurance, Scope};
use crate::ids::{BootId, DecisionId, Digest, HostId, Nonce, RequestId, Subject, UnixMs, Wide};
pub use crate::taint::{MAX_READS, Reading, Taint};

/// A hold as the host reports it. Absent options are left out of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// The id in the URL, signed too, so that one request cannot be filed under another's name.
    pub request_id: RequestId,
    pub host_id: HostId,
    pub boot_id: BootId,
    pub nonce: Nonce,
    pub created_at: UnixMs,
    /// When the syscall fails unless decided; a late approval may follow for [`crate::LATE_APPROVAL_MS`].
    pub hold_until: UnixMs,
    pub agent: Agent,
    pub process: Process,
    pub action: Action,
    pub data: Data,
    /// What the process has read before, if anything that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<Taint>,
    pub policy: PolicyRef,
    pub risk: Risk,
    /// The scopes an approver may choose; `once` is always among them.
    pub allowed_scopes: Vec<Scope>,
    /// The longest grant of any scope, in seconds.
    pub max_ttl_s: u32,
    /// Distinct people needed; see [`effective_quorum`].
    pub quorum: u32,
    /// The weakest proof of identity that counts; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    /// Same agent, action and object: same key.
    pub coalesce_key: String,
    /// How many identical holds this request stands for: the most uses a `once` grant may have.
    pub waiting: u32,
    /// What the agent says about itself. Unverified; shown last and labelled so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerRef>,
}

/// The governed agent, from the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub name: String,
    /// Cannot approve. Unknown: two people must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Cannot approve either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_by: Option<Subject>,
}

/// The process whose thread is held. Bytes that are not UTF-8 come as [`crate::display::lossless`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    /// Nanoseconds after boot.
    pub start_time: Wide,
    pub exe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<Digest>,
    pub argv: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub cgroup: String,
    /// Nearest first.
    pub ancestry: Vec<Ancestor>,
}

/// One ancestor of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    pub pid: u32,
    pub start_time: Wide,
    pub exe: String,
}

/// What the syscall would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    pub kind: ActionKind,
    pub object: ActionObject,
    /// With [`ActionKind::Exec`]: what would be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
}

/// What execve would run. Read from the memory of the held thread: another thread that shares it
/// could change it before the syscall goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program's own name first.
    pub argv: Vec<String>,
    /// All arguments are here, and none is cut.
    pub whole: bool,
    /// Of the arguments as bytes, each with a NUL behind it.
    pub argv_sha256: Digest,
    /// Of the program's file; absent: it could not be read, or not be told for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

/// The actions of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    Connect,
    Send,
    Listen,
    Read,
    Write,
    Delete,
    Exec,
    Privilege,
}

impl ActionKind {
    /// The word of the policy and of the JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Listen => "listen",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Exec => "exec",
            Self::Privilege => "privilege",
        }
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kernel object acted upon: a socket address (`ip`, `port`) or a file (`dev`, `inode`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionObject {
    /// What the process named: the path it passed, or the host name it looked up.
    pub requested: String,
    /// What the kernel made of it: the path found, or `IP:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Wide>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
}

/// Which protected data is touched; never its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub classes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Wide>,
}

/// The rule that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    pub rule: String,
    /// Of the whole policy in force; the decision repeats it.
    pub sha256: Digest,
    pub title: String,
    pub why: String,
    /// The group of people the rule asks; absent: anyone with an account may answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers: Option<String>,
}

/// How loudly to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    Low,
    Medium,
    High,
}

/// Where the request stands in the host's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerRef {
    /// Of the `request` leaf.
    pub leaf_hash: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consistency: Vec<Digest>,
}

/// What became of a request on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    pub v: u32,
    pub request_id: RequestId,
    pub host_id: HostId,
    /// Absent when no decision was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<DecisionId>,
    pub result: OutcomeResult,
    /// What the syscall returned when it failed, as a positive errno.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<u16>,
    pub held_ms: u64,
    pub at: UnixMs,
    /// The text of the refusal, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One word for an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutcomeResult {
    /// Approved, and the kernel has let the syscall go on.
    #[serde(rename = "resumed")]
    Resumed,
    /// Denied, and the syscall has failed.
    #[serde(rename = "denied")]
    Denied,
    /// Nobody answered in time; the syscall has failed.
    #[serde(rename = "expired")]
    Expired,
    /// Approved too late for the hold: kept as a single-use grant for a retry.
    #[serde(rename = "late")]
    Late,
    /// The process or the object is no longer the one approved; the syscall has failed.
    #[serde(rename = "refused:stale")]
    RefusedStale,
    /// The decision did not pass [`crate::accept()`]; the syscall has failed.
    #[serde(rename = "refused:decision")]
    RefusedDecision,
    #[serde(rename = "process_gone")]
    ProcessGone,
}

/// The 202 answer: not decided yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestState {
    pub state: RequestPhase,
    /// Distinct approvals so far.
    pub have: u32,
    pub need: u32,
    pub expires_at: UnixMs,
}

/// Where a request stands at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestPhase {
    /// Held, nobody has decided.
    Waiting,
    /// The hold is over; an approval still counts for a retry.
    Late,
    Approved,
    Denied,
    Expired,
    Withdrawn,
}

/// A request that parses and still makes no sense (422).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    #[error("v is not {VERSION}: update the older of host and gateway")]
    Version,
    #[error("request_id is not a UUIDv7")]
    Id,
    #[error("hold_until is not after created_at")]
    Hold,
    #[error("quorum and waiting must be at least 1")]
    Count,
    #[error(
        "action.object names no kernel object: give ip and port, dev and inode, or neither pair"
    )]
    Object,
    #[error("more than {MAX_ITEMS} argv entries, ancestors, classes or scopes")]
    Items,
    #[error(
        "taint has no class, or more than {MAX_READS} readings, or one with more than {MAX_ITEMS} classes or approvers"
    )]
    Taint,
    #[error("action.exec belongs to the action exec, and to no other")]
    Exec,
    #[error("coalesce_key or agent.name is empty")]
    Empty,
}

/// The longest list in a request; the host cuts argv and ancestry to it.
pub const MAX_ITEMS: usize = 256;

impl Request {
    /// What serde cannot check.
    pub fn check(&self) -> Result<(), RequestFault> {
        let exec = self.action.exec.as_ref();
        let lists = [
            exec.map_or(0, |exec| exec.argv.len()),
            self.process.argv.len(),
            self.process.ancestry.len(),
            self.data.classes.len(),
            self.allowed_scopes.len(),
        ];
        let object = &self.action.object;
        if self.v != VERSION {
            Err(RequestFault::Version)
        } else if self.request_id.0.get_version_num() != 7 {
            Err(RequestFault::Id)
        } else if self.hold_until <= self.created_at {
            Err(RequestFault::Hold)
        } else if self.quorum == 0 || self.waiting == 0 {
            Err(RequestFault::Count)
        } else if object.ip.is_some() != object.port.is_some()
            || object.dev.is_some() != object.inode.is_some()
        {
            Err(RequestFault::Object)
        } else if lists.iter().any(|len| *len > MAX_ITEMS) {
            Err(RequestFault::Items)
        } else if !self.taint.as_ref().is_none_or(Taint::is_sound) {
            Err(RequestFault::Taint)
        } else if exec.is_some() && self.action.kind != ActionKind::Exec {
            Err(RequestFault::Exec)
        } else if self.coalesce_key.is_empty() || self.agent.name.is_empty() {
            Err(RequestFault::Empty)
        } else {
            Ok(())
        }
    }
}

/// How many distinct people must approve: what the policy says, at least 2 when nobody knows whose
/// agent it is.
pub fn effective_quorum(configured: u32, owner: Option<&Subject>) -> u32 {
    configured.max(if owner.is_none() { 2 } else { 1 })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A complete request that [`Request::check`] passes.
    pub(crate) fn sample() -> Request {
        serde_json::from_value(serde_json::json!({
            "v": 1, "request_id": "01938d5e-6b2a-7c3d-8e4f-0123456789ab", "host_id": "web-1",
            "boot_id": "6f1f2d7e-9c1e-4b7a-8f53-1d2c3b4a5968", "nonce": "00112233445566778899aabbccddeeff",
            "created_at": 1_700_000_000_000_u64, "hold_until": 1_700_000_300_000_u64,
            "agent": {"name": "support-bot", "owner": "alice@example.com", "model": "m", "launched_by": "carol@example.com"},
            "process": {"pid": 41, "start_time": "9007199254740993", "exe": "/usr/bin/python3", "argv": ["python3", "a.py"],
                        "exe_sha256": "ab".repeat(32),
                        "cwd": "/srv", "uid": 1000, "cgroup": "/system.slice/bot.service",
                        "ancestry": [{"pid": 1, "start_time": "0", "exe": "/sbin/init"}]},
            "action": {"kind": "connect", "object": {"requested": "example.com", "resolved": "192.0.2.7:443", "ip": "192.0.2.7", "port": 443}},
            "data": {"classes": ["pii"]},
            "taint": {"classes": ["keys"], "more": 0, "readings": [
                {"what": "/srv/keys/a", "classes": ["keys"], "pid": 40, "program": "cat", "at": 1_700_000_000_000_u64,
                 "rule": "keys", "request_id": "01938d5e-6b2a-7c3d-8e4f-0123456789aa", "approved_by": ["bob@example.com"]}]},
            "policy": {"rule": "egress", "sha256": "cd".repeat(32), "title": "Outbound", "why": "no rule allows it"},
            "risk": "medium", "allowed_scopes": ["once", "process", "10m"], "max_ttl_s": 600,
            "quorum": 1, "coalesce_key": "k", "waiting": 3
        }))
        .unwrap()
    }

    #[test]
    fn round_trip_and_unknown_fields() {
        let request = sample();
        request.check().unwrap();
        let mut value = serde_json::to_value(&request).unwrap();
        assert_eq!(
            serde_json::from_value::<Request>(value.clone()).unwrap(),
            request
        );
        for at in [
            "",
            "/agent",
            "/process",
            "/process/ancestry/0",
            "/action",
            "/action/object",
            "/data",
            "/taint",
            "/taint/readings/0",
            "/policy",
        ] {
            let mut wider = value.clone();
            wider.pointer_mut(at).unwrap()["surprise"] = 1.into();
            assert!(
                serde_json::from_value::<Request>(wider).is_err(),
                "unknown field in {at:?} was accepted"
            );
        }
        value["process"]["start_time"] = 5.into();
        assert!(
            serde_json::from_value::<Request>(value).is_err(),
            "wide integers are strings"
        );
    }

    #[test]
    fn faults_are_named() {
        type Change = fn(&mut Request);
        let table: [(Change, RequestFault); 11] = [
            (|r| r.v = 2, RequestFault::Version),
            (|r| r.request_id.0 = uuid::Uuid::nil(), RequestFault::Id),
            (|r| r.hold_until = r.created_at, RequestFault::Hold),
            (|r| r.waiting = 0, RequestFault::Count),
            (|r| r.action.object.port = None, RequestFault::Object),
            (
                |r| r.process.argv = vec![String::new(); 257],
                RequestFault::Items,
            ),
            (|r| r.agent.name.clear(), RequestFault::Empty),
            (|r| r.taint = Some(Taint::default()), RequestFault::Taint),
            (
                |r| {
                    let taint = r.taint.as_mut().unwrap();
                    taint.readings = vec![taint.readings[0].clone(); MAX_READS + 1];
                },
                RequestFault::Taint,
            ),
            (
                |r| {
                    let taint = r.taint.as_mut().unwrap();
                    taint.readings[0].approved_by = vec!["a".parse().unwrap(); MAX_ITEMS + 1];
                },
                RequestFault::Taint,
            ),
            (
                |r| {
                    r.action.exec = Some(Exec {
                        argv: Vec::new(),
                        whole: true,
                        argv_sha256: Digest([0; 32]),
                        sha256: None,
                    });
                },
                RequestFault::Exec,
            ),
        ];
        for (change, fault) in table {
            let mut request = sample();
            change(&mut request);
            assert_eq!(request.check(), Err(fault));
        }
    }

    #[test]
    fn outcome_words() {
        assert_eq!(
            serde_json::to_string(&OutcomeResult::RefusedStale).unwrap(),
            "\"refused:stale\""
        );
    }
}
