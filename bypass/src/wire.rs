//! Between harness and attacker: messages in JSON, each with the descriptors that go with it.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::act::Said;
use crate::scene::Scene;

/// Longest message; what an attack may say is bounded well below it.
const MOST: usize = 64 * 1024;
/// Most descriptors with one.
const MOST_FDS: usize = 4;

/// Where the attacker finds its end.
pub(crate) const ATTACKERS_FD: RawFd = 3;

/// What the harness says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// With the descriptors that the attacker has from the start: the file, the connection.
    Prepare,
    /// With those of this attack.
    Attack {
        id: String,
        scene: Box<Scene>,
        /// It is ended after this many milliseconds.
        patience_ms: u64,
    },
}

/// What the attacker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ready,
    Done {
        /// None: it died, or had to be ended, before it could say anything.
        said: Option<Said>,
        late: bool,
    },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

/// Room for one control message of descriptors, aligned as `cmsghdr` is.
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Wire {
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let mut ends = [0i32; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: room for two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh descriptors that nobody else owns.
        let [one, other] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok((Self(one), other))
    }

    /// The attacker's end.
    pub(crate) fn of_attacker() -> Self {
        // SAFETY: the harness put it there for this process alone.
        Self(unsafe { OwnedFd::from_raw_fd(ATTACKERS_FD) })
    }

    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[RawFd]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut control = Control([0; 64]);
        // SAFETY: an all-zero header is valid; it points at what lives until the call is over, and
        // the control message is written within its 64 bytes (at most four descriptors).
        let sent = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            if !fds.is_empty() && fds.len() <= MOST_FDS {
                let len = size_of_val(fds) as u32;
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(len) as usize;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(len) as usize;
                std::ptr::copy_nonoverlapping(
                    fds.as_ptr().cast(),
                    libc::CMSG_DATA(first),
                    len as usize,
                );
            }
            libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL)
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits so long for a message; None: none came.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<bool> {
        let mut wanted = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let time = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd.
        match unsafe { libc::poll(&raw mut wanted, 1, time) } {
            -1 => Err(io::Error::last_os_error()),
            ready => Ok(ready > 0),
        }
    }

    /// The next message and its descriptors; an error when the other end is gone.
    pub(crate) fn receive<T: for<'de> Deserialize<'de>>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut bytes = vec![0u8; MOST];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut control = Control([0; 64]);
        let mut fds = Vec::new();
        // SAFETY: as in `send`; the kernel writes within the lengths given, and every descriptor
        // that it passes is new and ours.
        let len = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len();
            let len = libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC);
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            if len > 0 && !first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(first);
                let room = (*first).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..room / size_of::<RawFd>() {
                    let fd = data.cast::<RawFd>().add(index).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            len
        };
        match usize::try_from(len) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok((serde_json::from_slice(&bytes[..len])?, fds)),
        }
    }
}
