"""What test cases share: commands, servers, a running Syshold, and the person who answers."""

import contextlib
import http.server
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import threading
import time

# Seconds a test may take unless it says `@limit(SECONDS)`.
LIMIT = 60
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
        ["bash", "-c", command], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **more
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def until(what, probe, seconds=10.0, pause=0.02):
    """Waits until `probe` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
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


def tidy(failed):
    """Ends what the test left running; shows the services' logs when it failed."""
    if failed and (STATE / "stack").exists():
        logs = sh("journalctl -b --no-pager -n 40 -o short-precise -u sysholdd -u syshold-approver", check=False).stdout
        print(logs)
    _at_end.close()
    session = os.getsid(0)
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)


def quote(*words):
    return " ".join(shlex.quote(str(word)) for word in words)
