//! Many processes that fork, start threads, open, connect, rename and signal each other.
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::Chance;

/// What is known of the acts on one object: how often each error number, 0 for success.
type Counts = BTreeMap<String, BTreeMap<i32, u64>>;
/// In place of an error number: who did it was killed, so nobody knows.
const UNKNOWN: i32 = -1;

/// `SECONDS PROCESSES SEED SCRATCH OBJECT…`: an object is `IP:PORT` or a path to append to. Says
/// `OBJECT ERRNO COUNT` lines; errno -1: unknown, because it was killed meanwhile.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [seconds, processes, seed, scratch, objects @ ..] = words else {
        anyhow::bail!("SECONDS PROCESSES SEED SCRATCH OBJECT…");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let (processes, seed): (u64, u64) = (processes.parse()?, seed.parse()?);
    let scratch = Path::new(scratch);
    let mut workers = Vec::new();
    for index in 0..processes {
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let mut worker = Worker::new(seed ^ (index << 32), scratch, objects);
                let done = worker.work(end).and_then(|()| worker.tell(index));
                std::process::exit(i32::from(done.is_err()));
            }
            ForkResult::Parent { child } => workers.push(child),
        }
    }
    for worker in workers {
        let status = waitpid(worker, None)?;
        anyhow::ensure!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "a worker ended: {status:?}"
        );
    }
    let mut all = Counts::new();
    for index in 0..processes {
        let text = fs::read_to_string(result_of(scratch, index))?;
        for line in text.lines() {
            let mut words = line.rsplitn(3, ' ');
            let count: u64 = words.next().context("a count")?.parse()?;
            let errno: i32 = words.next().context("an error number")?.parse()?;
            let object = words.next().context("an object")?.to_owned();
            *all.entry(object).or_default().entry(errno).or_default() += count;
        }
    }
    print(&all);
    Ok(())
}

fn print(counts: &Counts) {
    for (object, errnos) in counts {
        for (errno, count) in errnos {
            println!("{object} {errno} {count}");
        }
    }
}

fn result_of(scratch: &Path, index: u64) -> PathBuf {
    scratch.join(format!("result-{index}"))
}

struct Worker<'a> {
    chance: Chance,
    scratch: &'a Path,
    objects: &'a [String],
    counts: Counts,
    renamed: u64,
}

extern "C" fn nothing(_: i32) {}

impl<'a> Worker<'a> {
    fn new(seed: u64, scratch: &'a Path, objects: &'a [String]) -> Self {
        Self {
            chance: Chance::new(seed),
            scratch,
            objects,
            counts: Counts::new(),
            renamed: 0,
        }
    }

    fn work(&mut self, end: Instant) -> Result<()> {
        let handled = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        for signal in [Signal::SIGUSR1, Signal::SIGURG] {
            // SAFETY: the handler does nothing at all.
            unsafe { sigaction(signal, &handled) }?;
        }
        while Instant::now() < end {
            let object = self.chance.of(self.objects).context("objects")?.clone();
            match self.chance.below(10) {
                0..=3 => {
                    let errno = act(&object);
                    self.note(&object, errno);
                }
                4..=5 => self.by_child(&object, None)?,
                6 => {
                    let wait = self.chance.below(3000);
                    self.by_child(&object, Some(Duration::from_micros(wait)))?;
                }
                7 => self.by_threads(&object),
                8 => self.rename()?,
                _ => {
                    let signal = *self
                        .chance
                        .of(&[Signal::SIGUSR1, Signal::SIGCONT, Signal::SIGURG])
                        .context("signals")?;
                    self.signalled(&object, signal)?;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, object: &str, errno: i32) {
        let errnos = self.counts.entry(object.to_owned()).or_default();
        *errnos.entry(errno).or_default() += 1;
    }

    /// A child does it; with a time, it is killed then.
    fn by_child(&mut self, object: &str, killed: Option<Duration>) -> Result<()> {
        // SAFETY: this process has one thread whenever it forks: others are joined.
        let child = match unsafe { fork() }? {
            ForkResult::Child => {
                let errno = act(object);
                // SAFETY: ends the child without the parent's clean-up.
                unsafe { nix::libc::_exit(errno.clamp(0, 255)) }
            }
            ForkResult::Parent { child } => child,
        };
        if let Some(time) = killed {
            std::thread::sleep(time);
            let _ = kill(child, Signal::SIGKILL);
        }
        let errno = match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => code,
            _ => UNKNOWN,
        };
        self.note(object, errno);
        Ok(())
    }

    /// A child does it, and is sent signals meanwhile.
    fn signalled(&mut self, object: &str, signal: Signal) -> Result<()> {
        // SAFETY: as above.
        let child = match unsafe { fork() }? {
            ForkResult::Child => {
                let errno = act(object);
                // SAFETY: as above.
                unsafe { nix::libc::_exit(errno.clamp(0, 255)) }
            }
            ForkResult::Parent { child } => child,
        };
        for _ in 0..self.chance.below(20) {
            let _ = kill(child, signal);
            std::thread::sleep(Duration::from_micros(self.chance.below(500)));
        }
        let errno = match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => code,
            _ => UNKNOWN,
        };
        self.note(object, errno);
        Ok(())
    }

    fn by_threads(&mut self, object: &str) {
        let errnos: Vec<i32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| act(object))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(UNKNOWN))
                .collect()
        });
        for errno in errnos {
            self.note(object, errno);
        }
    }

    /// Of a file that nobody protects.
    fn rename(&mut self) -> Result<()> {
        let own = Pid::this();
        let name = |number: u64| self.scratch.join(format!("file-{own}-{number}"));
        if self.renamed == 0 {
            fs::write(name(0), "")?;
        }
        fs::rename(name(self.renamed), name(self.renamed + 1))?;
        self.renamed += 1;
        Ok(())
    }

    fn tell(&self, index: u64) -> Result<()> {
        let mut text = String::new();
        for (object, errnos) in &self.counts {
            for (errno, count) in errnos {
                text.push_str(&format!("{object} {errno} {count}\n"));
            }
        }
        Ok(fs::write(result_of(self.scratch, index), text)?)
    }
}

/// Connects, or appends a line; the error number.
fn act(object: &str) -> i32 {
    let done = match object.parse::<SocketAddr>() {
        Ok(to) => TcpStream::connect(to).map(drop),
        Err(_) => OpenOptions::new()
            .append(true)
            .open(object)
            .and_then(|mut file| file.write_all(b"x\n")),
    };
    done.map_or_else(|error| error.raw_os_error().unwrap_or(0x7f), |()| 0)
}

/// `COUNT IP:PORT`: so many threads connect at once. Says how often each error number came.
pub(crate) fn fill(words: &[String]) -> Result<()> {
    let [count, to] = words else {
        anyhow::bail!("COUNT IP:PORT");
    };
    let count: usize = count.parse()?;
    let (say, said) = mpsc::channel();
    for _ in 0..count {
        let (say, to) = (say.clone(), to.clone());
        let started = std::thread::Builder::new()
            .stack_size(32 * 1024)
            .spawn(move || say.send(act(&to)));
        if let Err(error) = started {
            eprintln!("a thread could not be started: {error}");
            break;
        }
    }
    drop(say);
    let mut counts = Counts::new();
    for errno in said {
        *counts
            .entry(to.clone())
            .or_default()
            .entry(errno)
            .or_default() += 1;
    }
    print(&counts);
    Ok(())
}

/// `SECONDS IP:PORT`: two threads connect as fast as they can. Says as `fill` does.
pub(crate) fn flood(words: &[String]) -> Result<()> {
    let [seconds, to] = words else {
        anyhow::bail!("SECONDS IP:PORT");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let flood = || {
        let mut errnos = BTreeMap::<i32, u64>::new();
        while Instant::now() < end {
            *errnos.entry(act(to)).or_default() += 1;
        }
        errnos
    };
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(flood);
        [flood(), other.join().unwrap_or_default()]
    });
    let mut counts = Counts::new();
    for (errno, count) in both.into_iter().flatten() {
        *counts
            .entry(to.clone())
            .or_default()
            .entry(errno)
            .or_default() += count;
    }
    print(&counts);
    Ok(())
}
