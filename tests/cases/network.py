"""Every way to reach another machine is held or denied, and each of them works without Syshold."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import setting
import syshold

NET = setting.GUEST / "net.py"
# What matters is the same for root and for others.
EVERYBODY = (None, setting.USER)


class Sink:
    """A place on this machine that is not loopback, and what it heard."""

    def __init__(self, kind=socket.SOCK_STREAM, address=syshold.PEER, port=0):
        self.heard = []
        v6 = ":" in address
        self._socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self.address, self.port = address, self._socket.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            self._socket.listen(64)
            threading.Thread(target=self._accept, daemon=True).start()
        else:
            threading.Thread(target=self._receive, daemon=True).start()

    def _accept(self):
        while True:
            threading.Thread(target=self._read, args=(self._socket.accept()[0],), daemon=True).start()

    def _read(self, connection):
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.heard.append(data.decode())

    def _receive(self):
        while True:
            self.heard.append(self._socket.recv(65536).decode())

    def says(self, text):
        """It has heard this, once and nothing else; and forgets it."""
        syshold.until(f"{text!r} arrives", lambda: "".join(self.heard) == text or not time.sleep(0.05) and None)
        self.heard.clear()

    def heard_nothing(self):
        time.sleep(0.2)
        assert not self.heard, self.heard

    def connected(self):
        """A socket connected here by someone who is not governed, for others to inherit."""
        s = socket.create_connection((self.address, self.port))
        syshold.at_end(s.close)
        return s


def datagrams(address=syshold.PEER, port=0):
    return Sink(socket.SOCK_DGRAM, address, port)


def free(*words, user=None, **more):
    """The same without Syshold: it has to work, or the case says nothing."""
    done = setting.ungoverned(setting.PYTHON, NET, *words, user=user, **more)
    assert done.returncode == 0, done
    return done.stdout.strip()


def governed(*words, user=None, **more):
    return syshold.governed(setting.PYTHON, NET, *words, user=user, **more)


def said(child):
    status, out, err = syshold.finish(child, timeout=40)
    assert status == 0, (status, out, err)
    return out.strip()


def held_then(person, child, what, how):
    """Held for `what`; then this answer, and what the program said."""
    (approval,) = syshold.asked(person, seconds=30)
    assert what in approval["title"], (what, approval["title"])
    how(person, approval)
    return said(child)


def asked_for(person, child, sink, what, text, good="ok"):
    """One try: held, denied: nothing arrives; another: held, approved: it does."""
    label = f"{syshold.PEER}:{sink.port}"
    assert held_then(person, child(), f"{what} {label}" if what else label, syshold.deny).startswith("EPERM")
    sink.heard_nothing()
    assert held_then(person, child(), label, syshold.approve).startswith(good)
    sink.says(text)


# ---- connecting and sending ----


@syshold.limit(120)
def test_every_address_of_a_connect_is_held():
    """v4, and v4 in v6, which is the same question; and v6."""
    person = setting.start()
    sink, sink6 = Sink(), Sink(address=syshold.PEER6)
    for address, place in ((syshold.PEER, sink), (f"::ffff:{syshold.PEER}", sink), (syshold.PEER6, sink6)):
        assert free("connect", address, place.port) == "ok"
        place.says("connected")
    both = [governed("connect", address, sink.port) for address in (syshold.PEER, f"::ffff:{syshold.PEER}")]
    syshold.held(2, seconds=30)
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    # One that joined after the question was composed is asked about once more.
    answering = syshold.answering("approve")
    for child in both:
        answer = said(child)
        assert answer == "ok", answer
    answering.kill()
    sink.heard.clear()
    child = governed("connect", syshold.PEER6, sink6.port)
    assert held_then(person, child, f"[{syshold.PEER6}]:{sink6.port}", syshold.approve) == "ok"
    sink6.says("connected")


@syshold.limit(90)
def test_a_second_connect_of_the_same_socket_is_not_asked_again():
    person = setting.start()
    sink = Sink()
    assert free("again", syshold.PEER, sink.port) == 'ok ["EINPROGRESS", "ok"]'
    child = governed("again", syshold.PEER, sink.port)
    assert held_then(person, child, str(sink.port), syshold.approve) == 'ok ["EINPROGRESS", "ok"]'
    setting.nobody_asked(person)


@syshold.limit(240)
def test_every_way_of_sending_a_datagram_is_held():
    person = setting.start()
    for way, text in (("datagram", "datagram"), ("unspecified", "unspecified"), ("elsewhere", "elsewhere")):
        sink = datagrams()
        assert free(way, syshold.PEER, sink.port).startswith("ok")
        sink.says(text)
        if way != "elsewhere":
            asked_for(person, lambda way=way, sink=sink: governed(way, syshold.PEER, sink.port), sink, "", text)
            continue
        # Connected, by an approval, to another port of the same machine.
        child = governed(way, syshold.PEER, sink.port)
        (first,) = syshold.asked(person, seconds=30)
        assert f"{syshold.PEER}:9" in first["title"]
        syshold.approve(person, first)
        assert held_then(person, child, f"{syshold.PEER}:{sink.port}", syshold.deny).startswith("EPERM")
        sink.heard_nothing()


@syshold.limit(120)
def test_the_second_message_of_sendmmsg_is_held():
    person = setting.start()
    one, other = datagrams(), None
    other = datagrams(syshold.OTHER_PEER, one.port)
    assert free("several", syshold.PEER, syshold.OTHER_PEER, one.port) == "ok 2"
    one.says("several")
    other.says("several")
    child = governed("several", syshold.PEER, syshold.OTHER_PEER, one.port)
    (first,) = syshold.asked(person, seconds=30)
    assert f"{syshold.PEER}:{one.port}" in first["title"]
    syshold.approve(person, first)
    one.says("several")
    assert held_then(person, child, f"{syshold.OTHER_PEER}:{one.port}", syshold.approve) == "ok [1, 1]"
    other.says("several")


@syshold.limit(120)
def test_fast_open_is_held():
    person = setting.start()
    sink = Sink()
    assert free("fastopen", syshold.PEER, sink.port).startswith("ok")
    sink.says("fastopen")
    asked_for(person, lambda: governed("fastopen", syshold.PEER, sink.port), sink, "", "fastopen")


# ---- descriptors that came from someone else ----


@syshold.limit(400)
def test_a_connection_that_was_inherited_is_held():
    """By write, send, sendfile and splice."""
    person = setting.start()
    file = pathlib.Path("/tmp/nine")
    file.write_text("inherited")
    ways = [("write",), ("sendfile", file), ("splice",)]
    for user, way in [(None, way) for way in ways] + [(setting.USER, ("send",))]:
        sink = Sink()

        def child(way=way, user=user, sink=sink):
            s = sink.connected()
            return governed("inherited", s.fileno(), *way, user=user, pass_fds=[s.fileno()])

        s = sink.connected()
        assert free("inherited", s.fileno(), *way, user=user, pass_fds=[s.fileno()]).startswith("ok"), way
        sink.says("inherited")
        asked_for(person, child, sink, "", "inherited")


@syshold.limit(90)
def test_an_inherited_connection_is_asked_about_once():
    person = setting.start()
    sink = Sink()
    s = sink.connected()
    child = governed("inherited", s.fileno(), "many", pass_fds=[s.fileno()])
    assert held_then(person, child, str(sink.port), syshold.approve).startswith("ok [4, 4")
    sink.says("many" * 20)
    setting.nobody_asked(person)


@syshold.limit(90)
def test_an_inherited_datagram_socket_is_held():
    person = setting.start()
    sink = datagrams()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((syshold.PEER, sink.port))
    more = {"pass_fds": [s.fileno()]}
    assert free("inherited", s.fileno(), "send", **more).startswith("ok")
    sink.says("inherited")
    asked_for(person, lambda: governed("inherited", s.fileno(), "send", **more), sink, "", "inherited")


@syshold.limit(180)
def test_a_connection_that_was_received_is_held():
    """Handed over by someone who is not governed, through a unix socket."""
    person = setting.start()
    for number, user in enumerate(EVERYBODY):
        sink = Sink()
        path = f"/tmp/received-{number}-{os.getpid()}"

        def handed(start, path=path, sink=sink):
            child = start()
            assert child.stdout.readline() == "listening\n"
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                socket.send_fds(s, [b"x"], [sink.connected().fileno()])
            os.unlink(path)
            return child

        run = ["runuser", "-u", user, "--"] if user else []
        control = [*run, setting.PYTHON, str(NET), "received", path]
        done = handed(lambda control=control: subprocess.Popen(control, stdout=subprocess.PIPE, text=True))
        assert done.communicate(timeout=30)[0].startswith("ok")
        sink.says("inherited")
        asked_for(
            person,
            lambda handed=handed, user=user, path=path: handed(lambda: governed("received", path, user=user)),
            sink,
            "",
            "inherited",
        )


# ---- listening ----


def talk(address, port):
    with socket.create_connection((address, port), timeout=20) as s:
        s.sendall(b"friend")
        return s.recv(100)


@syshold.limit(240)
def test_listening_for_others_is_held():
    person = setting.start()
    for user, address in ((None, "0.0.0.0"), (None, "::"), (setting.USER, syshold.PEER)):
        port = 18080
        control = ["runuser", "-u", user, "--"] if user else []
        control = [*control, setting.PYTHON, str(NET), "listen", address, str(port)]
        server = subprocess.Popen(control, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "listening\n"
        assert talk(syshold.PEER, port) == b"hello friend"
        assert server.wait(20) == 0

        refused = governed("listen", address, port, user=user)
        shown = f"[::]:{port}" if address == "::" else f"{address}:{port}"
        assert held_then(person, refused, shown, syshold.deny).startswith("EPERM")
        server = governed("listen", address, port, user=user)
        (approval,) = syshold.asked(person, seconds=30)
        assert "listen" in approval["title"], approval["title"]
        syshold.approve(person, approval)
        assert server.stdout.readline() == "listening\n"
        # Accepting, and answering who came, is part of it.
        assert talk(syshold.PEER, port) == b"hello friend"
        assert said(server).startswith("ok")
        setting.nobody_asked(person)


@syshold.limit(90)
def test_listening_on_loopback_is_nobodys_business():
    person = setting.start()
    for address in ("127.0.0.1", "::1"):
        server = governed("listen", address, 18081)
        assert server.stdout.readline() == "listening\n"
        assert talk(address, 18081) == b"hello friend"
        assert said(server).startswith("ok")
    setting.nobody_asked(person)


@syshold.limit(120)
def test_a_listener_that_was_inherited_is_held():
    person = setting.start()
    with socket.create_server((syshold.PEER, 0)) as server:
        port, more = server.getsockname()[1], {"pass_fds": [server.fileno()]}
        replies = []

        def visit():
            def ask():
                with socket.create_connection((syshold.PEER, port), timeout=60) as s:
                    replies.append(s.recv(100))

            thread = threading.Thread(target=ask)
            thread.start()
            return thread

        visitor = visit()
        assert free("inherited", server.fileno(), "accept", **more) == "ok"
        visitor.join()
        assert replies == [b"accepted"]
        visitor = visit()
        child = governed("inherited", server.fileno(), "accept", **more)
        assert held_then(person, child, f"{syshold.PEER}:{port}", syshold.approve) == "ok"
        visitor.join()
        assert replies == [b"accepted"] * 2


# ---- kinds and options of sockets ----

# What one kernel lacks, another has.
MUST_WORK = {"raw", "packet", "mptcp", "netfilter"}
HARMLESS_KINDS = {"tcp", "udp", "unix", "route"}


def test_sockets_that_cannot_be_governed_are_denied():
    setting.start()
    without = json.loads(free("kinds").removeprefix("ok "))
    assert all(without[kind] == "ok" for kind in MUST_WORK | HARMLESS_KINDS), without
    within = json.loads(said(governed("kinds")).removeprefix("ok "))
    assert {kind for kind, what in within.items() if what == "ok"} == HARMLESS_KINDS, within
    assert all(within[kind] == "EPERM" for kind in MUST_WORK), within
    syshold.note("denied: " + " ".join(kind for kind, what in without.items() if what == "ok" and kind not in HARMLESS_KINDS))


HARMLESS_OPTIONS = {"reuse", "nodelay", "ttl"}


def test_options_that_redirect_are_denied():
    setting.start()
    without = json.loads(free("options").removeprefix("ok "))
    assert set(without.values()) == {"ok"}, without
    for user in EVERYBODY:
        within = json.loads(said(governed("options", user=user)).removeprefix("ok "))
        assert {name for name, what in within.items() if what == "ok"} == HARMLESS_OPTIONS, within
        assert set(within.values()) == {"ok", "EPERM"}, within


@syshold.limit(120)
def test_control_messages_that_redirect_are_denied():
    person = setting.start()
    v4, v6 = datagrams(), datagrams(syshold.PEER6)
    for kind, sink in (("route", v6), ("ip options", v4)):
        assert free("control", kind, sink.address, sink.port) == "ok 7"
        assert said(governed("control", kind, sink.address, sink.port)) == "EPERM"
    setting.nobody_asked(person)
    v4.heard.clear()
    # Harmless ones do not change the question.
    for kind, sink in (("ttl", v4), ("class", v6)):
        assert free("control", kind, sink.address, sink.port) == "ok 7"
        sink.says("control")
        child = governed("control", kind, sink.address, sink.port)
        assert held_then(person, child, str(sink.port), syshold.approve) == "ok 7"
        sink.says("control")


@syshold.limit(90)
def test_packets_with_a_route_of_their_own_are_dropped():
    """Options that someone else set on a socket, before it was handed to the agent."""
    person = setting.start()
    sink = datagrams()

    def prepared():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\1\1\1\0")
        s.connect((syshold.PEER, sink.port))
        return s

    s = prepared()
    assert free("inherited", s.fileno(), "send", pass_fds=[s.fileno()]) == "ok 9"
    sink.says("inherited")
    s = prepared()
    child = governed("inherited", s.fileno(), "send", pass_fds=[s.fileno()])
    assert held_then(person, child, str(sink.port), syshold.approve) == "EPERM"
    sink.heard_nothing()
    # Whoever is not governed may still.
    s = prepared()
    assert free("inherited", s.fileno(), "send", pass_fds=[s.fileno()]) == "ok 9"
    sink.says("inherited")


# ---- rings ----


def test_rings_are_denied():
    setting.start()
    assert free("ring") == "ok"
    for user in EVERYBODY:
        assert said(governed("ring", user=user)) == "EPERM"


def test_a_ring_that_was_inherited_cannot_be_mapped():
    setting.start()
    program = (
        "import os, runpy, sys; sys.path.insert(0, %r); import net; ring = net.Ring(); os.set_inheritable(ring.fd, True);"
        " os.execvp(sys.argv[1], [*sys.argv[1:], sys.executable, %r, 'ring_of_another', str(ring.fd)])"
    ) % (str(setting.GUEST), str(NET))
    control = subprocess.run(["python3", "-c", program, "env"], capture_output=True, text=True, timeout=90)
    assert control.stdout.strip() == "ok", control
    within = subprocess.run(
        ["python3", "-c", program, "syshold", "run", "--agent", syshold.AGENT, "--"],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert within.stdout.strip() == "EPERM", within


@syshold.limit(120)
def test_a_ring_from_before_governance_does_nothing_that_is_held():
    """Its entries are refused; a code that means "restart" never reaches them."""
    person = setting.start()
    path, sink = setting.pii("ring.csv", "ring"), Sink()
    words = [setting.PYTHON, str(NET), "ring_before", str(path), syshold.PEER, str(sink.port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    control = subprocess.Popen(words, **pipes)
    assert json.loads(control.communicate("go\n", timeout=60)[0].split("ok ", 1)[1]) == {"openat": "ok", "connect": "ok"}
    child = subprocess.Popen(words, **pipes)
    syshold.at_end(child.kill)
    assert child.stdout.readline() == "ready\n"
    # It moves into a unit that the policy governs.
    unit = subprocess.Popen(["systemd-run", "--quiet", "--collect", "--unit=test-agent", "--wait", "--", "sleep", "60"])
    syshold.at_end(setting.end_service, unit)
    cgroup = pathlib.Path("/sys/fs/cgroup/system.slice/test-agent.service/cgroup.procs")
    syshold.until("the unit runs", cgroup.exists)
    cgroup.write_text(str(child.pid))
    out = child.communicate("go\n", timeout=90)[0]
    assert json.loads(out.split("ok ", 1)[1]) == {"openat": "EPERM", "connect": "EPERM"}, out
    setting.nobody_asked(person)
