//! Processes that do nothing but fork: is every child governed at its first act?
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// `SECONDS PROCESSES PATH`: each of so many processes forks as fast as it can, and each child opens
/// PATH at once. Says how often each error number came, as `OBJECT ERRNO COUNT` lines.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [seconds, processes, path] = words else {
        anyhow::bail!("SECONDS PROCESSES PATH");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut workers = Vec::new();
    for _ in 0..processes.parse()? {
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let (denied, opened) = bear(end, path);
                println!("{path} 1 {denied}\n{path} 0 {opened}");
                std::process::exit(0);
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
    Ok(())
}

/// How many children were denied, and how many were not.
fn bear(end: Instant, path: &str) -> (u64, u64) {
    let (mut denied, mut opened) = (0, 0);
    while Instant::now() < end {
        // SAFETY: one thread; the child opens a file and ends without clean-up.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let done = open(path, OFlag::O_RDONLY, Mode::empty());
                // SAFETY: as above.
                unsafe { nix::libc::_exit(i32::from(done.err() != Some(Errno::EPERM))) }
            }
            Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, 0)) => denied += 1,
                _ => opened += 1,
            },
            // As many as there may be: later.
            Err(_) => std::thread::yield_now(),
        }
    }
    (denied, opened)
}
