"""Many syscalls at once: one governed program with a thread each, and people who answer everything."""

import collections
import contextlib
import json
import random
import re
import selectors
import socket
import sys
import threading
import time

import syshold

# Tries every word it is given or reads from stdin, a line each: a port of the peer, or a path.
# Says what became of it at once.
_PROGRAM = """
import json, socket, sys, threading
peer, saying = sys.argv[1], threading.Lock()
def attempt(what):
    try:
        if what.isdigit():
            with socket.socket() as s: s.connect((peer, int(what)))
        else:
            with open(what) as file: file.read()
        errno = 0
    except OSError as error:
        errno = error.errno
    with saying: print(json.dumps([what, errno]), flush=True)
threading.stack_size(128 * 1024)
def start(what): threading.Thread(target=attempt, args=(what,)).start()
for what in sys.argv[2:]: start(what)
for line in sys.stdin: start(line.strip())
"""


class Many:
    """A governed program that tries many things; `said` has the errno of what has returned, 0 for success."""

    def __init__(self, *objects):
        self.said = collections.OrderedDict()
        self.child = syshold.governed(sys.executable, "-c", _PROGRAM, syshold.PEER, *objects, stdin=-1)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def attempt(self, *objects):
        for what in objects:
            self.child.stdin.write(f"{what}\n")
        self.child.stdin.flush()

    def _read(self):
        for line in self.child.stdout:
            what, errno = json.loads(line)
            assert what not in self.said, f"{what} returned twice"
            self.said[what] = errno

    def wait_for(self, *objects, seconds=30):
        """Until these have returned; their errnos."""
        words = [str(what) for what in objects]
        syshold.until(f"back: {words}, not only {dict(self.said)}", lambda: all(w in self.said for w in words), seconds)
        return [self.said[word] for word in words]


class Listeners:
    """Accepts on many ports and counts."""

    def __init__(self, ports):
        self.seen = collections.Counter()
        self._selector = selectors.DefaultSelector()
        for port in ports:
            listener = socket.create_server((syshold.PEER, port), backlog=1024)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, port)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            for key, _ in self._selector.select():
                try:
                    while True:
                        connection, _ = key.fileobj.accept()
                        self.seen[key.data] += 1
                        connection.close()
                except BlockingIOError:
                    pass


class People:
    """Answers every request once, after a time by chance; `decide(approval)` gives the scope, or None to deny."""

    def __init__(self, person, decide, *, chance=None, per_second=20):
        self._person = person
        self._decide = decide
        self._chance = chance or random.Random()
        self._per_second = per_second
        self.answered = collections.Counter()
        self._over = threading.Event()
        self._queue, self._known, self._lock = [], set(), threading.Lock()
        for target in (self._look, self._answer, self._answer):
            threading.Thread(target=self._keep, args=(target,), daemon=True).start()

    def stop(self):
        self._over.set()

    def _keep(self, target):
        while not self._over.is_set():
            # Tests restart the gateway.
            with contextlib.suppress(OSError):
                target()

    def _look(self):
        while not self._over.is_set():
            # A list of hundreds costs the gateway more than the answers do.
            if len(self._queue) > 8:
                self._over.wait(0.02)
                continue
            status, answer = self._person.ask("GET", "/v1/approvals")
            assert status == 200, (status, answer)
            with self._lock:
                for approval in answer["approvals"]:
                    if approval["state"] == "waiting" and approval["id"] not in self._known:
                        self._known.add(approval["id"])
                        due = time.monotonic() + self._chance.expovariate(self._per_second)
                        self._queue.append((due, approval))
            self._over.wait(0.02)

    def _answer(self):
        while not self._over.is_set():
            with self._lock:
                due = next((entry for entry in self._queue if entry[0] <= time.monotonic()), None)
                if due:
                    self._queue.remove(due)
                    scope = self._decide(due[1])
            if not due:
                self._over.wait(0.005)
                continue
            approval = due[1]
            try:
                self._give(approval, scope)
            except OSError:
                with self._lock:
                    self._queue.append(due)
                raise

    def _give(self, approval, scope):
        if scope is None:
            status, answer = self._person.deny(approval, "by chance")
        else:
            status, answer = self._person.approve(approval, scope)
        given = f"approve {scope}" if scope else "deny"
        self.answered[given if status == 200 else f"{status} {answer.get('type')}"] += 1


def port_of(approval):
    """The port a request is about."""
    return int(re.findall(r":(\d+)", approval["title"])[-1])
