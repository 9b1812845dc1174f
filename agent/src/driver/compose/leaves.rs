//! What the ledger is told.
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syshold_ledger::leaf::{self, DecidedBy};
use syshold_ledger::{Draft, Kind};
use syshold_protocol::Approver;
use syshold_protocol::VERSION;
use syshold_protocol::break_glass;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::{HostId, RequestId, UnixMs};
use syshold_protocol::request::{self as protocol, OutcomeResult};
use syshold_protocol::revocation::Revocation;

use super::super::Fact;
use super::super::words::hook_name;
use super::{exec, millis};
use crate::approver::Gateway;
use crate::gate::{Approval, By, Decision, GrantView, Granted, Outcome, Verdict};
use crate::policy::Policy;
use crate::request::{HoldId, Object};

pub(in crate::driver) fn policy_leaf(policy: &Policy, path: &Path) -> Draft {
    let rules: Vec<_> = policy
        .rules()
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    let agents: Vec<_> = policy
        .agents()
        .iter()
        .map(|agent| agent.name.as_str())
        .collect();
    let draft = Draft::new(Kind::Policy)
        .policy(&leaf::Policy {
            sha256: policy.digest().to_string(),
            rule: None,
            why: None,
        })
        .field("path", &path.display().to_string())
        .field("rules", &rules)
        .field("agents", &agents)
        .field("failure", &format!("{:?}", policy.failure()));
    if policy.break_glass().is_empty() {
        return draft;
    }
    let keys: Vec<_> = policy
        .break_glass()
        .iter()
        .map(|(subject, key)| json!({"subject": subject, "key": key}))
        .collect();
    draft.field("break_glass", &keys)
}

/// An order that comes into force; the leaf before every decision by it. The order itself is kept
/// byte for byte, so that its signatures can be checked against the keys in the policy's leaf.
pub(in crate::driver) fn break_glass_leaf(
    accepted: &break_glass::Accepted,
    envelope: &str,
    approval: &Approval,
    policy: &Policy,
) -> Draft {
    let order = &accepted.order;
    Draft::new(Kind::BreakGlass)
        .agent(&leaf::Agent {
            name: order.agent.clone(),
            ..leaf::Agent::default()
        })
        .policy(&leaf::Policy {
            sha256: policy.digest().to_string(),
            rule: None,
            why: Some(order.reason.clone()),
        })
        .approvers(&signers_of(approval))
        .field("decision_id", &order.order_id.to_string())
        .field("rules", &order.rules)
        .field("until", &order.until.to_string())
        .field("order", envelope)
}

/// They signed with keys that are kept offline, through no channel.
fn signers_of(approval: &Approval) -> Vec<leaf::Approver> {
    let mut signers = approvers_of(&approval.approvers);
    for signer in &mut signers {
        "break_glass".clone_into(&mut signer.channel);
        "offline_key".clone_into(&mut signer.method);
    }
    signers
}

/// With whose answers count from now on: `verify` holds every answer in the ledger against it.
pub(in crate::driver) fn start_leaf(gateway: Option<&Gateway>) -> Draft {
    let draft = Draft::new(Kind::Start).field("version", env!("CARGO_PKG_VERSION"));
    match gateway {
        Some(gateway) => draft.field(
            "gateway",
            &json!({"host_id": gateway.host_id, "keys": gateway.gateway_keys}),
        ),
        None => draft,
    }
}

pub(in crate::driver) fn request_leaf(request: &protocol::Request, fact: &Fact) -> Draft {
    let process = &request.process;
    let draft = match &request.taint {
        Some(taint) => Draft::new(Kind::Request).field("taint", taint),
        None => Draft::new(Kind::Request),
    };
    draft
        .request(request.request_id.0)
        .agent(&agent_of(&request.agent))
        .initiator(&leaf::Initiator {
            user: None,
            uid: Some(process.uid),
            auid: None,
        })
        .process(&leaf::Process {
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
                .map(|ancestor| leaf::Ancestor {
                    pid: ancestor.pid,
                    start: ancestor.start_time.to_string(),
                    exe: ancestor.exe.clone(),
                })
                .collect(),
        })
        .action(&action_of(fact))
        .object(&object_of(fact))
        .policy(&leaf::Policy {
            sha256: request.policy.sha256.to_string(),
            rule: Some(request.policy.rule.clone()),
            why: Some(request.policy.why.clone()),
        })
        .field("hold_until", &request.hold_until.ms())
        .field("waiting", &request.waiting)
}

pub(in crate::driver) fn decision_leaf(
    hold: HoldId,
    fact: &Fact,
    decision: &Decision,
    policy: &Policy,
) -> Draft {
    let agent = policy.agent(fact.request.agent);
    let draft = Draft::new(Kind::Decision)
        .field("hold", &hold.0.to_string())
        .agent(&leaf::Agent {
            name: fact.agent.clone(),
            owner: agent.map(|agent| agent.owner.to_string()),
            model: agent.and_then(|agent| agent.model.clone()),
            ..leaf::Agent::default()
        })
        .field("pid", &fact.tgid)
        .field("comm", &fact.comm)
        .action(&action_of(fact))
        .object(&object_of(fact))
        .policy(&leaf::Policy {
            sha256: policy.digest().to_string(),
            rule: Some(decision.reason.rule.clone()),
            why: Some(decision.reason.why.clone()),
        })
        .decision(&leaf::Decision {
            verdict: match decision.verdict {
                Verdict::Allow => leaf::Verdict::Allow,
                Verdict::Deny | Verdict::Interrupt => leaf::Verdict::Deny,
            },
            by: decided_by(decision.by),
            cause: Some(decision.cause.name().to_owned()),
            id: decision
                .approval
                .as_ref()
                .map(|approval| approval.decision_id.0),
            grant: decision.granted.as_ref().map(grant_value),
            expires: None,
        });
    let draft = match decision.request {
        Some(request) => draft.request(request.0),
        None => draft,
    };
    let Some(approval) = &decision.approval else {
        return draft;
    };
    let draft = match decision.by {
        By::BreakGlass => draft.approvers(&signers_of(approval)),
        _ => draft.approvers(&approvers_of(&approval.approvers)),
    };
    match decision.by {
        // It is in the ledger already, with the grant, the order or the decision of that id.
        By::Grant | By::BreakGlass => draft,
        _ => evidence_of(draft, approval),
    }
}

pub(in crate::driver) fn grant_leaf(
    request: RequestId,
    granted: &Granted,
    approval: &Approval,
) -> Draft {
    let draft = Draft::new(Kind::Grant)
        .request(request.0)
        .field("grant", &grant_value(granted))
        .field("decision_id", &approval.decision_id.to_string())
        .approvers(&approvers_of(&approval.approvers));
    evidence_of(draft, approval)
}

/// How many grants one leaf names: it has a longest length.
const MOST_REVOKED: usize = 100;

/// Grants that end before their time; which of them each leaf names, with what they came from.
pub(in crate::driver) fn revoke_leaves<'a>(
    grants: impl Iterator<Item = GrantView<'a>>,
    cause: &str,
) -> Vec<Draft> {
    let grants: Vec<_> = grants.map(|grant| revoked_grant(&grant)).collect();
    let leaf = |some: &[Value]| {
        let said = json!({"cause": cause, "count": some.len(), "grants": some});
        Draft::new(Kind::Revoke).field("revoke", &said)
    };
    grants.chunks(MOST_REVOKED).map(leaf).collect()
}

/// An approval that people took back: by whom and why, which grant of it ends, and the gateway's
/// signed list, byte for byte.
pub(in crate::driver) fn revoked_leaf<'a>(
    entry: &Revocation,
    grants: impl Iterator<Item = &'a GrantView<'a>>,
    envelope: &[u8],
) -> Draft {
    // One decision makes one grant at most.
    let grants: Vec<_> = grants.take(MOST_REVOKED).map(revoked_grant).collect();
    let said = json!({
        "cause": "revoked",
        "count": grants.len(),
        "grants": grants,
        "n": entry.n,
        "at": entry.by.at.to_string(),
    });
    Draft::new(Kind::Revoke)
        .request(entry.request_id.0)
        .field("decision_id", &entry.decision_id.to_string())
        .approvers(&approvers_of(std::slice::from_ref(&entry.by)))
        .field("revoke", &said)
        .field("envelope", &String::from_utf8_lossy(envelope))
}

fn revoked_grant(grant: &GrantView<'_>) -> Value {
    json!({
        "decision_id": grant.decision,
        "request": grant.request,
        "rule": grant.rule,
        "uses_left": grant.uses_left,
    })
}

/// The signed decision, byte for byte: it was accepted, so it is UTF-8. Where people signed
/// themselves, the request too, because its digest is what they signed.
fn evidence_of(draft: Draft, approval: &Approval) -> Draft {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let draft = draft.field("envelope", &text(&approval.envelope));
    match &approval.request {
        Some(request) => draft.field("request_payload", &text(request)),
        None => draft,
    }
}

/// An answer that was not accepted: evidence that somebody tried.
pub(in crate::driver) fn refusal_leaf(request: RequestId, cause: &str) -> Draft {
    Draft::new(Kind::Outcome)
        .request(request.0)
        .outcome(&leaf::Outcome {
            result: "refused:decision".to_owned(),
            ..Default::default()
        })
        .field("cause", cause)
}

/// Why the gateway could not be asked. The decision that follows says `unreachable`.
pub(in crate::driver) fn unreachable_leaf(request: RequestId, cause: &str) -> Draft {
    Draft::new(Kind::Degraded)
        .request(request.0)
        .field("gateway", cause)
}

pub(in crate::driver) fn outcome_leaf(
    hold: HoldId,
    request: Option<RequestId>,
    outcome: Outcome,
    held: Duration,
) -> Draft {
    let (result, errno) = match outcome {
        Outcome::Resumed(Verdict::Allow) => ("resumed", Some(0)),
        Outcome::Resumed(Verdict::Deny) => ("denied", Some(1)),
        Outcome::Resumed(Verdict::Interrupt) => ("interrupted", Some(4)),
        Outcome::Gone(_) => ("process_gone", None),
        Outcome::Unconfirmed(_) => ("unconfirmed", None),
    };
    let draft = Draft::new(Kind::Outcome)
        .field("hold", &hold.0.to_string())
        .outcome(&leaf::Outcome {
            result: result.to_owned(),
            errno,
            held_ms: Some(millis(held)),
        });
    let draft = match outcome {
        Outcome::Gone(why) => draft.field("cause", why.name()),
        _ => draft,
    };
    match request {
        Some(request) => draft.request(request.0),
        None => draft,
    }
}

pub(in crate::driver) fn outcome_report(
    request: RequestId,
    host_id: HostId,
    outcome: Outcome,
    held: Duration,
    at: UnixMs,
) -> protocol::Outcome {
    let (result, errno) = match outcome {
        Outcome::Resumed(Verdict::Allow) => (OutcomeResult::Resumed, Some(0)),
        Outcome::Resumed(Verdict::Deny) => (OutcomeResult::Denied, Some(1)),
        Outcome::Resumed(Verdict::Interrupt) => (OutcomeResult::ProcessGone, Some(4)),
        Outcome::Gone(_) | Outcome::Unconfirmed(_) => (OutcomeResult::ProcessGone, None),
    };
    protocol::Outcome {
        v: VERSION,
        request_id: request,
        host_id,
        decision_id: None,
        result,
        errno,
        held_ms: millis(held),
        at,
        detail: None,
    }
}

fn agent_of(agent: &protocol::Agent) -> leaf::Agent {
    leaf::Agent {
        name: agent.name.clone(),
        owner: agent.owner.as_ref().map(ToString::to_string),
        model: agent.model.clone(),
        ..leaf::Agent::default()
    }
}

fn action_of(fact: &Fact) -> leaf::Action {
    let mut args = Map::new();
    args.insert("hook".to_owned(), hook_name(fact.hook).into());
    args.insert("syscall".to_owned(), fact.syscall.into());
    if let Some(run) = &fact.request.exec {
        args.insert("run".to_owned(), json!(exec(run)));
    }
    leaf::Action {
        op: fact.request.actions.to_string(),
        args,
    }
}

fn object_of(fact: &Fact) -> leaf::Object {
    let labels = fact.class_names.clone();
    match &fact.request.object {
        Object::Socket { to, .. } => leaf::Object {
            kind: "socket".to_owned(),
            addr: Some(to.to_string()),
            host: fact.host.clone(),
            labels,
            ..leaf::Object::default()
        },
        Object::File { dev, ino, path, .. } | Object::NewFile { dev, ino, path, .. } => {
            leaf::Object {
                kind: "file".to_owned(),
                path: path.clone(),
                dev: Some(dev.to_string()),
                ino: Some(ino.to_string()),
                labels,
                ..leaf::Object::default()
            }
        }
        object @ (Object::Unix { .. } | Object::Privilege(_)) => leaf::Object {
            kind: match object {
                Object::Unix { .. } => "unix_socket",
                _ => "privilege",
            }
            .to_owned(),
            addr: Some(object.label()),
            labels,
            ..leaf::Object::default()
        },
    }
}

fn approvers_of(approvers: &[Approver]) -> Vec<leaf::Approver> {
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    approvers
        .iter()
        .map(|approver| leaf::Approver {
            subject: approver.subject.to_string(),
            channel: word(json!(approver.channel)),
            method: word(json!(approver.assurance)),
            signature: approver
                .proof
                .as_ref()
                .map(|proof| proof.assertion.signature.clone().into()),
            comment: approver.reason.clone(),
            asked: None,
            answered: jiff::Timestamp::from_millisecond(
                i64::try_from(approver.at.ms()).unwrap_or(i64::MAX),
            )
            .ok()
            .map(|at| at.to_string()),
        })
        .collect()
}

fn grant_value(granted: &Granted) -> Value {
    let lifespan = match granted.lifespan {
        Lifespan::Single => "single",
        Lifespan::Process => "process",
        Lifespan::Session => "session",
        Lifespan::Until => "until",
    };
    json!({ "lifespan": lifespan, "max_uses": granted.uses })
}

fn decided_by(by: By) -> DecidedBy {
    match by {
        By::Policy => DecidedBy::Policy,
        By::Human => DecidedBy::Human,
        By::Grant => DecidedBy::Grant,
        By::BreakGlass => DecidedBy::BreakGlass,
        By::Timeout => DecidedBy::Timeout,
        By::Unreachable => DecidedBy::Unreachable,
        By::Withdrawn | By::Error => DecidedBy::Error,
    }
}

#[cfg(test)]
mod tests;
