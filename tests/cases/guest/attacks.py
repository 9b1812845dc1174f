"""attacks.py JSON NAME…: what is denied outright to the governed, each tried; JSON of the error numbers, 0 for done.

JSON: what the attacks are about: {"victim": PID, "daemon": PID, "secret": PATH, "folder": PATH}.
"""

import ctypes
import fcntl
import json
import os
import pathlib
import pty
import resource
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
about = json.loads(sys.argv[1])
VICTIM, DAEMON = about["victim"], about["daemon"]
SECRET, FOLDER = pathlib.Path(about["secret"]), pathlib.Path(about["folder"])
AT_FDCWD = -100


def call(number, *arguments):
    """A system call by its number; raises like the functions of os."""
    words = [a.encode() if isinstance(a, str) else a for a in arguments]
    result = libc.syscall(number, *(ctypes.c_long(w) if isinstance(w, int) else w for w in words))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"syscall {number}")
    return result


def in_child(attempt):
    """Of what would change this process for the attacks after it."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    error = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if error:
        raise OSError(error, "in a child")


def write_open(path):
    os.close(os.open(path, os.O_WRONLY))


def read_open(path):
    os.close(os.open(path, os.O_RDONLY))


def iovec(address, size):
    return struct.pack("QQ", address, size)


# ---- namespaces and mounts ----


def bind_mount():
    call(165, str(SECRET.parent), str(FOLDER), 0, 4096, 0)
    call(166, str(FOLDER), 0)


def unmount():
    call(166, about["mount"], 0)


def open_tree():
    os.close(call(428, AT_FDCWD, str(SECRET.parent), 1))


def fsopen():
    os.close(call(430, "tmpfs", 0))


def chroot():
    in_child(lambda: os.chroot("/"))


def unshare_user():
    in_child(lambda: call(272, 0x10000000))


def clone_user():
    flags = 0x10000000 | 17
    pid = call(56, flags, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def unshare_mount():
    in_child(lambda: call(272, 0x00020000))


def setns():
    def enter():
        file = os.open("/proc/1/ns/mnt", os.O_RDONLY)
        call(308, file, 0)

    in_child(enter)


def sethostname():
    name = os.uname().nodename
    call(170, name, len(name))


# ---- devices ----


def block_device():
    read_open(about["disk"])


def memory_device():
    read_open("/dev/mem")


def kernel_log_device():
    read_open("/dev/kmsg")


def kcore():
    read_open("/proc/kcore")


def mknod_block():
    path = FOLDER / "disk"
    path.unlink(missing_ok=True)
    os.mknod(path, 0o60600, os.stat(about["disk"]).st_rdev)
    path.unlink()


# ---- other processes ----


def ptrace():
    # PTRACE_SEIZE and PTRACE_DETACH.
    call(101, 0x4206, VICTIM, 0, 0)


def process_vm_readv():
    line = next(l for l in pathlib.Path(f"/proc/{os.getpid()}/maps").read_text().splitlines() if "[stack]" in l)
    address = int(line.split("-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    try:
        call(310, VICTIM, iovec(ctypes.addressof(buffer), 8), 1, iovec(address, 8), 1, 0)
    except OSError as error:
        # EFAULT: it was let in, and nothing is at that address there.
        if error.errno != 14:
            raise


def pidfd_getfd():
    os.close(call(438, os.pidfd_open(VICTIM), 0, 0))


def proc_mem():
    read_open(f"/proc/{VICTIM}/mem")


def proc_root():
    os.listdir(f"/proc/{VICTIM}/root/")


def proc_environ():
    read_open(f"/proc/{VICTIM}/environ")


def proc_fd():
    os.readlink(f"/proc/{VICTIM}/fd/0")


def proc_oom():
    write_open(f"/proc/{VICTIM}/oom_score_adj")


# ---- the kernel ----


def handle():
    size = 128
    raw = ctypes.create_string_buffer(struct.pack("Ii", size, 0) + bytes(size))
    mount = ctypes.c_int()
    call(303, AT_FDCWD, str(SECRET), raw, ctypes.byref(mount), 0)
    folder = os.open("/srv", os.O_RDONLY)
    os.close(call(304, folder, raw, os.O_RDONLY))


def bpf_map():
    attributes = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1), 128)
    os.close(call(321, 0, attributes, 128))


def perf_event():
    # A software counter of this very process.
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0), 112)
    os.close(call(298, attributes, 0, -1, -1, 0))


def init_module():
    reached(8, lambda: call(175, b"not a module", 12, ""))


def kexec_load():
    # EINVAL or EBUSY: too many segments.
    reached(22, lambda: call(246, 0, 1000, 0, 0))


def swapon():
    path = FOLDER / "swap"
    path.write_bytes(bytes(8192))
    reached(22, lambda: call(167, str(path), 0))


def reached(expected, attempt):
    """It got as far as its nonsense being found out."""
    try:
        attempt()
    except OSError as error:
        if error.errno != expected:
            raise


def ftrace_enabled():
    write_open("/proc/sys/kernel/ftrace_enabled")


def core_pattern():
    write_open("/proc/sys/kernel/core_pattern")


def modprobe():
    write_open("/proc/sys/kernel/modprobe")


def sysrq():
    write_open("/proc/sysrq-trigger")


def sysfs():
    write_open("/sys/kernel/mm/transparent_hugepage/enabled")


def securityfs():
    write_open("/sys/kernel/security/lockdown")


def tracefs():
    write_open("/sys/kernel/tracing/tracing_on")


def cgroup_procs():
    write_open("/sys/fs/cgroup/cgroup.procs")


def cgroup_join():
    path = pathlib.Path("/sys/fs/cgroup/attacks")
    path.mkdir(exist_ok=True)
    path.rmdir()


def binfmt():
    write_open("/proc/sys/fs/binfmt_misc/register")


def tiocsti():
    _, slave = pty.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")


# ---- the daemon ----


def kill_daemon():
    os.kill(DAEMON, 0)


def tgkill_daemon():
    call(234, DAEMON, DAEMON, 0)


def pidfd_signal_daemon():
    call(424, os.pidfd_open(DAEMON), 0, 0, 0)


def nice_daemon():
    os.setpriority(os.PRIO_PROCESS, DAEMON, os.getpriority(os.PRIO_PROCESS, DAEMON))


def affinity_daemon():
    os.sched_setaffinity(DAEMON, os.sched_getaffinity(DAEMON))


def limit_daemon():
    resource.prlimit(DAEMON, resource.RLIMIT_NOFILE, resource.prlimit(DAEMON, resource.RLIMIT_NOFILE))


def ioprio_daemon():
    call(251, 1, DAEMON, 2 << 13 | 4)


def mem_daemon():
    read_open(f"/proc/{DAEMON}/mem")


def oom_daemon():
    write_open(f"/proc/{DAEMON}/oom_score_adj")


# ---- what stays allowed ----


def own_proc():
    for name in ("oom_score_adj", "comm", "coredump_filter"):
        write_open(f"/proc/self/{name}")
    write_open(f"/proc/self/task/{os.getpid()}/comm")


def own_child():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        os.readlink(f"/proc/{pid}/fd/0")
        write_open(f"/proc/{pid}/oom_score_adj")
        call(101, 0x4206, pid, 0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def harmless_devices():
    for name in ("null", "zero", "full", "random", "urandom", "ptmx"):
        os.close(os.open(f"/dev/{name}", os.O_RDWR | os.O_NOCTTY if name in ("null", "zero", "ptmx") else os.O_RDONLY))


def main():
    said = {}
    for name in sys.argv[2:]:
        try:
            globals()[name]()
            said[name] = 0
        except OSError as error:
            said[name] = error.errno
    print(json.dumps(said))


main()
