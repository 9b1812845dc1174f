//! Ways to the bytes of a protected file, and to change them.
use std::path::Path;

use crate::act::{Act, close};
use crate::scene::{APPROVED, FOLDER, LINKED, SCRIPT, SECRET};
use crate::sys::{self, In, N, Out};

fn secret(act: &Act<'_>) -> std::path::PathBuf {
    act.scene.protected.join(SECRET)
}

pub(crate) fn open(act: &mut Act<'_>) {
    let path = sys::path(&secret(act));
    let fd = act.call("open", libc::SYS_open, &mut [In(&path), N(0), N(0)]);
    act.read(fd);
}

pub(crate) fn openat(act: &mut Act<'_>) {
    let folder = act.open(&act.scene.protected, libc::O_PATH | libc::O_DIRECTORY);
    let fd = act.open_at(folder as i32, Path::new(SECRET), libc::O_RDONLY);
    act.read(fd);
}

pub(crate) fn openat2(act: &mut Act<'_>) {
    let path = sys::path(&secret(act));
    // struct open_how: flags, mode, resolve.
    let how = [0u8; 24];
    let fd = act.call(
        "openat2",
        libc::SYS_openat2,
        &mut [N(libc::AT_FDCWD.into()), In(&path), In(&how), N(24)],
    );
    act.read(fd);
}

pub(crate) fn creat(act: &mut Act<'_>) {
    let path = sys::path(&secret(act));
    act.call("creat", libc::SYS_creat, &mut [In(&path), N(0o644)]);
}

pub(crate) fn by_symlink(act: &mut Act<'_>) {
    let link = act.scene.open.join("link-to-secret");
    let to = sys::path(&secret(act));
    act.call(
        "symlink",
        libc::SYS_symlink,
        &mut [In(&to), In(&sys::path(&link))],
    );
    act.open_and_read(&link);
}

pub(crate) fn path_descriptor(act: &mut Act<'_>) {
    let path = secret(act);
    let fd = act.open(&path, libc::O_PATH);
    act.open_and_read(Path::new(&format!("/proc/self/fd/{fd}")));
}

pub(crate) fn read_inherited(act: &mut Act<'_>) {
    act.read(act.inherited.file.into());
}

pub(crate) fn read_given(act: &mut Act<'_>) {
    act.read(act.given.file.into());
}

pub(crate) fn write_inherited(act: &mut Act<'_>) {
    let fd = i64::from(act.inherited.file);
    act.call(
        "pwrite64",
        libc::SYS_pwrite64,
        &mut [N(fd), In(b"spoilt"), N(6), N(0)],
    );
}

pub(crate) fn map_inherited(act: &mut Act<'_>) {
    let fd = i64::from(act.inherited.file);
    let (read, private) = (libc::PROT_READ.into(), libc::MAP_PRIVATE.into());
    let at = act.call(
        "mmap",
        libc::SYS_mmap,
        &mut [N(0), N(4096), N(read), N(private), N(fd), N(0)],
    );
    if at > 0 {
        let bytes = sys::peek(at, 128);
        act.got(&bytes);
    }
}

fn copy(act: &mut Act<'_>) -> i64 {
    let path = act.scene.open.join("copy");
    act.open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC)
}

pub(crate) fn copy_range(act: &mut Act<'_>) {
    let to = copy(act);
    let from = i64::from(act.inherited.file);
    let mut start = [0u8; 8];
    act.call(
        "copy_file_range",
        libc::SYS_copy_file_range,
        &mut [N(from), Out(&mut start), N(to), N(0), N(64), N(0)],
    );
    close(to);
}

pub(crate) fn clone_range(act: &mut Act<'_>) {
    const FICLONE: i64 = 0x4004_9409;
    let to = copy(act);
    let from = i64::from(act.inherited.file);
    let done = act.call(
        "ioctl(FICLONE)",
        libc::SYS_ioctl,
        &mut [N(to), N(FICLONE), N(from)],
    );
    if matches!(-done as i32, libc::EOPNOTSUPP | libc::ENOTTY | libc::EXDEV) {
        act.not_applicable("this file system shares no blocks between files");
    }
    close(to);
}

pub(crate) fn sendfile(act: &mut Act<'_>) {
    let (from, to) = act.pipe();
    let file = i64::from(act.inherited.file);
    let mut start = [0u8; 8];
    let moved = act.call(
        "sendfile",
        libc::SYS_sendfile,
        &mut [N(to), N(file), Out(&mut start), N(64)],
    );
    if moved > 0 {
        act.drain(from);
    }
}

pub(crate) fn splice(act: &mut Act<'_>) {
    let (from, to) = act.pipe();
    let file = i64::from(act.inherited.file);
    let mut start = [0u8; 8];
    let moved = act.call(
        "splice",
        libc::SYS_splice,
        &mut [N(file), Out(&mut start), N(to), N(0), N(64), N(0)],
    );
    if moved > 0 {
        act.drain(from);
    }
}

pub(crate) fn aio(act: &mut Act<'_>) {
    const PREAD: u16 = 0;
    let mut context = [0u8; 8];
    act.call(
        "io_setup",
        libc::SYS_io_setup,
        &mut [N(1), Out(&mut context)],
    );
    let context = i64::from_ne_bytes(context);
    let mut bytes = [0u8; 64];
    // struct iocb.
    let mut block = [0u8; 64];
    block[16..18].copy_from_slice(&PREAD.to_ne_bytes());
    block[20..24].copy_from_slice(&act.inherited.file.to_ne_bytes());
    block[24..32].copy_from_slice(&(bytes.as_mut_ptr() as u64).to_ne_bytes());
    block[32..40].copy_from_slice(&64u64.to_ne_bytes());
    let blocks = (block.as_ptr() as u64).to_ne_bytes();
    let done = act.call(
        "io_submit",
        libc::SYS_io_submit,
        &mut [N(context), N(1), In(&blocks)],
    );
    if done == 1 {
        let mut event = [0u8; 32];
        act.call(
            "io_getevents",
            libc::SYS_io_getevents,
            &mut [N(context), N(1), N(1), Out(&mut event), N(0)],
        );
        act.got(&bytes);
    }
}

pub(crate) fn vectors(act: &mut Act<'_>) {
    let mut bytes = [0u8; 64];
    let mut parts = (bytes.as_mut_ptr() as u64).to_ne_bytes().to_vec();
    parts.extend(64u64.to_ne_bytes());
    let fd = i64::from(act.inherited.file);
    let len = act.call(
        "preadv2",
        libc::SYS_preadv2,
        &mut [N(fd), In(&parts), N(1), N(0), N(0), N(0)],
    );
    act.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
}

pub(crate) fn by_handle(act: &mut Act<'_>) {
    let mut handle = [0u8; 136];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount = [0u8; 4];
    let path = sys::path(&secret(act));
    let named = act.call(
        "name_to_handle_at",
        libc::SYS_name_to_handle_at,
        &mut [
            N(libc::AT_FDCWD.into()),
            In(&path),
            Out(&mut handle),
            Out(&mut mount),
            N(0),
        ],
    );
    if named == -i64::from(libc::EOPNOTSUPP) {
        return act.not_applicable("this file system has no handles");
    }
    let on = act.open(&act.scene.open, libc::O_RDONLY | libc::O_DIRECTORY);
    let fd = act.call(
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        &mut [N(on), In(&handle), N(0)],
    );
    act.read(fd);
}

pub(crate) fn run_script(act: &mut Act<'_>) {
    let path = act.scene.protected.join(SCRIPT);
    act.execute(&[path.as_os_str().as_encoded_bytes()]);
}

/// The shell is asked for `/dev/fd/N`, which has to stay open.
pub(crate) fn run_descriptor(act: &mut Act<'_>) {
    let path = act.scene.protected.join(SCRIPT);
    let fd = act.open(&path, libc::O_PATH);
    let (from, to) = act.pipe();
    let none = [0u8; 8];
    let child = sys::fork(|| {
        sys::call(libc::SYS_dup2, &mut [N(to), N(1)]);
        let empty = libc::AT_EMPTY_PATH.into();
        let failed = sys::call(
            libc::SYS_execveat,
            &mut [N(fd), In(b"\0"), In(&none), In(&none), N(empty)],
        );
        i32::try_from(-failed).unwrap_or(1)
    });
    close(to);
    act.drain(from);
    let status = sys::wait(child);
    act.tell("execveat", -i64::from(status));
}

pub(crate) fn own_child(act: &mut Act<'_>) {
    let child = sys::fork(|| {
        sys::call(libc::SYS_pause, &mut []);
        0
    });
    let fd = act.inherited.file;
    act.open_and_read(Path::new(&format!("/proc/{child}/fd/{fd}")));
    sys::call(libc::SYS_kill, &mut [N(child), N(libc::SIGKILL.into())]);
    sys::wait(child);
}

fn create(act: &mut Act<'_>, name: &str) {
    let path = act.scene.protected.join(name);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let fd = act.open(&path, flags);
    close(fd);
}

pub(crate) fn exclusive_approved(act: &mut Act<'_>) {
    create(act, APPROVED);
}

pub(crate) fn exclusive(act: &mut Act<'_>) {
    create(act, "fresh");
}

pub(crate) fn truncate(act: &mut Act<'_>) {
    let path = sys::path(&secret(act));
    act.call("truncate", libc::SYS_truncate, &mut [In(&path), N(3)]);
}

pub(crate) fn ftruncate(act: &mut Act<'_>) {
    let fd = act.inherited.file.into();
    act.call("ftruncate", libc::SYS_ftruncate, &mut [N(fd), N(3)]);
}

pub(crate) fn open_truncate(act: &mut Act<'_>) {
    let path = secret(act);
    act.open(&path, libc::O_WRONLY | libc::O_TRUNC);
}

pub(crate) fn allocate(act: &mut Act<'_>) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let fd = act.inherited.file.into();
    act.call(
        "fallocate",
        libc::SYS_fallocate,
        &mut [N(fd), N(mode.into()), N(0), N(16)],
    );
}

pub(crate) fn append(act: &mut Act<'_>) {
    let path = act.scene.protected.join(FOLDER).join(".bashrc");
    let fd = act.open(&path, libc::O_WRONLY | libc::O_APPEND);
    act.call(
        "write",
        libc::SYS_write,
        &mut [N(fd), In(b"# more\n"), N(7)],
    );
    close(fd);
}

pub(crate) fn deep(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.deep);
}

pub(crate) fn long_name(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.long_name);
}

pub(crate) fn long_path(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.long_path);
}

pub(crate) fn sibling(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.sibling.join(SECRET));
}

pub(crate) fn tmpfs(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.tmpfs.join(SECRET));
}

/// Mounted by the harness: what is not there could not be.
fn mounted(act: &mut Act<'_>, name: &str) {
    let path = act.scene.open.join(name).join(SECRET);
    if sys::call(libc::SYS_access, &mut [In(&sys::path(&path)), N(0)]) < 0 {
        return act.not_applicable("the harness could not mount it");
    }
    act.open_and_read(&path);
}

pub(crate) fn overlay(act: &mut Act<'_>) {
    mounted(act, "overlay");
}

pub(crate) fn bound(act: &mut Act<'_>) {
    mounted(act, "bind");
}

/// The harness lives in a mount namespace of its own; the first process's is another.
pub(crate) fn other_mount_namespace(act: &mut Act<'_>) {
    let path = format!("/proc/1/root{}", act.scene.protected.display());
    let dir = act.open(Path::new(&path), libc::O_PATH | libc::O_DIRECTORY);
    if dir < 0 {
        // Who may not look there uses a folder of its own namespace.
        return openat(act);
    }
    let fd = act.open_at(dir as i32, Path::new(SECRET), libc::O_RDONLY);
    act.read(fd);
}

pub(crate) fn btrfs(act: &mut Act<'_>) {
    const BTRFS: u32 = 0x9123_683e;
    let mut about = [0u8; 120];
    let path = sys::path(&act.scene.protected);
    sys::call(libc::SYS_statfs, &mut [In(&path), Out(&mut about)]);
    if u32::from_ne_bytes([about[0], about[1], about[2], about[3]]) != BTRFS {
        return act.not_applicable("/var/lib is not on btrfs");
    }
    open(act);
}

pub(crate) fn listed_descriptor(act: &mut Act<'_>) {
    let fd = i64::from(act.inherited.file);
    let (from, to) = act.pipe();
    let child = sys::fork(|| {
        let mut bytes = [0u8; 64];
        let len = sys::call(
            libc::SYS_pread64,
            &mut [N(fd), Out(&mut bytes), N(64), N(0)],
        );
        if len > 0 {
            sys::call(libc::SYS_write, &mut [N(to), In(&bytes), N(len)]);
        }
        i32::try_from(-len.min(0)).unwrap_or(1)
    });
    close(to);
    act.drain(from);
    let status = sys::wait(child);
    act.tell("pread64", -i64::from(status));
}

/// The file that had another name before it was protected.
pub(crate) fn linked_before(act: &mut Act<'_>) {
    act.open_and_read(&act.scene.open.join(LINKED));
}
