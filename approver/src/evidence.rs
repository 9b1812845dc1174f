//! The gateway's own ledger: what was asked and what was decided, before anybody acts on it.
//!
//! Leaves name the asking host in `asker`; `host`, which the ledger writes, is this gateway. Digests
//! tie a leaf to the bytes the host signed, to what people were shown and to the signed decision.
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use syshold_ledger::{
    AppendError, Committed, Draft, HostName, Kind, Ledger, OpenError, Pending, leaf,
};
use syshold_protocol::break_glass::Notice;
use syshold_protocol::{
    Approver, Channel, Decision, DecisionId, DecisionVerdict, Digest, Outcome, OutcomeResult,
    Request, Subject, UnixMs,
};

use crate::keys::Keys;
use crate::store::requests::Filed;
use crate::store::revocations::Revoked;

/// The ledger's name in the state folder.
pub const FILE: &str = "ledger.db";

/// The open ledger. Only one process has it.
#[derive(Debug)]
pub struct Evidence {
    ledger: Ledger,
    /// Policies that have a leaf since the start; one more after a restart does no harm.
    policies: Mutex<HashSet<Digest>>,
}

/// Why there is no leaf. Whatever it says: nothing is handed out.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("ledger: {0}")]
    Append(#[from] AppendError),
}

impl Evidence {
    /// Opens the ledger in `dir` and records the start.
    pub async fn open(dir: &Path, keys: &Keys) -> Result<Self, EvidenceError> {
        let path = dir.join(FILE);
        // A machine whose name no leaf can carry still gets a ledger.
        let name = HostName::of_this_machine()
            .or_else(|_| "gateway".parse())
            .map_err(|_| AppendError::Closed)?;
        let ledger = Ledger::open(&path, name)?;
        let start = Draft::new(Kind::Start)
            .field("version", env!("CARGO_PKG_VERSION"))
            .field("decision_key", &keys.decision.public())
            .field("witness", &keys.witness.verifier().to_string())
            .field("ca_sha256", &keys.ca_sha256());
        ledger.append(start).await?;
        Ok(Self {
            ledger,
            policies: Mutex::new(HashSet::new()),
        })
    }

    /// Queues that a host asks. It is recorded when the [`Pending`] says so.
    pub async fn request(&self, filed: &Filed) -> Result<Pending, EvidenceError> {
        self.policy(filed).await?;
        let request = &filed.request;
        let draft = about(filed, Kind::Request)
            .process(&process(request))
            .action(&leaf::Action {
                op: request.action.kind.to_string(),
                args: serde_json::Map::default(),
            })
            .object(&object(request))
            .field("hold_until", &request.hold_until.to_string())
            .field("waiting", &request.waiting)
            .field("received", &filed.received_at.to_string());
        Ok(self.ledger.append(draft))
    }

    /// Records what another gateway's ledger has: each is whole by itself.
    pub async fn asked(&self, filed: &Filed) -> Result<(), EvidenceError> {
        self.request(filed).await?.await?;
        Ok(())
    }

    /// Queues a decision.
    pub async fn decision(
        &self,
        filed: &Filed,
        decision: &Decision,
        envelope: &[u8],
    ) -> Result<Pending, EvidenceError> {
        self.policy(filed).await?;
        let (by, cause) = match decision.verdict {
            DecisionVerdict::Deny if decision.approvers.is_empty() => {
                (leaf::DecidedBy::Policy, Some("denied three times lately"))
            }
            DecisionVerdict::Approve | DecisionVerdict::ApproveModified | DecisionVerdict::Deny => {
                (leaf::DecidedBy::Human, None)
            }
            DecisionVerdict::Expired => (leaf::DecidedBy::Timeout, Some("expired")),
            DecisionVerdict::Withdrawn => (leaf::DecidedBy::Error, Some("withdrawn by the host")),
        };
        let verdict = if decision.verdict.approves() {
            leaf::Verdict::Allow
        } else {
            leaf::Verdict::Deny
        };
        let approvers: Vec<_> = decision
            .approvers
            .iter()
            .map(|a| approver(a, filed.received_at))
            .collect();
        let draft = about(filed, Kind::Decision)
            .decision(&leaf::Decision {
                verdict,
                by,
                cause: cause.map(str::to_owned),
                id: Some(decision.decision_id.0),
                grant: decision.grant.as_ref().map(|grant| json!(grant)),
                expires: decision
                    .grant
                    .as_ref()
                    .and_then(|grant| grant.expires_at)
                    .map(|at| at.to_string()),
            })
            .approvers(&approvers)
            .field("verdict", decision.verdict.as_str())
            .field("rendered_sha256", &decision.rendered_sha256)
            .field("envelope_sha256", &Digest::of(envelope));
        Ok(self.ledger.append(draft))
    }

    /// Queues that an approval was taken back.
    pub async fn revocation(
        &self,
        filed: &Filed,
        revoked: &Revoked,
    ) -> Result<Pending, EvidenceError> {
        self.policy(filed).await?;
        let by = leaf::Approver {
            asked: None,
            ..approver(&revoked.by, filed.received_at)
        };
        let draft = about(filed, Kind::Revoke)
            .approvers(&[by])
            .field("decision_id", &revoked.decision_id.to_string())
            .field("revoke", &json!({"cause": "revoked"}));
        Ok(self.ledger.append(draft))
    }

    /// Records what came of it.
    pub async fn outcome(&self, filed: &Filed, outcome: &Outcome) -> Result<(), EvidenceError> {
        let draft = Draft::new(Kind::Outcome)
            .request(filed.request.request_id.0)
            .field("asker", &asker(filed))
            .field("decision_id", &outcome.decision_id)
            .field("detail", &outcome.detail)
            .outcome(&leaf::Outcome {
                result: word(outcome.result).to_owned(),
                errno: outcome.errno,
                held_ms: Some(outcome.held_ms),
            });
        self.append(draft).await?;
        Ok(())
    }

    /// Records that a host lets an agent through without asking.
    pub async fn break_glass(&self, notice: &Notice, host_name: &str) -> Result<(), EvidenceError> {
        let draft = Draft::new(Kind::BreakGlass)
            .agent(&leaf::Agent {
                name: notice.order.agent.clone(),
                ..leaf::Agent::default()
            })
            .field(
                "asker",
                &json!({"host_id": notice.host_id, "name": host_name}),
            )
            .field("decision_id", &notice.order.order_id.to_string())
            .field("order", &notice.order)
            .field("signers", &notice.signers);
        self.append(draft).await?;
        Ok(())
    }

    /// Records what somebody found when they looked at it afterwards.
    pub async fn review(
        &self,
        order: DecisionId,
        by: &Subject,
        text: &str,
    ) -> Result<(), EvidenceError> {
        let draft = Draft::new(Kind::Review)
            .field("decision_id", &order.to_string())
            .field("by", by)
            .field("review", text);
        self.append(draft).await?;
        Ok(())
    }

    /// Records something about the ledger of a host.
    pub async fn log(&self, kind: Kind, said: &serde_json::Value) -> Result<(), EvidenceError> {
        self.append(Draft::new(kind).field("log", said)).await?;
        Ok(())
    }

    /// Records the stop; the last leaf of a run that ended well.
    pub async fn stop(&self) {
        if let Err(error) = self.append(Draft::new(Kind::Stop)).await {
            tracing::error!(%error, "the stop is not in the ledger");
        }
    }

    /// A policy is known to the ledger before a leaf names it.
    async fn policy(&self, filed: &Filed) -> Result<(), EvidenceError> {
        let sha256 = filed.request.policy.sha256;
        if self
            .policies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&sha256)
        {
            return Ok(());
        }
        let policy = leaf::Policy {
            sha256: sha256.to_string(),
            rule: None,
            why: None,
        };
        let draft = Draft::new(Kind::Policy)
            .field("asker", &asker(filed))
            .policy(&policy);
        self.append(draft).await?;
        self.policies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sha256);
        Ok(())
    }

    async fn append(&self, draft: Draft) -> Result<Committed, AppendError> {
        self.ledger.append(draft).await
    }
}

/// What every leaf about a request says.
fn about(filed: &Filed, kind: Kind) -> Draft {
    let Request {
        agent,
        policy,
        request_id,
        ..
    } = &filed.request;
    Draft::new(kind)
        .request(request_id.0)
        .agent(&leaf::Agent {
            name: agent.name.clone(),
            owner: agent.owner.as_ref().map(ToString::to_string),
            model: agent.model.clone(),
            version: None,
            instance: None,
        })
        .policy(&leaf::Policy {
            sha256: policy.sha256.to_string(),
            rule: Some(policy.rule.clone()),
            why: Some(policy.why.clone()),
        })
        .field("asker", &asker(filed))
        .field("request_sha256", &filed.request_sha256)
}

fn asker(filed: &Filed) -> serde_json::Value {
    json!({"host_id": filed.request.host_id, "name": filed.host_name})
}

fn process(request: &Request) -> leaf::Process {
    let process = &request.process;
    leaf::Process {
        pid: process.pid,
        start: process.start_time.to_string(),
        exe: process.exe.clone(),
        exe_sha256: process.exe_sha256.map(|digest| digest.to_string()),
        argv: process.argv.clone(),
        cwd: Some(process.cwd.clone()),
        cgroup: Some(process.cgroup.clone()),
        ancestors: process
            .ancestry
            .iter()
            .map(|a| leaf::Ancestor {
                pid: a.pid,
                start: a.start_time.to_string(),
                exe: a.exe.clone(),
            })
            .collect(),
    }
}

fn object(request: &Request) -> leaf::Object {
    let object = &request.action.object;
    let address = object
        .ip
        .zip(object.port)
        .map(|(ip, port)| std::net::SocketAddr::new(ip, port).to_string());
    let path = address.is_none().then(|| {
        object
            .resolved
            .clone()
            .unwrap_or_else(|| object.requested.clone())
    });
    leaf::Object {
        kind: if address.is_some() { "socket" } else { "file" }.to_owned(),
        path,
        host: address.is_some().then(|| object.requested.clone()),
        addr: address,
        dev: object.dev.map(|dev| dev.to_string()),
        ino: object.inode.map(|inode| inode.to_string()),
        labels: request.data.classes.clone(),
    }
}

fn approver(approver: &Approver, asked: UnixMs) -> leaf::Approver {
    leaf::Approver {
        subject: approver.subject.to_string(),
        channel: match approver.channel {
            Channel::Api => "api",
            Channel::Cli => "cli",
            Channel::Slack => "slack",
            Channel::Teams => "teams",
            Channel::Web => "web",
        }
        .to_owned(),
        method: approver.assurance.to_string(),
        signature: approver
            .proof
            .as_ref()
            .map(|proof| proof.assertion.signature.clone().into()),
        comment: approver.reason.clone(),
        asked: Some(asked.to_string()),
        answered: Some(approver.at.to_string()),
    }
}

/// An outcome as it is called in JSON.
pub(crate) fn word(result: OutcomeResult) -> &'static str {
    match result {
        OutcomeResult::Resumed => "resumed",
        OutcomeResult::Denied => "denied",
        OutcomeResult::Expired => "expired",
        OutcomeResult::Late => "late",
        OutcomeResult::RefusedStale => "refused:stale",
        OutcomeResult::RefusedDecision => "refused:decision",
        OutcomeResult::ProcessGone => "process_gone",
    }
}
