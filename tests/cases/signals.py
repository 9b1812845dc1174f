"""Signals to a process that is held: its handlers run, its end is at once, and nothing of it stays behind."""

import json
import pathlib
import signal
import subprocess
import time

import setting
import syshold

CGROUPS = pathlib.Path("/sys/fs/cgroup")
# While a thread is parked, below the cgroup it belongs to.
CHILD = "syshold-hold"


def begin(way, name, user=None):
    path = setting.pii(name, "held\n")
    return syshold.governed(setting.PYTHON, setting.GUEST / "signals.py", way, path, user=user)


def stop(unit):
    start = time.monotonic()
    syshold.sh(f"systemctl stop {unit}")
    return time.monotonic() - start


def seconds_until(what, probe, limit=10.0):
    start = time.monotonic()
    syshold.until(what, probe, limit, pause=0.005)
    return time.monotonic() - start


# ---- handlers ----


def idles(seconds):
    """How often the same handler runs meanwhile in a process that only waits: as much as this machine can give."""
    return int(setting.ungoverned(setting.PYTHON, setting.GUEST / "signals.py", "idle", seconds).stdout)


def handlers_keep_running(user):
    person = setting.start()
    child = begin("alarm", "alarm.csv", user)
    (hold,) = setting.parked()
    assert hold["mode"] == "park", hold
    (approval,) = syshold.asked(person, seconds=20)
    idle = idles(2)
    assert child.poll() is None and len(syshold.holds()) == 1
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    said, runs = out.split()
    assert (status, said) == (0, "opened"), (status, out, err)
    syshold.note(f"SIGALRM every 100 ms: its handler ran {runs} times while held for 2 s and more, {idle} times where nothing was")
    # Not once a hold, nor now and then.
    assert int(runs) >= max(idle / 2, 2), (runs, idle)
    # One question all the time.
    setting.nobody_asked(person)


def test_a_timer_keeps_running_while_its_thread_is_held():
    handlers_keep_running(None)


def test_a_timer_keeps_running_for_a_user():
    handlers_keep_running(setting.USER)


def test_the_main_thread_handles_signals_while_a_worker_is_held():
    person = setting.start()
    child = begin("thread", "thread.csv", setting.USER)
    setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    idle = idles(2)
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    said, runs = out.split()
    assert (status, said) == (0, "opened"), (status, out, err)
    syshold.note(f"SIGALRM every 100 ms: the main thread handled {runs} while a worker was held for 2 s and more, {idle} where nothing was")
    # Not once a hold, nor now and then.
    assert int(runs) >= max(idle / 2, 2), (runs, idle)


def test_a_sigcont_handler_runs_at_most_once_a_hold():
    """Such a program is stopped instead, and `syshold holds` says so."""
    person = setting.start()
    child = begin("cont", "cont.csv")
    for _ in range(2):
        (hold,) = setting.parked()
        assert hold["mode"] == "stop", hold
        said = syshold.sh("syshold holds --json").stdout
        assert json.loads(said)["mode"] == "stop", said
        (approval,) = syshold.asked(person, seconds=20)
        time.sleep(1)
        syshold.approve(person, approval)
        said, runs = child.stdout.readline().split()
        assert said == "opened" and int(runs) <= 1, (said, runs)
    assert child.wait(10) == 0
    setting.nobody_asked(person)


# One thread reads the file when it is told to; the main thread has something else to do all the time.
BUSY = """
import sys, threading
sys.stdin.readline()
reader = threading.Thread(target=lambda: print(open(sys.argv[1]).read(), end="", flush=True))
reader.start()
while reader.is_alive(): reader.join(0.1)
"""


def test_a_daemon_that_is_late_stops_a_process_no_longer_than_it_is_late():
    """Nobody parks the held thread in time, so all of its process is stopped: until the daemon is there again."""
    person = setting.start()
    child = syshold.governed(setting.PYTHON, "-c", BUSY, setting.pii("late.csv", "read\n"), stdin=subprocess.PIPE)
    process = pathlib.Path(f"/proc/{child.pid}")

    def main_thread():
        """Is it stopped, and how often has it slept?"""
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        return status["State"].startswith("T"), int(status["voluntary_ctxt_switches"])

    def stopped():
        return main_thread()[0]

    syshold.until("governed", lambda: b"python" in (process / "cmdline").read_bytes().partition(b"\0")[0])
    syshold.sh("systemctl kill --signal=STOP sysholdd")
    try:
        print("now", file=child.stdin, flush=True)
        syshold.until("all of it stopped", stopped, 5)
    finally:
        syshold.sh("systemctl kill --signal=CONT sysholdd")
    took = seconds_until("it goes on", lambda: not stopped())
    (hold,) = setting.parked()
    assert hold["mode"] == "park", hold
    assert hold["pid"] != hold["tid"], hold
    begin = main_thread()[1]
    time.sleep(1)
    slept = main_thread()[1] - begin
    assert slept >= 3, slept
    (approval,) = syshold.asked(person, seconds=20)
    assert not stopped()
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, "read\n"), (status, out, err)
    syshold.note(f"goes on {took:.2f} s after the daemon; its main thread slept {slept} times in a second while another was held")


# ---- the end ----


def ends_at_once(sig, user=None):
    person = setting.start()
    path = setting.pii("ended.csv", "ended\n")
    child = syshold.governed("cat", path, user=user)
    (hold,) = setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    syshold.sh(f"kill -{sig.name.removeprefix('SIG')} {hold['pid']}")
    took = seconds_until("the process is gone", lambda: not pathlib.Path(f"/proc/{hold['pid']}").exists() or child.poll() is not None)
    syshold.note(f"{sig.name} ended a held cat after {took * 1000:.0f} ms")
    assert took < 0.5, took
    setting.over(person, approval)
    return child.wait(10)


def test_sigterm_without_a_handler_kills_at_once():
    assert ends_at_once(signal.SIGTERM) == -signal.SIGTERM


def test_sighup_without_a_handler_kills_a_users_process_at_once():
    # runuser says it the shell's way.
    assert ends_at_once(signal.SIGHUP, setting.USER) in (-signal.SIGHUP, 128 + signal.SIGHUP)


def test_sigkill_while_held_withdraws_the_request():
    assert ends_at_once(signal.SIGKILL) == -signal.SIGKILL


def test_sigkill_of_a_stopped_process_withdraws_the_request():
    person = setting.start()
    child = begin("cont", "killed.csv")
    assert setting.parked()[0]["mode"] == "stop"
    (approval,) = syshold.asked(person, seconds=20)
    child.kill()
    assert child.wait(5) == -signal.SIGKILL
    setting.over(person, approval)


def test_a_handled_sigterm_interrupts_the_syscall():
    person = setting.start()
    child = begin("term", "term.csv")
    (hold,) = setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    syshold.sh(f"kill -TERM {hold['pid']}")
    took = seconds_until("the program goes on", lambda: child.poll() is not None)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, "errno 4 1\n"), (status, out, err)
    syshold.note(f"a handled SIGTERM: EINTR after {took * 1000:.0f} ms")
    setting.over(person, approval)


def test_a_handler_that_raises_ends_a_users_program():
    person = setting.start()
    child = begin("raise", "raise.csv", setting.USER)
    (hold,) = setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    syshold.sh(f"kill -TERM {hold['pid']}")
    status, out, err = syshold.finish(child, 5)
    assert (status, out) == (7, ""), (status, out, err)
    setting.over(person, approval)


# ---- the cgroup ----


def test_a_unit_with_a_held_process_stops_quickly():
    person = setting.start()
    child = setting.service("cat", setting.pii("unit.csv", "unit\n"))
    setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    own = CGROUPS / "system.slice/test-agent.service"
    assert (own / CHILD).is_dir(), list(own.iterdir())
    took = stop("test-agent.service")
    syshold.sh("systemd-run --quiet --collect --unit=free sleep 60")
    free = stop("free.service")
    syshold.note(f"systemctl stop of a unit with a parked process took {took:.2f} s, of any other {free:.2f} s")
    # Two seconds, on a machine with nothing else to do.
    assert took < max(2, 3 * free), (took, free)
    syshold.until("the unit's cgroup is gone", lambda: not own.exists(), 2)
    child.wait(10)
    setting.over(person, approval)


def test_the_holding_cgroup_goes_after_the_release():
    person = setting.start()
    path = setting.pii("release.csv", "release\n")
    child = setting.service("bash", "-c", f"cat {path}; echo out; read -r -t 60 < <(sleep 60)", user=setting.USER)
    setting.parked()
    own = CGROUPS / "system.slice/test-agent.service"
    assert (own / CHILD / "cgroup.threads").read_text().split(), "nobody sleeps there"
    (approval,) = syshold.asked(person, seconds=20)
    syshold.approve(person, approval)
    assert child.stdout.readline() == "release\n" and child.stdout.readline() == "out\n"
    syshold.until("the holding cgroup is gone", lambda: not (own / CHILD).exists(), 2)
    assert own.exists() and child.poll() is None
