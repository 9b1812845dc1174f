//! Requests and leaves, from what is known of a hold. Pure: nothing is looked up here.
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syshold_ledger::leaf::{self, DecidedBy};
use syshold_ledger::{Draft, Kind};
use syshold_protocol::decision::{Lifespan, Scope};
use syshold_protocol::ids::{BootId, HostId, Nonce, RequestId, Subject, UnixMs, Wide};
use syshold_protocol::request::{
    self as protocol, ActionKind, ActionObject, Data, OutcomeResult, PolicyRef, Risk,
};
use syshold_protocol::{Approver, VERSION};
use uuid::Uuid;

use super::{Fact, hook_name};
use crate::enrich::Described;
use crate::gate::{Approval, Ask, By, Decision, Granted, Outcome, Verdict};
use crate::policy::Policy;
use crate::request::{Action, Actions, HoldId, Object};

/// Everything a request is made of.
pub(super) struct Asked<'a> {
    pub(super) policy: &'a Policy,
    pub(super) host_id: HostId,
    pub(super) boot_id: Uuid,
    pub(super) ask: &'a Ask,
    pub(super) fact: &'a Fact,
    pub(super) described: &'a Described,
    pub(super) launched_by: Option<Subject>,
    pub(super) waiting: u32,
    pub(super) now: UnixMs,
    pub(super) left: Duration,
}

/// The kernel's boot id; nil where it cannot be read.
pub(super) fn boot_id() -> Uuid {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| Uuid::try_parse(text.trim()).ok())
        .unwrap_or_default()
}

pub(super) fn request(asked: &Asked<'_>) -> protocol::Request {
    let Asked {
        policy,
        ask,
        fact,
        described,
        ..
    } = asked;
    let agent = policy.agent(fact.request.agent);
    let kind = kind_of(fact.request.actions);
    protocol::Request {
        v: VERSION,
        request_id: ask.request,
        host_id: asked.host_id.clone(),
        boot_id: BootId(asked.boot_id),
        nonce: Nonce(Uuid::new_v4().into_bytes()),
        created_at: asked.now,
        hold_until: asked.now.plus(millis(asked.left).max(1)),
        agent: protocol::Agent {
            name: fact.agent.clone(),
            owner: agent.map(|agent| agent.owner.clone()),
            model: agent.and_then(|agent| agent.model.clone()),
            launched_by: asked.launched_by.clone(),
        },
        process: described.process(),
        action: protocol::Action {
            kind,
            object: object(fact),
        },
        data: Data {
            classes: fact.class_names.clone(),
            size: None,
        },
        policy: PolicyRef {
            rule: ask.reason.rule.clone(),
            sha256: policy.digest(),
            title: format!("{} by {}", fact.request.actions, fact.agent),
            why: ask.reason.why.clone(),
            approvers: ask.terms.approvers.clone(),
        },
        risk: risk(fact),
        allowed_scopes: ask.terms.scopes.clone(),
        max_ttl_s: longest(&ask.terms.scopes),
        quorum: ask.terms.quorum,
        coalesce_key: format!(
            "{}|{}|{}",
            fact.agent,
            fact.request.actions,
            fact.request.object.label()
        ),
        waiting: asked.waiting.max(1),
        agent_reason: None,
        ledger: None,
    }
}

/// The strongest of the actions: who may write may do more than who may read.
fn kind_of(actions: Actions) -> ActionKind {
    let strongest = actions.iter().last().unwrap_or(Action::Connect);
    match strongest {
        Action::Connect => ActionKind::Connect,
        Action::Send => ActionKind::Send,
        Action::Listen => ActionKind::Listen,
        Action::Read => ActionKind::Read,
        Action::Write => ActionKind::Write,
        Action::Delete => ActionKind::Delete,
        Action::Exec => ActionKind::Exec,
        Action::Privilege => ActionKind::Privilege,
    }
}

fn object(fact: &Fact) -> ActionObject {
    let blank = ActionObject {
        requested: fact.request.object.label(),
        resolved: None,
        ip: None,
        port: None,
        dev: None,
        inode: None,
    };
    match &fact.request.object {
        Object::Socket { to, .. } => ActionObject {
            requested: match &fact.host {
                Some(host) => format!("{host}:{}", to.port()),
                None => blank.requested,
            },
            resolved: fact.host.clone(),
            ip: Some(to.ip()),
            port: Some(to.port()),
            ..blank
        },
        Object::File { dev, ino, .. } | Object::NewFile { dev, ino, .. } => ActionObject {
            dev: Some(Wide(u64::from(*dev))),
            inode: Some(Wide(*ino)),
            ..blank
        },
    }
}

/// Sensitive data is never low; writing it is high.
fn risk(fact: &Fact) -> Risk {
    let writes = fact
        .request
        .actions
        .iter()
        .any(|action| action == Action::Write);
    match (fact.class_names.is_empty(), writes) {
        (false, true) => Risk::High,
        (false, false) => Risk::Medium,
        (true, _) => Risk::Low,
    }
}

/// The longest life any of the scopes allows. A process or session ends by itself; a day is the
/// most that any grant may live.
fn longest(scopes: &[Scope]) -> u32 {
    const DAY_S: u32 = 24 * 60 * 60;
    let lives = scopes.iter().map(|scope| match scope {
        Scope::Once => 0,
        Scope::Process | Scope::Session => DAY_S,
        Scope::For(minutes) => u32::from(minutes.get()) * 60,
    });
    lives.max().unwrap_or(0)
}

// ---- leaves ----

pub(super) fn policy_leaf(policy: &Policy, path: &Path) -> Draft {
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

pub(super) fn request_leaf(request: &protocol::Request, fact: &Fact) -> Draft {
    let process = &request.process;
    Draft::new(Kind::Request)
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

pub(super) fn decision_leaf(
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

pub(super) fn grant_leaf(request: RequestId, granted: &Granted, approval: &Approval) -> Draft {
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
pub(super) fn refusal_leaf(request: RequestId, cause: &str) -> Draft {
    Draft::new(Kind::Outcome)
        .request(request.0)
        .outcome(&leaf::Outcome {
            result: "refused:decision".to_owned(),
            ..Default::default()
        })
        .field("cause", cause)
}

/// Why the gateway could not be asked. The decision that follows says `unreachable`.
pub(super) fn unreachable_leaf(request: RequestId, cause: &str) -> Draft {
    Draft::new(Kind::Degraded)
        .request(request.0)
        .field("gateway", cause)
}

pub(super) fn outcome_leaf(
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

pub(super) fn outcome_report(
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_grant_lives_though_no_minutes_are_allowed() {
        assert_eq!(longest(&[Scope::Once]), 0);
        assert_eq!(longest(&[Scope::Once, Scope::Process]), 86_400);
        assert_eq!(longest(&["10m".parse().unwrap()]), 600);
    }
}
