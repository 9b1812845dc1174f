"""What is denied to the governed outright, as root and as an ordinary user; and what they must still be able to do."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

import setting
import syshold

EPERM, EACCES = 1, 13

# Each succeeds for root without Syshold.
AS_ROOT = (
    *("bind_mount", "unmount", "open_tree", "fsopen", "chroot", "unshare_user", "clone_user", "unshare_mount", "setns"),
    *("sethostname", "block_device", "memory_device", "kernel_log_device", "kcore", "mknod_block", "ptrace"),
    *("process_vm_readv", "pidfd_getfd", "proc_mem", "proc_root", "proc_environ", "proc_fd", "proc_oom", "handle"),
    *("bpf_map", "perf_event", "init_module", "kexec_load", "swapon", "ftrace_enabled", "core_pattern", "modprobe"),
    *("sysrq", "sysfs", "securityfs", "tracefs", "cgroup_procs", "cgroup_join", "binfmt", "tiocsti", "kill_daemon"),
    *("tgkill_daemon", "pidfd_signal_daemon", "nice_daemon", "affinity_daemon", "limit_daemon", "ioprio_daemon"),
    *("mem_daemon", "oom_daemon"),
)
# … for the owner of the victim.
AS_USER = (
    *("unshare_user", "clone_user", "ptrace", "process_vm_readv", "pidfd_getfd", "proc_mem", "proc_root"),
    *("proc_environ", "proc_fd", "proc_oom"),
)
# What the kernel answers EACCES to, as it does of its own accord.
NO_ACCESS = {"proc_mem", "proc_root", "proc_environ", "proc_fd", "mem_daemon", "setns", "perf_event"}
ALLOWED = ("own_proc", "own_child", "harmless_devices")


def daemon():
    return int(syshold.sh("systemctl show --property=MainPID --value sysholdd.service").stdout)


def about(user):
    """What the attacks are about; the victim is an ungoverned process of the user."""
    words = ["sleep", "300"]
    victim = subprocess.Popen(["runuser", "-u", user, "--", *words] if user else words, stdin=subprocess.DEVNULL)
    syshold.at_end(victim.kill)
    pid = victim.pid
    if user:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        pid = int(syshold.until("the victim runs", lambda: children.read_text().split())[0])
        syshold.at_end(kill, pid)
        exe = pathlib.Path(f"/proc/{pid}/comm")
        syshold.until("the victim is itself", lambda: exe.read_text() == "sleep\n")
    folder = pathlib.Path("/tmp/attacks")
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    mount = pathlib.Path("/tmp/attacks-mount")
    mount.mkdir(exist_ok=True)
    disk = next(d for d in sorted(pathlib.Path("/dev").iterdir()) if d.name.startswith("vd"))
    return {
        "victim": pid,
        "daemon": daemon(),
        "secret": str(setting.pii("guard.csv", "guard\n")),
        "folder": str(folder),
        "mount": str(mount),
        "disk": str(disk),
    }


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def prepare(facts):
    syshold.sh(f"mountpoint --quiet {facts['mount']} || mount -t tmpfs none {facts['mount']}")
    syshold.sh("mountpoint --quiet /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing")
    syshold.sh("echo 1 > /proc/sys/dev/tty/legacy_tiocsti 2> /dev/null; true", check=False)
    syshold.at_end(syshold.sh, f"umount {facts['mount']} 2> /dev/null; true")


def attack(facts, names, user=None, governed=True):
    words = [setting.PYTHON, setting.GUEST / "attacks.py", json.dumps(facts), *names]
    prepare(facts)
    if governed:
        status, out, err = syshold.finish(syshold.governed(*words, user=user), 40)
    else:
        done = setting.ungoverned(*words, user=user)
        status, out, err = done.returncode, done.stdout, done.stderr
    assert status == 0, (status, out, err)
    return json.loads(out)


def refused(names, user):
    setting.start()
    facts = about(user)
    control = attack(facts, names, user, governed=False)
    assert control == dict.fromkeys(names, 0), {name: errno for name, errno in control.items() if errno}
    said = attack(facts, (*names, *ALLOWED), user)
    allowed = {name: said.pop(name) for name in ALLOWED}
    assert allowed == dict.fromkeys(ALLOWED, 0), allowed
    wrong = {name: errno for name, errno in said.items() if errno != EPERM and (errno != EACCES or name not in NO_ACCESS)}
    assert not wrong, wrong
    assert not syshold.holds()
    # The daemon is well, and so is what it enforces.
    assert syshold.status()["canary"]["ok"]


@syshold.limit(120)
def test_root_is_refused_what_lifts_the_hold():
    refused(AS_ROOT, None)


@syshold.limit(120)
def test_a_user_is_refused_what_lifts_the_hold():
    refused(AS_USER, setting.USER)


def test_what_is_refused_is_in_the_ledger():
    setting.start(fresh=True)
    facts = about(None)
    attack(facts, ["kill_daemon", "tiocsti", "bpf_map"])

    def recorded():
        text = json.dumps(syshold.leaves(kind="decision"))
        return all(hook in text for hook in ("self-protection",)) and text

    syshold.until("the ledger says so", recorded)
    syshold.verify()


# ---- systemd's own work for a unit ----

HARDENED = (
    "PrivateTmp=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
    "PrivateUsers=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=CAP_CHOWN",
    "RestrictNamespaces=yes",
    "LimitNOFILE=4096",
    "OOMScoreAdjust=100",
    "Nice=5",
    "IOSchedulingPriority=6",
)


def unit(*words, properties=()):
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-agent"]
    child = subprocess.Popen(
        [*run, *(f"--property={p}" for p in properties), "--", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    syshold.at_end(setting.end_service, child)
    return child


def starts(*properties):
    """The unit starts, its program is governed, and a protected file is held."""
    person = setting.start()
    path = setting.pii("unit.csv", "unit\n")
    child = unit("sh", "-c", f"id -un; cat {path}; touch /usr/written || echo read-only", properties=properties)
    (approval,) = syshold.asked(person, seconds=25)
    syshold.approve(person, approval)
    return syshold.finish(child, 30)


@syshold.limit(100)
def test_a_hardened_unit_starts_and_is_governed():
    status, out, err = starts(*HARDENED)
    assert (status, out) == (0, "root\nunit\nread-only\n"), (status, out, err)


@syshold.limit(100)
def test_a_unit_of_a_user_starts_and_is_governed():
    status, out, err = starts(f"User={setting.USER}", "PrivateTmp=yes", "ProtectSystem=strict", "AmbientCapabilities=CAP_NET_BIND_SERVICE")
    assert (status, out) == (0, f"{setting.USER}\nunit\nread-only\n"), (status, out, err)


# ---- SIGCONT ----


def test_a_foreign_sigcont_does_not_reach_who_is_held():
    person = setting.start()
    path = setting.pii("cont.csv", "cont\n")
    holder = syshold.governed("cat", path)
    (hold,) = setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    sender = "import os, sys\ntry:\n    os.kill(int(sys.argv[1]), 18)\n    print(0)\nexcept OSError as error:\n    print(error.errno)"
    words = (setting.PYTHON, "-c", sender, hold["pid"])
    # Without Syshold's governing it, it reaches it, and changes nothing.
    assert setting.ungoverned(*words).stdout == "0\n"
    status, out, err = syshold.finish(syshold.governed(*words))
    assert out == f"{EPERM}\n", (status, out, err)
    time.sleep(0.2)
    assert holder.poll() is None
    syshold.approve(person, approval)
    assert syshold.finish(holder)[:2] == (0, "cont\n")


# ---- the daemon's own files ----

TOUCH = """
import json, os, sys
said = {}
for name, act in (
    ("policy", lambda: open("/etc/syshold/agent.toml").close()),
    ("ledger", lambda: open("/var/lib/syshold/ledger.db", "rb").close()),
    ("state", lambda: os.listdir("/var/lib/syshold")),
    ("rename", lambda: (os.rename("/var/lib/syshold", "/var/lib/elsewhere"), os.rename("/var/lib/elsewhere", "/var/lib/syshold"))),
    ("drop-in", lambda: (os.close(os.open("/etc/syshold/new.toml", os.O_CREAT | os.O_WRONLY)), os.unlink("/etc/syshold/new.toml"))),
    ("program", lambda: os.close(os.open("/usr/bin/syshold", os.O_WRONLY))),
    ("unit", lambda: os.close(os.open("/usr/lib/systemd/system/sysholdd.service", os.O_WRONLY))),
    ("chmod", lambda: os.chmod("/usr/bin/syshold", 0o755)),
    ("read program", lambda: open("/usr/bin/syshold", "rb").read(4)),
):
    try:
        act()
        said[name] = 0
    except OSError as error:
        said[name] = error.errno
print(json.dumps(said))
"""


def test_own_files_are_nobodys():
    """Policy, ledger and programs, for root; no rule can open them."""
    person = setting.start()
    words = (setting.PYTHON, "-c", TOUCH)
    control = json.loads(setting.ungoverned(*words).stdout)
    assert control == dict.fromkeys(control, 0) and len(control) == 9, control
    status, out, err = syshold.finish(syshold.governed(*words))
    assert status == 0, err
    said = json.loads(out)
    assert said.pop("read program") == 0, said
    assert said == dict.fromkeys(said, EPERM), said
    setting.nobody_asked(person)


# ---- privileges ----


def test_becoming_root_is_asked_and_setfsuid_refused():
    person = setting.start()
    script = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nlibc.setfsuid(65534)\nprint(libc.setfsuid(-1))\nlibc.setfsuid(0)\n"
        "os.seteuid(65534)\ntry:\n    os.seteuid(0)\n    print('root')\nexcept OSError as error:\n    print(error.errno)"
    )
    words = (setting.PYTHON, "-c", script)
    assert setting.ungoverned(*words).stdout == "65534\nroot\n"
    for how, said in (("approve", "root"), ("deny", str(EPERM))):
        child = syshold.governed(*words)
        (approval,) = syshold.asked(person, seconds=25)
        assert "privilege" in approval["title"], approval["title"]
        setting.answer_all(person, [approval], how)
        status, out, err = syshold.finish(child)
        assert (status, out) == (0, f"0\n{said}\n"), (status, out, err)


@syshold.limit(90)
def test_a_program_with_privileges_is_asked_once():
    """sudo takes its privilege on and off; people are asked when it begins."""
    person = setting.start()
    syshold.sh(f"echo '{setting.USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/guard && chmod 440 /etc/sudoers.d/guard")
    syshold.at_end(syshold.sh, "rm -f /etc/sudoers.d/guard")
    words = ("sudo", "-n", "id", "-u")
    control = setting.ungoverned(*words, user=setting.USER)
    assert control.stdout == "0\n", control
    child = syshold.governed(*words, user=setting.USER)
    (approval,) = syshold.asked(person, seconds=25)
    assert "privilege" in approval["title"], approval["title"]
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child, 30)
    assert (status, out) == (0, "0\n"), (status, out, err)
    setting.nobody_asked(person)
