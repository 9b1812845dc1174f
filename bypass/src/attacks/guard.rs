//! What would lift the hold itself: namespaces, devices, other processes, the kernel, the daemon.
use std::fs;
use std::path::{Path, PathBuf};

use crate::act::{Act, close};
use crate::scene::SECRET;
use crate::sys::{self, In, N, Out};

const HERE: i64 = libc::AT_FDCWD as i64;

/// Came through: done, or refused only after the permission was given.
fn reached(act: &mut Act<'_>, returned: i64, refusals: &[i32]) {
    let refused = refusals.iter().any(|errno| returned == -i64::from(*errno));
    act.did(returned >= 0 || refused);
}

pub(crate) fn chroot(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.protected);
    let done = act.call("chroot", libc::SYS_chroot, &mut [In(&path)]);
    if done == 0 {
        act.open_and_read(&Path::new("/").join(SECRET));
    }
}

fn mount(act: &mut Act<'_>, what: &[u8], at: &Path, kind: &[u8], flags: u64, data: &[u8]) -> i64 {
    act.call(
        "mount",
        libc::SYS_mount,
        &mut [
            In(what),
            In(&sys::path(at)),
            In(kind),
            N(flags as i64),
            In(data),
        ],
    )
}

pub(crate) fn bind_mount(act: &mut Act<'_>) {
    let at = act.scene.open.join("mount");
    let what = sys::path(&act.scene.protected);
    mount(act, &what, &at, b"none\0", libc::MS_BIND, b"\0");
    act.open_and_read(&at.join(SECRET));
    sys::call(
        libc::SYS_umount2,
        &mut [In(&sys::path(&at)), N(libc::MNT_DETACH.into())],
    );
}

pub(crate) fn open_tree(act: &mut Act<'_>) {
    const OPEN_TREE_CLONE: i64 = 1;
    let path = sys::path(&act.scene.protected);
    let tree = act.call(
        "open_tree",
        libc::SYS_open_tree,
        &mut [N(HERE), In(&path), N(OPEN_TREE_CLONE)],
    );
    if tree >= 0 {
        let fd = act.open_at(tree as i32, Path::new(SECRET), libc::O_RDONLY);
        act.read(fd);
    }
}

pub(crate) fn new_mount(act: &mut Act<'_>) {
    const CONFIG_CREATE: i64 = 6;
    let context = act.call("fsopen", libc::SYS_fsopen, &mut [In(b"tmpfs\0"), N(0)]);
    if context < 0 {
        return;
    }
    act.call(
        "fsconfig",
        libc::SYS_fsconfig,
        &mut [N(context), N(CONFIG_CREATE), N(0), N(0), N(0)],
    );
    let made = act.call("fsmount", libc::SYS_fsmount, &mut [N(context), N(0), N(0)]);
    act.did(made >= 0);
}

fn unshare(act: &mut Act<'_>, flags: i32) -> i64 {
    act.call("unshare", libc::SYS_unshare, &mut [N(flags.into())])
}

pub(crate) fn only_user_namespace(act: &mut Act<'_>) {
    let done = unshare(act, libc::CLONE_NEWUSER);
    act.did(done == 0);
}

pub(crate) fn user_namespace(act: &mut Act<'_>) {
    let open = act.scene.open.join("mount");
    if unshare(act, libc::CLONE_NEWUSER | libc::CLONE_NEWNS) < 0 {
        return;
    }
    let lower = act.scene.protected.display().to_string();
    let data = format!("lowerdir={lower}:/etc\0");
    // Since 5.11 a user namespace may mount overlays; older ones may still bind.
    if mount(act, b"overlay\0", &open, b"overlay\0", 0, data.as_bytes()) < 0 {
        let what = sys::path(&act.scene.protected);
        mount(act, &what, &open, b"none\0", libc::MS_BIND, b"\0");
    }
    act.open_and_read(&open.join(SECRET));
}

pub(crate) fn enter_namespace(act: &mut Act<'_>) {
    let fd = act.open(Path::new("/proc/1/ns/mnt"), libc::O_RDONLY);
    let done = act.call(
        "setns",
        libc::SYS_setns,
        &mut [N(fd), N(libc::CLONE_NEWNS.into())],
    );
    if done == 0 {
        act.open_and_read(&act.scene.protected.join(SECRET));
    }
}

/// Opens to read; having the descriptor is all that is wanted.
fn only_open(act: &mut Act<'_>, path: &Path, flags: i32) {
    let fd = act.open(path, flags);
    act.did(fd >= 0);
    close(fd);
}

/// A disk of this machine, and its number.
fn disk() -> Option<(PathBuf, u64)> {
    let names = fs::read_dir("/sys/block").ok()?;
    names.filter_map(Result::ok).find_map(|entry| {
        let number = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        let node = Path::new("/dev").join(entry.file_name());
        let is_disk = !entry.file_name().to_string_lossy().starts_with("loop");
        (is_disk && node.exists()).then(|| (node, libc::makedev(major, minor)))
    })
}

const NO_DISK: &str = "no disk in /dev";

pub(crate) fn block_device(act: &mut Act<'_>) {
    match disk() {
        Some((node, _)) => only_open(act, &node, libc::O_RDONLY),
        None => act.not_applicable(NO_DISK),
    }
}

fn there(act: &mut Act<'_>, path: &str, flags: i32) {
    if Path::new(path).exists() {
        only_open(act, Path::new(path), flags);
    } else {
        act.not_applicable(format!("no {path} here"));
    }
}

pub(crate) fn memory(act: &mut Act<'_>) {
    there(act, "/dev/mem", libc::O_RDONLY);
}

pub(crate) fn kcore(act: &mut Act<'_>) {
    there(act, "/proc/kcore", libc::O_RDONLY);
}

pub(crate) fn scsi(act: &mut Act<'_>) {
    there(act, "/dev/sg0", libc::O_RDONLY);
}

pub(crate) fn make_device(act: &mut Act<'_>) {
    let Some((_, number)) = disk() else {
        return act.not_applicable(NO_DISK);
    };
    let path = act.scene.open.join("disk");
    let mode = i64::from(libc::S_IFBLK | 0o600);
    let made = act.call(
        "mknod",
        libc::SYS_mknod,
        &mut [In(&sys::path(&path)), N(mode), N(number as i64)],
    );
    if made == 0 {
        only_open(act, &path, libc::O_RDONLY);
        sys::call(libc::SYS_unlink, &mut [In(&sys::path(&path))]);
    }
}

pub(crate) fn trace(act: &mut Act<'_>) {
    const SEIZE: i64 = 0x4206;
    const DETACH: i64 = 17;
    let pid = i64::from(act.scene.victim.pid);
    let done = act.call(
        "ptrace",
        libc::SYS_ptrace,
        &mut [N(SEIZE), N(pid), N(0), N(0)],
    );
    act.did(done == 0);
    // What is traced when its tracer ends goes on.
    sys::call(libc::SYS_ptrace, &mut [N(DETACH), N(pid), N(0), N(0)]);
}

pub(crate) fn read_memory(act: &mut Act<'_>) {
    let victim = act.scene.victim;
    let mut bytes = vec![0u8; victim.len as usize];
    let own = [bytes.as_mut_ptr() as u64, victim.len].map(u64::to_ne_bytes);
    let its = [victim.address, victim.len].map(u64::to_ne_bytes);
    let len = act.call(
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        &mut [
            N(victim.pid.into()),
            In(own.as_flattened()),
            N(1),
            In(its.as_flattened()),
            N(1),
            N(0),
        ],
    );
    act.got(&bytes[..usize::try_from(len).unwrap_or(0)]);
}

pub(crate) fn take_descriptor(act: &mut Act<'_>) {
    let victim = act.scene.victim;
    let process = act.call(
        "pidfd_open",
        libc::SYS_pidfd_open,
        &mut [N(victim.pid.into()), N(0)],
    );
    let fd = act.call(
        "pidfd_getfd",
        libc::SYS_pidfd_getfd,
        &mut [N(process), N(victim.fd.into()), N(0)],
    );
    act.read(fd);
}

fn of_victim(act: &Act<'_>, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{what}", act.scene.victim.pid))
}

pub(crate) fn environment(act: &mut Act<'_>) {
    let path = of_victim(act, "environ");
    act.open_and_read(&path);
}

pub(crate) fn memory_file(act: &mut Act<'_>) {
    let path = of_victim(act, "mem");
    let fd = act.open(&path, libc::O_RDONLY);
    let victim = act.scene.victim;
    let mut bytes = vec![0u8; victim.len as usize];
    let (len, at) = (victim.len as i64, victim.address as i64);
    let read = act.call(
        "pread64",
        libc::SYS_pread64,
        &mut [N(fd), Out(&mut bytes), N(len), N(at)],
    );
    act.got(&bytes[..usize::try_from(read).unwrap_or(0)]);
}

pub(crate) fn its_descriptor(act: &mut Act<'_>) {
    let path = of_victim(act, &format!("fd/{}", act.scene.victim.fd));
    act.open_and_read(&path);
}

pub(crate) fn its_root(act: &mut Act<'_>) {
    let secret = act.scene.protected.join(SECRET);
    let path = of_victim(act, &format!("root{}", secret.display()));
    act.open_and_read(&path);
}

pub(crate) fn bpf(act: &mut Act<'_>) {
    const MAP_CREATE: i64 = 0;
    const ARRAY: u32 = 2;
    let mut attributes = [0u8; 72];
    for (at, word) in [(0, ARRAY), (4, 4), (8, 4), (12, 1)] {
        attributes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    let fd = act.call(
        "bpf",
        libc::SYS_bpf,
        &mut [N(MAP_CREATE), In(&attributes), N(72)],
    );
    act.did(fd >= 0);
}

/// To its own name: permitted, it changes nothing.
pub(crate) fn pins(act: &mut Act<'_>) {
    let pin = sys::path(&act.scene.pins.join("links/file_open"));
    let done = act.call("rename", libc::SYS_rename, &mut [In(&pin), In(&pin)]);
    act.did(done == 0);
}

/// It is full, so permitted it fails.
pub(crate) fn pin_folder(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.pins.join("links"));
    let done = act.call("rmdir", libc::SYS_rmdir, &mut [In(&path)]);
    reached(act, done, &[libc::ENOTEMPTY]);
}

/// A mount that the harness made for this.
pub(crate) fn unmount(act: &mut Act<'_>) {
    let path = sys::path(&act.scene.open.join("unmount"));
    let done = act.call("umount2", libc::SYS_umount2, &mut [In(&path), N(0)]);
    act.did(done == 0);
}

/// Writes what is there already.
fn rewrite(act: &mut Act<'_>, path: &str) {
    let path = Path::new(path);
    let Ok(text) = fs::read(path) else {
        return act.not_applicable(format!("no {} here", path.display()));
    };
    let fd = act.open(path, libc::O_WRONLY);
    let done = act.call(
        "write",
        libc::SYS_write,
        &mut [N(fd), In(&text), N(text.len() as i64)],
    );
    act.did(done >= 0);
    close(fd);
}

pub(crate) fn ftrace(act: &mut Act<'_>) {
    rewrite(act, "/proc/sys/kernel/ftrace_enabled");
}

pub(crate) fn core_pattern(act: &mut Act<'_>) {
    rewrite(act, "/proc/sys/kernel/core_pattern");
}

pub(crate) fn modprobe(act: &mut Act<'_>) {
    rewrite(act, "/proc/sys/kernel/modprobe");
}

pub(crate) fn sysrq(act: &mut Act<'_>) {
    there(act, "/proc/sysrq-trigger", libc::O_WRONLY);
}

/// SIGCONT is nothing to a process that runs.
pub(crate) fn kill(act: &mut Act<'_>) {
    let pid = act.scene.daemon.into();
    let done = act.call(
        "kill",
        libc::SYS_kill,
        &mut [N(pid), N(libc::SIGCONT.into())],
    );
    act.did(done == 0);
    let done = act.call(
        "tgkill",
        libc::SYS_tgkill,
        &mut [N(pid), N(pid), N(libc::SIGCONT.into())],
    );
    act.did(done == 0);
}

pub(crate) fn kill_by_descriptor(act: &mut Act<'_>) {
    let pid = act.scene.daemon.into();
    let process = act.call("pidfd_open", libc::SYS_pidfd_open, &mut [N(pid), N(0)]);
    let done = act.call(
        "pidfd_send_signal",
        libc::SYS_pidfd_send_signal,
        &mut [N(process), N(libc::SIGCONT.into()), N(0), N(0)],
    );
    act.did(done == 0);
}

pub(crate) fn kill_cgroup(act: &mut Act<'_>) {
    let path = act.scene.daemon_cgroup.join("cgroup.kill");
    only_open(act, &path, libc::O_WRONLY);
}

pub(crate) fn score(act: &mut Act<'_>) {
    rewrite(act, &format!("/proc/{}/oom_score_adj", act.scene.daemon));
}

pub(crate) fn limits(act: &mut Act<'_>) {
    let pid = i64::from(act.scene.daemon);
    let files = i64::from(libc::RLIMIT_NOFILE);
    let mut limit = [0u8; 16];
    act.call(
        "prlimit64",
        libc::SYS_prlimit64,
        &mut [N(pid), N(files), N(0), Out(&mut limit)],
    );
    let done = act.call(
        "prlimit64",
        libc::SYS_prlimit64,
        &mut [N(pid), N(files), In(&limit), N(0)],
    );
    act.did(done == 0);
}

pub(crate) fn priority(act: &mut Act<'_>) {
    let pid = i64::from(act.scene.daemon);
    let who = i64::from(libc::PRIO_PROCESS);
    // The syscall gives 20 - nice.
    let nice = 20 - act.call("getpriority", libc::SYS_getpriority, &mut [N(who), N(pid)]);
    let done = act.call(
        "setpriority",
        libc::SYS_setpriority,
        &mut [N(who), N(pid), N(nice)],
    );
    act.did(done == 0);
}

pub(crate) fn scheduler(act: &mut Act<'_>) {
    let pid = i64::from(act.scene.daemon);
    let ordinary = i64::from(libc::SCHED_OTHER);
    let priority = [0u8; 4];
    let done = act.call(
        "sched_setscheduler",
        libc::SYS_sched_setscheduler,
        &mut [N(pid), N(ordinary), In(&priority)],
    );
    act.did(done == 0);
}

/// Into a terminal of its own.
pub(crate) fn keystrokes(act: &mut Act<'_>) {
    let master = act.open(Path::new("/dev/ptmx"), libc::O_RDWR | libc::O_NOCTTY);
    let unlock = [0u8; 4];
    act.call(
        "ioctl(TIOCSPTLCK)",
        libc::SYS_ioctl,
        &mut [N(master), N(0x4004_5431), In(&unlock)],
    );
    let mut number = [0u8; 4];
    act.call(
        "ioctl(TIOCGPTN)",
        libc::SYS_ioctl,
        &mut [N(master), N(0x8004_5430), Out(&mut number)],
    );
    act.call("setsid", libc::SYS_setsid, &mut []);
    let terminal = format!("/dev/pts/{}", u32::from_ne_bytes(number));
    let fd = act.open(Path::new(&terminal), libc::O_RDWR);
    let done = act.call(
        "ioctl(TIOCSTI)",
        libc::SYS_ioctl,
        &mut [N(fd), N(libc::TIOCSTI as i64), In(b"x")],
    );
    act.did(done == 0);
}

/// No module: whoever may load one hears that.
pub(crate) fn module(act: &mut Act<'_>) {
    let image = [0u8; 64];
    let done = act.call(
        "init_module",
        libc::SYS_init_module,
        &mut [In(&image), N(64), In(b"\0")],
    );
    reached(act, done, &[libc::ENOEXEC]);
}

pub(crate) fn kexec(act: &mut Act<'_>) {
    // A flag that nobody knows.
    let done = act.call(
        "kexec_load",
        libc::SYS_kexec_load,
        &mut [N(0), N(0), N(0), N(0x4000)],
    );
    reached(act, done, &[libc::EINVAL]);
    if done == -i64::from(libc::ENOSYS) {
        act.not_applicable("this kernel has no kexec_load");
    }
}

pub(crate) fn swap(act: &mut Act<'_>) {
    // A file with nothing in it is no swap space.
    let path = act.scene.open.join("no-swap");
    let fd = act.open(&path, libc::O_WRONLY | libc::O_CREAT);
    close(fd);
    let path = sys::path(&path);
    let done = act.call("swapon", libc::SYS_swapon, &mut [In(&path), N(0)]);
    reached(act, done, &[libc::EINVAL]);
}

pub(crate) fn perf(act: &mut Act<'_>) {
    const SOFTWARE: u32 = 1;
    let mut event = [0u8; 128];
    event[..4].copy_from_slice(&SOFTWARE.to_ne_bytes());
    event[4..8].copy_from_slice(&128u32.to_ne_bytes());
    let fd = act.call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        &mut [In(&event), N(0), N(-1), N(-1), N(0)],
    );
    act.did(fd >= 0);
}

pub(crate) fn reboot(act: &mut Act<'_>) {
    // Without its magic numbers it does nothing.
    let done = act.call("reboot", libc::SYS_reboot, &mut [N(0), N(0), N(0), N(0)]);
    reached(act, done, &[libc::EINVAL]);
}
