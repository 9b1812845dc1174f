//! Outbound: sockets that can be governed, connects, and everything that is sent, also on sockets
//! that came connected (inherited, received) and by splice.
use aya_ebpf::{
    helpers::{bpf_get_socket_cookie, generated::bpf_sock_from_file},
    macros::lsm,
    programs::LsmContext,
};
use syshold_abi::{Key, action, cause, hook, object};

use crate::{
    decide::{Answer, Display, What, decide_carrying, deny},
    field::{Kernel, copy, load, offset},
    hooks::{exec::is_privileged, listen, option},
    identity::{Current, Who, current, part_asked_after, taint},
    maps::{DAEMON, Destination, GOVERNED_SOCKETS, SOCKETS, STREAMS, Stream},
};

const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
pub const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: i32 = 17;
/// ::ffff:0:0/96, low half.
const MAPPED: u64 = 0xffff_0000_0000;

/// `security_socket_create(family, type, protocol, kern)`.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_CREATE) else {
        return 0;
    };
    let family: i32 = ctx.arg(0);
    let kind: i32 = ctx.arg(1);
    let protocol: i32 = ctx.arg(2);
    let kern: i32 = ctx.arg(3);
    const NETLINK_ROUTE: i32 = 0;
    const NETLINK_AUDIT: i32 = 9;
    const SOCK_TYPE_MASK: i32 = 0xf;
    const TCP: i32 = IPPROTO_TCP as i32;
    let kind = (kind & SOCK_TYPE_MASK) as u16;
    let governable = match family as u16 {
        _ if kern != 0 => true,
        AF_UNIX => true,
        AF_INET | AF_INET6 => match kind {
            SOCK_STREAM => matches!(protocol, 0 | TCP),
            SOCK_DGRAM => matches!(protocol, 0 | IPPROTO_UDP),
            _ => false,
        },
        // sudo and su refuse to work where they cannot say so to the audit system.
        // SAFETY: reads a map.
        AF_NETLINK if protocol == NETLINK_AUDIT => unsafe { is_privileged(&who) },
        AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    };
    if governable {
        return 0;
    }
    let key = Key {
        kind: object::SOCKET,
        actions: action::CONNECT,
        a: family as u64,
        b: u64::from(kind),
        c: protocol as u64,
        extra: 0,
    };
    refuse(&who, hook::SOCKET_CREATE, key, cause::SOCKET_TYPE).code()
}

/// `security_socket_connect(sock, address, addrlen)`: the address is the kernel's copy.
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let socket: Kernel = ctx.arg(0);
    // SAFETY: by the hook's prototype.
    unsafe {
        match current(hook::SOCKET_CONNECT) {
            Who::Ungoverned => 0,
            Who::Daemon => {
                // For the canary of `egress`.
                mark(load(socket, offset!(sock_sk)));
                0
            }
            Who::Governed(who) => {
                let address: *const u8 = ctx.arg(1);
                let len: i32 = ctx.arg(2);
                let sk: Kernel = load(socket, offset!(sock_sk));
                let found = to_address(&who, action::CONNECT, sk, address, len as u32, true);
                answer(&who, hook::SOCKET_CONNECT, found).code()
            }
        }
    }
}

/// `security_socket_sendmsg(sock, msg, size)`: whatever is sent by send, write and their kin.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_SENDMSG) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    let msg: Kernel = ctx.arg(1);
    // SAFETY: a socket and a msghdr, by the hook's prototype.
    unsafe { sent(&who, socket, msg) }.code()
}

#[inline(always)]
unsafe fn sent(who: &Current, socket: Kernel, msg: Kernel) -> Answer {
    if is_kernels(socket) {
        return Answer::Go;
    }
    let sk: Kernel = load(socket, offset!(sock_sk));
    let controls: u64 = load(msg, offset!(msg_controllen));
    if controls != 0 && !option::harmless(sk, msg, controls) {
        return answer(
            who,
            hook::SOCKET_SENDMSG,
            Finding::Refused(blank(action::SEND), cause::SOCKET_OPTION),
        );
    }
    let found = sending(who, socket, sk, msg);
    answer(who, hook::SOCKET_SENDMSG, found)
}

#[inline(always)]
unsafe fn sending(who: &Current, socket: Kernel, sk: Kernel, msg: Kernel) -> Finding {
    const MSG_FASTOPEN: u32 = 0x2000_0000;
    let address: u64 = load(msg, offset!(msg_name));
    let len: u32 = load(msg, offset!(msg_namelen));
    let flags: u32 = load(msg, offset!(msg_flags));
    let kind: u16 = load(socket, offset!(sock_type));
    let streams = kind == SOCK_STREAM;
    // A stream ignores the address, unless it connects by sending.
    if address == 0 || len == 0 || (streams && flags & MSG_FASTOPEN == 0) {
        return to_peer(who, sk, kind);
    }
    let act = if streams {
        action::CONNECT
    } else {
        action::SEND
    };
    to_address(who, act, sk, address as *const u8, len, false)
}

/// sendfile and splice into a socket: before 6.5 they pass `socket_sendmsg` by.
#[inline(always)]
pub unsafe fn spliced(who: &Current, file: Kernel) -> Answer {
    let socket: Kernel = bpf_sock_from_file(file.cast_mut().cast())
        .cast_const()
        .cast();
    if socket.is_null() || is_kernels(socket) {
        return Answer::Go;
    }
    let sk: Kernel = load(socket, offset!(sock_sk));
    let kind: u16 = load(socket, offset!(sock_type));
    answer(who, hook::FILE_PERMISSION, to_peer(who, sk, kind))
}

/// A socket without a file is the kernel's own (NFS, CIFS), whoever's syscall it works for.
#[inline(always)]
pub unsafe fn is_kernels(socket: Kernel) -> bool {
    load::<u64>(socket, offset!(sock_file)) == 0
}

#[inline(always)]
pub fn refuse(who: &Current, hook: u32, key: Key, why: u32) -> Answer {
    deny(
        who,
        &What {
            hook,
            key,
            classes: 0,
            glob: 0,
        },
        why,
    )
}

/// What a hook made of a socket's operation.
pub enum Finding {
    Free,
    Refused(Key, u32),
    /// To be decided, and remembered as this place. `lasting`: an established connection that a
    /// rule or a verdict allowed once stays allowed until a rule denies it. `carried`: what the
    /// process has read.
    Judged {
        key: Key,
        place: Destination,
        lasting: bool,
        carried: u64,
    },
}

/// Sent without an address: fine where this socket may go already, else asked as if it connected
/// now. So inherited and received sockets are asked about, and all of them after a read.
#[inline(always)]
unsafe fn to_peer(who: &Current, sk: Kernel, kind: u16) -> Finding {
    const TCP_CLOSE: u8 = 7;
    const TCP_LISTEN: u8 = 10;
    if sk.is_null() {
        return Finding::Free;
    }
    let family: u16 = load(sk, offset!(sk_family));
    if matches!(family, AF_UNIX | AF_NETLINK) {
        return Finding::Free;
    }
    let mut key = blank(action::CONNECT);
    if !matches!(family, AF_INET | AF_INET6) {
        key.a = u64::from(family);
        return Finding::Refused(key, cause::SOCKET_TYPE);
    }
    let state: u8 = load(sk, offset!(sk_state));
    if matches!(state, TCP_CLOSE | TCP_LISTEN) {
        // Nowhere to go: the syscall fails by itself.
        return Finding::Free;
    }
    let port: u16 = load(sk, offset!(sk_dport));
    addresses(
        &mut key,
        sk,
        family,
        offset!(sk_daddr),
        offset!(sk_v6_daddr),
    );
    key.extra |= u64::from(u16::from_be(port));
    let carried = taint(who);
    let mut place = destination(who, key, carried);
    if fresh(&place) {
        return Finding::Free;
    }
    if kind == SOCK_STREAM {
        if listen::accepted(&mut place, sk, &mut key) {
            if is_loopback(&key) || fresh(&place) {
                return Finding::Free;
            }
        }
    } else {
        // A datagram socket was connected, or has sent there before.
        let may = remembered(&place).is_some();
        key.actions = action::SEND;
        place.key.actions = action::SEND;
        if fresh(&place) {
            return Finding::Free;
        }
        if may && remembered(&place).is_none() {
            note(&place, 0);
        }
    }
    Finding::Judged {
        key,
        place,
        lasting: true,
        carried,
    }
}

/// Cookie, protocol, and the address at one of the two places, its port left out.
#[inline(always)]
pub unsafe fn addresses(key: &mut Key, sk: Kernel, family: u16, v4: u32, v6: u32) {
    if family == AF_INET {
        let ip: u32 = load(sk, v4);
        key.c = MAPPED | u64::from(u32::from_be(ip));
    } else {
        let hi: u64 = load(sk, v6);
        let lo: u64 = load(sk, v6 + 8);
        key.b = u64::from_be(hi);
        key.c = u64::from_be(lo);
    }
    let protocol: u16 = load(sk, offset!(sk_protocol));
    key.extra = u64::from(protocol) << 16;
    key.a = bpf_get_socket_cookie(sk.cast_mut());
}

/// Where to, in one form for IPv4, mapped and IPv6.
#[inline(always)]
unsafe fn to_address(
    who: &Current,
    act: u32,
    sk: Kernel,
    address: *const u8,
    len: u32,
    connects: bool,
) -> Finding {
    if sk.is_null() {
        return Finding::Free;
    }
    let own: u16 = load(sk, offset!(sk_family));
    if matches!(own, AF_UNIX | AF_NETLINK) {
        return Finding::Free;
    }
    let mut key = blank(act);
    // The kernel's copy has room for the longest address, whatever its length.
    let Some(raw) = copy(address.cast::<[u16; 4]>()) else {
        return Finding::Refused(key, cause::UNREADABLE);
    };
    let family = match raw[0] {
        // connect(AF_UNSPEC) dissolves an association; a datagram to AF_UNSPEC goes to AF_INET.
        AF_UNSPEC if connects => return Finding::Free,
        AF_UNSPEC => AF_INET,
        family => family,
    };
    match family {
        AF_INET if len >= 16 => {
            let ip = u32::from_be(u32::from(raw[2]) | u32::from(raw[3]) << 16);
            key.c = MAPPED | u64::from(normal_v4(ip));
            key.extra = u64::from(u16::from_be(raw[1]));
        }
        AF_INET6 if len >= 24 => {
            let Some(raw) = copy(address.cast::<[u64; 3]>()) else {
                return Finding::Refused(key, cause::UNREADABLE);
            };
            key.b = u64::from_be(raw[1]);
            key.c = u64::from_be(raw[2]);
            key.extra = u64::from(u16::from_be((raw[0] >> 16) as u16));
            if key.b == 0 && key.c == 0 {
                key.c = 1;
            } else if key.b == 0 && key.c >> 32 == MAPPED >> 32 {
                key.c = MAPPED | u64::from(normal_v4(key.c as u32));
            }
        }
        _ => return Finding::Refused(key, cause::UNREADABLE),
    }
    let protocol: u16 = load(sk, offset!(sk_protocol));
    key.extra |= u64::from(protocol) << 16;
    key.a = bpf_get_socket_cookie(sk.cast_mut());
    let carried = taint(who);
    Finding::Judged {
        key,
        place: destination(who, key, carried),
        lasting: false,
        carried,
    }
}

#[inline(always)]
pub fn blank(actions: u32) -> Key {
    Key {
        kind: object::SOCKET,
        actions,
        ..Key::default()
    }
}

#[inline(always)]
unsafe fn destination(who: &Current, key: Key, carried: u64) -> Destination {
    Destination {
        key,
        agent: u64::from(who.agent()),
        taint: part_asked_after(who, carried),
    }
}

/// The one decision of a hook, so that the verifier walks through it once.
#[inline(always)]
pub unsafe fn answer(who: &Current, hook: u32, found: Finding) -> Answer {
    let (key, place, lasting, carried) = match found {
        Finding::Free => return Answer::Go,
        Finding::Refused(key, why) => return refuse(who, hook, key, why),
        Finding::Judged {
            key,
            place,
            lasting,
            carried,
        } => (key, place, lasting, carried),
    };
    let what = What {
        hook,
        key,
        classes: 0,
        glob: 0,
    };
    let before = remembered(&place).unwrap_or(NEVER);
    let known = before != NEVER && (lasting || before & 1 == 1);
    let mut verdict = if before == NEVER { 0 } else { before & 1 };
    let answer = decide_carrying(who, &what, Display::None, carried, || known, || verdict = 1);
    if answer == Answer::Go {
        remember(&place, before, verdict);
    }
    answer
}

/// Allowed under the policy in force.
#[inline(always)]
pub unsafe fn fresh(place: &Destination) -> bool {
    remembered(place).is_some_and(|before| before >> 1 == generation())
}

/// Does this place belong into `STREAMS`, if it is its socket's first?
#[inline(always)]
fn is_stream(place: &Destination) -> bool {
    place.key.actions == action::CONNECT && place.key.extra >> 16 == u64::from(IPPROTO_TCP)
}

/// What was noted of a place. A socket that has none in `STREAMS` has no other either, unless it was
/// evicted.
#[inline(always)]
unsafe fn remembered(place: &Destination) -> Option<u64> {
    if is_stream(place) {
        let stream = STREAMS.get_ptr(&place.key.a)?;
        if (*stream).place == *place {
            return Some((*stream).value);
        }
    }
    SOCKETS.get_ptr(place).map(|before| *before)
}

/// Remembers a place as allowed; a verdict stays one.
#[inline(always)]
pub unsafe fn note(place: &Destination, verdict: u64) {
    remember(place, remembered(place).unwrap_or(NEVER), verdict);
}

/// No place is noted with this: generations are shorter. Not an `Option`, whose other half the
/// compiler may keep uninitialised on the stack, which the verifier refuses.
const NEVER: u64 = u64::MAX;

/// The same; `before`: what was noted of it, or `NEVER`.
#[inline(always)]
unsafe fn remember(place: &Destination, before: u64, verdict: u64) {
    let value = generation() << 1 | verdict;
    if before == value {
        return;
    }
    let cookie = place.key.a;
    if is_stream(place) {
        let first = STREAMS.get_ptr(&cookie);
        if first.is_none_or(|first| (*first).place == *place) {
            let place = *place;
            let _ = STREAMS.insert(&cookie, &Stream { place, value }, 0);
            return;
        }
    }
    let _ = SOCKETS.insert(place, &value, 0);
    if GOVERNED_SOCKETS.get_ptr(&cookie).is_none() {
        let _ = GOVERNED_SOCKETS.insert(&cookie, &(place.agent as u32), 0);
    }
}

/// The daemon's: `egress` tells it from the governed by this.
#[inline(always)]
unsafe fn mark(sk: Kernel) {
    if sk.is_null() {
        return;
    }
    let cookie = bpf_get_socket_cookie(sk.cast_mut());
    let _ = GOVERNED_SOCKETS.insert(&cookie, &u32::MAX, 0);
}

#[inline(always)]
unsafe fn generation() -> u64 {
    DAEMON
        .get_ptr(0)
        .map_or(0, |daemon| u64::from((*daemon).generation))
}

/// 127.0.0.0/8 and ::1.
#[inline(always)]
pub fn is_loopback(key: &Key) -> bool {
    key.b == 0 && (key.c == 1 || key.c >> 24 == 0xffff_7f)
}

/// The kernel connects 0.0.0.0 to the loopback address.
#[inline(always)]
fn normal_v4(ip: u32) -> u32 {
    if ip == 0 { 0x7f00_0001 } else { ip }
}
