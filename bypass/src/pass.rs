//! One attacker, root or not, governed or not: every attack in turn.
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::catalogue::Attack;
use crate::ground::{Ends, Ground, User};
use crate::judge::Tried;
use crate::wire::{ATTACKERS_FD, Answer, Order, Wire};

/// For the attacker to start, or to say that an attack is over after it should have been.
const SLACK: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A running attacker. Dropping it ends it.
#[derive(Debug)]
pub struct Pass {
    child: Child,
    wire: Wire,
    /// Ours, and what the attacker has of the file since before it was governed.
    stream: TcpStream,
    _file: File,
}

impl Pass {
    /// Starts one that is not governed yet; when this returns it has what it will inherit.
    pub fn start(ground: &mut Ground, user: Option<User>) -> io::Result<Self> {
        ground.renew()?;
        ground.place_victim(user.is_none())?;
        let (wire, theirs) = Wire::pair()?;
        let mut command = Command::new(&ground.scene.program);
        command
            .arg("attack")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        // SAFETY: between fork and exec it only makes two syscalls.
        unsafe { command.pre_exec(move || hand_over(&theirs)) };
        let child = command.spawn()?;
        let (file, theirs, stream) = ground.descriptors()?;
        let pass = Self {
            child,
            wire,
            stream,
            _file: file.try_clone()?,
        };
        let fds = [file.as_raw_fd(), theirs.as_raw_fd()];
        pass.wire.send(&Order::Prepare, &fds)?;
        if !pass.wire.wait(SLACK)? {
            return Err(io::Error::other("the attacker does not start"));
        }
        pass.wire.receive::<Answer>()?;
        Ok(pass)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it try one attack; what came of it is measured when it is over.
    pub fn attack(
        &mut self,
        ground: &mut Ground,
        attack: &Attack,
        patience: Duration,
    ) -> io::Result<Tried> {
        ground.renew()?;
        drain(&self.stream);
        let (file, theirs, given) = ground.descriptors()?;
        let order = Order::Attack {
            id: attack.id.to_owned(),
            scene: Box::new(ground.scene.clone()),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        let fds = [file.as_raw_fd(), theirs.as_raw_fd()];
        self.wire.send(&order, &fds)?;
        drop((file, theirs));
        let deadline = Instant::now() + patience + SLACK;
        while !self.wire.wait(POLL)? {
            ground.meanwhile(attack.effect);
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "the attacker does not come back from attack {}",
                    attack.id
                )));
            }
        }
        let (answer, _) = self.wire.receive::<Answer>()?;
        let Answer::Done { said, late } = answer else {
            return Err(io::Error::other("the attacker said something else"));
        };
        let ends = Ends {
            inherited: &self.stream,
            given: &given,
        };
        Ok(Tried {
            effect: ground.happened(attack.effect, said.as_ref(), ends),
            said,
            late,
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: its end of the wire, where it looks for it, and nothing that ends it with us
/// forgotten.
fn hand_over(theirs: &OwnedFd) -> io::Result<()> {
    let from: RawFd = theirs.as_raw_fd();
    // SAFETY: plain syscalls on descriptors of this process. Copied to itself, a descriptor would
    // stay closed on exec.
    let done = unsafe {
        if from == ATTACKERS_FD {
            libc::fcntl(from, libc::F_SETFD, 0)
        } else {
            libc::dup2(from, ATTACKERS_FD)
        }
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    Ok(())
}

fn drain(mut stream: &TcpStream) {
    let mut bytes = [0; 256];
    while matches!(io::Read::read(&mut stream, &mut bytes), Ok(1..)) {}
}
