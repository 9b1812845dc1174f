//! Syscalls by chance, with arguments that are nearly right: paths that are there, descriptors that
//! are open, memory that is mapped. Nothing that would end this machine or what tests it; whatever
//! PATH is given may be gone, renamed or another file afterwards.
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::Chance;

/// One more than the last number that is tried.
const NUMBERS: u64 = 470;
/// Would end or stop others, or block for good without a signal's help: kill and kin, vfork,
/// reboot, umount, swapoff, hostname, modules, vhangup, quotas, the clock, namespaces of others.
const NOT_THESE: &[i64] = &[
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_reboot,
    libc::SYS_umount2,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_init_module,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_vhangup,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vfork,
    libc::SYS_fork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_sync,
    libc::SYS_setrlimit,
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_setpriority,
];
const PER_CHILD: u64 = 400;

/// `SECONDS SEED FOLDER PATH…`: says how many children, and every restart code that came back, by way of a file in FOLDER.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [seconds, seed, folder, paths @ ..] = words else {
        anyhow::bail!("SECONDS SEED FOLDER PATH…");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut chance = Chance::new(seed.parse()?);
    let leaks = Path::new(folder).join("leaks");
    let (mut children, mut late) = (0u64, 0u64);
    while Instant::now() < end {
        let seed = chance.next();
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                child(seed, &leaks, paths);
                // SAFETY: ends the child without the parent's clean-up.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                children += 1;
                late += u64::from(!ends(child)?);
            }
        }
    }
    println!("children {children}, of which {late} had to be ended");
    if let Ok(text) = fs::read_to_string(&leaks) {
        println!("leaks {text}");
    }
    Ok(())
}

/// Waits for a child, and ends it when it has blocked its own alarm, or has made this process its
/// tracer and was stopped. False: it had to be ended. Whoever cannot be ended is an error.
fn ends(child: Pid) -> Result<bool> {
    if gone(child, Duration::from_secs(3))? {
        return Ok(true);
    }
    kill(child, Signal::SIGKILL).context("ending a child")?;
    if gone(child, Duration::from_secs(20))? {
        return Ok(false);
    }
    let of = |name: &str| fs::read_to_string(format!("/proc/{child}/{name}")).unwrap_or_default();
    let (status, at, stack) = (of("status"), of("syscall"), of("stack"));
    anyhow::bail!("child {child} does not die: {status}\nsyscall {at}\n{stack}");
}

fn gone(child: Pid, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).context("waiting for a child")? {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(true),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    Ok(false)
}

fn child(seed: u64, leaks: &Path, paths: &[String]) {
    let mut chance = Chance::new(seed);
    // Whatever it blocks in ends with it.
    // SAFETY: no pointers.
    unsafe {
        libc::setsid();
        libc::alarm(2);
        libc::prctl(libc::PR_SET_PDEATHSIG, Signal::SIGKILL as i32);
    }
    let mut memory: Vec<u64> = (0..1024).map(|_| chance.next()).collect();
    let names: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| [path.as_bytes(), b"\0"].concat())
        .collect();
    for _ in 0..PER_CHILD {
        let number = i64::try_from(chance.below(NUMBERS)).unwrap_or(0);
        if NOT_THESE.contains(&number) {
            continue;
        }
        let mut words = [0i64; 6];
        for word in &mut words {
            *word = argument(&mut chance, &mut memory, &names);
        }
        let [a, b, c, d, e, f] = words;
        // SAFETY: not sound at all, and meant to be so: the kernel may write to any memory of this
        // child, which has nothing to lose and is gone in a moment.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if result == -1 && (512..=516).contains(&errno) {
            let _ = fs::write(leaks, format!("syscall {number}: errno {errno}"));
        }
    }
}

fn argument(chance: &mut Chance, memory: &mut [u64], names: &[Vec<u8>]) -> i64 {
    match chance.below(12) {
        0..=2 => i64::try_from(chance.below(12)).unwrap_or(0),
        3 => -1,
        4 => 0,
        5..=6 => match chance.of(names) {
            Some(name) => name.as_ptr() as i64,
            None => 0,
        },
        7..=9 => {
            let at = usize::try_from(chance.below(memory.len() as u64)).unwrap_or(0);
            // An address, a socket's family or a small number now and then: structures are looked
            // into.
            memory[at] = match chance.below(4) {
                0 => memory.as_ptr() as u64,
                1 => 2 | chance.below(65_536) << 16 | 0x0100_007f << 32,
                2 => chance.below(64),
                _ => chance.next(),
            };
            (&raw mut memory[at]) as i64
        }
        10 => 1 << chance.below(32),
        _ => chance.next() as i64,
    }
}
