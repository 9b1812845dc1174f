//! The client's side of the control socket.
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{Exit, Failure};
use super::show::safe;
use crate::approver::gateway::STATE_DIR;
use crate::control::{Call, REFUSED, Refusal, Refused, Reply};

/// The daemon answers at once, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest reply that is read.
const MAX_REPLY: u64 = 4 << 20;
const MAX_REFUSAL: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub(super) enum DaemonError {
    #[error(
        "the daemon is not running ({path}: {source}); start it with `systemctl start sysholdd`"
    )]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("the daemon refuses to run, and what is held is denied: {0}")]
    RefusesToRun(String),
    #[error(
        "no permission to talk to the daemon ({path}: {source}); be root, or a member of the group \
         `syshold` (`usermod -aG syshold NAME`, then log in again); a governed process never may"
    )]
    Permission { path: PathBuf, source: io::Error },
    #[error("the daemon does not answer ({0}); see `journalctl -u sysholdd`")]
    Silent(io::Error),
    #[error("the daemon's answer was cut short; see `journalctl -u sysholdd`")]
    Cut,
    #[error("the daemon has ended this: it stopped, or nobody read fast enough; start again")]
    Ended,
    #[error("the daemon's answer makes no sense ({0}); are syshold and sysholdd the same version?")]
    Malformed(serde_json::Error),
    #[error("the daemon's answer makes no sense; are syshold and sysholdd the same version?")]
    Other,
    #[error("{}", .0.text)]
    Refused(Refused),
}

impl Failure for DaemonError {
    fn exit(&self) -> Exit {
        match self {
            Self::NotRunning { .. }
            | Self::RefusesToRun(_)
            | Self::Silent(_)
            | Self::Cut
            | Self::Ended => Exit::Unavailable,
            Self::Permission { .. } => Exit::Permission,
            Self::Malformed(_) | Self::Other => Exit::Failure,
            Self::Refused(refused) => match refused.cause {
                Refusal::Governed | Refusal::Permission => Exit::Permission,
                Refusal::UnknownAgent | Refusal::Policy => Exit::Configuration,
                Refusal::Busy => Exit::Unavailable,
                Refusal::BadCall | Refusal::Failed => Exit::Failure,
            },
        }
    }
}

/// Asks the daemon; a refusal is an error.
pub(super) fn call(socket: &Path, call: &Call) -> Result<Replies, DaemonError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => DaemonError::Permission {
            path: socket.to_owned(),
            source,
        },
        _ => match refused(Path::new(STATE_DIR)) {
            Some(why) => DaemonError::RefusesToRun(why),
            None => DaemonError::NotRunning {
                path: socket.to_owned(),
                source,
            },
        },
    })?;
    let mut line = serde_json::to_vec(call).map_err(DaemonError::Malformed)?;
    line.push(b'\n');
    stream
        .set_write_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
        .and_then(|()| stream.write_all(&line))
        .map_err(DaemonError::Silent)?;
    Ok(Replies {
        from: BufReader::new(stream),
        over: false,
    })
}

/// What the daemon left behind when it refused to run.
fn refused(state: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(state.join(REFUSED)).ok()?;
    file.take(MAX_REFUSAL).read_to_string(&mut text).ok()?;
    Some(safe(text.trim())).filter(|text| !text.is_empty())
}

/// The one reply of a call that has one.
pub(super) fn call_once(socket: &Path, request: &Call) -> Result<Reply, DaemonError> {
    call(socket, request)?
        .next()
        .unwrap_or(Err(DaemonError::Cut))
}

/// The replies, up to the end that the daemon marks.
pub(super) struct Replies {
    from: BufReader<UnixStream>,
    over: bool,
}

impl Replies {
    /// The next reply may take as long as it likes.
    pub(super) fn patient(self) -> Result<Self, DaemonError> {
        self.from
            .get_ref()
            .set_read_timeout(None)
            .map_err(DaemonError::Silent)?;
        Ok(self)
    }

    fn read(&mut self) -> Result<Option<Reply>, DaemonError> {
        let mut line = Vec::new();
        (&mut self.from)
            .take(MAX_REPLY)
            .read_until(b'\n', &mut line)
            .map_err(DaemonError::Silent)?;
        if line.last() != Some(&b'\n') {
            return Err(DaemonError::Cut);
        }
        match serde_json::from_slice(&line).map_err(DaemonError::Malformed)? {
            Reply::End => Ok(None),
            Reply::Refused(refused) => Err(DaemonError::Refused(refused)),
            reply => Ok(Some(reply)),
        }
    }
}

impl Iterator for Replies {
    type Item = Result<Reply, DaemonError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let reply = self.read().transpose();
        self.over = !matches!(reply, Some(Ok(_)));
        reply
    }
}
