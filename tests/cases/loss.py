"""The daemon dies, restarts and is replaced: nothing is released meanwhile, and no hold is lost.

200 holds where the machine is fast enough; an emulated one takes as many as it gets in `SECONDS`, or in as many as the
environment says: `LOSS_SECONDS=600 python3 run.py loss::`.
"""

import contextlib
import os
import pathlib
import random
import shutil
import threading
import time

import bpf
import many
import stack
import syshold

PINS = pathlib.Path("/sys/fs/bpf/syshold/v5")
NO_RESTART = pathlib.Path("/run/systemd/system/sysholdd.service.d/no-restart.conf")
ROOMY = "max_pending_per_host = 5000\n"
EPERM = 1
HOLDS = 200
SECONDS = int(os.environ.get("LOSS_SECONDS", 8))


def daemon_pid():
    return int(syshold.sh("systemctl show -P MainPID sysholdd").stdout)


def pins():
    return sorted(str(path.relative_to(PINS)) for path in PINS.glob("*/*"))


def started(text):
    """As `syshold.start`, with a gateway that takes every request of these tests."""
    config = pathlib.Path("/etc/syshold/approver.toml")
    old = config.read_text() if config.exists() else None
    if not old or ROOMY not in old:
        config.write_text(ROOMY + (old or ""))
        syshold.sh("systemctl restart syshold-approver", timeout=60)
    return syshold.start(text)


def without_restarts():
    """systemd leaves a dead daemon dead."""
    NO_RESTART.parent.mkdir(parents=True, exist_ok=True)
    NO_RESTART.write_text("[Service]\nRestart=no\n")
    syshold.sh("systemctl daemon-reload", timeout=60)

    def undo():
        NO_RESTART.unlink()
        syshold.sh("systemctl daemon-reload; systemctl restart sysholdd", check=False, timeout=120)

    syshold.at_end(undo)


def objects(pairs, first_port=21_000):
    """So many ports with a listener each and so many protected files, by turns."""
    ports = range(first_port, first_port + pairs)
    files = [syshold.PII / f"record-{index}" for index in range(pairs)]
    for path in files:
        path.write_text("a record\n")
    return [thing for pair in zip(ports, files) for thing in pair], many.Listeners(ports)


def hold(program, things, seconds):
    """Has as many of these held as there is time for; those."""
    deadline, step = time.monotonic() + seconds, 10
    for end in range(step, len(things) + 1, step):
        program.attempt(*things[end - step : end])
        syshold.held(end, seconds=60)
        if time.monotonic() > deadline:
            break
    return things[:end]


def ids():
    with contextlib.suppress(AssertionError, OSError):
        return {hold["id"] for hold in syshold.holds()}
    return set()


@syshold.limit(SECONDS + 300)
def test_killed_during_many_holds_nothing_is_released_and_all_complete_afterwards():
    person = started(syshold.policy(hold="10m"))
    without_restarts()
    late = many.Many()
    program = many.Many()
    things, listeners = objects(HOLDS // 2)
    things = hold(program, things, SECONDS)
    before, held = pins(), ids()
    assert len(held) == len(things)

    def dead():
        assert not program.said and not listeners.seen, (program.said, listeners.seen)
        assert pins() == before, (before, pins())

    syshold.sh("systemctl kill --signal=KILL sysholdd")
    # Who is held before it is gone stays held; who comes after that is denied.
    syshold.until("the daemon gone", lambda: not daemon_pid())
    path = syshold.PII / "customers.csv"
    late.attempt(21_000, path)
    assert late.wait_for(21_000, path, seconds=30) == [EPERM, EPERM]
    time.sleep(1)
    dead()
    # And again, at some moment of its start or of its asking.
    for _ in range(2):
        moment = random.uniform(0, 10)
        start = threading.Thread(target=lambda: syshold.sh("systemctl start sysholdd", check=False, timeout=120))
        start.start()
        time.sleep(moment)
        syshold.sh("systemctl kill --signal=KILL sysholdd", check=False)
        start.join()
        syshold.sh("systemctl reset-failed sysholdd", check=False)
        syshold.note(f"killed {moment:.1f} s into a start")
        dead()

    stack.call("systemctl", "start", "sysholdd", timeout=120)
    syshold.until("the same held", lambda: ids() == held, seconds=60)
    dead()
    people = many.People(person, lambda _: "once", per_second=1000)
    begin = time.monotonic()
    assert program.wait_for(*things, seconds=150) == [0] * len(things)
    people.stop()
    syshold.note(f"{len(things)} held, answered in {time.monotonic() - begin:.0f} s: {dict(people.answered)}")
    ports = {port for port in things if isinstance(port, int)}
    syshold.until("the connections", lambda: set(listeners.seen) == ports, 20)
    assert set(listeners.seen.values()) == {1}, listeners.seen
    assert not syshold.holds()
    decided = [leaf["hold"] for leaf in syshold.leaves(kind="decision") if leaf.get("hold")]
    assert all(decided.count(str(one)) == 1 for one in held), decided
    syshold.verify()


@syshold.limit(180)
def test_restart_and_upgrade_lose_no_hold():
    person = started(syshold.policy(hold="10m"))
    late = many.Many()
    things, listeners = objects(5, first_port=21_200)
    program = many.Many()
    things = hold(program, things, 60)
    before, held, old = pins(), ids(), daemon_pid()

    loaded = bpf.record()
    restart = threading.Thread(target=stack.call, args=("systemctl", "restart", "sysholdd"), kwargs={"timeout": 120})
    restart.start()
    syshold.until("the old daemon gone", lambda: daemon_pid() != old)
    # On purpose: who comes now waits for the new daemon.
    late.attempt(21_200)
    restart.join()
    syshold.until("the same holds and the late one", lambda: len(ids()) == 11 and ids() > held, seconds=60)
    assert pins() == before, (before, pins())
    assert not program.said and not late.said and not listeners.seen

    # The verifier has read nothing again.
    assert bpf.record() == loaded, (bpf.record(), loaded)

    # An upgrade: another file under the same name, and as if its programs were others, too.
    (PINS / "maps" / "STEPS").unlink()
    program_file = pathlib.Path("/usr/sbin/sysholdd")
    inode = program_file.stat().st_ino
    shutil.copy2(program_file, "/usr/sbin/sysholdd.new")
    pathlib.Path("/usr/sbin/sysholdd.new").rename(program_file)
    stack.call("systemctl", "restart", "sysholdd", timeout=120)
    assert pathlib.Path(f"/proc/{daemon_pid()}/exe").stat().st_ino == program_file.stat().st_ino != inode
    assert not bpf.record()[1] & loaded[1], "programs of before"
    syshold.until("all held still", lambda: len(ids()) == 11 and ids() > held, seconds=60)
    assert pins() == before, (before, pins())
    assert not program.said and not late.said and not listeners.seen

    people = many.People(person, lambda _: "once", per_second=1000)
    assert program.wait_for(*things, seconds=60) == [0] * 10
    assert late.wait_for(21_200, seconds=20) == [0]
    people.stop()
    syshold.until("6 connections", lambda: sum(listeners.seen.values()) == 6, 20)
    syshold.verify()


@syshold.limit(120)
def test_a_restart_goes_on_only_with_the_programs_that_were_recorded():
    syshold.start()
    links, loaded = PINS / "links", bpf.record()
    # A link that does nothing of what its name says.
    (links / "path_chown").unlink()
    (links / "path_chmod").rename(links / "path_chown")
    before = pins()
    stack.call("systemctl", "restart", "sysholdd", timeout=120)
    assert pins() == sorted([*before, "links/path_chmod"]), pins()
    made_of, programs = bpf.record()
    assert made_of == loaded[0] and len(programs) == len(loaded[1]) and not programs & loaded[1], (programs, loaded)
