//! Sockets of programs on this host that are not governed: they do what they are asked to.
use std::path::Path;

use crate::act::{Act, close};
use crate::sys::{self, In};

/// `sockaddr_un`.
fn address(name: &[u8]) -> Vec<u8> {
    let mut out = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    out.extend(name);
    out
}

fn of_path(path: &Path) -> Vec<u8> {
    address(&sys::path(path))
}

fn connect_to(act: &mut Act<'_>, to: &[u8]) -> i64 {
    let fd = act.socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
    let done = act.connect(fd, to);
    close(fd);
    done
}

pub(crate) fn connect(act: &mut Act<'_>) {
    connect_to(act, &of_path(&act.scene.unix));
}

pub(crate) fn datagram(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    act.send_to(fd, 0, &of_path(&act.scene.unix_datagram));
    close(fd);
}

pub(crate) fn connected_datagram(act: &mut Act<'_>) {
    let fd = act.socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    act.connect(fd, &of_path(&act.scene.unix_datagram));
    act.send_to(fd, 0, &[]);
    close(fd);
}

pub(crate) fn by_link(act: &mut Act<'_>) {
    let link = act.scene.open.join("socket-link");
    act.call(
        "symlink",
        libc::SYS_symlink,
        &mut [In(&sys::path(&act.scene.unix)), In(&sys::path(&link))],
    );
    connect_to(act, &of_path(&link));
}

pub(crate) fn relative(act: &mut Act<'_>) {
    let scene = act.scene;
    let (Some(folder), Some(name)) = (scene.unix.parent(), scene.unix.file_name()) else {
        return;
    };
    act.call("chdir", libc::SYS_chdir, &mut [In(&sys::path(folder))]);
    connect_to(act, &of_path(Path::new(name)));
}

/// The harness has mounted it there.
pub(crate) fn by_bind(act: &mut Act<'_>) {
    let Some(name) = act.scene.unix.file_name() else {
        return;
    };
    let path = act.scene.open.join("bind-sockets").join(name);
    connect_to(act, &of_path(&path));
}

pub(crate) fn abstract_name(act: &mut Act<'_>) {
    let name = [b"\0", act.scene.abstract_name.as_bytes()].concat();
    connect_to(act, &address(&name));
}

/// Whoever is there: connecting is all that is wanted.
fn reach(act: &mut Act<'_>, path: &str) {
    let path = Path::new(path);
    if !path.exists() {
        return act.not_applicable(format!("no {} here", path.display()));
    }
    let done = connect_to(act, &of_path(path));
    act.did(done == 0);
}

pub(crate) fn bus(act: &mut Act<'_>) {
    reach(act, "/run/dbus/system_bus_socket");
}

pub(crate) fn systemd(act: &mut Act<'_>) {
    reach(act, "/run/systemd/private");
}

pub(crate) fn varlink(act: &mut Act<'_>) {
    let there = [
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/systemd/userdb/io.systemd.DynamicUser",
        "/run/systemd/io.systemd.ManagedOOM",
    ];
    let found = there.iter().find(|path| Path::new(path).exists());
    reach(act, found.unwrap_or(&there[0]));
}
