//! A hold on its way from the kernel to the gate, and what is remembered of it when it is over.
use std::collections::HashSet;
use std::sync::Arc;

use syshold_abi::{Event, Pending, event};
use syshold_protocol::ids::Subject;
use syshold_protocol::request as protocol;

use super::readings::{Read, Tree};
use super::{Driver, Fact, Input, Leave, seen_at, wall};
use crate::enrich::{Call, Program};
use crate::gate::{self, Gone, Hold, Process, Verdict};
use crate::kernel;
use crate::policy::Kind;
use crate::request::{Action, AgentId, Classes, Exec, HoldId, Object, Request};
use crate::rules::{self, Facts};

impl Driver {
    pub(super) fn kernel_event(&mut self, event: &Event) {
        match event.kind {
            event::HELD => match self.kernel.held(event.tid) {
                Ok(Some(pending)) => self.held(&pending),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, tid = event.tid, "a hold cannot be read"),
            },
            event::RESUMED => self.resumed(HoldId(event.id)),
            event::ABANDONED => {
                let died = !std::path::Path::new(&format!("/proc/{}", event.tid)).exists();
                let why = if died { Gone::Died } else { Gone::Abandoned };
                self.gone(HoldId(event.id), why);
            }
            event::DENIED => self.kernel_denied(event),
            event::SIGNAL => self.signalled(event.tgid, event.tid, event.key.a != 0),
            event::ENTERED => tracing::info!(
                pid = event.tgid,
                agent = self.agent_name(AgentId(event.agent)),
                "governed from now on"
            ),
            event::TAINTED => self.tainted(event),
            event::EXITED | event::EXECED => {
                let process = Process {
                    tgid: event.tgid,
                    start_ns: event.key.a,
                };
                if event.kind == event::EXITED {
                    self.launched.remove(&process);
                }
                self.gate_step(gate::Input::ProcessExited { process });
            }
            kind => tracing::warn!(kind, "an event of an unknown kind"),
        }
    }

    /// A hold, new or seen again.
    pub(super) fn held(&mut self, pending: &Pending) {
        let id = kernel::hold_id(pending);
        match self.facts.get(&id) {
            // Published already; it spins, or stopped in the very moment of the release.
            Some(&Fact {
                released: Some(verdict),
                ..
            }) => return self.wake(pending.tid, pending.tgid, id, verdict),
            // What it would run is being read.
            Some(Fact { looking: true, .. }) => return self.park(id),
            Some(_) => {}
            None => {
                if let Some(before) = self.by_tid.insert(pending.tid, id) {
                    self.gone(before, Gone::Abandoned);
                    self.by_tid.insert(pending.tid, id);
                }
                let fact = self.fact_of(pending, self.request_of(pending));
                let looking = fact.looking;
                self.facts.insert(id, fact);
                if looking {
                    self.park(id);
                    return self.look(id, pending.start_ns);
                }
            }
        }
        self.judge(id);
    }

    fn request_of(&self, pending: &Pending) -> Request {
        let mut request = kernel::request_of(pending);
        let (path, onto) = kernel::paths_of(pending);
        if pending.glob_classes != 0 {
            let sure = request.classes.0;
            let candidates = Classes(pending.glob_classes & !sure);
            // Of a path that is not known every candidate stays.
            let settle = |path: &str| self.policy.settle_globs(candidates, path).0;
            let one = settle(path.as_deref().unwrap_or(""));
            let other = onto.as_deref().map_or(0, settle);
            request.classes = Classes(sure | one | other);
        }
        request.object.goes_to(onto);
        request
    }

    /// Asks the policy, and tells the gate.
    fn judge(&mut self, id: HoldId) {
        let Some(fact) = self.facts.get(&id) else {
            return;
        };
        let facts = Facts {
            names: &self.names,
            builtin: &self.builtin,
        };
        let judgement = self
            .selftest_says(&fact.request)
            .unwrap_or_else(|| rules::judge(&self.policy, &fact.request, &facts));
        let hold = Hold {
            id,
            tid: fact.tid,
            process: fact.process,
            session: self.session_of(fact.process),
            held_at: fact.held_at,
            request: fact.request.clone(),
        };
        self.gate_step(gate::Input::Held {
            hold: Box::new(hold),
            judgement,
        });
        self.tell_followers(id);
    }

    fn fact_of(&self, pending: &Pending, request: Request) -> Fact {
        let host = request.object.ip().and_then(|ip| {
            self.names
                .names_of(ip)
                .next()
                .map(|name| name.as_str().to_owned())
        });
        let class_names = self.policy.class_names(request.classes);
        // A program that no rule names is not looked at: nobody asks what it is given.
        let data = self.policy.classes_of(|class| class.kind != Kind::Programs);
        let runs = request.actions.iter().any(|action| action == Action::Exec);
        let is_file = matches!(request.object, Object::File { .. });
        let looking = runs && is_file && request.classes.0 & !data.0 != 0;
        Fact {
            tid: pending.tid,
            tgid: pending.tgid,
            process: Process {
                tgid: pending.tgid,
                start_ns: pending.start_ns,
            },
            held_at: seen_at(pending.since_ns),
            comm: String::from_utf8_lossy(&pending.comm)
                .trim_end_matches('\0')
                .to_owned(),
            syscall: pending.syscall,
            argv: pending.argv,
            hook: pending.hook,
            class_names: class_names.map(str::to_owned).collect(),
            host,
            agent: self.agent_name(request.agent),
            looking,
            request,
            leave: None,
            released: None,
            continued: false,
        }
    }

    /// Reads what a held execve would run, on another thread. Rules and people want to know.
    fn look(&self, id: HoldId, start_ns: u64) {
        let Some(fact) = self.facts.get(&id) else {
            return;
        };
        let &Object::File {
            dev, ino, ref path, ..
        } = &fact.request.object
        else {
            return;
        };
        let program = Program {
            dev,
            ino,
            path: path.clone(),
            call: Call::of(fact.syscall, fact.argv),
        };
        let (tid, tgid) = (fact.tid, fact.tgid);
        let enricher = Arc::clone(&self.enricher);
        let back = self.back.clone();
        tokio::spawn(async move {
            let exec = enricher.would_run(tid, tgid, start_ns, program).await;
            let _ = back.send(Input::Looked(id, Box::new(exec))).await;
        });
    }

    pub(super) fn looked(&mut self, id: HoldId, exec: Exec) {
        let Some(fact) = self.facts.get_mut(&id) else {
            return;
        };
        fact.looking = false;
        fact.request.exec = Some(Arc::new(exec));
        self.judge(id);
    }

    /// The root of a process's tree, while that runs.
    fn session_of(&self, process: Process) -> Option<Process> {
        let root = self.kernel.details(process.tgid).ok().flatten()?.root;
        if root == process.tgid {
            return Some(process);
        }
        let details = self.kernel.details(root).ok().flatten()?;
        // A reused PID that began another tree later is nobody's ancestor.
        let same = details.root == root && details.start_ns <= process.start_ns;
        same.then_some(Process {
            tgid: root,
            start_ns: details.start_ns,
        })
    }

    pub(super) fn resumed(&mut self, id: HoldId) {
        self.remember_reading(id);
        self.forget(id);
        self.gate_step(gate::Input::Resumed { hold: id });
        self.facts.remove(&id);
    }

    pub(super) fn gone(&mut self, id: HoldId, why: Gone) {
        self.forget(id);
        self.gate_step(gate::Input::Gone { hold: id, why });
        self.facts.remove(&id);
    }

    fn forget(&mut self, id: HoldId) {
        let Some(fact) = self.facts.get(&id) else {
            return;
        };
        let tid = fact.tid;
        self.parking.woke(tid);
        if self.by_tid.get(&tid) == Some(&id) {
            self.by_tid.remove(&tid);
        }
    }

    // ---- what was read ----

    /// A held read went through: whoever is asked about this tree next is told.
    fn remember_reading(&mut self, id: HoldId) {
        let Some(fact) = self.facts.get(&id) else {
            return;
        };
        let reads = |action| action == Action::Read;
        let classes = Classes(fact.request.classes.0 & self.policy.taints().0);
        let went = fact.released == Some(Verdict::Allow);
        if !went || classes == Classes(0) || !fact.request.actions.iter().any(reads) {
            return;
        }
        let leave = fact.leave.clone().unwrap_or_default();
        let read = Read {
            classes,
            what: fact.request.object.label(),
            pid: fact.tgid,
            program: fact.comm.clone(),
            at: wall(),
            rule: Some(leave.rule).filter(|rule| !rule.is_empty()),
            request: leave.request,
            approved_by: leave.approved_by,
        };
        let tree = self.tree_of(fact.tgid, &fact.agent);
        self.readings.remember(tree, read);
    }

    /// The kernel marked a process. With a hold, that is remembered already; without one a rule of
    /// the kernel allowed it, and only the inode is known.
    fn tainted(&mut self, event: &Event) {
        tracing::debug!(
            pid = event.tgid,
            hold = event.id,
            classes = event.key.a,
            "carries from now on what it has read"
        );
        if event.id != 0 {
            return;
        }
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", event.tgid));
        let key = syshold_abi::Key {
            a: event.key.c,
            ..event.key
        };
        let read = Read {
            classes: Classes(event.key.a & self.policy.taints().0),
            what: kernel::object_of(&key, None).label(),
            pid: event.tgid,
            program: comm.map_or_else(|_| "(gone)".to_owned(), |comm| comm.trim_end().to_owned()),
            at: wall(),
            rule: None,
            request: None,
            approved_by: Vec::new(),
        };
        let agent = self.agent_name(AgentId(event.agent));
        let tree = self.tree_of(event.tgid, &agent);
        self.readings.remember(tree, read);
    }

    fn tree_of(&self, tgid: u32, agent: &str) -> Tree {
        let details = self.kernel.details(tgid).ok().flatten();
        Tree {
            agent: agent.to_owned(),
            root: details.map_or(tgid, |details| details.root),
        }
    }

    /// What was read before a request, for people and the ledger.
    pub(super) fn taint_of(&self, fact: &Fact) -> Option<protocol::Taint> {
        let names = |classes| -> Vec<String> {
            let names = self.policy.class_names(classes);
            names.take(protocol::MAX_ITEMS).map(str::to_owned).collect()
        };
        let classes = names(fact.request.taint);
        if classes.is_empty() {
            return None;
        }
        let agent = self.policy.agent(fact.request.agent);
        let shared = agent.is_some_and(|agent| agent.shared_taint);
        let tree = self.tree_of(fact.tgid, &fact.agent);
        let (reads, more) = self.readings.of(&tree, shared, fact.request.taint);
        let readings = reads
            .into_iter()
            .map(|read| read.reading(names(read.classes)))
            .collect();
        Some(protocol::Taint {
            classes,
            readings,
            more,
        })
    }

    /// Trees without a process are forgotten.
    pub(super) fn forget_readings(&mut self) {
        if self.readings.is_empty() {
            return;
        }
        let alive: HashSet<u32> = self.kernel.roots();
        let shared: HashSet<&str> = self
            .policy
            .agents()
            .iter()
            .filter(|agent| agent.shared_taint)
            .map(|agent| agent.name.as_str())
            .collect();
        self.readings.keep(&alive, |agent| shared.contains(agent));
    }
}

impl Leave {
    pub(super) fn of(decision: &gate::Decision) -> Self {
        let people = decision
            .approval
            .iter()
            .flat_map(|approval| &approval.approvers);
        let subjects: Vec<Subject> = people.map(|approver| approver.subject.clone()).collect();
        Self {
            rule: decision.reason.rule.clone(),
            request: decision.request,
            approved_by: subjects,
        }
    }
}
