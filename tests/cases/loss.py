"""The daemon restarts and is replaced: nothing is released meanwhile, and no hold is lost."""

import contextlib
import pathlib
import shutil
import threading
import time

import many
import stack
import syshold

PINS = pathlib.Path("/sys/fs/bpf/syshold/v1")


def daemon_pid():
    return int(syshold.sh("systemctl show -P MainPID sysholdd").stdout)


def pins():
    return sorted(str(path.relative_to(PINS)) for path in PINS.glob("*/*"))


def objects(pairs, first_port=21_000):
    """So many ports with a listener each and so many protected files, by turns."""
    ports = range(first_port, first_port + pairs)
    files = [syshold.PII / f"record-{index}" for index in range(pairs)]
    for path in files:
        path.write_text("a record\n")
    return [thing for pair in zip(ports, files) for thing in pair], many.Listeners(ports)


def ids():
    with contextlib.suppress(AssertionError, OSError):
        return {hold["id"] for hold in syshold.holds()}
    return set()


@syshold.limit(180)
def test_restart_and_upgrade_lose_no_hold():
    person = syshold.start(syshold.policy(hold="10m"))
    late = many.Many()
    things, listeners = objects(5, first_port=21_200)
    program = many.Many(*things)
    syshold.held(10, seconds=60)
    before, held, old = pins(), ids(), daemon_pid()

    restart = threading.Thread(target=stack.call, args=("systemctl", "restart", "sysholdd"), kwargs={"timeout": 120})
    restart.start()
    syshold.until("the old daemon gone", lambda: daemon_pid() != old)
    # On purpose: who comes now waits for the new daemon.
    late.attempt(21_200)
    restart.join()
    syshold.until("the same holds and the late one", lambda: len(ids()) == 11 and ids() > held, seconds=60)
    assert pins() == before, (before, pins())
    assert not program.said and not late.said and not listeners.seen

    # An upgrade: another file under the same name.
    program_file = pathlib.Path("/usr/sbin/sysholdd")
    inode = program_file.stat().st_ino
    shutil.copy2(program_file, "/usr/sbin/sysholdd.new")
    pathlib.Path("/usr/sbin/sysholdd.new").rename(program_file)
    stack.call("systemctl", "restart", "sysholdd", timeout=120)
    assert pathlib.Path(f"/proc/{daemon_pid()}/exe").stat().st_ino == program_file.stat().st_ino != inode
    syshold.until("all held still", lambda: len(ids()) == 11 and ids() > held, seconds=60)
    assert pins() == before, (before, pins())
    assert not program.said and not late.said and not listeners.seen

    people = many.People(person, lambda _: "once", per_second=1000)
    assert program.wait_for(*things, seconds=60) == [0] * 10
    assert late.wait_for(21_200, seconds=20) == [0]
    people.stop()
    syshold.until("6 connections", lambda: sum(listeners.seen.values()) == 6, 20)
    syshold.verify()
