//! The attacker's process: prepares what it will have from before it is governed, then does each
//! attack in a child of its own.
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::act::{Act, Received, Said};
use crate::attacks::ring::Ring;
use crate::catalogue::{ATTACKS, Attack};
use crate::scene::Scene;
use crate::sys::{self, N, Out};
use crate::wire::{Answer, Order, Wire};

/// Serves the harness until that is gone.
pub fn serve() -> io::Result<()> {
    let wire = Wire::of_attacker();
    let (_, inherited) = wire.receive::<Order>()?;
    let ring = Ring::new();
    // Children of children come to this process, which ends what is left of an attack.
    let adopt = libc::PR_SET_CHILD_SUBREAPER.into();
    sys::call(libc::SYS_prctl, &mut [N(adopt), N(1), N(0), N(0), N(0)]);
    wire.send(&Answer::Ready, &[])?;
    loop {
        let (order, given) = wire.receive::<Order>()?;
        let Order::Attack {
            id,
            scene,
            patience_ms,
        } = order
        else {
            continue;
        };
        let Some(attack) = ATTACKS.iter().find(|attack| attack.id == id) else {
            return Err(io::Error::other(format!("no attack {id}")));
        };
        let with = With {
            scene: &scene,
            inherited: received(&inherited),
            given: received(&given),
            ring: ring.as_ref(),
        };
        let answer = one(attack, &with, Duration::from_millis(patience_ms))?;
        wire.send(&answer, &[])?;
    }
}

struct With<'a> {
    scene: &'a Scene,
    inherited: Received,
    given: Received,
    ring: Option<&'a Ring>,
}

fn received(fds: &[OwnedFd]) -> Received {
    let at = |index: usize| fds.get(index).map_or(-1, AsRawFd::as_raw_fd);
    Received {
        file: at(0),
        stream: at(1),
    }
}

/// A child does it and says one line; whatever is left afterwards is ended.
fn one(attack: &Attack, with: &With<'_>, patience: Duration) -> io::Result<Answer> {
    let (from, to) = pipe()?;
    let parent = sys::call(libc::SYS_getpid, &mut []);
    let child = sys::fork(|| {
        let die = libc::PR_SET_PDEATHSIG.into();
        sys::call(libc::SYS_prctl, &mut [N(die), N(libc::SIGKILL.into())]);
        if sys::call(libc::SYS_getppid, &mut []) != parent {
            return 1;
        }
        let mut act = Act {
            scene: with.scene,
            inherited: with.inherited,
            given: with.given,
            ring: with.ring,
            said: Said {
                attack: attack.id.to_owned(),
                pid: std::process::id(),
                ..Said::default()
            },
        };
        (attack.act)(&mut act);
        let mut line = serde_json::to_vec(&act.said).unwrap_or_default();
        line.push(b'\n');
        let mut to = fs::File::from(to);
        i32::from(to.write_all(&line).is_err())
    });
    let deadline = Instant::now() + patience;
    let mut line = Vec::new();
    let mut late = false;
    let mut is_over = false;
    let mut from = fs::File::from(from);
    loop {
        let mut bytes = [0u8; 4096];
        match from.read(&mut bytes) {
            Ok(len) if len > 0 => line.extend(&bytes[..len]),
            // Nothing yet, or nobody writes any more.
            _ => {
                if is_over {
                    break;
                }
                // Once more after its end: it may have written just before.
                is_over = ended(child);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if line.last() == Some(&b'\n') {
            break;
        }
        if Instant::now() > deadline {
            late = true;
            break;
        }
    }
    end_all();
    Ok(Answer::Done {
        said: serde_json::from_slice(&line).ok(),
        late,
    })
}

/// Reading does not wait. The writing end is the parent's, too, until the child has it alone.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0i32; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh descriptors that nobody else owns.
    let [from, to] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let nonblocking = libc::O_NONBLOCK.into();
    sys::call(
        libc::SYS_fcntl,
        &mut [
            N(from.as_raw_fd().into()),
            N(libc::F_SETFL.into()),
            N(nonblocking),
        ],
    );
    Ok((from, to))
}

/// Has it ended? It stays to be reaped.
fn ended(child: i64) -> bool {
    let mut info = [0u8; 128];
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let waited = sys::call(
        libc::SYS_waitid,
        &mut [
            N(libc::P_PID.into()),
            N(child),
            Out(&mut info),
            N(flags.into()),
            N(0),
        ],
    );
    // si_signo is SIGCHLD when there is something to tell.
    waited < 0 || info[..4] != [0; 4]
}

/// Ends every descendant: children of children have come here.
fn end_all() {
    for _ in 0..1000 {
        let own = std::process::id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let children = children.unwrap_or_default();
        for pid in children.split_whitespace() {
            let pid: i64 = pid.parse().unwrap_or(0);
            sys::call(libc::SYS_kill, &mut [N(pid), N(libc::SIGKILL.into())]);
        }
        let mut none = [0u8; 4];
        let waited = sys::call(
            libc::SYS_wait4,
            &mut [N(-1), Out(&mut none), N(0x4000_0000), N(0)],
        );
        if waited < 0 {
            return;
        }
    }
}
