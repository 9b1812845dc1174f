//! The one loop that owns all mutable state.
//!
//! ```text
//!  kernel events ─┐                         ┌─▶ park     (cgroups)
//!  PENDING sweep ─┤                         ├─▶ ledger   (commit, then Input::Recorded)
//!  gateway events ┼─▶ Input ─▶ gate ─▶ Action ─▶ approver (ask, withdraw, outcome)
//!  ledger commits ┤            ▲ judge      └─▶ kernel   (publish, wake)
//!  control calls ─┤            │
//!  timers ────────┘          rules
//! ```
//! A hold goes one way through: kernel → gate → ledger → approver → ledger → kernel. Whatever
//! takes time (describing a process, a commit, the network) runs in a task of its own and comes
//! back as an [`Input`]; the loop itself never waits for any of it, nor for a person.
mod act;
mod adopt;
mod aside;
mod break_glass;
mod compose;
mod hold;
mod readings;
mod reload;
mod report;
mod revoked;
mod selftest;
mod signals;
pub mod upkeep;
mod watch;
pub(crate) mod why;
mod words;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use syshold_ledger::{Draft, Kind, Ledger};
use syshold_protocol::Outstanding;
use syshold_protocol::ids::{DecisionId, RequestId, Subject, UnixMs};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use uuid::Uuid;

use crate::anchor::Anchor;
use crate::approver::client::{self, Approver};
use crate::canary::Canary;
use crate::control::{self, Asked};
use crate::enrich::{Described, Enricher};
use crate::gate::{self, Gate, Limits, Now, Process, Verdict};
use crate::governing::Governing;
use crate::kernel::{Kernel, KernelError};
use crate::names::{Change, Names};
use crate::park::Parking;
use crate::policy::Policy;
use crate::request::{AgentId, HoldId};
use crate::rules::BuiltIn;

pub use self::adopt::{Earlier, earlier};
pub use self::reload::{enforce_alone, resolvers};

/// Between two heartbeats and canary rounds.
const TICK: Duration = Duration::from_secs(1);
/// How long the start waits for the witness's word; without it, it is asked for later.
const WITNESS: Duration = Duration::from_secs(10);
/// How long the stop waits for the last cosignature.
const LAST: Duration = Duration::from_secs(2);
/// Inputs that tasks may have under way; beyond that they wait, not the loop.
const BACKLOG: usize = 65_536;

/// What comes back from tasks.
#[derive(Debug)]
enum Input {
    /// The facts about the process behind a request, and the path of a file that the kernel
    /// could not name.
    Described(
        Box<gate::Ask>,
        Result<Box<Described>, gate::AskFailure>,
        Option<String>,
    ),
    /// What a held execve would run.
    Looked(HoldId, Box<crate::request::Exec>),
    /// The request leaf is durable, or is not.
    RequestRecorded(Box<Open>, Result<(), String>),
    /// The decision leaf of a hold is durable, or is not.
    Recorded(HoldId, Result<(), String>),
    /// The leaf of a break-glass order is durable, or is not.
    Ordered(Box<break_glass::Breaking>, Result<(), String>),
    /// A process with a held thread was sent a signal a moment ago.
    LookAgain(u32),
    /// The canary has done what every hook guards.
    CanaryOver,
}

/// A request at the gateway.
#[derive(Clone, Debug)]
struct Open {
    outstanding: Outstanding,
    trouble: bool,
}

/// What the driver knows of a hold beside the gate.
#[derive(Clone, Debug)]
struct Fact {
    tid: u32,
    tgid: u32,
    process: Process,
    held_at: Now,
    comm: String,
    syscall: u32,
    /// As in [`syshold_abi::Pending`].
    argv: u64,
    hook: u32,
    class_names: Vec<String>,
    host: Option<String>,
    agent: String,
    request: crate::request::Request,
    /// What it would run is being read; until then nobody can judge it.
    looking: bool,
    /// Once it is decided.
    leave: Option<Leave>,
    /// Published, waiting for the kernel to apply it.
    released: Option<Verdict>,
    /// The kernel side had stopped its whole process, for want of somebody who parks; it goes on.
    continued: bool,
}

/// Who let something happen.
#[derive(Clone, Debug, Default)]
struct Leave {
    rule: String,
    request: Option<RequestId>,
    approved_by: Vec<Subject>,
}

/// What the driver is made of.
#[derive(Debug)]
pub struct Parts {
    pub kernel: Kernel,
    /// What [`enforce_alone()`] put in force.
    pub governing: Governing,
    pub parking: Parking,
    pub ledger: Ledger,
    pub policy: Policy,
    pub policy_path: PathBuf,
    pub approver: Option<Approver>,
    pub anchor: Option<Anchor>,
    pub from_gateway: mpsc::Receiver<client::Event>,
    pub calls: mpsc::Receiver<Asked>,
    pub builtin: BuiltIn,
    /// Break-glass orders that were used before.
    pub orders: Vec<DecisionId>,
}

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("reading kernel events: {0}")]
    Events(io::Error),
    #[error("listening for signals: {0}")]
    Signals(io::Error),
    #[error("the ledger cannot record that the daemon started: {0}; nothing may be released")]
    Ledger(String),
    /// Leaves that the witness saw are gone, or others.
    #[error("{0}")]
    Witness(String),
}

/// The state of the whole daemon.
pub struct Driver {
    kernel: Kernel,
    parking: Parking,
    gate: Gate,
    ledger: Ledger,
    approver: Option<Approver>,
    anchor: Option<Anchor>,
    governing: Governing,
    policy: Policy,
    policy_path: PathBuf,
    policy_loaded: jiff::Timestamp,
    policy_problem: Option<String>,
    tables_stale: bool,
    names: Names,
    builtin: BuiltIn,
    enricher: Arc<Enricher>,
    facts: HashMap<HoldId, Fact>,
    by_tid: HashMap<u32, HoldId>,
    open: HashMap<RequestId, Open>,
    launched: HashMap<Process, Subject>,
    used: revoked::Remembered,
    /// Approvals that people took back.
    revoked: revoked::Remembered,
    /// The gateway's last list of those did not count.
    revocations_refused: bool,
    denials: watch::Denials,
    soon: aside::Soon,
    readings: readings::Readings,
    why: why::Why,
    followers: Vec<control::Answers>,
    canary: Canary,
    selftest: Option<selftest::Selftest>,
    counts: report::Tally,
    /// In the ledger, as far as commits have told.
    leaves: Arc<AtomicU64>,
    started: jiff::Timestamp,
    boot_id: Uuid,
    back: mpsc::Sender<Input>,
    name_changes: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    resolver: Option<tokio::task::JoinHandle<()>>,
    ticks: u32,
    next_sweep: u32,
    /// At any sweep since memory was given back.
    most_held: usize,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// Runs until the daemon is told to stop. `ready` is called when enforcement is live.
pub async fn run(parts: Parts, ready: impl FnOnce(&str)) -> Result<(), DriverError> {
    let (back, mut inputs) = mpsc::channel(BACKLOG);
    let mut from_gateway = parts.from_gateway;
    let mut calls = parts.calls;
    let mut driver = Driver {
        gate: Gate::new(Limits::default(), Box::new(|| RequestId(Uuid::now_v7()))),
        kernel: parts.kernel,
        parking: parts.parking,
        ledger: parts.ledger,
        approver: parts.approver,
        anchor: parts.anchor,
        governing: parts.governing,
        policy: parts.policy,
        policy_path: parts.policy_path,
        policy_loaded: jiff::Timestamp::now(),
        policy_problem: None,
        tables_stale: false,
        names: Names::default(),
        builtin: parts.builtin,
        enricher: Arc::default(),
        facts: HashMap::new(),
        by_tid: HashMap::new(),
        open: HashMap::new(),
        launched: HashMap::new(),
        used: parts.orders.into_iter().collect(),
        revoked: revoked::Remembered::default(),
        revocations_refused: false,
        denials: watch::Denials::default(),
        soon: aside::Soon::default(),
        readings: readings::Readings::default(),
        why: why::Why::below(why::FOLDER),
        followers: Vec::new(),
        canary: Canary::default(),
        selftest: None,
        counts: report::Tally::default(),
        leaves: Arc::default(),
        started: jiff::Timestamp::now(),
        boot_id: compose::boot_id(),
        back,
        name_changes: mpsc::channel(8),
        resolver: None,
        ticks: 0,
        next_sweep: 0,
        most_held: 0,
    };
    driver.begin().await?;
    let mut stop = Stops::listen().map_err(DriverError::Signals)?;
    let mut tick = interval_at(Instant::now() + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ready(&driver.headline());
    loop {
        let deadline = driver.gate.next_deadline().map(instant_of);
        let outcomes = driver.soon.due();
        tokio::select! {
            events = driver.kernel.events() => {
                for event in events.map_err(DriverError::Events)? {
                    driver.kernel_event(&event);
                }
            }
            Some(input) = inputs.recv() => driver.input(input),
            Some(event) = from_gateway.recv() => driver.gateway_event(event),
            Some(change) = driver.name_changes.1.recv() => driver.names_changed(change),
            Some(asked) = calls.recv() => driver.call(asked),
            _ = tick.tick() => driver.tick(),
            () = wait_until(deadline) => driver.gate_step(gate::Input::Tick),
            () = wait_until(outcomes) => driver.record_outcomes(),
            alarm = alarmed(driver.anchor.as_mut()) => return Err(DriverError::Witness(alarm)),
            what = stop.next() => match what {
                Stop::Reload => driver.reload_by_signal(),
                Stop::Stop => return driver.end().await,
            },
        }
    }
}

async fn alarmed(anchor: Option<&mut Anchor>) -> String {
    match anchor {
        Some(anchor) => anchor.alarm().await,
        None => std::future::pending().await,
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

enum Stop {
    Reload,
    Stop,
}

struct Stops {
    hup: Signal,
    term: Signal,
    int: Signal,
}

impl Stops {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.hup.recv() => Stop::Reload,
            _ = self.term.recv() => Stop::Stop,
            _ = self.int.recv() => Stop::Stop,
        }
    }
}

/// CLOCK_MONOTONIC: the kernel side's clock, of heartbeats and of when a syscall was held. It stands
/// still while the host sleeps.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// CLOCK_BOOTTIME: the gate's clock, of holds, grants and orders. What people gave for ten minutes
/// is over after ten minutes, also when the host slept meanwhile.
fn boottime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

fn now() -> Now {
    in_millis(boottime())
}

/// When it was that the kernel side's clock said `ns`.
fn seen_at(ns: u64) -> Now {
    // In this order: late by what passes in between, never early.
    let ago = monotonic().saturating_sub(Duration::from_nanos(ns));
    in_millis(boottime().saturating_sub(ago))
}

fn in_millis(since_boot: Duration) -> Now {
    Now(u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX))
}

fn instant_of(at: Now) -> Instant {
    Instant::now() + at.since(now())
}

fn wall() -> UnixMs {
    UnixMs::from(std::time::SystemTime::now())
}

impl Driver {
    /// Enforcement goes live, then what an earlier daemon left is taken up.
    async fn begin(&mut self) -> Result<(), DriverError> {
        self.kernel.beat(nanos(monotonic()))?;
        // Again: whoever was born between the first look and the programs going live.
        self.governing.seed(&mut self.kernel, &self.policy);
        if let Some(anchor) = &mut self.anchor {
            let mut compared = std::pin::pin!(anchor.compared(WITNESS));
            loop {
                tokio::select! {
                    done = &mut compared => break done.map_err(DriverError::Witness)?,
                    () = tokio::time::sleep(TICK) => self.kernel.beat(nanos(monotonic()))?,
                }
            }
        }
        for draft in [
            compose::start_leaf(self.approver.as_ref().map(Approver::gateway)),
            compose::policy_leaf(&self.policy, &self.policy_path),
        ] {
            let committed = self.ledger.append(draft).await;
            committed.map_err(|error| DriverError::Ledger(error.to_string()))?;
        }
        self.prove().await;
        self.watch_names();
        self.sweep(true);
        Ok(())
    }

    /// Leaves holds as they are: a daemon that comes soon takes them up.
    async fn end(&mut self) -> Result<(), DriverError> {
        const GRACE: Duration = Duration::from_secs(30);
        self.kernel.restarting(nanos(monotonic() + GRACE))?;
        self.record_outcomes();
        let draft = Draft::new(Kind::Stop).field("pending", &self.facts.len());
        if let Err(error) = self.ledger.append(draft).await {
            tracing::error!(%error, "the ledger could not record the stop");
        }
        if let Some(anchor) = &mut self.anchor {
            anchor.last(LAST).await;
        }
        Ok(())
    }

    // ---- tasks ----

    fn input(&mut self, input: Input) {
        match input {
            Input::Described(ask, result, path) => self.described(*ask, result, path),
            Input::Looked(hold, exec) => self.looked(hold, *exec),
            Input::RequestRecorded(open, result) => self.request_recorded(*open, result),
            Input::Recorded(hold, Ok(())) => self.gate_step(gate::Input::Recorded { hold }),
            Input::Recorded(hold, Err(error)) => {
                tracing::error!(hold = hold.0, %error, "a decision could not be recorded: denied");
                self.gate_step(gate::Input::RecordFailed { hold });
            }
            Input::Ordered(breaking, result) => self.ordered(*breaking, result),
            Input::LookAgain(tgid) => self.look_for_signals(tgid),
            Input::CanaryOver => self.canary_over(),
        }
    }

    fn gate_step(&mut self, input: gate::Input) {
        for action in self.gate.step(now(), input) {
            self.act(action);
        }
    }

    fn agent_name(&self, id: AgentId) -> String {
        self.policy
            .agent(id)
            .map_or_else(|| "unknown".to_owned(), |agent| agent.name.clone())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
