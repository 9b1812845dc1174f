//! What happens by itself: heartbeat, canary, sweep, and what the kernel denied on its own.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use syshold_abi::{Event, cause, hook, mode};
use syshold_ledger::{Draft, Kind, leaf};
use tokio::time::Instant;

use super::words::{cause_name, hook_name};
use super::{Driver, Input, monotonic, nanos};
use crate::gate::Gone;
use crate::kernel;
use crate::request::{Actions, AgentId, HoldId};

/// Ticks between two looks at what the policy names on this host, and at the gateway.
const LOOK_EVERY: u32 = 5;

/// So many holds at once are out of the ordinary.
const CROWD: usize = 1000;

/// Ticks until the next sweep: what events told is only made sure of, so a crowd that waits is not
/// counted all the time.
fn sweep_in(held: usize) -> u32 {
    u32::try_from(held / 500).unwrap_or(u32::MAX).clamp(5, 20)
}

impl Driver {
    /// Once a second.
    pub(super) fn tick(&mut self) {
        // A daemon whose enforcement is not live does not say that it is.
        if self.canary.ok() {
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        }
        if let Err(error) = self.kernel.beat(nanos(monotonic())) {
            tracing::error!(%error, "no heartbeat to the kernel side");
        }
        if self.tables_stale {
            self.refresh_tables();
        }
        self.look_after_selftest();
        let back = self.back.clone();
        let over = move || drop(back.blocking_send(Input::CanaryOver));
        if let Some(problem) = self.canary.round(self.kernel.marker(), over) {
            self.canary_says(Some(problem));
        }
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks == self.next_sweep {
            self.sweep(false);
        }
        if self.ticks.is_multiple_of(LOOK_EVERY) {
            self.forget_readings();
            self.governing.refresh(&mut self.kernel, &self.policy);
            if let Some(approver) = &self.approver {
                approver.probe();
            }
        }
    }

    /// The first proof, before anyone is told that enforcement is live.
    pub(super) async fn prove(&mut self) {
        let (done, over) = tokio::sync::oneshot::channel();
        let told = || {
            // Nobody waits for it only when the daemon is stopping.
            let _ = done.send(());
        };
        let problem = self.canary.round(self.kernel.marker(), told);
        if problem.is_some() {
            return self.canary_says(problem);
        }
        let _ = over.await;
        self.canary_over();
    }

    pub(super) fn canary_over(&mut self) {
        let problem = self.canary.over(&self.kernel);
        self.canary_says(problem);
    }

    fn canary_says(&mut self, problem: Option<String>) {
        if problem.is_some()
            && let Err(error) = self.kernel.distrust()
        {
            tracing::warn!(%error, "a restart goes on with the programs that are attached");
        }
        if let Some(change) = self.canary.note(problem) {
            let leaf = Draft::new(Kind::Degraded).field("canary", &change);
            tracing::error!(canary = change, "the state of enforcement changed");
            self.record_aside(leaf);
        }
    }

    /// PENDING is the truth: what the events did not tell is found here. `all`: nothing is
    /// assumed about what is known already.
    pub(super) fn sweep(&mut self, all: bool) {
        let mut there = HashSet::new();
        let mut tids = HashSet::new();
        let mut news = Vec::new();
        for pending in self.kernel.pending() {
            let id = kernel::hold_id(&pending);
            there.insert(id);
            tids.insert(pending.tid);
            let known = self.facts.get(&id);
            let stopped = pending.mode == mode::UNPARKED;
            if all || known.is_none_or(|fact| fact.released.is_some() || stopped && !fact.continued)
            {
                news.push(pending);
            }
        }
        for pending in &news {
            self.held(pending);
        }
        self.most_held = self.most_held.max(there.len());
        if self.most_held >= CROWD && there.len() < CROWD / 10 {
            // What thousands of holds took is not needed again soon.
            kernel::trim_memory();
            self.most_held = there.len();
        }
        self.next_sweep = self.ticks.wrapping_add(sweep_in(there.len()));
        let lost: Vec<(HoldId, bool)> = self
            .facts
            .iter()
            .filter(|(id, _)| !there.contains(id))
            .map(|(id, fact)| (*id, fact.released.is_some()))
            .collect();
        for (id, released) in lost {
            // The event was lost: released and gone from the map means that it was applied.
            if released {
                self.resumed(id);
            } else {
                self.gone(id, Gone::Died);
            }
        }
        // Sleepers nobody holds any more: left by a daemon that died between two steps.
        let strays: Vec<u32> = self
            .parking
            .sleepers()
            .filter(|tid| !tids.contains(tid))
            .collect();
        for tid in strays {
            if let Err(error) = self.parking.wake(tid, tid) {
                tracing::warn!(%error, tid, "a stray sleeper could not be woken");
            }
        }
    }

    /// The kernel denied by itself. Recorded, but a governed process must not fill the ledger:
    /// one leaf a minute for the same thing, with the count of the others.
    pub(super) fn kernel_denied(&mut self, event: &Event) {
        self.counts.denied += 1;
        self.tell_selftest_denied(event);
        let Some(others) = self.denials.first(event, Instant::now()) else {
            return;
        };
        let agent = AgentId(event.agent);
        let name = self.agent_name(agent);
        let object = denied_object(event);
        let why = cause_name(event.cause);
        tracing::warn!(
            agent = name,
            pid = event.tgid,
            hook = hook_name(event.hook),
            why,
            object,
            "denied by the kernel"
        );
        let leaf = Draft::new(Kind::Decision)
            .agent(&leaf::Agent {
                name,
                ..leaf::Agent::default()
            })
            .field("pid", &event.tgid)
            .action(&leaf::Action {
                op: Actions(event.key.actions).to_string(),
                args: [("hook".to_owned(), hook_name(event.hook).into())]
                    .into_iter()
                    .collect(),
            })
            .object(&leaf::Object {
                kind: object,
                ..leaf::Object::default()
            })
            .policy(&leaf::Policy {
                sha256: self.policy.digest().to_string(),
                rule: Some("kernel".to_owned()),
                why: Some(why.to_owned()),
            })
            .decision(&leaf::Decision {
                verdict: leaf::Verdict::Deny,
                by: leaf::DecidedBy::Policy,
                cause: Some(why.to_owned()),
                id: None,
                grant: None,
                expires: None,
            })
            .field("others_unrecorded", &others);
        self.record_aside(leaf);
    }
}

/// What a denied act was about, for people: most of what is denied outright has no object.
fn denied_object(event: &Event) -> String {
    let about = event.key.b;
    match event.cause {
        cause::CAPABILITY => format!("capability {about}"),
        cause::TRACE => format!("process {about}"),
        // What it is about is in the place of an address.
        cause::SOCKET_OPTION if event.hook == hook::SOCKET_SETSOCKOPT => {
            format!("socket option {} of level {about}", event.key.c)
        }
        cause::SOCKET_TYPE if event.hook == hook::SOCKET_CREATE => format!(
            "socket of family {}, type {about}, protocol {}",
            event.key.a, event.key.c
        ),
        cause::TERMINAL => format!("ioctl {about:#x}"),
        cause::DEVICE => format!(
            "device {}:{}, {}",
            event.key.extra >> 20,
            event.key.extra & 0xf_ffff,
            kernel::object_of(&event.key, None).label()
        ),
        _ if event.key.kind == 0 => hook_name(event.hook).to_owned(),
        _ => kernel::object_of(&event.key, None).label(),
    }
}

/// What was denied lately: bounded in memory and in leaves.
#[derive(Debug, Default)]
pub(super) struct Denials {
    seen: HashMap<(u32, u32, syshold_abi::Key), (Instant, u64)>,
    unrecorded: u64,
}

impl Denials {
    const EVERY: Duration = Duration::from_secs(60);
    const MOST: usize = 256;

    /// Some: record this one, and how many like it were not.
    fn first(&mut self, event: &Event, now: Instant) -> Option<u64> {
        let key = (
            event.agent,
            event.cause,
            syshold_abi::Key { a: 0, ..event.key },
        );
        if let Some((since, others)) = self.seen.get_mut(&key)
            && now.duration_since(*since) < Self::EVERY
        {
            *others += 1;
            return None;
        }
        if self.seen.len() >= Self::MOST {
            self.seen
                .retain(|_, (since, _)| now.duration_since(*since) < Self::EVERY);
            if self.seen.len() >= Self::MOST {
                self.unrecorded += 1;
                return None;
            }
        }
        let before = self
            .seen
            .insert(key, (now, 0))
            .map_or(0, |(_, others)| others);
        Some(before + std::mem::take(&mut self.unrecorded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_swept_less_often_but_is_swept() {
        let table = [(0, 5), (2_500, 5), (5_000, 10), (10_000, 20), (16_384, 20)];
        for (held, ticks) in table {
            assert_eq!(sweep_in(held), ticks, "{held}");
        }
    }
}
