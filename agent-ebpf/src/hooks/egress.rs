//! The last look at what leaves: a packet that names stations on its way goes elsewhere than any hook
//! has seen. Packets with IPv4 options or an IPv6 routing header are dropped when the governed have
//! used their socket, whoever set it up.
use aya_ebpf::{
    EbpfContext, helpers::bpf_get_socket_cookie, macros::cgroup_skb, programs::SkBuffContext,
};
use syshold_abi::{Event, Key, action, cause, count, event, hook, object};

use crate::{
    identity::note,
    maps::{GOVERNED_SOCKETS, STREAMS},
    tell::{bump, emit_denied},
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// `cgroup_skb/egress` of the root cgroup.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    // The governed may not set options, and who sets some for them sets these.
    let routed = match ctx.load::<u8>(0).map(|first| (first >> 4, first & 0xf)) {
        Ok((4, words)) => words > 5,
        Ok((6, _)) => routed_v6(&ctx),
        _ => false,
    };
    match routed {
        true => judge(&ctx),
        false => PASS,
    }
}

/// A routing header, behind headers that may precede it.
#[inline(always)]
fn routed_v6(ctx: &SkBuffContext) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    const NEXT_HEADER: usize = 6;
    let mut at = 40;
    let Ok(mut next) = ctx.load::<u8>(NEXT_HEADER) else {
        return true;
    };
    for _ in 0..4 {
        match next {
            ROUTING => return true,
            HOP_BY_HOP | DESTINATION => {}
            _ => return false,
        }
        let Ok([following, words]) = ctx.load::<[u8; 2]>(at) else {
            return true;
        };
        next = following;
        at += (usize::from(words) + 1) * 8;
    }
    true
}

#[inline(always)]
fn judge(ctx: &SkBuffContext) -> i32 {
    // SAFETY: the context of this program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: words of map values.
    let stream = STREAMS
        .get_ptr(&cookie)
        .map(|stream| unsafe { (*stream).place.agent as u32 });
    let other = || {
        GOVERNED_SOCKETS
            .get_ptr(&cookie)
            .map(|agent| unsafe { *agent })
    };
    let Some(agent) = stream.or_else(other) else {
        return PASS;
    };
    if agent == u32::MAX {
        note(hook::EGRESS);
        return PASS;
    }
    bump(count::DENIED + cause::SOCKET_OPTION);
    emit_denied(&Event {
        kind: event::DENIED,
        agent,
        cause: cause::SOCKET_OPTION,
        hook: hook::EGRESS,
        key: Key {
            kind: object::SOCKET,
            actions: action::SEND,
            a: cookie,
            ..Key::default()
        },
        ..Event::default()
    });
    DROP
}
