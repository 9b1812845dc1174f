//! Outbound: sockets that can be governed, connects, and datagrams with an address.
use aya_ebpf::{helpers::bpf_get_socket_cookie, macros::lsm, programs::LsmContext};
use syshold_abi::{Key, action, cause, hook, object};

use crate::{
    decide::{Answer, Display, What, decide, deny},
    field::{Kernel, copy, load, offset},
    identity::{Current, Who, current, taint},
    maps::{Destination, SOCKETS},
};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const IPPROTO_TCP: i32 = 6;
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
    const SOCK_TYPE_MASK: i32 = 0xf;
    let kind = (kind & SOCK_TYPE_MASK) as u16;
    let governable = match family as u16 {
        _ if kern != 0 => true,
        AF_UNIX => true,
        AF_INET | AF_INET6 => match kind {
            SOCK_STREAM => matches!(protocol, 0 | IPPROTO_TCP),
            SOCK_DGRAM => matches!(protocol, 0 | IPPROTO_UDP),
            _ => false,
        },
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
    let Who::Governed(who) = current(hook::SOCKET_CONNECT) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    let address: *const u8 = ctx.arg(1);
    let len: i32 = ctx.arg(2);
    // SAFETY: by the hook's prototype.
    unsafe {
        outbound(
            &who,
            hook::SOCKET_CONNECT,
            action::CONNECT,
            socket,
            address,
            len as u32,
        )
    }
    .code()
}

/// `security_socket_sendmsg(sock, msg, size)`: UDP with an address, TCP Fast Open.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    const MSG_FASTOPEN: u32 = 0x2000_0000;
    let Who::Governed(who) = current(hook::SOCKET_SENDMSG) else {
        return 0;
    };
    let socket: Kernel = ctx.arg(0);
    let msg: Kernel = ctx.arg(1);
    // SAFETY: a socket and a msghdr, by the hook's prototype.
    unsafe {
        let address: u64 = load(msg, offset!(msg_name));
        let len: u32 = load(msg, offset!(msg_namelen));
        let flags: u32 = load(msg, offset!(msg_flags));
        let kind: u16 = load(socket, offset!(sock_type));
        if address == 0 || len == 0 {
            return 0;
        }
        let act = match kind {
            SOCK_DGRAM => action::SEND,
            SOCK_STREAM if flags & MSG_FASTOPEN != 0 => action::CONNECT,
            // A stream ignores the address.
            SOCK_STREAM => return 0,
            _ => action::SEND,
        };
        outbound(
            &who,
            hook::SOCKET_SENDMSG,
            act,
            socket,
            address as *const u8,
            len,
        )
    }
    .code()
}

#[inline(always)]
fn refuse(who: &Current, hook: u32, key: Key, why: u32) -> Answer {
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

/// Where to, in one form for IPv4, mapped and IPv6, and then the decision.
#[inline(always)]
unsafe fn outbound(
    who: &Current,
    hook: u32,
    act: u32,
    socket: Kernel,
    address: *const u8,
    len: u32,
) -> Answer {
    let sk: Kernel = load(socket, offset!(sock_sk));
    if sk.is_null() {
        return Answer::Go;
    }
    let own: u16 = load(sk, offset!(sk_family));
    if matches!(own, AF_UNIX | AF_NETLINK) {
        return Answer::Go;
    }
    let mut key = Key {
        kind: object::SOCKET,
        actions: act,
        ..Key::default()
    };
    let Some(family) = copy(address.cast::<u16>()) else {
        return refuse(who, hook, key, cause::UNREADABLE);
    };
    let family = match family {
        // connect(AF_UNSPEC) dissolves an association; a datagram to AF_UNSPEC goes to AF_INET.
        AF_UNSPEC if hook == hook::SOCKET_CONNECT => return Answer::Go,
        AF_UNSPEC => AF_INET,
        family => family,
    };
    match family {
        AF_INET if len >= 16 => {
            let Some(raw) = copy(address.cast::<[u16; 4]>()) else {
                return refuse(who, hook, key, cause::UNREADABLE);
            };
            let ip = u32::from_be(u32::from(raw[2]) | u32::from(raw[3]) << 16);
            key.c = MAPPED | u64::from(normal_v4(ip));
            key.extra = u64::from(u16::from_be(raw[1]));
        }
        AF_INET6 if len >= 24 => {
            let Some(raw) = copy(address.cast::<[u64; 3]>()) else {
                return refuse(who, hook, key, cause::UNREADABLE);
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
        _ => return refuse(who, hook, key, cause::UNREADABLE),
    }
    let protocol: u16 = load(sk, offset!(sk_protocol));
    key.extra |= u64::from(protocol) << 16;
    key.a = bpf_get_socket_cookie(sk.cast_mut());
    let what = What {
        hook,
        key,
        classes: 0,
        glob: 0,
    };
    let destination = Destination {
        key,
        agent: u64::from(who.agent()),
        taint: taint(who),
    };
    decide(
        who,
        &what,
        Display::None,
        || SOCKETS.get_ptr(&destination).is_some(),
        || {
            let _ = SOCKETS.insert(&destination, &1, 0);
        },
    )
}

/// The kernel connects 0.0.0.0 to the loopback address.
#[inline(always)]
fn normal_v4(ip: u32) -> u32 {
    if ip == 0 { 0x7f00_0001 } else { ip }
}
