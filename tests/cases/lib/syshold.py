"""What test cases share: commands, servers, a running Syshold, and the person who answers."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, "/usr/lib/syshold-vm")
import stack  # noqa: E402
from stack import Failed  # noqa: E402, F401

# Seconds a test may take unless it says `@limit(SECONDS)`.
LIMIT = 60
# Every wait may take so many times longer: machines are emulated, and several may share a processor.
SLOW = 3
# An address of this machine that is not loopback: servers of tests listen there.
PEER = "198.51.100.1"
OTHER_PEER = "198.51.100.2"
PEER6 = "2001:db8::1"
STATE = pathlib.Path("/var/lib/syshold-vm")

_at_end = contextlib.ExitStack()


class Skip(Exception):
    """The test cannot say anything here; an error in CI."""


def limit(seconds):
    def decorate(function):
        function.limit = seconds
        return function

    return decorate


def anywhere(function):
    """One kernel is enough: what this tests is not the kernel's. A run on several deals such cases out among them."""
    function.anywhere = True
    return function


def note(text):
    """A figure that the report shows even when the test passes."""
    print(f"note: {text}", flush=True)


def kernel():
    """This kernel's entry of kernels.toml."""
    return json.loads((STATE / "kernel.json").read_text())


def uname():
    return os.uname().release


def sh(command, *, check=True, timeout=30, **more):
    """Runs a shell command as root, ungoverned."""
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=timeout * SLOW, stdin=subprocess.DEVNULL, **more
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def until(what, probe, seconds=10.0, pause=0.02):
    """Waits until `probe` returns something true, and returns that."""
    deadline = time.monotonic() + seconds * SLOW
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * SLOW} s: {what}")
        time.sleep(pause)


def at_end(function, *arguments):
    """Runs when the test is over, however it ended; the last one added runs first."""
    _at_end.callback(function, *arguments)


class Server:
    """An HTTP server on a port of its own that remembers what it was asked."""

    def __init__(self, address=PEER, body=b"hello from the server\n"):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                seen.append((self.command, self.path, self.rfile.read(length)))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        self._http = Quiet((address, 0), Handler)
        self.address = address
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        at_end(self._http.shutdown)

    @property
    def url(self):
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/"


# ---- Syshold ----

PII = pathlib.Path("/srv/pii")
AGENT = "test-agent"
# Every test starts from this unless it brings its own: reads of PII and connections are asked.
POLICY = """
[host]
hold = "{hold}"

[[govern]]
name = "test-agent"
owner = "owner@example.com"
unit = "test-agent.service"

[[protect]]
name = "pii"
paths = ["/srv/pii"]
class = "pii"

[[rule]]
name = "pii"
action = ["read", "write"]
data = ["pii"]
verdict = "ask"
scopes = ["once", "process", "10m"]

[[rule]]
name = "egress"
action = ["connect", "send"]
verdict = "ask"
scopes = ["once", "process", "10m"]
"""


def policy(*, hold="60s", rules=""):
    """The usual policy; `rules` come first, so they win."""
    head, protect = POLICY.format(hold=hold).split("[[rule]]", 1)
    return f"{head}{rules}\n[[rule]]{protect}"


def start(text=None, *, fresh=False):
    """Gateway and daemon with this policy, and who may approve; holds of earlier tests are gone.

    A daemon that runs with this very policy already, and is well, goes on, unless `fresh`.
    """
    text = policy() if text is None else text
    PII.mkdir(mode=0o755, exist_ok=True)
    (PII / "customers.csv").write_text("name,mail\nAda,ada@example.org\n")
    if not fresh and _runs_with(text):
        return stack.Person("approver")
    stack.start_gateway()
    person = stack.add_person("approver", ["privacy"])
    stack.enrol()
    stack.start_daemon(text)
    (STATE / "started").touch()
    return person


def _runs_with(text):
    """Does a healthy daemon enforce this policy, with nothing held and the gateway in reach?"""
    if not (STATE / "started").exists() or stack.POLICY.read_text() != text or status() is None:
        return False
    for left in holds():
        # It left its test's session, and its test failed.
        with contextlib.suppress(OSError):
            os.kill(left["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        now = status()
        if now is None or now["policy"]["sha256"] != hashlib.sha256(text.encode()).hexdigest():
            return False
        reachable = now["gateway"] and now["gateway"]["reachable"]
        if now["canary"]["ok"] and now["ledger"]["ok"] and reachable and now["counts"]["pending"] == 0:
            return True
        time.sleep(0.1)
    return False


def _control(call):
    """What the daemon's control socket answers: cheaper than a process of the command line for every look."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect("/run/syshold/control.sock")
        s.sendall(json.dumps({"call": call}).encode() + b"\n")
        replies = [json.loads(line) for line in s.makefile()]
    assert replies and replies.pop() == {"reply": "end"}, replies
    return replies


def status():
    """What `syshold status` is told; None without a daemon."""
    try:
        (reply,) = _control("status")
    except OSError:
        return None
    return reply


def governed(*words, agent=AGENT, user=None, **more):
    """Starts a command as a governed agent; the Popen object has text pipes unless told otherwise."""
    run = ["syshold", "run", "--agent", agent, "--", *map(str, words)]
    if user:
        run = ["runuser", "-u", user, "--", *run]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    child = subprocess.Popen(run, **options)
    at_end(_end, child)
    return child


def _end(child):
    if child.poll() is None:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)


def finish(child, timeout=20):
    """Waits for a command: its exit status, stdout and stderr."""
    out, err = child.communicate(timeout=timeout * SLOW)
    return child.returncode, out, err


def holds():
    """What is held, as `syshold holds` is told."""
    return _control("holds")


def _exactly(count, what, look, show, seconds, pause):
    """Waits until `look` finds `count`, and says what it found instead."""
    deadline = time.monotonic() + seconds * SLOW
    while len(now := look()) != count:
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * SLOW} s: {count} {what}, but {[show(one) for one in now]}")
        time.sleep(pause)
    return now


def held(count=1, seconds=10.0):
    """Waits until `count` syscalls are held, and returns them."""
    return _exactly(count, "held", holds, lambda hold: (hold["action"], hold["object"]), seconds, 0.02)


def asked(person, count=1, seconds=15.0):
    """Waits until `count` requests wait for people, and returns them, oldest first."""
    return _exactly(count, "asked", person.pending, lambda approval: approval["title"], seconds, 0.1)


def approve(person, approval, scope=None):
    status, answer = person.approve(approval, scope)
    assert status == 200 and answer["decided"], (status, answer)


def deny(person, approval, reason="no"):
    status, answer = person.deny(approval, reason)
    assert status == 200 and answer["decided"], (status, answer)


def facts(person, approval, label):
    """The facts of a request with that label, as people are shown them."""
    status, whole = person.ask("GET", f"/v1/approvals/{approval['id']}")
    assert status == 200, whole
    return [fact["value"] for fact in whole["facts"] if fact["label"] == label]


def answering(how):
    """Someone who answers everything from now on: approve, deny or after:SECONDS."""
    child = subprocess.Popen(["/usr/lib/syshold-vm/answer", "approver", how], stdout=subprocess.DEVNULL)
    at_end(_end, child)
    return child


def leaves(**only):
    """The ledger's leaves: `leaves(kind="decision", hold=…)`."""
    words = [f"--{key}={value}" for key, value in only.items()]
    said = sh(quote("syshold", "ledger", "tail", "-n", "1000000", "--json", *words), timeout=120).stdout
    return [json.loads(line) for line in said.splitlines()]


def verify():
    """The ledger has to be clean."""
    done = sh("syshold ledger verify", check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def tidy(failed):
    """Ends what the test left running; shows the services' logs when it failed."""
    if failed and (STATE / "started").exists():
        for unit in ("sysholdd", "syshold-approver"):
            logs = sh(f"journalctl --no-pager -n 25 -o short-precise -u {unit}", check=False).stdout
            print(f"---- {unit}\n{logs}")
        print("---- held: " + sh("syshold holds", check=False).stdout)
    _at_end.close()
    session = os.getsid(0)
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)


def quote(*words):
    return " ".join(shlex.quote(str(word)) for word in words)
