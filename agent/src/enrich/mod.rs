//! What /proc adds to a request, for the people who read it and for the ledger.
//!
//! A verdict never belongs to anything read here. It must be right all the same: an approver
//! judges by it. So everything is read through one descriptor of `/proc/TGID`, which names that
//! process for good (when it is gone, every read fails; a reused PID is never read), and the
//! start time the kernel gave is checked against it first.
//!
//! Reading can wait for a disk, and a process can make a reader of its memory wait for itself
//! (userfaultfd): [`Enricher::describe_soon`] keeps both away from the driver, and bounded.
mod digests;
mod dir;
mod exec;
pub mod parse;
pub mod shorten;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};
use syshold_protocol::display::{self, lossless};
use syshold_protocol::request::MAX_ITEMS;
use syshold_protocol::{self as protocol, Digest, Wide};
use tokio::sync::Semaphore;

pub use self::exec::{Call, Program};
use digests::Digests;
use dir::{Dir, MAX_FILE};

/// Bytes of arguments that are shown, as JSON.
const MAX_ARGV: usize = 6 * 1024;
/// Bytes of arguments that are read, so that their end is seen: what Linux takes by default.
const MAX_CMDLINE: usize = 2 * 1024 * 1024;
const MAX_ANCESTORS: usize = 16;
/// Longest path shown, in bytes: all of a request has to fit into one envelope.
const MAX_PATH: usize = 1024;
const MAX_ANCESTOR_PATH: usize = 256;
const MAX_MOUNTS: usize = 1 << 20;
const MAX_PASSWD: usize = 1 << 20;
/// Descriptors looked at for a path.
const MAX_FDS: usize = 4096;
/// Processes read at once: those that make us wait take no more threads than this.
const READERS: usize = 16;
/// For one process; the digest of a large executable takes a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many times that for its turn.
const TURNS: u32 = 6;
/// Shown in place of what could not be read.
const UNKNOWN: &str = "(unknown)";

/// A process, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub pid: u32,
    pub tid: u32,
    /// Nanoseconds after boot, from the kernel.
    pub start_ns: u64,
    /// Of the held thread.
    pub comm: String,
    pub exe: String,
    pub exe_sha256: Option<Digest>,
    pub argv: Vec<String>,
    /// Something of the arguments is left out; what is there says so where it was.
    pub argv_cut: bool,
    pub cwd: String,
    /// The effective user.
    pub uid: u32,
    pub user: Option<String>,
    /// Who logged in, whatever `sudo` and `su` did since.
    pub loginuid: Option<u32>,
    pub login_user: Option<String>,
    pub tty: Option<String>,
    pub cgroup: String,
    /// systemd's.
    pub unit: Option<String>,
    /// Nearest first.
    pub ancestry: Vec<Ancestor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    pub pid: u32,
    /// Nanoseconds after boot, to a clock tick.
    pub start_ns: u64,
    pub comm: String,
    pub exe: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("process {pid} is gone")]
    Gone { pid: u32 },
    #[error("cannot read {what} of process {pid}: {source}")]
    Unreadable {
        pid: u32,
        what: &'static str,
        source: io::Error,
    },
    #[error("process {pid} could not be read in time; it may be in the way on purpose")]
    Slow { pid: u32 },
}

/// Reads processes; remembers the digests of what they run.
#[derive(Debug)]
pub struct Enricher {
    digests: Digests,
    ticks_per_s: u64,
    readers: Arc<Semaphore>,
    patience: Duration,
}

impl Default for Enricher {
    fn default() -> Self {
        // 100 on every x86 and ARM kernel; asked all the same.
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        Self {
            digests: Digests::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            patience: PATIENCE,
            ticks_per_s: ticks
                .and_then(|t| t.try_into().ok())
                .filter(|t| *t > 0)
                .unwrap_or(100),
        }
    }
}

impl Enricher {
    /// [`Self::describe`] on another thread, given up after a while.
    pub async fn describe_soon(
        self: &Arc<Self>,
        tid: u32,
        tgid: u32,
        start_ns: u64,
    ) -> Result<Described, Error> {
        self.read_soon(tgid, move |this| this.describe(tid, tgid, start_ns))
            .await
    }

    /// Reads a process on another thread, given up after a while.
    async fn read_soon<T: Send + 'static>(
        self: &Arc<Self>,
        tgid: u32,
        read: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slow = Err(Error::Slow { pid: tgid });
        // A turn may take long when many are held at once; that is nobody's fault.
        let turn = Arc::clone(&self.readers).acquire_owned();
        let Ok(Ok(seat)) = tokio::time::timeout(TURNS * self.patience, turn).await else {
            return slow;
        };
        let this = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let done = read(&this);
            drop(seat);
            done
        });
        match tokio::time::timeout(self.patience, reading).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => slow,
        }
    }

    /// Everything about the process of a held thread. `start_ns` is the thread-group leader's
    /// start, from the kernel: another one means the PID was reused, and is [`Error::Gone`].
    pub fn describe(&self, tid: u32, tgid: u32, start_ns: u64) -> Result<Described, Error> {
        let process = self.open(tgid, start_ns)?;
        let leader = process.stat()?;
        // The leader may have exited before its threads; the held thread has not.
        let thread = Dir::open_at(&process.dir, &format!("task/{tid}"), tgid)?;
        let comm = thread.stat()?.comm;
        let exe = thread
            .link("exe")
            .map_err(|e| thread.error("the executable", e))?;
        let status = thread
            .read("status", MAX_FILE)
            .map_err(|e| thread.error("the user", e))?;
        let uid =
            parse::euid(&status.bytes).ok_or_else(|| thread.error("the user", Errno::EINVAL))?;
        let cmdline = thread.read("cmdline", MAX_CMDLINE).unwrap_or_default();
        let (mut argv, whole) =
            shorten::arguments(&parse::argv(&cmdline.bytes), MAX_ARGV, MAX_ITEMS - 1);
        if cmdline.cut {
            argv.push(format!("… the rest is longer{}", display::LEFT_OUT));
        }
        let cgroup = thread.cgroup();
        let loginuid = process
            .read("loginuid", 32)
            .ok()
            .and_then(|text| parse::loginuid(&text.bytes));
        let passwd = read_file(File::open("/etc/passwd"), MAX_PASSWD);
        let user = |uid| parse::user_name(&passwd, uid);
        let described = Described {
            pid: tgid,
            tid,
            start_ns,
            comm: lossless(&comm),
            exe: shorten::path(&exe, MAX_PATH),
            exe_sha256: self.digest(&thread),
            argv,
            argv_cut: cmdline.cut || !whole,
            cwd: thread.link("cwd").map_or_else(
                |_| UNKNOWN.to_owned(),
                |path| shorten::path(&path, MAX_PATH),
            ),
            uid,
            user: user(uid),
            loginuid,
            login_user: loginuid.and_then(user),
            tty: leader.tty.clone(),
            unit: parse::unit(&cgroup).map(str::to_owned),
            cgroup,
            ancestry: self.ancestry(&leader),
        };
        // Were it gone by now, something above may be missing because of that.
        process.stat()?;
        Ok(described)
    }

    /// The path of a file that a process has open, when the kernel gave none. Display only.
    #[must_use]
    pub fn path_of(&self, tgid: u32, start_ns: u64, dev: u32, ino: u64) -> Option<String> {
        let process = self.open(tgid, start_ns).ok()?;
        let mountinfo = process.read("mountinfo", MAX_MOUNTS).ok()?;
        let mounts: Vec<u64> = parse::mounts_of(&mountinfo.bytes, dev).collect();
        // fdinfo, not stat: that would ask the file system, and a FUSE server may be governed.
        let infos = process.sub("fdinfo").ok()?;
        let mut entries = nix::dir::Dir::from_fd(infos).ok()?;
        let names: Vec<_> = entries
            .iter()
            .take(MAX_FDS)
            .filter_map(|entry| Some(entry.ok()?.file_name().to_owned()))
            .collect();
        names.into_iter().find_map(|name| {
            let fd = name.to_str().ok()?;
            let info = process.read(&format!("fdinfo/{fd}"), MAX_FILE).ok()?;
            let (inode, mount) = parse::fdinfo(&info.bytes)?;
            if inode != ino || !mounts.contains(&mount) {
                return None;
            }
            process
                .link(&format!("fd/{fd}"))
                .ok()
                .map(|path| shorten::path(&path, MAX_PATH))
        })
    }

    /// Whether it is still the same process; the driver asks before it releases.
    #[must_use]
    pub fn is_same(&self, tgid: u32, start_ns: u64) -> bool {
        self.open(tgid, start_ns).is_ok()
    }

    fn open(&self, tgid: u32, start_ns: u64) -> Result<Dir, Error> {
        let process = Dir::open(tgid)?;
        if process.stat()?.start_ticks == self.ticks(start_ns) {
            Ok(process)
        } else {
            Err(Error::Gone { pid: tgid })
        }
    }

    /// As the kernel rounds for `/proc/PID/stat`.
    fn ticks(&self, ns: u64) -> u64 {
        ns / (1_000_000_000 / self.ticks_per_s)
    }

    fn digest(&self, thread: &Dir) -> Option<Digest> {
        // The link of /proc opens the very inode that runs, whatever its path names now.
        let file = thread.file("exe").ok()?;
        match self.digests.of(file) {
            Ok(digest) => digest,
            Err(e) => {
                tracing::warn!(pid = thread.pid, error = %e, "cannot read an executable");
                None
            }
        }
    }

    fn ancestry(&self, of: &parse::Stat) -> Vec<Ancestor> {
        let mut ancestry = Vec::new();
        let mut child = of.clone();
        while child.ppid != 0 && ancestry.len() < MAX_ANCESTORS {
            let pid = child.ppid;
            let Ok(parent) = Dir::open(pid) else { break };
            let Ok(stat) = parent.stat() else { break };
            // A parent is never younger; this is a stranger with its PID.
            if stat.start_ticks > child.start_ticks {
                break;
            }
            ancestry.push(Ancestor {
                pid,
                start_ns: stat
                    .start_ticks
                    .saturating_mul(1_000_000_000 / self.ticks_per_s),
                comm: lossless(&stat.comm),
                exe: parent.link("exe").map_or_else(
                    |_| UNKNOWN.to_owned(),
                    |path| shorten::path(&path, MAX_ANCESTOR_PATH),
                ),
            });
            child = stat;
        }
        ancestry
    }
}

impl Described {
    /// As requests carry it.
    #[must_use]
    pub fn process(&self) -> protocol::Process {
        protocol::Process {
            pid: self.pid,
            start_time: Wide(self.start_ns),
            exe: self.exe.clone(),
            exe_sha256: self.exe_sha256,
            argv: self.argv.clone(),
            cwd: self.cwd.clone(),
            uid: self.uid,
            cgroup: self.cgroup.clone(),
            ancestry: self
                .ancestry
                .iter()
                .map(|ancestor| protocol::Ancestor {
                    pid: ancestor.pid,
                    start_time: Wide(ancestor.start_ns),
                    exe: ancestor.exe.clone(),
                })
                .collect(),
        }
    }
}

fn read_file(file: io::Result<File>, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = file {
        // A name that is missing is not shown; the number always is.
        let _ = file.take(most as u64).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// As the kernel would give it, to a clock tick.
    fn start_ns(pid: u32) -> u64 {
        let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
        parse::stat(&text).unwrap().start_ticks * 10_000_000
    }

    fn child(args: &[&str]) -> Child {
        let child = Command::new(args[0])
            .args(&args[1..])
            .current_dir("/usr")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // In the middle of an exec it has a new program and no arguments yet.
        while std::fs::read(format!("/proc/{}/cmdline", child.id()))
            .unwrap()
            .is_empty()
        {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn a_process_is_described() {
        let mut cat = child(&["cat", "-", "a b", "\u{202e}x"]);
        let enricher = Enricher::default();
        let pid = cat.id();
        let seen = enricher
            .describe(pid, pid, start_ns(pid) + 9_999_999)
            .unwrap();
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(seen.comm, "cat");
        assert_eq!(seen.exe, exe.to_str().unwrap());
        assert_eq!(
            seen.exe_sha256,
            Some(Digest::of(&std::fs::read(exe).unwrap()))
        );
        assert_eq!(seen.argv, ["cat", "-", "a b", "\u{202e}x"]);
        assert_eq!(seen.cwd, "/usr");
        assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(seen.ancestry[0].pid, std::process::id());
        assert!(seen.ancestry.len() <= MAX_ANCESTORS);
        assert!(
            seen.cgroup.starts_with('/') || seen.cgroup == UNKNOWN,
            "{}",
            seen.cgroup
        );
        assert_eq!(seen.process().argv, seen.argv);
        cat.kill().unwrap();
        cat.wait().unwrap();
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut cat = child(&["cat"]);
        let enricher = Enricher::default();
        let (pid, start) = (cat.id(), start_ns(cat.id()));
        let gone = |result| matches!(result, Err(Error::Gone { .. }));
        assert!(gone(enricher.describe(pid, pid, start - 10_000_000)));
        assert!(gone(enricher.describe(pid, pid, start + 10_000_000)));
        assert!(enricher.is_same(pid, start));
        cat.kill().unwrap();
        cat.wait().unwrap();
        assert!(gone(enricher.describe(pid, pid, start)));
        assert!(!enricher.is_same(pid, start));
    }

    #[test]
    fn a_folder_that_is_held_never_names_a_later_process() {
        let mut cat = child(&["cat"]);
        let held = Dir::open(cat.id()).unwrap();
        held.stat().unwrap();
        cat.kill().unwrap();
        cat.wait().unwrap();
        assert!(matches!(held.stat(), Err(Error::Gone { .. })));
        assert!(held.link("exe").is_err());
    }

    #[test]
    fn many_arguments_are_cut_and_their_end_is_shown() {
        let long = "x".repeat(100_000);
        let mut shell = child(&["sh", "-c", "read line; :", &long, "end"]);
        let pid = shell.id();
        let seen = Enricher::default()
            .describe(pid, pid, start_ns(pid))
            .unwrap();
        assert!(seen.argv_cut);
        assert_eq!(seen.argv.last().unwrap(), "end");
        assert!(seen.argv.iter().any(|arg| display::is_cut(arg)));
        assert!(seen.argv.iter().map(String::len).sum::<usize>() <= MAX_ARGV + 200);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_request_of_the_longest_values_still_fits() {
        // As long as a process can make them, in letters that JSON keeps as they are.
        let long = "p".repeat(4000);
        let ancestor = Ancestor {
            pid: u32::MAX,
            start_ns: u64::MAX,
            comm: "c".repeat(15),
            exe: shorten::path(long.as_bytes(), MAX_ANCESTOR_PATH),
        };
        let described = Described {
            pid: u32::MAX,
            tid: u32::MAX,
            start_ns: u64::MAX,
            comm: "c".repeat(15),
            exe: shorten::path(long.as_bytes(), MAX_PATH),
            exe_sha256: Some(Digest::of(b"")),
            argv: vec!["a".repeat(MAX_ARGV)],
            argv_cut: true,
            cwd: shorten::path(long.as_bytes(), MAX_PATH),
            uid: u32::MAX,
            user: None,
            loginuid: None,
            login_user: None,
            tty: None,
            cgroup: shorten::path(long.as_bytes(), MAX_PATH),
            unit: None,
            ancestry: vec![ancestor; MAX_ANCESTORS],
        };
        let bytes = serde_json::to_vec(&described.process()).unwrap().len();
        assert!(bytes * 4 / 3 < protocol::MAX_ENVELOPE / 2, "{bytes}");
    }

    #[test]
    fn the_path_of_an_open_file_is_found() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"x").unwrap();
        let meta = file.as_file().metadata().unwrap();
        // The kernel's own device number is not st_dev's encoding.
        let dev = nix::sys::stat::major(meta.dev()) << 20 | nix::sys::stat::minor(meta.dev());
        let me = std::process::id();
        let find =
            |ino| Enricher::default().path_of(me, start_ns(me), u32::try_from(dev).unwrap(), ino);
        assert_eq!(find(meta.ino()).as_deref(), file.path().to_str());
        assert_eq!(find(meta.ino() + 1_000_000), None);
    }

    #[tokio::test]
    async fn reading_is_off_the_loop_and_bounded() {
        let mut cat = child(&["cat"]);
        let (pid, start) = (cat.id(), start_ns(cat.id()));
        let enricher = Arc::new(Enricher::default());
        enricher.describe_soon(pid, pid, start).await.unwrap();
        // All seats taken by processes in the way: the next one fails, it does not wait for ever.
        let enricher = Arc::new(Enricher {
            patience: Duration::from_millis(50),
            ..Enricher::default()
        });
        let _all = enricher.readers.acquire_many(READERS as u32).await.unwrap();
        let slow = enricher.describe_soon(pid, pid, start).await;
        assert!(matches!(slow, Err(Error::Slow { .. })), "{slow:?}");
        cat.kill().unwrap();
        cat.wait().unwrap();
    }
}
