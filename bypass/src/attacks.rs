//! What each attack does, syscall by syscall.
pub(crate) mod creds;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod names;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod unix;

use crate::sys::bytes_of;

/// `sockaddr_in`, as the kernel reads it.
pub(crate) fn v4(family: i32, address: [u8; 4], port: u16) -> [u8; 16] {
    let mut out = [0u8; 16];
    out[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    out[2..4].copy_from_slice(&port.to_be_bytes());
    out[4..8].copy_from_slice(&address);
    out
}

pub(crate) fn local4(port: u16) -> [u8; 16] {
    v4(libc::AF_INET, [127, 0, 0, 1], port)
}

/// `sockaddr_in6`.
pub(crate) fn v6(address: std::net::Ipv6Addr, port: u16) -> [u8; 28] {
    let mut out = [0u8; 28];
    out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    out[2..4].copy_from_slice(&port.to_be_bytes());
    out[8..24].copy_from_slice(&address.octets());
    out
}

pub(crate) fn local6(port: u16) -> [u8; 28] {
    v6(std::net::Ipv6Addr::LOCALHOST, port)
}

/// A message and what it points at: kept together for as long as the kernel may look.
#[derive(Debug)]
pub(crate) struct Message {
    name: Vec<u8>,
    control: Vec<u8>,
    body: Vec<u8>,
    parts: Box<libc::iovec>,
}

impl Message {
    pub(crate) fn new(to: &[u8], control: Vec<u8>) -> Self {
        let mut body = b"attack".to_vec();
        let parts = Box::new(libc::iovec {
            iov_base: body.as_mut_ptr().cast(),
            iov_len: body.len(),
        });
        Self {
            name: to.to_vec(),
            control,
            body,
            parts,
        }
    }

    /// `struct msghdr`, valid as long as `self`.
    pub(crate) fn header(&mut self) -> Vec<u8> {
        let words: [u64; 7] = [
            self.name.as_mut_ptr() as u64,
            self.name.len() as u64,
            std::ptr::from_mut(&mut *self.parts) as u64,
            u64::from(!self.body.is_empty()),
            self.control.as_mut_ptr() as u64,
            self.control.len() as u64,
            0,
        ];
        bytes_of(&words).to_vec()
    }
}

/// One control message.
pub(crate) fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut out = (16 + data.len() as u64).to_ne_bytes().to_vec();
    out.extend(level.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}
