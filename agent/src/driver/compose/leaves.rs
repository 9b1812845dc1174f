//! What the ledger is told.
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syshold_ledger::leaf::{self, DecidedBy};
use syshold_ledger::{Draft, Kind};
use syshold_protocol::Approver;
use syshold_protocol::VERSION;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::{HostId, RequestId, UnixMs};
use syshold_protocol::request::{self as protocol, OutcomeResult};

use super::super::Fact;
use super::super::words::hook_name;
use super::{exec, millis};
use crate::gate::{Approval, By, Decision, Granted, Outcome, Verdict};
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
    Draft::new(Kind::Policy)
        .policy(&leaf::Policy {
            sha256: policy.digest().to_string(),
            rule: None,
            why: None,
        })
        .field("path", &path.display().to_string())
        .field("rules", &rules)
        .field("agents", &agents)
        .field("failure", &format!("{:?}", policy.failure()))
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
    let draft = draft.approvers(&approvers_of(&approval.approvers));
    match decision.by {
        // It is in the ledger already, with the grant or the decision of that id.
        By::Grant => draft,
        _ => draft.field("envelope", &envelope_of(approval)),
    }
}

pub(in crate::driver) fn grant_leaf(
    request: RequestId,
    granted: &Granted,
    approval: &Approval,
) -> Draft {
    Draft::new(Kind::Grant)
        .request(request.0)
        .field("grant", &grant_value(granted))
        .field("decision_id", &approval.decision_id.to_string())
        .field("envelope", &envelope_of(approval))
        .approvers(&approvers_of(&approval.approvers))
}

/// The signed decision, byte for byte: it was accepted, so it is UTF-8.
fn envelope_of(approval: &Approval) -> String {
    String::from_utf8_lossy(&approval.envelope).into_owned()
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
            signature: None,
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
        By::Timeout => DecidedBy::Timeout,
        By::Unreachable => DecidedBy::Unreachable,
        By::Withdrawn | By::Error => DecidedBy::Error,
    }
}
