"""Maps of the kernel side that are full: whoever needs room in one is denied, and whoever has it keeps it.

They are filled from outside, while the daemon looks away: 16,384 threads that wait take an emulated machine half an hour.
"""

import contextlib
import struct
import subprocess

import bpf
import many
import syshold

MAPS = "/sys/fs/bpf/syshold/v5/maps"
# abi::MAX_PENDING and the size of abi::Pending; abi::MAX_GOVERNED and the size of abi::Newborn.
PENDING = (f"{MAPS}/PENDING", 16_384, 4, 1200)
NEWBORN = (f"{MAPS}/NEWBORN", 65_536, 8, 24)
SEQUENCE, GOVERNED = f"{MAPS}/SEQUENCE", struct.pack("=I", 1)
# What it keeps free for forks under way.
MOST_GOVERNED = 65_536 - 256
EPERM, EAGAIN = 1, 11

# Does what it is told, a word a line, and says with which error number.
ACTS = """
import os, socket, sys, threading
def connect():
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 60).close()
def fork():
    if os.fork() == 0: os._exit(0)
    os.wait()
def thread():
    one = threading.Thread(target=lambda: None); one.start(); one.join()
print("ready", flush=True)
for line in sys.stdin:
    try: {"connect": connect, "fork": fork, "thread": thread}[line.strip()](); print(0, flush=True)
    except OSError as error: print(error.errno, flush=True)
"""


class Agent:
    def __init__(self, port):
        self.child = syshold.governed("python3", "-c", ACTS, syshold.PEER, port, stdin=subprocess.PIPE)
        assert self.child.stdout.readline() == "ready\n", self.child.stderr.read()

    def begin(self, act):
        self.child.stdin.write(act + "\n")
        self.child.stdin.flush()

    def end(self):
        return int(self.child.stdout.readline())

    def does(self, act):
        self.begin(act)
        return self.end()


@contextlib.contextmanager
def looking_away():
    """The daemon does not run, but its heartbeat is good for 10 s."""
    syshold.sh("systemctl kill --signal=STOP sysholdd")
    try:
        yield
    finally:
        syshold.sh("systemctl kill --signal=CONT sysholdd")


@syshold.anywhere
def test_a_full_map_of_holds():
    person = syshold.start()
    port = 23_300
    listeners = many.Listeners([port])
    waiting, late = Agent(port), Agent(port)
    waiting.begin("connect")
    (hold,) = syshold.held()
    before = syshold.leaves()[-1]["idx"]
    with looking_away(), bpf.full(*PENDING):
        assert late.does("connect") == EPERM
    # Who was held before is held still, and goes on when people say so.
    assert [one["id"] for one in syshold.held()] == [hold["id"]]
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    assert waiting.end() == 0
    syshold.until("the one that was approved", lambda: sum(listeners.seen.values()) == 1)
    denied = [leaf for leaf in syshold.leaves(kind="decision") if leaf["idx"] > before and not leaf.get("hold")]
    assert [leaf["policy"]["why"] for leaf in denied] == ["a kernel map is full"], denied
    # And there is room again.
    late.begin("connect")
    syshold.held()


@syshold.anywhere
def test_as_many_processes_as_can_be_governed():
    syshold.start()
    agent = Agent(23_301)
    assert agent.does("fork") == 0
    before = bpf.value(SEQUENCE, GOVERNED, 8)
    bpf.store(SEQUENCE, GOVERNED, struct.pack("=Q", MOST_GOVERNED))
    try:
        assert agent.does("fork") == EAGAIN
        assert agent.does("thread") == 0
        syshold.sh("true")
    finally:
        bpf.store(SEQUENCE, GOVERNED, before)
    assert agent.does("fork") == 0


@syshold.anywhere
def test_as_many_children_as_can_be_on_their_way():
    syshold.start()
    agent = Agent(23_302)
    with bpf.full(*NEWBORN):
        assert agent.does("fork") == EAGAIN
        assert agent.does("thread") == 0
        syshold.sh("true")
    assert agent.does("fork") == 0
