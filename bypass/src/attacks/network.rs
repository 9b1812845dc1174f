//! Ways out over the network, all to loopback: what comes is counted by the harness.
use super::{Message, control, local4, local6, v4, v6};
use crate::act::{Act, close};
use crate::scene::SECRET;
use crate::sys::{self, In, N, Out};

const STREAM: i32 = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
const DATAGRAM: i32 = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;

fn connect_to(act: &mut Act<'_>, family: i32, to: &[u8]) {
    let fd = act.socket(family, STREAM, 0);
    act.connect(fd, to);
    close(fd);
}

pub(crate) fn connect4(act: &mut Act<'_>) {
    connect_to(act, libc::AF_INET, &local4(act.scene.ports.tcp4));
}

pub(crate) fn connect6(act: &mut Act<'_>) {
    connect_to(act, libc::AF_INET6, &local6(act.scene.ports.tcp6));
}

pub(crate) fn connect_mapped(act: &mut Act<'_>) {
    let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    connect_to(act, libc::AF_INET6, &v6(mapped, act.scene.ports.tcp4));
}

pub(crate) fn connect_any(act: &mut Act<'_>) {
    let to = v4(libc::AF_INET, [0; 4], act.scene.ports.tcp4);
    connect_to(act, libc::AF_INET, &to);
}

pub(crate) fn connect_twice(act: &mut Act<'_>) {
    let to = local4(act.scene.ports.approved_tcp4);
    let fd = act.socket(libc::AF_INET, STREAM | libc::SOCK_NONBLOCK, 0);
    act.connect(fd, &to);
    act.connect(fd, &to);
    act.connect(fd, &to);
    close(fd);
}

/// A connect on a thread of its own, which cannot tell as it goes.
fn connect_alone(to: &[u8]) -> i64 {
    let fd = sys::call(
        libc::SYS_socket,
        &mut [N(libc::AF_INET.into()), N(STREAM.into()), N(0)],
    );
    let done = sys::call(libc::SYS_connect, &mut [N(fd), In(to), N(to.len() as i64)]);
    close(fd);
    done
}

pub(crate) fn connect_threads(act: &mut Act<'_>) {
    const EACH: usize = 40;
    let to = local4(act.scene.ports.tcp4);
    let one = move || -> Vec<i64> { (0..EACH).map(|_| connect_alone(&to)).collect() };
    let other = std::thread::spawn(one);
    let mut results = one();
    results.extend(other.join().unwrap_or_default());
    for result in results {
        act.tell("connect", result);
    }
}

pub(crate) fn connect_beside(act: &mut Act<'_>) {
    let elsewhere = local4(act.scene.ports.listen);
    let sibling = std::thread::spawn(move || connect_alone(&elsewhere));
    connect_to(act, libc::AF_INET, &local4(act.scene.ports.approved_tcp4));
    let _ = sibling.join();
}

fn send(act: &mut Act<'_>, family: i32, to: &[u8]) {
    let fd = act.socket(family, DATAGRAM, 0);
    act.send_to(fd, 0, to);
    close(fd);
}

pub(crate) fn send4(act: &mut Act<'_>) {
    send(act, libc::AF_INET, &local4(act.scene.ports.udp4));
}

pub(crate) fn send6(act: &mut Act<'_>) {
    send(act, libc::AF_INET6, &local6(act.scene.ports.udp6));
}

pub(crate) fn connect_and_send(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    act.connect(fd, &local4(act.scene.ports.udp4));
    act.send_to(fd, 0, &[]);
    close(fd);
}

pub(crate) fn send_message(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    send_with(act, fd, &local4(act.scene.ports.udp4), Vec::new());
    close(fd);
}

fn send_with(act: &mut Act<'_>, fd: i64, to: &[u8], control: Vec<u8>) -> i64 {
    let mut message = Message::new(to, control);
    let header = message.header();
    act.call(
        "sendmsg",
        libc::SYS_sendmsg,
        &mut [N(fd), In(&header), N(0)],
    )
}

/// On an AF_INET socket the kernel takes AF_UNSPEC for AF_INET.
pub(crate) fn send_unspecified(act: &mut Act<'_>) {
    let to = v4(libc::AF_UNSPEC, [127, 0, 0, 1], act.scene.ports.udp4);
    send(act, libc::AF_INET, &to);
}

pub(crate) fn connect_then_elsewhere(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    act.connect(fd, &local4(act.scene.ports.approved_udp4));
    act.send_to(fd, 0, &local4(act.scene.ports.udp4));
    close(fd);
}

pub(crate) fn send_several(act: &mut Act<'_>) {
    let ports = [act.scene.ports.approved_udp4, act.scene.ports.udp4];
    let mut messages = ports.map(|port| Message::new(&local4(port), Vec::new()));
    let mut table = Vec::new();
    for message in &mut messages {
        table.extend(message.header());
        table.extend([0u8; 8]);
    }
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    act.call(
        "sendmmsg",
        libc::SYS_sendmmsg,
        &mut [N(fd), Out(&mut table), N(2), N(0)],
    );
    // What is left over after a partial send is sent again, as programs do.
    let rest = &mut table[64..];
    act.call(
        "sendmmsg",
        libc::SYS_sendmmsg,
        &mut [N(fd), Out(rest), N(1), N(0)],
    );
    close(fd);
}

pub(crate) fn fast_open(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, STREAM, 0);
    act.send_to(fd, libc::MSG_FASTOPEN, &local4(act.scene.ports.tcp4));
    close(fd);
}

/// A routing header of type 2 (mobile IPv6): its one address replaces the destination.
fn routing_header() -> [u8; 24] {
    let mut header = [0u8; 24];
    header[1] = 2;
    header[2] = 2;
    header[3] = 1;
    header[8..].copy_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());
    header
}

pub(crate) fn set_option(act: &mut Act<'_>, fd: i64, level: i32, name: i32, value: &[u8]) -> i64 {
    act.call(
        "setsockopt",
        libc::SYS_setsockopt,
        &mut [
            N(fd),
            N(level.into()),
            N(name.into()),
            In(value),
            N(value.len() as i64),
        ],
    )
}

pub(crate) fn routing_option(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET6, DATAGRAM, 0);
    let header = routing_header();
    let done = set_option(act, fd, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header);
    act.did(done == 0);
    close(fd);
}

/// A loose source route by way of 127.0.0.1.
const SOURCE_ROUTE: [u8; 8] = [131, 7, 4, 127, 0, 0, 1, 0];

pub(crate) fn ip_options(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    let done = set_option(act, fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &SOURCE_ROUTE);
    act.did(done == 0);
    close(fd);
}

pub(crate) fn transparent(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    let on = 1i32.to_ne_bytes();
    let done = set_option(act, fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &on);
    act.did(done == 0);
    close(fd);
}

pub(crate) fn routing_message(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET6, DATAGRAM, 0);
    let control = control(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &routing_header());
    let done = send_with(act, fd, &local6(act.scene.ports.approved_udp6), control);
    act.did(done >= 0);
    close(fd);
}

pub(crate) fn options_message(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    let control = control(libc::IPPROTO_IP, libc::IP_RETOPTS, &SOURCE_ROUTE);
    let done = send_with(act, fd, &local4(act.scene.ports.approved_udp4), control);
    act.did(done >= 0);
    close(fd);
}

/// A socket of this kind is all that is wanted.
fn only_socket(act: &mut Act<'_>, family: i32, kind: i32, protocol: i32) {
    let fd = act.socket(family, kind, protocol);
    act.did(fd >= 0);
    close(fd);
}

pub(crate) fn raw(act: &mut Act<'_>) {
    only_socket(act, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
}

pub(crate) fn packet(act: &mut Act<'_>) {
    only_socket(act, libc::AF_PACKET, libc::SOCK_RAW, 0);
}

pub(crate) fn mptcp(act: &mut Act<'_>) {
    only_socket(act, libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP);
}

pub(crate) fn sctp(act: &mut Act<'_>) {
    only_socket(act, libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP);
}

pub(crate) fn vsock(act: &mut Act<'_>) {
    only_socket(act, libc::AF_VSOCK, libc::SOCK_STREAM, 0);
}

pub(crate) fn algorithm(act: &mut Act<'_>) {
    only_socket(act, libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
}

pub(crate) fn express(act: &mut Act<'_>) {
    only_socket(act, libc::AF_XDP, libc::SOCK_RAW, 0);
}

/// Waits for the harness to connect.
pub(crate) fn listen(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, STREAM, 0);
    let on = 1i32.to_ne_bytes();
    set_option(act, fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on);
    let own = v4(libc::AF_INET, [0; 4], act.scene.ports.listen);
    act.call("bind", libc::SYS_bind, &mut [N(fd), In(&own), N(16)]);
    if act.call("listen", libc::SYS_listen, &mut [N(fd), N(8)]) == 0 {
        let mut wanted = [0u8; 8];
        wanted[..4].copy_from_slice(&(fd as i32).to_ne_bytes());
        wanted[4] = libc::POLLIN as u8;
        let waited = act.call(
            "poll",
            libc::SYS_poll,
            &mut [Out(&mut wanted), N(1), N(2000)],
        );
        if waited == 1 {
            let accepted = act.call("accept4", libc::SYS_accept4, &mut [N(fd), N(0), N(0), N(0)]);
            act.call(
                "write",
                libc::SYS_write,
                &mut [N(accepted), In(b"attack"), N(6)],
            );
            close(accepted);
        }
    }
    close(fd);
}

/// Nobody is to answer: what a name carries out is in the question.
pub(crate) fn resolver(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_INET, DATAGRAM, 0);
    let done = act.send_to(fd, 0, &v4(libc::AF_INET, [127, 0, 0, 53], 53));
    act.did(done >= 0);
    close(fd);
}

/// Any file that is not protected.
fn something(act: &mut Act<'_>) -> i64 {
    let path = act.scene.sibling.join(SECRET);
    act.open(&path, libc::O_RDONLY)
}

pub(crate) fn sendfile_inherited(act: &mut Act<'_>) {
    let (from, to) = (something(act), i64::from(act.inherited.stream));
    act.call(
        "sendfile",
        libc::SYS_sendfile,
        &mut [N(to), N(from), N(0), N(6)],
    );
}

pub(crate) fn splice_inherited(act: &mut Act<'_>) {
    let (from, to) = act.pipe();
    act.call("write", libc::SYS_write, &mut [N(to), In(b"attack"), N(6)]);
    let into = i64::from(act.inherited.stream);
    act.call(
        "splice",
        libc::SYS_splice,
        &mut [N(from), N(0), N(into), N(0), N(6), N(0)],
    );
}

pub(crate) fn write_inherited(act: &mut Act<'_>) {
    let to = i64::from(act.inherited.stream);
    act.call("write", libc::SYS_write, &mut [N(to), In(b"attack"), N(6)]);
}

pub(crate) fn send_given(act: &mut Act<'_>) {
    let to = i64::from(act.given.stream);
    act.send_to(to, 0, &[]);
}
