//! Approvals that outlive the holds they were given for.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::key::Key;
use super::requests::Shown;
use super::ruling::Basis;
use super::timers::{Timer, TimerId, Timers};
use super::types::{Hold, Now, Process};
use crate::request::AgentId;
use syshold_protocol::decision::Lifespan;
use syshold_protocol::ids::DecisionId;

/// Whom a grant is for. The key beside it says what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Process(Process),
    /// The tree below this root, while the root runs.
    Session(Process),
    Agent(AgentId),
    /// A late approval, used up by whichever process of the agent tries again first.
    Retry(AgentId),
}

/// Whom an approval reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The holds that waited for it.
    Waiting,
    /// Those, and later ones, if they are this subject's.
    Subject(Subject),
    /// Whom it was for is gone.
    Nobody,
}

impl Reach {
    pub(super) fn of(lifespan: Lifespan, agent: AgentId, shown: Shown) -> Self {
        // Without its root, what is left of a session is the process that was shown.
        let process = shown.process.map(Subject::Process);
        let subject = match lifespan {
            Lifespan::Single => return Self::Waiting,
            Lifespan::Process => process,
            Lifespan::Session => shown.session.map(Subject::Session).or(process),
            Lifespan::Until => Some(Subject::Agent(agent)),
        };
        subject.map_or(Self::Nobody, Self::Subject)
    }

    pub(super) fn covers(self, hold: &Hold) -> bool {
        match self {
            Self::Waiting => true,
            Self::Subject(subject) => subject.covers(hold),
            Self::Nobody => false,
        }
    }
}

impl Subject {
    fn covers(self, hold: &Hold) -> bool {
        match self {
            Self::Process(process) => hold.process == process,
            Self::Session(root) => hold.session == Some(root),
            Self::Agent(agent) | Self::Retry(agent) => hold.request.agent == agent,
        }
    }

    /// The subjects that cover a hold, the ones used up by it last.
    fn all_of(hold: &Hold) -> impl Iterator<Item = Self> {
        [
            Some(Self::Process(hold.process)),
            hold.session.map(Self::Session),
            Some(Self::Agent(hold.request.agent)),
            Some(Self::Retry(hold.request.agent)),
        ]
        .into_iter()
        .flatten()
    }
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) basis: Basis,
    pub(super) left: Option<u32>,
    pub(super) ends: Now,
    timer: TimerId,
}

/// Grants by subject, then key. Full: a new one is dropped, and people are asked again.
#[derive(Debug, Default)]
pub(super) struct Grants {
    by_subject: HashMap<Subject, HashMap<Arc<Key>, Grant>>,
    count: usize,
}

impl Grants {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The newest approval replaces one of the same subject and key.
    pub(super) fn insert(
        &mut self,
        subject: Subject,
        key: Arc<Key>,
        basis: Basis,
        left: Option<u32>,
        ends: Now,
        timers: &mut Timers,
    ) {
        self.remove(subject, &key, timers);
        let timer = timers.set(ends, Timer::Grant(subject, Arc::clone(&key)));
        let grant = Grant {
            basis,
            left,
            ends,
            timer,
        };
        self.by_subject
            .entry(subject)
            .or_default()
            .insert(key, grant);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, subject: Subject, key: &Arc<Key>, timers: &mut Timers) {
        let Some(keys) = self.by_subject.get_mut(&subject) else {
            return;
        };
        if let Some(grant) = keys.remove(key) {
            self.count -= 1;
            timers.cancel(grant.timer);
        }
        if keys.is_empty() {
            self.by_subject.remove(&subject);
        }
    }

    /// Uses a grant that covers the hold, once. One that has ended or is used up is not here.
    pub(super) fn spend(
        &mut self,
        hold: &Hold,
        key: &Arc<Key>,
        timers: &mut Timers,
    ) -> Option<Basis> {
        let subject = Subject::all_of(hold).find(|subject| {
            let keys = self.by_subject.get(subject);
            keys.is_some_and(|keys| keys.contains_key(key))
        })?;
        let grant = self.by_subject.get_mut(&subject)?.get_mut(key)?;
        let basis = grant.basis.clone();
        grant.left = grant.left.map(|left| left.saturating_sub(1));
        if grant.left == Some(0) {
            self.remove(subject, key, timers);
        }
        Some(basis)
    }

    /// A process is gone: its own grants end, and those of the session it was the root of.
    pub(super) fn end(&mut self, process: Process, timers: &mut Timers) {
        for subject in [Subject::Process(process), Subject::Session(process)] {
            for (_, grant) in self.by_subject.remove(&subject).into_iter().flatten() {
                self.count -= 1;
                timers.cancel(grant.timer);
            }
        }
    }

    /// What came of that decision ends.
    pub(super) fn revoke(&mut self, decision: DecisionId, timers: &mut Timers) {
        let Self { by_subject, count } = self;
        by_subject.retain(|_, keys| {
            keys.retain(|_, grant| {
                let stays = grant.basis.approval.decision_id != decision;
                if !stays {
                    *count -= 1;
                    timers.cancel(grant.timer);
                }
                stays
            });
            !keys.is_empty()
        });
    }

    pub(super) fn clear(&mut self, timers: &mut Timers) {
        for grant in std::mem::take(self).by_subject.into_values().flatten() {
            timers.cancel(grant.1.timer);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Subject, &Key, &Grant)> {
        self.by_subject
            .iter()
            .flat_map(|(subject, keys)| keys.iter().map(|(key, grant)| (*subject, &**key, grant)))
    }
}

/// Sockets released by an approval of a single use: another thread's connect on the same one is
/// the same act. Full: the oldest is forgotten, and people are asked again.
#[derive(Debug, Default)]
pub(super) struct Recent {
    sockets: HashMap<Process, HashMap<Socket, (Now, Basis)>>,
    order: VecDeque<(Process, Socket, Now)>,
}

/// A socket's cookie, and what was approved on it.
type Socket = (u64, Arc<Key>);

impl Recent {
    pub(super) fn insert(
        &mut self,
        process: Process,
        socket: Socket,
        basis: Basis,
        ends: Now,
        most: usize,
    ) {
        self.order.push_back((process, socket.clone(), ends));
        let sockets = self.sockets.entry(process).or_default();
        sockets.insert(socket, (ends, basis));
        while self.order.len() > most
            && let Some((process, socket, ends)) = self.order.pop_front()
        {
            self.forget(process, &socket, ends);
        }
    }

    pub(super) fn find(
        &self,
        process: Process,
        cookie: u64,
        key: &Arc<Key>,
        now: Now,
    ) -> Option<Basis> {
        let sockets = self.sockets.get(&process)?;
        let (ends, basis) = sockets.get(&(cookie, Arc::clone(key)))?;
        (now < *ends).then(|| basis.clone())
    }

    pub(super) fn end(&mut self, process: Process) {
        self.sockets.remove(&process);
    }

    /// What came of that decision is asked about again.
    pub(super) fn revoke(&mut self, decision: DecisionId) {
        self.sockets.retain(|_, sockets| {
            sockets.retain(|_, (_, basis)| basis.approval.decision_id != decision);
            !sockets.is_empty()
        });
    }

    /// Unless it was released again since: then a later entry of the queue speaks for it.
    fn forget(&mut self, process: Process, socket: &Socket, ends: Now) {
        let Some(sockets) = self.sockets.get_mut(&process) else {
            return;
        };
        if sockets.get(socket).is_some_and(|known| known.0 == ends) {
            sockets.remove(socket);
        }
        if sockets.is_empty() {
            self.sockets.remove(&process);
        }
    }
}
