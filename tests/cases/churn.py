"""Everything at once: processes that fork, start threads, open, connect, rename and signal, with verdicts by chance.

What came through is counted where it arrives: connections at the server, lines in the files. Nothing may arrive that no
verdict allowed. 60 s, or as many as the environment says: `CHURN_SECONDS=300 python3 run.py churn::`.
"""

import collections
import os
import pathlib
import random
import re
import time

import bpf
import many
import syshold

SECONDS = int(os.environ.get("CHURN_SECONDS", 60))
PROCESSES = 64
BIRTHS = int(os.environ.get("BIRTHS_SECONDS", 10))
COUNTS = "/sys/fs/bpf/syshold/v5/maps/COUNTS"
# abi::count
BORN_UNSEEN, DIED_UNSEEN = 129, 130
PROGRAM = "syshold-churn"
SCRATCH = pathlib.Path("/srv/churn")
EPERM, EINTR, EAGAIN = 1, 4, 11
# What the kernel restarts a syscall with: nobody else's business.
RESTARTS = range(512, 517)
# In place of an error number: killed meanwhile.
UNKNOWN = -1
# By what the policy says; `ask` is answered by chance.
PORTS = {"allow": range(23_000, 23_004), "deny": range(23_100, 23_104), "ask": range(23_200, 23_208)}
FILES = {"allow": 2, "deny": 2, "ask": 4}
# Once up, the daemon may take so much more memory under this.
MOST_MORE = 64 << 20

POLICY = """
[host]
hold = "30s"

[[govern]]
name = "test-agent"
owner = "owner@example.com"
unit = "test-agent.service"

[[protect]]
name = "allow"
paths = ["/srv/churn-allow"]

[[protect]]
name = "deny"
paths = ["/srv/churn-deny"]

[[protect]]
name = "ask"
paths = ["/srv/churn-ask"]
""" + "".join(
    f"""
[[rule]]
name = "{verdict}-files"
action = ["read", "write"]
data = ["{verdict}"]
verdict = "{verdict}"
{'scopes = ["once", "process", "10m"]' if verdict == "ask" else ""}

[[rule]]
name = "{verdict}-ports"
action = ["connect", "send"]
to = ["{syshold.PEER}:{ports[0]}-{ports[-1]}"]
verdict = "{verdict}"
{'scopes = ["once", "process", "10m"]' if verdict == "ask" else ""}
"""
    for verdict, ports in PORTS.items()
)


def lay():
    """Folders and files; a file starts empty, a line is an act."""
    files = {}
    for verdict, count in FILES.items():
        folder = pathlib.Path(f"/srv/churn-{verdict}")
        folder.mkdir(exist_ok=True)
        files[verdict] = [folder / f"file-{index}" for index in range(count)]
        for path in files[verdict]:
            path.write_text("")
    syshold.sh(f"rm -rf {SCRATCH}; mkdir -p {SCRATCH}")
    return files


def daemon_memory():
    pid = int(syshold.sh("systemctl show -P MainPID sysholdd").stdout)
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def counted(out):
    """OBJECT ERRNO COUNT lines, as a counter of error numbers for each object."""
    counts = collections.defaultdict(collections.Counter)
    for line in out.splitlines():
        thing, errno, count = line.rsplit(" ", 2)
        counts[thing][int(errno)] += int(count)
    return counts


def verdicts(before):
    """Of the holds since then: how many were allowed, by object."""
    allowed = collections.Counter()
    for leaf in syshold.leaves(kind="decision"):
        if leaf["idx"] > before and leaf.get("hold") and leaf["decision"]["verdict"] == "allow":
            allowed[leaf["object"].get("addr") or leaf["object"].get("path")] += 1
    return allowed


def nobody_is_stuck():
    """Every process of the agent has ended, and no thread is left where threads wait."""
    syshold.until("nothing held", lambda: not syshold.holds(), 30)
    agent = [agent for agent in syshold.status()["agents"] if agent["name"] == syshold.AGENT]
    syshold.until("no process left", lambda: not syshold.status()["agents"][0]["processes"], 30)
    assert agent
    left = syshold.sh("find /sys/fs/cgroup -path '*hold/cgroup.threads' -exec cat {} +", check=False).stdout.split()
    assert not left, f"threads are still parked: {left}"


def kernel_log():
    """What the kernel complained about; a program's own fault, in user space, is its own."""
    said = [line for line in syshold.sh("dmesg").stdout.splitlines() if "] traps: " not in line]
    return [line for line in said if re.search(r"BUG|WARNING:|Oops|general protection|RIP:|Call Trace|hung task", line)]


@syshold.limit(SECONDS + 400)
def test_nothing_arrives_that_no_verdict_allowed():
    files = lay()
    person = syshold.start(POLICY)
    listeners = many.Listeners([port for ports in PORTS.values() for port in ports])
    seed = time.time_ns() % 1_000_000
    syshold.note(f"seed {seed}")
    chance = random.Random(seed)
    people = many.People(person, lambda _: chance.choice([None, "once", "process", "10m"]), chance=chance, per_second=50)
    before, memory = syshold.leaves()[-1]["idx"], daemon_memory()
    objects = [f"{syshold.PEER}:{port}" for ports in PORTS.values() for port in ports]
    objects += [str(path) for paths in files.values() for path in paths]
    # What the kernel answers is tried more often: asking takes longer than all else.
    often = [thing for thing in objects if "ask" not in thing and not any(f":{port}" in thing for port in PORTS["ask"])]
    child = syshold.governed(PROGRAM, "run", SECONDS, PROCESSES, seed, SCRATCH, *objects, *often * 5)
    status, out, err = syshold.finish(child, timeout=SECONDS + 150)
    people.stop()
    assert status == 0, err
    counts = counted(out)
    total = sum(sum(errnos.values()) for errnos in counts.values())
    errors = collections.Counter()
    for errnos in counts.values():
        errors.update(errnos)
    nobody_is_stuck()

    assert not [errno for errno in errors if errno in RESTARTS], errors
    assert set(errors) <= {0, EPERM, EINTR, EAGAIN, UNKNOWN}, errors
    assert errors[0] and errors[EPERM], errors
    arrived = {f"{syshold.PEER}:{port}": listeners.seen[port] for ports in PORTS.values() for port in ports}
    arrived |= {str(path): len(path.read_text().splitlines()) for paths in files.values() for path in paths}
    # Who was told of success did it; who was killed may have; nobody else.
    for thing in objects:
        done, unknown = counts[thing][0], counts[thing][UNKNOWN]
        assert done <= arrived[thing] <= done + unknown, (thing, arrived[thing], dict(counts[thing]))
    for port in PORTS["deny"]:
        assert not listeners.seen[port], port
    assert not any(path.read_text() for path in files["deny"])
    # An approval of a file is for one open each time, of a port for one connection.
    allowed = verdicts(before)
    for thing in [*(f"{syshold.PEER}:{port}" for port in PORTS["ask"]), *map(str, files["ask"])]:
        assert arrived[thing] <= allowed[thing], (thing, arrived[thing], allowed[thing])
    more = daemon_memory() - memory
    syshold.note(f"{total} acts by {PROCESSES} processes in {SECONDS} s: {dict(errors)}; people: {dict(people.answered)}")
    syshold.note(f"{sum(allowed.values())} holds allowed; the daemon took {more >> 10} KiB more")
    assert more < MOST_MORE, more
    syshold.verify()
    assert not kernel_log(), kernel_log()


@syshold.limit(BIRTHS + 120)
def test_nobody_is_born_or_dies_unseen():
    """A tracepoint's program may be skipped: preempted in it, its CPU runs it for nobody else meanwhile."""
    files = lay()
    syshold.start(POLICY)
    before = bpf.per_cpu_words(COUNTS)
    child = syshold.governed(PROGRAM, "births", BIRTHS, 32, files["deny"][0])
    status, out, err = syshold.finish(child, timeout=BIRTHS + 60)
    assert status == 0, err
    (errnos,) = counted(out).values()
    assert errnos[EPERM] and not errnos[0], errnos
    nobody_is_stuck()
    unseen, died = (bpf.per_cpu_words(COUNTS)[index] - before[index] for index in (BORN_UNSEEN, DIED_UNSEEN))
    syshold.note(f"{errnos[EPERM]} children in {BIRTHS} s, every one denied; the tracepoint missed {unseen} births and {died} ends")


@syshold.limit(400)
def test_a_flood_of_events_costs_nobody_a_verdict():
    lay()
    # Without the grants of the storm.
    person = syshold.start(POLICY, fresh=True)
    listeners = many.Listeners([*PORTS["deny"], *PORTS["ask"]])
    memory = daemon_memory()
    # Nobody reads the ring meanwhile: it runs full, and what is held now is found by the sweep.
    flood = syshold.governed(PROGRAM, "flood", 12, f"{syshold.PEER}:{PORTS['deny'][0]}")
    syshold.until("a flood", lambda: syshold.status()["counts"]["denied"] > 10)
    syshold.sh("systemctl kill --signal=STOP sysholdd")
    time.sleep(4)
    syshold.sh("systemctl kill --signal=CONT sysholdd")
    port = PORTS["ask"][0]
    held = many.Many(port)
    (approval,) = syshold.asked(person, seconds=30)
    syshold.approve(person, approval)
    (errno,) = held.wait_for(port)
    assert errno == 0, errno
    status, out, err = syshold.finish(flood, timeout=120)
    assert status == 0, err
    (errnos,) = counted(out).values()
    assert set(errnos) == {EPERM}, errnos
    syshold.until("what was approved", lambda: listeners.seen[port] == 1)
    assert sum(listeners.seen.values()) == 1, listeners.seen
    more = daemon_memory() - memory
    syshold.note(f"{errnos[EPERM]} denials; the daemon took {more >> 10} KiB more")
    assert more < MOST_MORE, more
    held.child.kill()
    nobody_is_stuck()
    syshold.verify()


@syshold.anywhere
@syshold.limit(900)
def test_many_threads_held_at_once_and_more_than_the_map_takes():
    lay()
    syshold.start(POLICY.replace('hold = "30s"', 'hold = "20s"'))
    port = PORTS["ask"][1]
    listeners = many.Listeners([port])
    syshold.sh("sysctl -qw kernel.threads-max=40000 vm.max_map_count=200000; systemctl set-property --runtime system.slice TasksMax=infinity")
    # An emulated machine takes half an hour to fill the map: `CHURN_FILL=16896` does.
    count = int(os.environ.get("CHURN_FILL", 512))
    child = syshold.governed(PROGRAM, "fill", count, f"{syshold.PEER}:{port}")
    status, out, err = syshold.finish(child, timeout=250)
    assert status == 0, err
    (errnos,) = counted(out).values()
    assert set(errnos) == {EPERM}, errnos
    assert not listeners.seen, listeners.seen
    syshold.note(f"{errnos[EPERM]} of {count} threads held at once and denied {err[-100:]}")
    nobody_is_stuck()
    # And the next one is held as ever.
    again = many.Many(port)
    syshold.held(1, seconds=30)
    again.child.kill()
    nobody_is_stuck()
