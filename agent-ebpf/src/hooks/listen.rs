//! Inbound: listening on an address that others reach, and the connections that came of it.
//!
//! A listener, and a connection it accepted, is remembered by its cookie alone (`mark_of`): with no
//! taint as "this agent's", with what the process carries as "may still be used".
use aya_ebpf::{helpers::bpf_get_socket_cookie, macros::lsm, programs::LsmContext};
use syshold_abi::{Key, action, hook};

use crate::{
    decide::Answer,
    field::{Kernel, load, offset},
    hooks::socket::{
        AF_INET, AF_INET6, Finding, addresses, answer, blank, fresh, is_kernels, is_loopback, note,
    },
    identity::{Current, Who, asked_after, current, part_asked_after, taint},
    maps::{Destination, SOCKETS},
};

/// `security_socket_listen(sock, backlog)`.
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_LISTEN) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    // SAFETY: a socket, by the hook's prototype.
    unsafe { listens(&who, hook::SOCKET_LISTEN, socket) }.code()
}

/// `security_socket_accept(sock, newsock)`: on a listener that came from someone else, too.
#[lsm(hook = "socket_accept")]
pub fn socket_accept(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_ACCEPT) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    // SAFETY: a socket, by the hook's prototype.
    unsafe { listens(&who, hook::SOCKET_ACCEPT, socket) }.code()
}

/// `security_sock_graft(sk, parent)`: a connection that was accepted gets its descriptor.
#[lsm(hook = "sock_graft")]
pub fn sock_graft(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCK_GRAFT) else {
        return 0;
    };
    let sk: Kernel = ctx.arg(0);
    // SAFETY: a sock, by the hook's prototype.
    unsafe {
        let family: u16 = load(sk, offset!(sk_family));
        if matches!(family, AF_INET | AF_INET6) {
            let cookie = bpf_get_socket_cookie(sk.cast_mut());
            note(&mark_of(&who, cookie, 0), 0);
            note(&mark_of(&who, cookie, asked_after(&who)), 0);
        }
    }
    0
}

#[inline(always)]
unsafe fn listens(who: &Current, hook: u32, socket: Kernel) -> Answer {
    answer(who, hook, listener(who, hook, socket))
}

#[inline(always)]
unsafe fn listener(who: &Current, hook: u32, socket: Kernel) -> Finding {
    let sk: Kernel = load(socket, offset!(sock_sk));
    if sk.is_null() || is_kernels(socket) {
        return Finding::Free;
    }
    let family: u16 = load(sk, offset!(sk_family));
    if !matches!(family, AF_INET | AF_INET6) {
        return Finding::Free;
    }
    let key = own_of(sk, family);
    let carried = taint(who);
    let place = mark_of(who, key.a, part_asked_after(who, carried));
    let accepts = hook == hook::SOCKET_ACCEPT;
    // Once allowed it may be accepted from; listening again is asked again.
    if is_loopback(&key) || accepts && fresh(&place) {
        return Finding::Free;
    }
    Finding::Judged {
        key,
        place,
        lasting: accepts,
        carried,
    }
}

/// Was this connection accepted? Then what is sent on it is judged as listening: `place` and `key`
/// become those.
#[inline(always)]
pub unsafe fn accepted(place: &mut Destination, sk: Kernel, key: &mut Key) -> bool {
    let mut mark = Destination {
        key: mark_key(key.a),
        agent: place.agent,
        taint: 0,
    };
    if SOCKETS.get_ptr(&mark).is_none() {
        return false;
    }
    mark.taint = place.taint;
    *place = mark;
    let family: u16 = load(sk, offset!(sk_family));
    *key = own_of(sk, family);
    true
}

#[inline(always)]
unsafe fn own_of(sk: Kernel, family: u16) -> Key {
    let mut key = blank(action::LISTEN);
    addresses(
        &mut key,
        sk,
        family,
        offset!(sk_rcv_saddr),
        offset!(sk_v6_rcv_saddr),
    );
    let port: u16 = load(sk, offset!(sk_num));
    key.extra |= u64::from(port);
    key
}

#[inline(always)]
fn mark_of(who: &Current, cookie: u64, taint: u64) -> Destination {
    Destination {
        key: mark_key(cookie),
        agent: u64::from(who.agent()),
        taint,
    }
}

#[inline(always)]
fn mark_key(cookie: u64) -> Key {
    Key {
        a: cookie,
        ..blank(action::LISTEN)
    }
}
