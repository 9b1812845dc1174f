//! Signals for a held thread. A frozen thread can neither run a handler nor notice that it is
//! to stop, so the daemon looks: a wish to end (INT, TERM, HUP, QUIT with a handler) ends the
//! hold with EINTR; anything else lets the thread out for its handler (or its stop), and the
//! restarted syscall is held again. Default-action signals that kill do so without us.
use std::fs;
use std::time::Duration;

use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};

use super::{Driver, Input};
use crate::gate;
use crate::request::HoldId;

/// The kernel side tells of at most one signal a millisecond; later ones are found this way.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const ENDS: u64 = bit(SIGINT) | bit(SIGTERM) | bit(SIGHUP) | bit(SIGQUIT);
const STOPS: u64 = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What a held thread needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// To run a handler, or to stop.
    Air,
    /// To be interrupted.
    End,
}

/// The signal masks of `/proc/TID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Masks {
    pending: u64,
    shared: u64,
    blocked: u64,
    caught: u64,
}

impl Masks {
    fn of(tid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{tid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self {
            pending: field("SigPnd:")?,
            shared: field("ShdPnd:")?,
            blocked: field("SigBlk:")?,
            caught: field("SigCgt:")?,
        })
    }

    /// `takes_shared`: signals sent to the process are this thread's to handle.
    fn need(self, takes_shared: bool) -> Need {
        let shared = if takes_shared { self.shared } else { 0 };
        let open = (self.pending | shared) & !self.blocked;
        if open & self.caught & ENDS != 0 {
            Need::End
        } else if open & (self.caught | STOPS) != 0 {
            Need::Air
        } else {
            Need::Nothing
        }
    }
}

impl Driver {
    /// A signal was sent to a process (or one thread of it) that has a held thread.
    pub(super) fn signalled(&mut self, tgid: u32, tid: u32, to_process: bool) {
        tracing::trace!(tgid, tid, to_process, "a signal for a held process");
        self.look_for_signals(tgid);
        let back = self.back.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_AGAIN).await;
            let _ = back.send(Input::LookAgain(tgid)).await;
        });
    }

    /// The main thread takes what is sent to the process, as the kernel prefers; where it is not
    /// held, it runs and takes it by itself unless it blocks it.
    pub(super) fn look_for_signals(&mut self, tgid: u32) {
        let held: Vec<(HoldId, u32)> = self
            .facts
            .iter()
            .filter(|(_, fact)| fact.tgid == tgid && fact.released.is_none())
            .map(|(id, fact)| (*id, fact.tid))
            .collect();
        if held.is_empty() {
            return;
        }
        let main_held = held.iter().any(|(_, tid)| *tid == tgid);
        let main_blocks = Masks::of(tgid).map_or(0, |masks| masks.blocked);
        for (id, tid) in held {
            let Some(mut masks) = Masks::of(tid) else {
                continue;
            };
            if !main_held {
                masks.shared &= main_blocks;
            }
            match masks.need(tid == tgid || !main_held) {
                Need::Nothing => {}
                Need::Air => {
                    if let Err(error) = self.parking.wake(tgid, tid) {
                        tracing::warn!(%error, tid, "a held thread could not be let out");
                    }
                    if let Some(fact) = self.facts.get_mut(&id) {
                        fact.continued = false;
                    }
                }
                Need::End => self.gate_step(gate::Input::Interrupt { hold: id }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::SIGALRM;

    use super::*;

    const STATUS: &str = "Name:\tcat\nSigQ:\t0/1\nSigPnd:\t0000000000000000\n\
                          ShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\n\
                          SigIgn:\t0000000000000000\nSigCgt:\t0000000000000002\n";

    #[test]
    fn reads_the_masks() {
        let masks = Masks::parse(STATUS).unwrap();
        assert_eq!(
            masks,
            Masks {
                shared: 2,
                caught: 2,
                ..Masks::default()
            }
        );
        assert_eq!(Masks::parse("Name: x"), None);
    }

    #[test]
    fn what_a_held_thread_needs() {
        let int = bit(SIGINT);
        let alarm = bit(SIGALRM);
        let table = [
            (
                Masks {
                    shared: int,
                    caught: int,
                    ..Masks::default()
                },
                true,
                Need::End,
            ),
            (
                Masks {
                    shared: int,
                    caught: int,
                    ..Masks::default()
                },
                false,
                Need::Nothing,
            ),
            (
                Masks {
                    pending: int,
                    caught: int,
                    ..Masks::default()
                },
                false,
                Need::End,
            ),
            (
                Masks {
                    pending: int,
                    caught: int,
                    blocked: int,
                    ..Masks::default()
                },
                true,
                Need::Nothing,
            ),
            // Without a handler the kernel kills by itself.
            (
                Masks {
                    shared: int,
                    ..Masks::default()
                },
                true,
                Need::Nothing,
            ),
            (
                Masks {
                    pending: alarm,
                    caught: alarm,
                    ..Masks::default()
                },
                true,
                Need::Air,
            ),
            (
                Masks {
                    shared: bit(SIGTSTP),
                    ..Masks::default()
                },
                true,
                Need::Air,
            ),
        ];
        for (masks, takes_shared, need) in table {
            assert_eq!(masks.need(takes_shared), need, "{masks:?}");
        }
    }
}
