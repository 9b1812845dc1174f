//! The local control socket: its words and its door.
//!
//! A client writes one line, a [`Call`] in JSON, and reads lines, each a [`Reply`], until
//! [`Reply::End`]; a connection that closes before that was cut short. The door knows who is
//! calling ([`Peer`], from the kernel) and passes that on with the call; whether the caller may
//! have what it asks for is the driver's to say, because only the driver knows who is governed.
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Group, chown};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const SOCKET: &str = "/run/syshold/control.sock";
/// Members may call; without this group only root may.
pub const GROUP: &str = "syshold";

/// More callers than this at once are told to come back.
const MAX_CONNECTIONS: usize = 64;
/// Longest call, newline included.
const MAX_CALL: u64 = 4096;
/// For the call to arrive, and for the client to take each reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// Replies waiting for a slow client; beyond it the client is dropped, never the driver slowed.
const BACKLOG: usize = 1024;

// ---- Words ------------------------------------------------------------------------------

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

// ---- Door -------------------------------------------------------------------------------

/// A call as the driver gets it. Dropping `reply` ends the answer.
#[derive(Debug)]
pub struct Asked {
    pub call: Call,
    pub peer: Peer,
    pub reply: Answers,
}

/// Who is calling, from the kernel, as of its `connect`.
#[derive(Debug)]
pub struct Peer {
    /// 0 when the kernel cannot name it in our PID namespace: nobody to be trusted.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Where the kernel has SO_PEERPIDFD (6.5 and newer): tells a reused PID.
    pub pidfd: Option<OwnedFd>,
}

/// The way back to a client. Sending never waits.
#[derive(Clone, Debug)]
pub struct Answers(mpsc::Sender<Reply>);

impl Answers {
    /// False: the client is gone or too slow, and has been given up.
    #[must_use = "a follower that is gone must be forgotten"]
    pub fn send(&self, reply: Reply) -> bool {
        self.0.try_send(reply).is_ok()
    }
}

impl Asked {
    /// Answers with one line and ends; a client that is gone misses nothing it can use.
    pub fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }

    /// Answers with many lines (a list of holds can be longer than the backlog) from a task of
    /// its own, so that the driver goes on at once.
    pub fn answer_all(self, replies: Vec<Reply>) {
        tokio::spawn(async move {
            for reply in replies {
                if self.reply.0.send(reply).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The open door; dropping it closes the socket for new callers.
#[derive(Debug)]
pub struct Door {
    task: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the control socket {path}: {source}; is its folder there and ours?")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot give the control socket {path} to group {group}: {source}")]
    Give {
        path: PathBuf,
        group: &'static str,
        source: nix::Error,
    },
}

/// Opens the control socket and passes calls on to the driver. Needs a tokio runtime.
pub fn listen(path: &Path, to_driver: mpsc::Sender<Asked>) -> Result<Door, Error> {
    let listener = bind(path, GROUP)?;
    let task = tokio::spawn(serve(listener, to_driver));
    Ok(Door { task })
}

/// The socket appears under its name only with its final owner and mode.
fn bind(path: &Path, group: &'static str) -> Result<UnixListener, Error> {
    let open = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(open(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(open)?;
    let give = |source| Error::Give {
        path: path.to_owned(),
        group,
        source,
    };
    let mode = match Group::from_name(group).map_err(give)? {
        Some(found) => {
            chown(&fresh, None, Some(found.gid)).map_err(give)?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode)).map_err(open)?;
    std::fs::rename(&fresh, path).map_err(open)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, to_driver: mpsc::Sender<Asked>) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: wait instead of spinning.
                tracing::warn!(error = %e, "control socket: cannot accept a caller");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let to_driver = to_driver.clone();
        match Arc::clone(&seats).try_acquire_owned() {
            Ok(seat) => {
                tokio::spawn(async move {
                    if let Err(e) = attend(stream, to_driver).await {
                        tracing::debug!(error = %e, "control socket: a caller went away");
                    }
                    drop(seat);
                });
            }
            Err(_) => {
                // One write of a short line fits the socket's buffer; a caller that cannot
                // take it learns from the closed connection.
                let line = line(&Reply::refused(
                    Refusal::Busy,
                    "too many callers at once; try again in a moment",
                ));
                let _ = stream.try_write(&line);
            }
        }
    }
}

/// One connection: one call, its answer.
async fn attend(stream: UnixStream, to_driver: mpsc::Sender<Asked>) -> io::Result<()> {
    let peer = peer(&stream)?;
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let call = match timeout(PATIENCE, read_call(&mut from)).await {
        Ok(call) => call?,
        Err(_) => Err("no call came in time".to_owned()),
    };
    let call = match call {
        Ok(call) => call,
        Err(text) => {
            say(&mut to, &Reply::refused(Refusal::BadCall, text)).await?;
            return say(&mut to, &Reply::End).await;
        }
    };
    let (reply, mut answers) = mpsc::channel(BACKLOG);
    let asked = Asked {
        call,
        peer,
        reply: Answers(reply),
    };
    if to_driver.send(asked).await.is_err() {
        say(
            &mut to,
            &Reply::refused(Refusal::Busy, "the daemon is stopping; try again"),
        )
        .await?;
        return say(&mut to, &Reply::End).await;
    }
    let mut scrap = [0; 64];
    loop {
        tokio::select! {
            answer = answers.recv() => match answer {
                Some(reply) => say(&mut to, &reply).await?,
                None => return say(&mut to, &Reply::End).await,
            },
            // Nothing more is expected of the client; reading only notices that it left.
            more = from.read(&mut scrap) => if more? == 0 {
                return Ok(());
            },
        }
    }
}

fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let cred = stream.peer_cred()?;
    Ok(Peer {
        pid: cred.pid().and_then(|pid| pid.try_into().ok()).unwrap_or(0),
        uid: cred.uid(),
        gid: cred.gid(),
        pidfd: getsockopt(stream, sockopt::PeerPidfd).ok(),
    })
}

/// The outer error is the connection's, the inner one the caller's.
async fn read_call(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Result<Call, String>> {
    let mut line = Vec::new();
    from.take(MAX_CALL).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Ok(Err(format!(
            "a call is one line of JSON of at most {MAX_CALL} bytes"
        )));
    }
    Ok(serde_json::from_slice(&line).map_err(|e| {
        format!("not a call this daemon knows ({e}); are syshold and sysholdd the same version?")
    }))
}

async fn say(to: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    timeout(PATIENCE, to.write_all(&line(reply)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Our own types always serialize; were one not to, an empty line is an error at the client.
fn line(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}
