//! What the control socket is told, and the calls that change something.
use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::utsname::uname;
use syshold_ledger::Health;
use syshold_protocol::ids::Subject;

use super::act::stops;
use super::{Driver, now, upkeep};
use crate::control::{self, Asked, Call, Peer, Refusal, Reply, State};
use crate::gate::{HoldView, Now, Process};
use crate::policy::Dns;
use crate::request::HoldId;
use crate::rules::Fallback;
use syshold_abi::{count, hook};

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) asked: u64,
}

impl Driver {
    pub(super) fn call(&mut self, asked: Asked) {
        if asked.peer.pid == 0 || self.kernel.governs(asked.peer.pid).is_some() {
            let text = "a governed process may not talk to the daemon that governs it";
            return asked.answer(Reply::refused(Refusal::Governed, text));
        }
        match &asked.call {
            Call::Status => {
                let status = self.status();
                asked.answer(Reply::Status(Box::new(status)));
            }
            Call::Holds { follow } => {
                let follow = *follow;
                let holds: Vec<_> = self
                    .gate
                    .holds()
                    .map(|view| self.hold_reply(&view))
                    .collect();
                if follow {
                    let gone = holds.into_iter().any(|hold| !asked.reply.send(hold));
                    if !gone {
                        self.followers.push(asked.reply);
                    }
                } else {
                    asked.answer_all(holds);
                }
            }
            Call::Govern { agent } => {
                let reply = self.govern(&asked.peer, agent);
                asked.answer(reply);
            }
            Call::Selftest { .. }
            | Call::SelftestGovern { .. }
            | Call::SelftestMark
            | Call::SelftestOver { .. } => self.selftest_call(asked),
            Call::BreakGlass { .. } => self.break_glass(asked),
            Call::BreakGlassEnd => self.end_break_glass(asked),
            Call::Ledger { work } => {
                let by = name_of(&asked.peer);
                let (work, db) = (work.clone(), self.policy.host().ledger.clone());
                upkeep::answer(asked, work, self.ledger.clone(), db, by);
            }
            Call::Reload => {
                let reply = if asked.peer.uid != 0 {
                    Reply::refused(Refusal::Permission, "only root may reload the policy")
                } else {
                    match self.reload() {
                        Ok(()) => Reply::Reloaded {
                            policy: self.policy_reply(),
                        },
                        Err(error) => Reply::refused(Refusal::Policy, error.to_string()),
                    }
                };
                asked.answer(reply);
            }
        }
    }

    /// The caller becomes an agent's: from its next instruction on, and for good.
    fn govern(&mut self, peer: &Peer, agent: &str) -> Reply {
        let Some(id) = self.policy.agent_id(agent) else {
            let known: Vec<_> = self
                .policy
                .agents()
                .iter()
                .map(|a| a.name.as_str())
                .collect();
            let text = format!(
                "no agent `{agent}` in {}; it has: {}",
                self.policy_path.display(),
                known.join(", ")
            );
            return Reply::refused(Refusal::UnknownAgent, text);
        };
        // Read while the caller is known to live, so that it is the caller's.
        let start_ns = crate::governing::start_ns(peer.pid).filter(|_| lives(peer));
        let Some(start_ns) = start_ns else {
            return Reply::refused(Refusal::Failed, "the caller is gone");
        };
        let tgid = peer.pid;
        let who = launcher(peer);
        if let Some(who) = who.as_ref().filter(|who| self.ordered_by(id, who)) {
            let text = format!(
                "{who} signed the break-glass order that is in force for {agent}, so others have to start it; or end it: `syshold break-glass end`"
            );
            return Reply::refused(Refusal::Permission, text);
        }
        if let Err(error) = self.kernel.govern(tgid, start_ns, id) {
            return Reply::refused(Refusal::Failed, error.to_string());
        }
        if let Some(who) = who {
            self.launched.insert(Process { tgid, start_ns }, who);
        }
        self.move_to_scope(tgid, agent);
        tracing::info!(pid = tgid, agent, "governed by `syshold run`");
        Reply::Governed {
            agent: agent.to_owned(),
        }
    }

    /// A scope of its own where systemd is there, so that its threads are parked in a cgroup
    /// that is nobody else's. Without one they are parked below the caller's cgroup.
    fn move_to_scope(&self, pid: u32, agent: &str) {
        if !std::path::Path::new("/run/systemd/system").exists() {
            return;
        }
        let unit = format!("syshold-{agent}-{pid}.scope");
        let own = fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if crate::enrich::parse::cgroup(&own).is_some_and(|path| path.ends_with(unit.as_bytes())) {
            // `syshold run` has seen to it.
            return;
        }
        let pid = pid.to_string();
        let spawned = tokio::process::Command::new("busctl")
            .args([
                "call",
                "--quiet",
                "org.freedesktop.systemd1",
                "/org/freedesktop/systemd1",
            ])
            .args([
                "org.freedesktop.systemd1.Manager",
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
            ])
            .args([unit.as_str(), "fail", "3", "PIDs", "au", "1", pid.as_str()])
            .args([
                "Delegate",
                "b",
                "true",
                "CollectMode",
                "s",
                "inactive-or-failed",
                "0",
            ])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Ok(mut child) => {
                tokio::spawn(async move {
                    match child.wait().await {
                        Ok(status) if status.success() => {}
                        other => tracing::warn!(?other, unit, "no scope for an agent"),
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "busctl cannot be run: no scope for an agent"),
        }
    }

    /// One line for systemd's status.
    pub(super) fn headline(&self) -> String {
        format!(
            "governing {} agents, {} rules, policy {}",
            self.policy.agents().len(),
            self.policy.rules().len(),
            &self.policy.digest().to_string()[..12]
        )
    }

    fn policy_reply(&self) -> control::Policy {
        control::Policy {
            path: self.policy_path.clone(),
            sha256: self.policy.digest().to_string(),
            loaded_at: self.policy_loaded,
            problem: self.policy_problem.clone(),
        }
    }

    fn status(&self) -> control::Status {
        let population = self.kernel.population();
        let health = self.ledger.health().borrow().clone();
        let problem = match health {
            Health::Good => None,
            Health::Degraded { cause } | Health::Broken { cause } => Some(cause),
        };
        let in_kernel: u64 = (0..hook::COUNT as u32)
            .map(|i| self.kernel.count(count::ALLOWED + i))
            .sum();
        control::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            policy: self.policy_reply(),
            kernel: self.kernel_reply(),
            parking: match self.parking.fallback() {
                None => control::Parking {
                    mode: crate::park::Mode::Thread.name().to_owned(),
                    why: None,
                },
                Some((mode, why)) => control::Parking {
                    mode: mode.name().to_owned(),
                    why: Some(why.clone()),
                },
            },
            dns: self.dns(),
            agents: self
                .policy
                .agents()
                .iter()
                .zip(&population)
                .map(|(agent, processes)| control::Agent {
                    name: agent.name.clone(),
                    owner: Some(agent.owner.to_string()),
                    processes: *processes,
                })
                .collect(),
            counts: control::Counts {
                pending: self.gate.counts().pending as u64,
                allowed: self.counts.allowed + in_kernel,
                denied: self.counts.denied,
                asked: self.counts.asked,
            },
            relaxed: self.relaxed(),
            gateway: self.approver.as_ref().map(|approver| {
                let health = approver.health();
                control::Gateway {
                    url: approver.gateway().url.to_string(),
                    reachable: health.trouble.is_none() && health.last_ok.is_some(),
                    last_ok: health.last_ok,
                    trouble: health.trouble.map(|cause| cause.to_string()),
                }
            }),
            ledger: control::Ledger {
                path: self.policy.host().ledger.clone(),
                leaves: self.leaves.load(Ordering::Relaxed),
                ok: problem.is_none(),
                problem,
                witness: self.anchor.as_ref().map(|anchor| {
                    let standing = anchor.standing();
                    control::Witness {
                        compared: standing.compared,
                        cosigned: standing.cosigned,
                        trouble: standing.trouble,
                    }
                }),
            },
            canary: control::Canary {
                ok: self.canary.ok(),
                at: self.canary.at(),
                problem: self.canary.problem().map(str::to_owned),
            },
        }
    }

    fn kernel_reply(&self) -> control::Kernel {
        let seen = self.kernel.canary();
        let pinned = crate::canary::pinned();
        control::Kernel {
            release: uname().map_or_else(
                |_| String::new(),
                |u| u.release().to_string_lossy().into_owned(),
            ),
            hooks: self
                .kernel
                .programs
                .iter()
                .map(|program| control::Hook {
                    name: program.name.to_owned(),
                    attached: pinned.contains(program.name),
                    live: program
                        .canary
                        .is_none_or(|hook| self.canary.live(&seen, hook)),
                })
                .collect(),
            lacks: self
                .kernel
                .lacks
                .iter()
                .map(|name| control::Lack {
                    name: (*name).to_owned(),
                    covered_by: crate::kernel::covered_by(name).to_owned(),
                })
                .collect(),
        }
    }

    fn dns(&self) -> String {
        match self.policy.host().dns {
            Dns::Ask => "DNS goes by the rules, as any connection".to_owned(),
            Dns::Allow if self.builtin.resolvers.is_empty() => {
                "no resolver in /etc/resolv.conf; DNS goes by the rules".to_owned()
            }
            Dns::Allow => {
                let list: Vec<_> = self
                    .builtin
                    .resolvers
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                format!(
                    "allowed to {} (data can leave in names; `dns = \"ask\"` to hold it)",
                    list.join(", ")
                )
            }
        }
    }

    /// Failure settings that let something through.
    fn relaxed(&self) -> Vec<String> {
        let failure = self.policy.failure();
        [
            (failure.on_timeout, "nobody answers in time"),
            (failure.on_unreachable, "the gateway cannot be reached"),
            (failure.on_daemon_loss, "the daemon is away"),
        ]
        .into_iter()
        .filter(|(fallback, _)| *fallback == Fallback::Allow)
        .map(|(_, when)| format!("held syscalls are ALLOWED when {when}"))
        .chain(self.policy.agents().iter().filter_map(|agent| {
            let kept = agent.exceptions.describe();
            let kept = kept.join(", ");
            (!kept.is_empty()).then(|| format!("{} may use, unheld: {kept}", agent.name))
        }))
        .chain(self.orders_in_force())
        .chain(
            self.governing
                .missing()
                .iter()
                .map(|what| format!("not protected yet: {what}")),
        )
        .collect()
    }

    pub(super) fn tell_followers(&mut self, id: HoldId) {
        if self.followers.is_empty() {
            return;
        }
        let Some(view) = self.gate.holds().find(|view| view.hold.id == id) else {
            return;
        };
        let reply = self.hold_reply(&view);
        self.followers
            .retain(|follower| follower.send(reply.clone()));
    }

    fn hold_reply(&self, view: &HoldView<'_>) -> Reply {
        let hold = view.hold;
        let fact = self.facts.get(&hold.id);
        let open = view.request.and_then(|request| self.open.get(&request));
        let state = match (view.decided, view.request, open) {
            (Some(_), _, _) | (None, None, _) => State::Deciding,
            (None, Some(_), None) => State::Recording,
            (None, Some(_), Some(open)) if open.trouble => State::Unreachable,
            (None, Some(_), Some(_)) => State::Waiting,
        };
        Reply::Hold(Box::new(control::Hold {
            id: hold.id.0,
            since: timestamp(hold.held_at),
            expires: view.until.map(timestamp),
            agent: self.agent_name(hold.request.agent),
            pid: hold.process.tgid,
            tid: hold.tid,
            comm: fact.map(|fact| fact.comm.clone()).unwrap_or_default(),
            action: hold.request.actions.to_string(),
            object: hold.request.label(),
            rule: view.reason.rule.clone(),
            mode: match self.kernel.held(hold.tid) {
                Ok(Some(pending))
                    if stops(&pending) && !fact.is_some_and(|fact| fact.continued) =>
                {
                    "stop"
                }
                _ => "park",
            }
            .to_owned(),
            state,
            request_id: view.request.map(|request| request.to_string()),
        }))
    }
}

/// The gate's time as a wall-clock time, for people.
pub(super) fn timestamp(at: Now) -> jiff::Timestamp {
    let now = i64::try_from(now().0).unwrap_or(i64::MAX);
    let at = i64::try_from(at.0).unwrap_or(i64::MAX);
    let wall = jiff::Timestamp::now().as_millisecond();
    jiff::Timestamp::from_millisecond(wall.saturating_add(at.saturating_sub(now)))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The person behind `syshold run`: who logged in, or who calls. Root alone is nobody.
fn launcher(peer: &Peer) -> Option<Subject> {
    let login = fs::read(format!("/proc/{}/loginuid", peer.pid))
        .ok()
        .and_then(|text| crate::enrich::parse::loginuid(&text));
    let uid = login.unwrap_or(peer.uid);
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten()?;
    (uid != 0).then(|| user.name.parse().ok()).flatten()
}

/// The same for the ledger, which names somebody in any case.
fn name_of(peer: &Peer) -> String {
    match (launcher(peer), peer.uid) {
        (Some(who), _) => who.to_string(),
        (None, 0) => "root".to_owned(),
        (None, uid) => format!("uid {uid}"),
    }
}

/// Whether the caller still runs: its pidfd becomes readable when it ends. Kernels before 6.5
/// give no pidfd for a peer.
fn lives(peer: &Peer) -> bool {
    let Some(pidfd) = &peer.pidfd else {
        return true;
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}
