//! Unix sockets: a helper that is not governed would do for the agent what the agent may not. So the
//! governed reach what their own agent listens on, what they are connected to in pairs, and the
//! places that the policy names. Nobody is asked: these hooks run under a spinlock.
use aya_ebpf::{
    helpers::{bpf_get_socket_cookie, generated::bpf_skc_to_unix_sock},
    macros::lsm,
    programs::LsmContext,
};
use syshold_abi::{Key, Place, action, cause, hook, object};

use crate::{
    decide::Answer,
    field::{Kernel, inside, load, offset},
    hooks::socket::{AF_UNIX, refuse},
    identity::{Current, Who, current},
    maps::{UNIX_BOUND, UNIX_SOCKETS},
    paths::{dentry_of, key_of, name_hash, name_hash_at},
};

/// `security_socket_bind(sock, address, addrlen)`: whose a unix socket is.
#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_BIND) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    // SAFETY: a socket, by the hook's prototype.
    unsafe {
        let sk: Kernel = load(socket, offset!(sock_sk));
        if !sk.is_null() && load::<u16>(sk, offset!(sk_family)) == AF_UNIX {
            let cookie = bpf_get_socket_cookie(sk.cast_mut());
            let _ = UNIX_BOUND.insert(&cookie, &who.agent(), 0);
        }
    }
    0
}

/// `security_unix_stream_connect(sock, other, newsk)`.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::UNIX_CONNECT) else {
        return 0;
    };
    let own: Kernel = ctx.arg(0);
    let other: Kernel = ctx.arg(1);
    // SAFETY: two socks, by the hook's prototype.
    unsafe { reaches(&who, hook::UNIX_CONNECT, own, other) }.code()
}

/// `security_unix_may_send(sock, other)`: datagrams, also on a connected or inherited socket.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::UNIX_SEND) else {
        return 0;
    };
    let own: Kernel = ctx.arg(0);
    let other: Kernel = ctx.arg(1);
    // SAFETY: two sockets, by the hook's prototype.
    unsafe {
        let own: Kernel = load(own, offset!(sock_sk));
        let other: Kernel = load(other, offset!(sock_sk));
        reaches(&who, hook::UNIX_SEND, own, other)
    }
    .code()
}

#[inline(always)]
unsafe fn reaches(who: &Current, hook: u32, own: Kernel, other: Kernel) -> Answer {
    if other.is_null() {
        // Its owner has closed it.
        return Answer::Go;
    }
    let cookie = bpf_get_socket_cookie(other.cast_mut());
    if UNIX_BOUND
        .get_ptr(&cookie)
        .is_some_and(|agent| *agent == who.agent())
    {
        return Answer::Go;
    }
    let mut key = Key {
        kind: object::UNIX,
        actions: action::CONNECT,
        ..Key::default()
    };
    let unix: Kernel = bpf_skc_to_unix_sock(other.cast_mut()).cast_const().cast();
    if unix.is_null() {
        return refuse(who, hook, key, cause::UNREADABLE);
    }
    let address: Kernel = load(unix, offset!(unix_addr));
    // A pair has no names; and who has connected to this very socket wants to hear of it.
    if address.is_null() || load::<u64>(unix, offset!(unix_peer)) == own as u64 {
        return Answer::Go;
    }
    let place = place_of(unix, address);
    let named = UNIX_SOCKETS
        .get_ptr(&place)
        .is_some_and(|agents| *agents >> (who.agent() & 63) & 1 == 1);
    if named {
        return Answer::Go;
    }
    key.a = u64::from(place.dev);
    key.b = place.ino;
    key.c = place.name;
    refuse(who, hook, key, cause::UNIX_SOCKET)
}

/// Where a socket listens: folder and name, or the abstract name.
#[inline(always)]
unsafe fn place_of(unix: Kernel, address: Kernel) -> Place {
    /// `sun_family`, and an abstract name's first NUL.
    const BEFORE_NAME: u32 = 2 + 1;
    let dentry: Kernel = dentry_of(inside(unix, offset!(unix_path)));
    if dentry.is_null() {
        let len: u32 = load(address, offset!(unix_addr_len));
        let name = address as u64 + u64::from(offset!(unix_addr_name) + BEFORE_NAME);
        return Place {
            name: name_hash_at(name, len.saturating_sub(BEFORE_NAME)),
            ..Place::default()
        };
    }
    let folder: Kernel = load(dentry, offset!(dentry_parent));
    let folder: Kernel = load(folder, offset!(dentry_inode));
    let folder = key_of(folder);
    Place {
        ino: folder.ino,
        name: name_hash(dentry),
        dev: folder.dev,
        _pad: 0,
    }
}
