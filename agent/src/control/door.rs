//! The server side of the control socket: one task a caller, each bounded in bytes and time.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Group, chown};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Call, GROUP, Refusal, Reply};

/// More callers than this at once are told to come back.
const MAX_CONNECTIONS: usize = 32;
/// Longest call, newline included: the report of a self-test is the longest.
const MAX_CALL: u64 = 64 * 1024;
/// For the call to arrive, and for the client to take each reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// Replies waiting for a slow client, more than there can be holds; beyond it the client is
/// dropped, never the driver slowed.
const BACKLOG: usize = syshold_abi::MAX_PENDING as usize + 1024;

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

impl Answers {
    /// The client has left, or has been given up.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream as Client;

    use super::*;

    /// A door in a fresh folder, without the group of this machine.
    fn open(driver: usize) -> (tempfile::TempDir, PathBuf, mpsc::Receiver<Asked>, Door) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (to_driver, asked) = mpsc::channel(driver);
        let listener = bind(&path, "no-such-group-of-syshold").unwrap();
        let task = tokio::spawn(serve(listener, to_driver));
        (dir, path, asked, Door { task })
    }

    /// Sends bytes as they are; gives every line up to the closing of the connection.
    async fn send(path: &Path, bytes: &[u8]) -> Vec<String> {
        let (path, bytes) = (path.to_owned(), bytes.to_vec());
        let talk = move || {
            let mut client = Client::connect(path).unwrap();
            // A caller that is turned away may be cut off while it writes.
            let _ = client.write_all(&bytes);
            let mut text = String::new();
            let _ = client.read_to_string(&mut text);
            text.lines().map(str::to_owned).collect()
        };
        tokio::task::spawn_blocking(talk).await.unwrap()
    }

    const END: &str = r#"{"reply":"end"}"#;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_reaches_the_driver_with_who_called() {
        let (_dir, path, mut asked, _door) = open(1);
        let call =
            tokio::spawn(
                async move { send(&path, b"{\"call\":\"govern\",\"agent\":\"bot\"}\n").await },
            );
        let got = asked.recv().await.unwrap();
        assert_eq!(
            got.call,
            Call::Govern {
                agent: "bot".to_owned()
            }
        );
        assert_eq!(got.peer.pid, std::process::id());
        assert_eq!(got.peer.uid, nix::unistd::geteuid().as_raw());
        got.answer(Reply::Governed {
            agent: "bot".to_owned(),
        });
        let lines = call.await.unwrap();
        assert_eq!(lines, [r#"{"reply":"governed","agent":"bot"}"#, END]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_no_call_never_reaches_the_driver() {
        let (_dir, path, mut asked, _door) = open(1);
        let long = [
            b"{\"call\":\"govern\",\"agent\":\"".to_vec(),
            vec![b'x'; MAX_CALL as usize],
            b"\"}\n".to_vec(),
        ];
        for bad in [
            &b"\n"[..],
            b"null\n",
            b"{}\n",
            b"{\"call\":\"allow\"}\n",
            b"{\"call\":\"holds\",\"more\":1}\n",
            b"\xff\xfe\n",
            &long.concat(),
        ] {
            let lines = send(&path, bad).await;
            assert!(lines[0].contains(r#""cause":"bad_call""#), "{lines:?}");
            assert_eq!(lines[1], END);
        }
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_longer_than_the_backlog_arrives_whole() {
        let (_dir, path, mut asked, _door) = open(1);
        let call = tokio::spawn(async move { send(&path, b"{\"call\":\"holds\"}\n").await });
        let many = BACKLOG + 10;
        let reply = |i| Reply::Governed {
            agent: format!("{i}"),
        };
        asked
            .recv()
            .await
            .unwrap()
            .answer_all((0..many).map(reply).collect());
        assert_eq!(call.await.unwrap().len(), many + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_follower_that_leaves_is_noticed_and_a_slow_one_is_dropped() {
        let (_dir, path, mut asked, _door) = open(1);
        let mut client = Client::connect(&path).unwrap();
        client
            .write_all(b"{\"call\":\"holds\",\"follow\":true}\n")
            .unwrap();
        let follower = asked.recv().await.unwrap();
        assert_eq!(follower.call, Call::Holds { follow: true });
        assert!(follower.reply.send(Reply::End));
        drop(client);
        let noticed = async {
            while follower.reply.send(Reply::End) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, noticed).await.unwrap();

        // One that stays and does not read: the driver is told, and has never waited.
        let mut client = Client::connect(&path).unwrap();
        client
            .write_all(b"{\"call\":\"holds\",\"follow\":true}\n")
            .unwrap();
        let slow = asked.recv().await.unwrap();
        let big = Reply::Governed {
            agent: "x".repeat(1000),
        };
        let taken = (0..10 * BACKLOG)
            .take_while(|_| slow.reply.send(big.clone()))
            .count();
        assert!((BACKLOG..10 * BACKLOG).contains(&taken), "{taken}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_beyond_the_seats_are_turned_away() {
        let (_dir, path, mut asked, _door) = open(MAX_CONNECTIONS);
        let mut seated = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut client = Client::connect(&path).unwrap();
            client.write_all(b"{\"call\":\"status\"}\n").unwrap();
            seated.push((client, asked.recv().await.unwrap()));
        }
        let lines = send(&path, b"").await;
        assert!(lines[0].contains(r#""cause":"busy""#), "{lines:?}");
        drop(seated);
        let freed = async {
            loop {
                let mut client = Client::connect(&path).unwrap();
                let _ = client.write_all(b"{\"call\":\"status\"}\n");
                if timeout(Duration::from_millis(100), asked.recv())
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        };
        timeout(PATIENCE, freed).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_driver_nobody_waits() {
        let (_dir, path, asked, _door) = open(1);
        drop(asked);
        let lines = send(&path, b"{\"call\":\"status\"}\n").await;
        assert!(lines[0].contains(r#""cause":"busy""#), "{lines:?}");
    }

    #[tokio::test]
    async fn the_socket_is_for_root_only_when_there_is_no_group() {
        let (dir, path, _asked, door) = open(1);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o600);
        // A daemon that starts again takes the name over.
        drop(door);
        bind(&path, "no-such-group-of-syshold").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Root's own group exists everywhere: then the group may call.
        if nix::unistd::geteuid().is_root() {
            bind(&path, "root").unwrap();
            assert_eq!(mode(&path), 0o660);
        }
    }
}
