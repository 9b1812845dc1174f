"""Thousands of held connects from 8 threads, answered at random times: none lost, none released twice, all in the ledger.

10,000 where the machine is fast enough; an emulated one stops after `SECONDS`, or after as many as the environment
says (`STRESS_SECONDS=3600 python3 run.py stress::`), but never before there were enough to prove something.
"""

import collections
import itertools
import json
import os
import random
import sys
import time

import bpf
import many
import syshold

HOLDS, THREADS = 10_000, 8
SECONDS = int(os.environ.get("STRESS_SECONDS", 40))
# Fewer would prove little.
LEAST = 60
# Objects by how people answer them. `once` is asked again each time: the rest is what a grant then answers.
KINDS = {"once": range(20_000, 20_024), "process": range(20_100, 20_108), "10m": range(20_200, 20_208)}
# `abi::count::RESTARTS`.
COUNT_OF_RESTARTS = 128
# How many of the connects go where people answer each time.
ONCE_SHARE = 0.04

# Says for every connect: its port, what the syscall returned, its errno.
STORM = """
import ctypes, json, random, socket, struct, sys, threading, time
peer, threads, each, least, seconds, seed = sys.argv[1], *map(int, sys.argv[2:7])
once, granted, share = json.loads(sys.argv[7])
over = time.monotonic() + seconds
libc = ctypes.CDLL(None, use_errno=True)
results = [[] for _ in range(threads)]

def connect(port):
    # The syscall itself: nothing between us and its errno.
    with socket.socket() as s:
        to = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(peer))
        ctypes.set_errno(0)
        rc = libc.connect(s.fileno(), to, len(to))
        return rc, ctypes.get_errno() if rc else 0

def storm(index):
    chance = random.Random(seed + index)
    for _ in range(each):
        if time.monotonic() > over and sum(map(len, results)) >= least: break
        # People are asked by every thread, however slow the machine.
        ask = not results[index] or chance.random() < share
        port = chance.choice(once if ask else granted)
        results[index].append((port, *connect(port)))

running = [threading.Thread(target=storm, args=(i,)) for i in range(threads)]
[thread.start() for thread in running]
[thread.join() for thread in running]
json.dump([result for own in results for result in own], sys.stdout)
"""


def restarted():
    """How often a held syscall was restarted, since the programs were loaded."""
    return bpf.per_cpu_words("/sys/fs/bpf/syshold/v5/maps/COUNTS")[COUNT_OF_RESTARTS]


def outcomes_of(holds, count):
    """The holds that ended, once that many did."""
    found = [leaf["hold"] for leaf in syshold.leaves(kind="outcome") if leaf.get("hold") in holds]
    return found if len(found) >= count else None


@syshold.limit(SECONDS + 300)
def test_thousands_of_held_connects_from_eight_threads():
    person = syshold.start(syshold.policy(hold="120s"))
    ports = [port for ports in KINDS.values() for port in ports]
    listeners = many.Listeners(ports)
    seed = time.time_ns() % 1_000_000
    syshold.note(f"seed {seed}")
    chance = random.Random(seed)

    # One of each first, then by chance.
    denials = itertools.chain([False, True], (chance.random() < 0.4 for _ in itertools.repeat(None)))

    def decide(approval):
        scope = next(kind for kind, ports in KINDS.items() if many.port_of(approval) in ports)
        return None if scope == "once" and next(denials) else scope

    people = many.People(person, decide, chance=chance)
    restarts, before = restarted(), syshold.leaves()[-1]["idx"]
    granted = [*KINDS["process"], *KINDS["10m"]]
    choice = json.dumps([list(KINDS["once"]), granted, ONCE_SHARE])
    start = time.monotonic()
    child = syshold.governed(
        sys.executable, "-c", STORM, syshold.PEER, THREADS, HOLDS // THREADS, LEAST, SECONDS, seed, choice
    )
    status, out, err = syshold.finish(child, timeout=SECONDS + 150)
    took = time.monotonic() - start
    people.stop()
    assert status == 0, err
    results = json.loads(out)
    total = len(results)
    assert total >= LEAST, total

    # Every connect came back, with success or EPERM: never the restart code, never anything else.
    codes = collections.Counter((rc, errno) for _, rc, errno in results)
    assert set(codes) == {(0, 0), (-1, 1)}, codes
    # Who was told of success did connect, and nobody else.
    allowed = collections.Counter(port for port, rc, _ in results if rc == 0)
    syshold.until("every connection accepted", lambda: sum(listeners.seen.values()) >= codes[0, 0])
    time.sleep(0.5)
    assert listeners.seen == allowed, (listeners.seen - allowed, allowed - listeners.seen)
    assert not syshold.holds()

    # One decision and one outcome for each hold, and they say what happened.
    leaves = syshold.leaves()
    decisions = [leaf for leaf in leaves if leaf["kind"] == "decision" and leaf["idx"] > before]
    by_hold = {leaf["hold"] for leaf in decisions}
    assert len(by_hold) == len(decisions) == total, (len(by_hold), len(decisions), total)
    verdicts = collections.Counter(leaf["decision"]["verdict"] for leaf in decisions)
    assert verdicts == {"allow": codes[0, 0], "deny": codes[-1, 1]}, (verdicts, codes)
    outcomes = syshold.until("an outcome for each hold", lambda: outcomes_of(by_hold, total), seconds=60, pause=1)
    assert collections.Counter(outcomes) == {hold: 1 for hold in by_hold}, len(outcomes)
    syshold.verify()
    ways = collections.Counter(leaf["decision"]["by"] for leaf in decisions)
    assert ways["grant"] and ways["human"], ways
    assert people.answered["approve once"] and people.answered["deny"], people.answered

    pid = int(syshold.sh("systemctl show -P MainPID sysholdd").stdout)
    memory = [line for line in open(f"/proc/{pid}/status") if line.startswith(("VmHWM", "VmRSS"))]
    syshold.note(f"{total} holds in {took:.0f} s, {total / took:.0f}/s; answered by {dict(ways)}; people: {dict(people.answered)}")
    syshold.note(f"{(restarted() - restarts) / total:.0f} restarts a hold")
    syshold.note("daemon memory: " + ", ".join(" ".join(line.split()) for line in memory))
