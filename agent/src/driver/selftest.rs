//! The self-test's scratch agent: there while its caller is, asked about nothing. What it tries is
//! held as anyone's would be, and answered here: denied, but for what the caller said is approved.
use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use syshold_abi::Event;
use syshold_ledger::{Draft, Kind};
use tokio::time::Instant;

use super::{Driver, words::cause_name};
use crate::control::{self, Answers, Asked, Call, Refusal, Reply, SelftestReport};
use crate::gate::Verdict;
use crate::kernel::{self, PINS};
use crate::policy::{Policy, SELFTEST};
use crate::request::{Actions, AgentId, Classes, HoldId, Object, Request};
use crate::rules::{Judgement, Reason};

/// Longer than any self-test takes: a caller that hangs is given up.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// A self-test under way.
pub(super) struct Selftest {
    agent: AgentId,
    approved: BTreeSet<u16>,
    caller: Answers,
    until: Instant,
    /// The policy without it.
    plain: Policy,
}

impl Driver {
    pub(super) fn selftest_call(&mut self, asked: Asked) {
        if asked.peer.uid != 0 {
            let text = "only root may run a self-test";
            return asked.answer(Reply::refused(Refusal::Permission, text));
        }
        match &asked.call {
            Call::Selftest { approved } => {
                let approved = approved.iter().copied().collect();
                match self.begin_selftest(approved, asked.reply.clone()) {
                    // The answers go on until the caller leaves.
                    Ok(reply) => {
                        let _ = asked.reply.send(reply);
                    }
                    Err(text) => asked.answer(Reply::refused(Refusal::Failed, text)),
                }
            }
            Call::SelftestGovern { pid } => {
                let reply = self.govern_attacker(*pid);
                asked.answer(reply);
            }
            Call::SelftestMark => {
                let told = self.selftest.as_ref();
                let reply = if told.is_some_and(|selftest| selftest.caller.send(Reply::Marked)) {
                    Reply::Noted
                } else {
                    Reply::refused(Refusal::Failed, "no self-test is under way")
                };
                asked.answer(reply);
            }
            Call::SelftestOver { report } => {
                let reply = if self.selftest.is_some() {
                    self.record_aside(leaf(report));
                    Reply::Noted
                } else {
                    Reply::refused(Refusal::Failed, "no self-test is under way")
                };
                asked.answer(reply);
            }
            _ => {}
        }
    }

    fn begin_selftest(
        &mut self,
        approved: BTreeSet<u16>,
        caller: Answers,
    ) -> Result<Reply, String> {
        self.look_after_selftest();
        if self.selftest.is_some() {
            return Err("a self-test is under way already".to_owned());
        }
        let folders = syshold_bypass::ground::protected();
        let with = self
            .policy
            .with_selftest(&folders)
            .map_err(|error| error.to_string())?;
        let agent = with
            .agent_id(SELFTEST)
            .ok_or("the policy has no room for it")?;
        let plain = std::mem::replace(&mut self.policy, with);
        if let Err(error) = self.put_in_force() {
            self.policy = plain;
            self.refresh_tables();
            return Err(error.to_string());
        }
        self.selftest = Some(Selftest {
            agent,
            approved,
            caller,
            until: Instant::now() + LONGEST,
            plain,
        });
        tracing::info!("a self-test begins");
        let own = std::fs::read("/proc/self/cgroup").unwrap_or_default();
        let cgroup = crate::enrich::parse::cgroup(&own).unwrap_or_default();
        Ok(Reply::Selftest(control::Selftest {
            agent: SELFTEST.to_owned(),
            pid: std::process::id(),
            pins: PINS.into(),
            cgroup: String::from_utf8_lossy(cgroup).into_owned(),
        }))
    }

    fn govern_attacker(&mut self, pid: u32) -> Reply {
        let Some(selftest) = &self.selftest else {
            return Reply::refused(Refusal::Failed, "no self-test is under way");
        };
        let agent = selftest.agent;
        let Some(start_ns) = crate::governing::start_ns(pid) else {
            return Reply::refused(Refusal::Failed, "the process is gone");
        };
        match self.kernel.govern(pid, start_ns, agent) {
            Ok(()) => Reply::Governed {
                agent: SELFTEST.to_owned(),
            },
            Err(error) => Reply::refused(Refusal::Failed, error.to_string()),
        }
    }

    /// Ends it when its caller is gone: nobody of it is left, and the policy is as it was.
    pub(super) fn look_after_selftest(&mut self) {
        let over = self
            .selftest
            .as_ref()
            .is_some_and(|test| test.caller.is_gone() || Instant::now() > test.until);
        if !over {
            return;
        }
        let Some(selftest) = self.selftest.take() else {
            return;
        };
        for pid in self.kernel.processes_of(selftest.agent) {
            if let Ok(pid) = i32::try_from(pid) {
                // Gone already, or gone now.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        self.policy = selftest.plain;
        self.refresh_tables();
        tracing::info!("the self-test is over");
    }

    /// The answer to what the scratch agent tries; None: it was somebody else.
    pub(super) fn selftest_says(&self, request: &Request) -> Option<Judgement> {
        let selftest = self.selftest.as_ref()?;
        if request.agent != selftest.agent {
            return None;
        }
        let reason = |why: &str| Reason {
            rule: SELFTEST.to_owned(),
            why: why.to_owned(),
            taint: Classes(0),
        };
        Some(if selftest.is_approved(&request.object) {
            Judgement::Allow(reason("the self-test tries what is allowed"))
        } else {
            Judgement::Deny(reason("the self-test tries what is denied"))
        })
    }

    /// The decision of a hold is in the ledger, and its thread waits for nothing but this.
    pub(super) fn tell_selftest(&self, id: HoldId, verdict: Verdict) {
        let (Some(selftest), Some(fact)) = (&self.selftest, self.facts.get(&id)) else {
            return;
        };
        if fact.request.agent != selftest.agent {
            return;
        }
        let _ = selftest.caller.send(Reply::Seen(control::Seen {
            pid: fact.tgid,
            hold: Some(id.0),
            held_at: Some(fact.held_at.0),
            verdict: verdict.name().to_owned(),
            action: fact.request.actions.to_string(),
            object: fact.request.object.label(),
            cause: "policy".to_owned(),
        }));
    }

    pub(super) fn tell_selftest_denied(&self, event: &Event) {
        let Some(selftest) = &self.selftest else {
            return;
        };
        if AgentId(event.agent) != selftest.agent {
            return;
        }
        let _ = selftest.caller.send(Reply::Seen(control::Seen {
            pid: event.tgid,
            hold: None,
            held_at: None,
            verdict: Verdict::Deny.name().to_owned(),
            action: Actions(event.key.actions).to_string(),
            object: kernel::object_of(&event.key, None).label(),
            cause: cause_name(event.cause).to_owned(),
        }));
    }
}

impl Selftest {
    /// Approved is a port on loopback, or a file of the approved name.
    fn is_approved(&self, object: &Object) -> bool {
        match object {
            Object::Socket { to, .. } => {
                to.ip().to_canonical().is_loopback() && self.approved.contains(&to.port())
            }
            Object::NewFile {
                path: Some(path), ..
            } => std::path::Path::new(path).ends_with(syshold_bypass::scene::APPROVED),
            _ => false,
        }
    }
}

fn leaf(report: &SelftestReport) -> Draft {
    Draft::new(Kind::Selftest)
        .field("user", &report.user)
        .field("kernel", &report.kernel)
        .field("result", if report.good { "good" } else { "bad" })
        .field("proven", &report.proven)
        .field("results", &report.results)
        .field("bad", &report.bad)
}
