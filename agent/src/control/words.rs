//! What is said on the control socket: a call, and the lines of its answer.
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a client asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    Status,
    /// The pending holds; with `follow`, every change after that too.
    Holds {
        #[serde(default)]
        follow: bool,
    },
    /// The caller itself becomes a governed process of this agent, for good.
    Govern {
        agent: String,
    },
    /// Read the policy file again.
    Reload,
    /// Let an agent through by an order that two people signed with offline keys: its DSSE
    /// envelope. Root only.
    BreakGlass {
        order: String,
    },
    /// Every order is over. Root only.
    BreakGlassEnd,
    /// Change what may be changed of the ledger: root only. Or note that something leaves it.
    Ledger {
        work: syshold_ledger::cli::Work,
    },
    /// Has the scratch agent of the self-test there while the connection lasts, with its protected
    /// folders; tells what is seen of it. Root only, and one at a time.
    Selftest {
        /// Ports on loopback that this agent is allowed to go to, after it was held.
        approved: Vec<u16>,
    },
    /// A process, not the caller, becomes that agent's.
    SelftestGovern {
        pid: u32,
    },
    /// Whoever began the self-test is told [`Reply::Marked`], behind all that was seen so far.
    SelftestMark,
    /// What came of it, for the ledger.
    SelftestOver {
        report: SelftestReport,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    /// A pending hold, or its new state.
    Hold(Box<Hold>),
    /// A hold that is over (`follow` only).
    Over(Over),
    Governed {
        agent: String,
    },
    Reloaded {
        policy: Policy,
    },
    Refused(Refused),
    /// The scratch agent is there.
    Selftest(Selftest),
    /// A decision about a hold of the scratch agent is in the ledger, or the kernel denied.
    Seen(Seen),
    /// All that was seen before this was asked for has been told.
    Marked,
    /// Done.
    Noted,
    /// What was done, for people.
    Done {
        text: String,
    },
    /// Nothing follows. Written by the door.
    End,
}

/// Why a call was not done. `text` is one sentence that names the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub cause: Refusal,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The caller is a governed process.
    Governed,
    /// The caller is not allowed this call.
    Permission,
    /// No such agent in the running policy.
    UnknownAgent,
    /// The policy file does not parse or cannot be loaded; the running policy stays.
    Policy,
    /// Not a call this daemon knows.
    BadCall,
    /// Too many callers, or the daemon is stopping.
    Busy,
    /// It was tried and failed.
    Failed,
}

/// All of `syshold status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub started: Timestamp,
    pub policy: Policy,
    pub kernel: Kernel,
    /// How threads wait, and why when it is a fall-back.
    pub parking: Parking,
    /// What governed processes may do with DNS without a rule.
    pub dns: String,
    pub agents: Vec<Agent>,
    pub counts: Counts,
    /// Failure settings that are not `deny`, one sentence each; empty is best.
    pub relaxed: Vec<String>,
    /// None: not enrolled, so every ask rule denies.
    pub gateway: Option<Gateway>,
    pub ledger: Ledger,
    pub canary: Canary,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub path: PathBuf,
    pub sha256: String,
    pub loaded_at: Timestamp,
    /// The last reload failed with this; the policy above is still the running one.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub release: String,
    pub hooks: Vec<Hook>,
    /// Hooks that only other kernels have.
    #[serde(default)]
    pub lacks: Vec<Lack>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub name: String,
    /// What sees the same acts here.
    pub covered_by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub attached: bool,
    /// Seen to work by the canary.
    pub live: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parking {
    /// Frozen threaded cgroup, frozen domain cgroup, or SIGSTOP.
    pub mode: String,
    /// Why not the first choice.
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub name: String,
    pub owner: Option<String>,
    pub processes: u64,
}

/// Since the daemon started, but for `pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub pending: u64,
    pub allowed: u64,
    pub denied: u64,
    pub asked: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    pub url: String,
    pub reachable: bool,
    pub last_ok: Option<Timestamp>,
    /// What went wrong last, while it is not reachable.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub path: PathBuf,
    pub leaves: u64,
    pub ok: bool,
    pub problem: Option<String>,
    /// How it stands before the gateway, its witness; None: this host is not enrolled.
    #[serde(default)]
    pub witness: Option<Witness>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The ledger was compared with what the gateway saw of it, since the daemon started.
    pub compared: bool,
    /// Leaves below this one were cosigned, at that time.
    pub cosigned: Option<(u64, Timestamp)>,
    /// Why the newest ones are not; it is tried again.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub ok: bool,
    pub at: Option<Timestamp>,
    pub problem: Option<String>,
}

/// A pending hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub id: u64,
    pub since: Timestamp,
    pub expires: Option<Timestamp>,
    pub agent: String,
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub action: String,
    pub object: String,
    pub rule: String,
    /// How the thread waits: `park` or `stop`.
    pub mode: String,
    pub state: State,
    /// The request at the gateway this hold waits for; identical holds share one.
    pub request_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Facts about the process are being read.
    Describing,
    /// The ledger is making the request durable.
    Recording,
    /// The request is on its way to the gateway.
    Asking,
    /// The gateway has it; people are being waited for.
    Waiting,
    /// The gateway cannot be reached; being retried until the hold expires.
    Unreachable,
    /// Decided; the ledger is making the decision durable.
    Deciding,
}

/// Where the daemon is that a self-test attacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selftest {
    pub agent: String,
    pub pid: u32,
    pub pins: PathBuf,
    /// Below the cgroup mount.
    pub cgroup: String,
}

/// One thing that the scratch agent tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub pid: u32,
    /// None: denied by the kernel side alone.
    pub hold: Option<u64>,
    /// Since when, CLOCK_BOOTTIME milliseconds.
    pub held_at: Option<u64>,
    /// `allow` or `deny`.
    pub verdict: String,
    pub action: String,
    pub object: String,
    pub cause: String,
}

/// A self-test, as it goes into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelftestReport {
    /// The ordinary user.
    pub user: String,
    pub kernel: String,
    pub good: bool,
    /// Attacks, not counting those that proved nothing.
    pub proven: u32,
    /// A line for each attack: number, expected, as root, as the user.
    pub results: Vec<String>,
    /// What came through, or not in the way it should: number, who, why.
    pub bad: Vec<String>,
}

/// How a hold ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    pub id: u64,
    pub at: Timestamp,
    /// `allow`, `deny`, or `gone` (the process went away).
    pub verdict: String,
    pub cause: String,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Describing => "describing",
            Self::Recording => "recording",
            Self::Asking => "asking",
            Self::Waiting => "waiting",
            Self::Unreachable => "unreachable",
            Self::Deciding => "deciding",
        })
    }
}

impl Reply {
    pub fn refused(cause: Refusal, text: impl Into<String>) -> Self {
        Self::Refused(Refused {
            cause,
            text: text.into(),
        })
    }
}
