//! Requests and leaves, from what is known of a hold. Pure: nothing is looked up here.
mod leaves;

use std::time::Duration;

use syshold_protocol::VERSION;
use syshold_protocol::decision::{Assurance, Scope};
use syshold_protocol::ids::{BootId, HostId, Nonce, Subject, UnixMs, Wide};
use syshold_protocol::request::{
    self as protocol, ActionKind, ActionObject, Data, PolicyRef, Risk,
};
use uuid::Uuid;

pub(super) use self::leaves::{
    break_glass_leaf, decision_leaf, grant_leaf, outcome_leaf, outcome_report, policy_leaf,
    refusal_leaf, request_leaf, revoke_leaves, revoked_leaf, start_leaf, unreachable_leaf,
};
use super::Fact;
use crate::enrich::{Described, shorten};
use crate::gate::Ask;
use crate::policy::Policy;
use crate::request::{Action, Actions, Exec, Object};

/// Bytes of what would be run, as JSON: all of a request has to fit into one envelope.
const MOST_EXEC: usize = 16 * 1024;

/// Everything a request is made of.
pub(super) struct Asked<'a> {
    pub(super) policy: &'a Policy,
    pub(super) host_id: HostId,
    pub(super) boot_id: Uuid,
    pub(super) ask: &'a Ask,
    pub(super) fact: &'a Fact,
    pub(super) described: &'a Described,
    pub(super) taint: Option<protocol::Taint>,
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
            exec: fact.request.exec.as_deref().map(exec),
        },
        taint: asked.taint.clone(),
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
        assurance: (ask.terms.assurance > Assurance::Chat).then_some(ask.terms.assurance),
        coalesce_key: format!(
            "{}|{}|{}{}",
            fact.agent,
            fact.request.actions,
            fact.request.object.label(),
            match &fact.request.exec {
                Some(exec) => format!("|{}", exec.argv_sha256),
                None => String::new(),
            }
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
        Object::Unix { .. } | Object::Privilege(_) => blank,
    }
}

/// What would be run, short enough for a request.
fn exec(exec: &Exec) -> protocol::Exec {
    let (argv, all) = shorten::arguments(&exec.argv, MOST_EXEC, protocol::MAX_ITEMS);
    protocol::Exec {
        whole: exec.whole && all,
        argv,
        argv_sha256: exec.argv_sha256,
        sha256: exec.sha256,
    }
}

/// Sensitive data is never low. Changing it is high, and so is what leaves after it was read, and
/// every privilege.
fn risk(fact: &Fact) -> Risk {
    let request = &fact.request;
    let tries = |actions: &[Action]| {
        request
            .actions
            .iter()
            .any(|action| actions.contains(&action))
    };
    let sends = tries(&[Action::Connect, Action::Send, Action::Listen]);
    if tries(&[Action::Privilege]) || sends && request.taint.0 != 0 {
        Risk::High
    } else if fact.class_names.is_empty() {
        if tries(&[Action::Exec, Action::Listen]) {
            Risk::Medium
        } else {
            Risk::Low
        }
    } else if tries(&[Action::Write, Action::Delete]) {
        Risk::High
    } else {
        Risk::Medium
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_and_says_so() {
        let run = |argv: &[&str]| {
            exec(&Exec {
                argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
                whole: true,
                argv_sha256: syshold_protocol::Digest([0; 32]),
                sha256: None,
            })
        };
        let short = run(&["kubectl", "get", ""]);
        assert_eq!((short.argv.len(), short.whole), (3, true));
        let long = "x".repeat(50_000);
        let cut = run(&["a", &long, "b"]);
        assert_eq!((cut.argv.len(), cut.whole), (3, false));
        assert_eq!(cut.argv[2], "b");
        assert!(cut.argv[1].len() < MOST_EXEC + 60 && cut.argv[1].contains("not shown"));
        let many = run(&["y"; 300]);
        assert!(many.argv.len() <= protocol::MAX_ITEMS && !many.whole);
        let fits = run(&[&long[..MOST_EXEC - 3]]);
        assert!(fits.whole);
    }

    #[test]
    fn a_process_grant_lives_though_no_minutes_are_allowed() {
        assert_eq!(longest(&[Scope::Once]), 0);
        assert_eq!(longest(&[Scope::Once, Scope::Process]), 86_400);
        assert_eq!(longest(&["10m".parse().unwrap()]), 600);
    }
}
