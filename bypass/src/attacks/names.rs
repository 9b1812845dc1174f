//! Names: a file that leaves the protected folder, or a folder that is put in its place.
use std::path::Path;

use super::files;
use crate::act::{Act, close};
use crate::scene::{FOLDER, SCRIPT, SECRET};
use crate::sys::{self, In, N};

const HERE: i64 = libc::AT_FDCWD as i64;

fn link(act: &mut Act<'_>, from: &Path, to: &Path) -> i64 {
    let (from, to) = (sys::path(from), sys::path(to));
    act.call("link", libc::SYS_link, &mut [In(&from), In(&to)])
}

fn rename(act: &mut Act<'_>, from: &Path, to: &Path, flags: u32) -> i64 {
    let (from, to) = (sys::path(from), sys::path(to));
    act.call(
        "renameat2",
        libc::SYS_renameat2,
        &mut [N(HERE), In(&from), N(HERE), In(&to), N(flags.into())],
    )
}

pub(crate) fn link_out(act: &mut Act<'_>) {
    let out = act.scene.open.join("stolen");
    link(act, &act.scene.protected.join(SECRET), &out);
    act.open_and_read(&out);
}

pub(crate) fn linked_before(act: &mut Act<'_>) {
    files::linked_before(act);
}

pub(crate) fn rename_out(act: &mut Act<'_>) {
    let out = act.scene.open.join("stolen");
    rename(act, &act.scene.protected.join(SECRET), &out, 0);
    act.open_and_read(&out);
}

pub(crate) fn exchange(act: &mut Act<'_>) {
    let out = act.scene.open.join("mine");
    let fd = act.open(&out, libc::O_WRONLY | libc::O_CREAT);
    close(fd);
    let secret = act.scene.protected.join(SECRET);
    rename(act, &secret, &out, libc::RENAME_EXCHANGE);
    act.open_and_read(&out);
}

pub(crate) fn rename_root(act: &mut Act<'_>) {
    let out = act.scene.open.join("moved-root");
    rename(act, &act.scene.protected, &out, 0);
    act.open_and_read(&out.join(SECRET));
}

pub(crate) fn rename_folder(act: &mut Act<'_>) {
    let out = act.scene.open.join("moved-folder");
    rename(act, &act.scene.protected.join(FOLDER), &out, 0);
    act.open_and_read(&out.join(SECRET));
}

pub(crate) fn rename_in(act: &mut Act<'_>) {
    let mine = act.scene.open.join("mine");
    let fd = act.open(&mine, libc::O_WRONLY | libc::O_CREAT);
    close(fd);
    rename(act, &mine, &act.scene.protected.join(SCRIPT), 0);
}

pub(crate) fn unlink(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join(SCRIPT));
    act.call("unlink", libc::SYS_unlink, &mut [In(&path)]);
}

pub(crate) fn make_folder(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join("fresh"));
    act.call("mkdir", libc::SYS_mkdir, &mut [In(&path), N(0o755)]);
}

pub(crate) fn make_symlink(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join("fresh"));
    act.call("symlink", libc::SYS_symlink, &mut [In(b"/\0"), In(&path)]);
}

pub(crate) fn make_node(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join("fresh"));
    let mode = i64::from(libc::S_IFIFO | 0o644);
    act.call("mknod", libc::SYS_mknod, &mut [In(&path), N(mode), N(0)]);
}

pub(crate) fn remove_folder(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join("empty"));
    act.call("rmdir", libc::SYS_rmdir, &mut [In(&path)]);
}

pub(crate) fn change_mode(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join(SECRET));
    act.call("chmod", libc::SYS_chmod, &mut [In(&path), N(0o777)]);
}

pub(crate) fn change_attribute(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected.join(SECRET));
    let done = act.call(
        "setxattr",
        libc::SYS_setxattr,
        &mut [In(&path), In(b"user.attack\0"), In(b"x"), N(1), N(0)],
    );
    if done == -i64::from(libc::EOPNOTSUPP) {
        act.not_applicable("this file system has no attributes");
    }
}

pub(crate) fn link_in(act: &mut Act<'_>) {
    let mine = act.scene.open.join("mine");
    let fd = act.open(&mine, libc::O_WRONLY | libc::O_CREAT);
    close(fd);
    link(act, &mine, &act.scene.protected.join("fresh"));
}

pub(crate) fn nameless(act: &mut Act<'_>) {
    let fd = act.open(&act.scene.open, libc::O_TMPFILE | libc::O_WRONLY);
    let from = sys::path(Path::new(&format!("/proc/self/fd/{fd}")));
    let to = sys::path(&act.scene.protected.join("fresh"));
    let follow = libc::AT_SYMLINK_FOLLOW.into();
    act.call(
        "linkat",
        libc::SYS_linkat,
        &mut [N(HERE), In(&from), N(HERE), In(&to), N(follow)],
    );
}

pub(crate) fn write_map(act: &mut Act<'_>) {
    let fd = i64::from(act.inherited.file);
    let both = i64::from(libc::PROT_READ | libc::PROT_WRITE);
    let shared = libc::MAP_SHARED.into();
    let at = act.call(
        "mmap",
        libc::SYS_mmap,
        &mut [N(0), N(4096), N(both), N(shared), N(fd), N(0)],
    );
    if at > 0 {
        // SAFETY: a page that the kernel has just mapped, writable; the file has a byte.
        unsafe { (at as *mut u8).write_volatile(b'X') };
    }
}
