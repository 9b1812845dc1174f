//! Socket options and control messages that change where packets go after a hook has seen where.
use aya_ebpf::{macros::lsm, programs::LsmContext};
use syshold_abi::{Key, action, cause, hook, object};

use crate::{
    field::{Kernel, copy, load, offset},
    hooks::socket::{AF_INET, AF_INET6, IPPROTO_TCP, refuse},
    identity::{Who, current},
};

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SOL_UDP: i32 = 17;
const SOL_IPV6: i32 = 41;

/// `security_socket_setsockopt(sock, level, optname)`.
#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let Who::Governed(who) = current(hook::SOCKET_SETSOCKOPT) else {
        return 0;
    };
    let level: i32 = ctx.arg(1);
    let name: i32 = ctx.arg(2);
    if !redirects(level, name) {
        return 0;
    }
    let key = Key {
        kind: object::SOCKET,
        actions: action::CONNECT,
        b: level as u64,
        c: name as u64,
        ..Key::default()
    };
    refuse(&who, hook::SOCKET_SETSOCKOPT, key, cause::SOCKET_OPTION).code()
}

/// IPv6 routing headers need no capability; flow labels and the old packet options may hold one.
#[inline(always)]
fn redirects(level: i32, name: i32) -> bool {
    const IP_OPTIONS: i32 = 4;
    const IP_TRANSPARENT: i32 = 19;
    const IPV6_2292RTHDR: i32 = 5;
    const IPV6_2292PKTOPTIONS: i32 = 6;
    const IPV6_FLOWLABEL_MGR: i32 = 32;
    const IPV6_RTHDR: i32 = 57;
    const IPV6_TRANSPARENT: i32 = 75;
    const TCP_REPAIR: i32 = 19;
    match level {
        SOL_IP => matches!(name, IP_OPTIONS | IP_TRANSPARENT),
        SOL_IPV6 => matches!(
            name,
            IPV6_2292RTHDR
                | IPV6_2292PKTOPTIONS
                | IPV6_FLOWLABEL_MGR
                | IPV6_RTHDR
                | IPV6_TRANSPARENT
        ),
        SOL_TCP => name == TCP_REPAIR,
        _ => false,
    }
}

/// Are these control messages (the kernel's copy) of the kinds known not to redirect? TCP looks at
/// none but SOL_SOCKET's.
#[inline(always)]
pub unsafe fn harmless(sk: Kernel, msg: Kernel, len: u64) -> bool {
    const HEADER: u64 = 16;
    if sk.is_null() {
        return true;
    }
    let family: u16 = load(sk, offset!(sk_family));
    let protocol: u16 = load(sk, offset!(sk_protocol));
    if !matches!(family, AF_INET | AF_INET6) || protocol == IPPROTO_TCP {
        return true;
    }
    let mut at: u64 = load(msg, offset!(msg_control));
    let mut left = len;
    for _ in 0..8 {
        if left < HEADER {
            return true;
        }
        let Some([size, kind]) = copy(at as *const [u64; 2]) else {
            return false;
        };
        if size < HEADER || size > left || !known(kind as u32 as i32, (kind >> 32) as i32) {
            return false;
        }
        let step = (size + 7) & !7;
        if step >= left {
            return true;
        }
        left -= step;
        at += step;
    }
    false
}

#[inline(always)]
fn known(level: i32, kind: i32) -> bool {
    const IP_TOS: i32 = 1;
    const IP_TTL: i32 = 2;
    const IP_PKTINFO: i32 = 8;
    const IPV6_PKTINFO: i32 = 50;
    const IPV6_HOPLIMIT: i32 = 52;
    const IPV6_DONTFRAG: i32 = 62;
    const IPV6_TCLASS: i32 = 67;
    const UDP_SEGMENT: i32 = 103;
    match level {
        SOL_SOCKET => true,
        SOL_IP => matches!(kind, IP_TOS | IP_TTL | IP_PKTINFO),
        SOL_IPV6 => matches!(
            kind,
            IPV6_PKTINFO | IPV6_HOPLIMIT | IPV6_DONTFRAG | IPV6_TCLASS
        ),
        SOL_UDP => kind == UDP_SEGMENT,
        _ => false,
    }
}
