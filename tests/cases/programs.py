"""Real programs: held, approved and denied, they do what they do without Syshold, or fail as the kernel says."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import setting
import syshold

PROGRAMS = ("python", "curl", "cat", "node", "git")
# Kept for the whole boot: what an ungoverned run printed.
EXPECTED = syshold.STATE / "expected.json"


# ---- who was there before ----


@syshold.limit(100)
def test_what_runs_before_the_daemon_starts_is_governed():
    """Seeded from /proc: by unit, by user, by program, and the child of one of them."""
    setting.start()
    syshold.sh("systemctl stop sysholdd.service", timeout=60)
    before = {name: setting.pii(f"before-{name}.csv", name) for name in ("unit", "user", "exe", "child")}
    reader = "import sys; sys.stdin.readline(); print(open(sys.argv[1]).read())"
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script = "read -r line; exec cat {}"

    def begin(*words):
        child = subprocess.Popen([str(word) for word in words], **piped)
        syshold.at_end(child.kill)
        return child

    children = {
        "unit": begin(
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-agent"),
            *("--", "bash", "-c", script.format(before["unit"])),
        ),
        "user": begin(*setting.AS_ROBOT, setting.PYTHON, "-c", reader, before["user"]),
        # It has no child of its own: cat of the file that its standard input names.
        "exe": begin(setting.EXE, "-", before["exe"]),
        # The inner shell is governed for its parent, who is the robot, too.
        "child": begin(*setting.AS_ROBOT, "bash", "-c", f"bash -c '{script.format(before['child'])}'; true"),
    }
    syshold.at_end(syshold.sh, "systemctl kill -s KILL test-agent.service 2> /dev/null; true")
    syshold.until(
        "the unit runs", lambda: syshold.sh("systemctl is-active test-agent.service", check=False).stdout == "active\n"
    )
    time.sleep(1)
    person = setting.start()
    agents = {agent["name"]: agent["processes"] for agent in syshold.status()["agents"]}
    assert agents["test-agent"] >= 1 and agents["robot"] >= 3 and agents["exe-agent"] == 1, agents
    for child in children.values():
        child.stdin.write("go\n")
        child.stdin.close()
        child.stdin = None
    approvals = syshold.asked(person, 4, seconds=20)
    for name in before:
        setting.told(approvals, f"before-{name}.csv")
    setting.answer_all(person, approvals, "approve")
    for name, child in children.items():
        status, out, err = syshold.finish(child)
        assert status == 0 and out.strip().endswith(name), (name, status, out, err)


# ---- five programs at once ----


class Places:
    """Servers and files, one a program, so that no two programs ask for the same."""

    def __init__(self):
        self.out = pathlib.Path("/tmp/programs")
        self.servers = {name: syshold.Server(body=f"hello {name}\n".encode()) for name in ("python", "curl", "node")}
        for name in ("python", "cat", "node"):
            setting.pii(f"{name}.csv", f"{name},ada@example.org\n")
        self.git = git_server()
        self.words = [
            *("sh", setting.GUEST / "programs.sh", self.out),
            *(self.servers[name].url for name in ("python", "curl", "node")),
            f"git://{syshold.PEER}:{self.git}/repo",
        ]

    def clean(self, user):
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        shutil.chown(self.out, user or "root")

    def said(self):
        """What each program printed and ended with; and what git cloned."""
        read = lambda name: (self.out / name).read_text()  # noqa: E731
        said = {name: [read(f"{name}.out"), read(f"{name}.err"), int(read(f"{name}.status"))] for name in PROGRAMS}
        cloned = self.out / "clone" / "README"
        said["cloned"] = cloned.read_text() if cloned.exists() else None
        return said

    def expected(self):
        """The same without Syshold."""
        if not EXPECTED.exists():
            self.clean(None)
            done = setting.ungoverned(*self.words)
            assert done.returncode == 0, done
            EXPECTED.write_text(json.dumps(self.said()))
        return json.loads(EXPECTED.read_text())

    def asked(self, person):
        """Waits until everything that five programs do is held, all at the same time."""
        # Node takes its time to start where everything is emulated.
        approvals = syshold.asked(person, 7, seconds=50)
        for name in ("python", "cat", "node"):
            assert "read" in setting.told(approvals, f"/srv/pii/{name}.csv")["title"]
        for port in (*(server.port for server in self.servers.values()), self.git):
            assert "connect" in setting.told(approvals, f"{syshold.PEER}:{port}")["title"]
        assert not any(server.seen for server in self.servers.values())
        return approvals

    def pauses(self, who, held):
        """Other threads ran on while one was held for `held` seconds."""
        longest, ticks = map(int, (self.out / "python.pause").read_text().split())
        syshold.note(f"{who}: longest pause of another Python thread {longest} ms in {held:.1f} s held, {ticks} ticks of 10 ms")
        # A stopped process would have paused all of that time.
        assert longest < held * 500, (longest, held)
        loop = (self.out / "node.pause").read_text()
        syshold.note(f"{who}: node's event loop stood still for {loop} ms with its held connect")


def git_server():
    """A repository with one commit, served by git's own daemon; returns its port."""
    base = pathlib.Path("/srv/git")
    if not base.exists():
        identity = "-c user.name=Ada -c user.email=ada@example.org"
        syshold.sh(
            f"mkdir -p {base} && cd {base} && git init --quiet repo && cd repo && echo cloned > README"
            f" && git add README && git {identity} commit --quiet -m first"
        )
    with socket.socket() as probe:
        probe.bind((syshold.PEER, 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={base}", f"--listen={syshold.PEER}", f"--port={port}"],
        env={**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    syshold.at_end(daemon.kill)

    def listens():
        with contextlib.suppress(OSError), socket.create_connection((syshold.PEER, port), 1):
            return True

    syshold.until("git daemon listens", listens)
    return port


def approved(start, user, who):
    person = setting.start()
    places = Places()
    expected = places.expected()
    for server in places.servers.values():
        server.seen.clear()
    places.clean(user)
    child = start(places.words, user)
    approvals = places.asked(person)
    # Long enough to see that the others go on.
    time.sleep(2)
    held = time.time() - setting.told(approvals, "/srv/pii/python.csv")["created_at"] / 1000
    setting.answer_all(person, approvals, "approve")
    status, out, err = syshold.finish(child, 40)
    assert status == 0, (status, out, err)
    said = places.said()
    # curl's own log has times and ports in it.
    said["curl"][1] = expected["curl"][1] = ""
    assert said == expected, (said, expected)
    assert said["cloned"] == "cloned\n"
    places.pauses(who, held)
    setting.nobody_asked(person)


def denied(start, user):
    person = setting.start()
    places = Places()
    places.clean(user)
    child = start(places.words, user)
    setting.answer_all(person, places.asked(person), "deny")
    syshold.finish(child, 40)
    said = places.said()
    errno = "Operation not permitted"
    assert said["python"][0] == (
        f"fetch: URLError(PermissionError(1, '{errno}'))\nread: PermissionError(1, '{errno}')\n"
    ), said["python"]
    assert said["curl"][0] == "" and said["curl"][2] == 7 and errno in said["curl"][1], said["curl"]
    assert said["cat"] == ["", f"cat: /srv/pii/cat.csv: {errno}\n", 1], said["cat"]
    fetch, read = said["node"][0].splitlines()
    assert fetch.startswith("fetch: EPERM: connect EPERM"), said["node"]
    assert read == "read: EPERM: EPERM: operation not permitted, open '/srv/pii/node.csv'", said["node"]
    assert said["git"][2] == 128 and f"errno={errno}" in said["git"][1], said["git"]
    assert said["cloned"] is None
    assert not any(server.seen for server in places.servers.values())
    setting.nobody_asked(person)


def as_service(words, user):
    return setting.service(*words, user=user)


def by_run(words, user):
    return syshold.governed(*words, user=user)


@syshold.limit(100)
def test_programs_of_a_service_approved():
    approved(as_service, None, "service")


@syshold.limit(100)
def test_programs_of_a_service_denied():
    denied(as_service, None)


@syshold.limit(100)
def test_programs_of_a_user_under_run_approved():
    approved(by_run, setting.USER, "run")


@syshold.limit(100)
def test_programs_of_a_user_under_run_denied():
    denied(by_run, setting.USER)


# ---- ways out ----


class Udp:
    """Remembers what it received."""

    def __init__(self, address):
        self.seen = seen = []
        self.address = address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self.port = self._socket.getsockname()[1]

        def receive():
            while True:
                seen.append(self._socket.recv(100))

        threading.Thread(target=receive, daemon=True).start()


def ways():
    """Each with a server of its own: the case for sockets.py, the server, and how people see the address."""
    v4, v6, mapped, fast = syshold.Server(), syshold.Server(syshold.PEER6), syshold.Server(), syshold.Server()
    udp, udp6 = Udp(syshold.PEER), Udp(syshold.PEER6)
    return {
        "v4": ("connect", v4.address, v4),
        "v6": ("connect", v6.address, v6),
        "mapped": ("connect", f"::ffff:{mapped.address}", mapped),
        "udp": ("udp", udp.address, udp),
        "udp6": ("udp", udp6.address, udp6),
        "fastopen": ("fastopen", fast.address, fast),
    }


def seen_as(server):
    return f"[{server.address}]:{server.port}" if ":" in server.address else f"{server.address}:{server.port}"


def every_way_out(how):
    person = setting.start()
    cases = ways()
    words = json.dumps([[name, act, address, server.port] for name, (act, address, server) in cases.items()])
    child = syshold.governed(setting.PYTHON, setting.GUEST / "sockets.py", words, user=setting.USER)
    approvals = syshold.asked(person, len(cases), seconds=20)
    for _, _, server in cases.values():
        setting.told(approvals, seen_as(server))
    time.sleep(0.3)
    assert not any(server.seen for name, (_, _, server) in cases.items() if name.startswith("udp"))
    setting.answer_all(person, approvals, how)
    status, out, err = syshold.finish(child)
    assert status == 0, (status, out, err)
    return cases, dict(json.loads(line) for line in out.splitlines())


def test_every_way_out_is_held_and_approved():
    """IPv4, IPv6, mapped, UDP and TCP Fast Open."""
    cases, said = every_way_out("approve")
    assert said == {
        "v4": "connected",
        "v6": "connected",
        "mapped": "connected",
        "udp": "sent 8",
        "udp6": "sent 8",
        "fastopen": "sent 5",
    }, said
    for name in ("udp", "udp6"):
        syshold.until(f"{name} arrived", lambda name=name: cases[name][2].seen == [b"datagram"])


def test_every_way_out_is_held_and_denied():
    cases, said = every_way_out("deny")
    assert said == dict.fromkeys(cases, "errno 1"), said
    time.sleep(0.2)
    assert not cases["udp"][2].seen and not cases["udp6"][2].seen


def test_an_approved_nonblocking_socket_is_not_asked_again():
    person = setting.start()
    server = syshold.Server()
    words = json.dumps([["again", "nonblocking", server.address, server.port]])
    child = syshold.governed(setting.PYTHON, setting.GUEST / "sockets.py", words)
    (approval,) = syshold.asked(person, seconds=20)
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    _, errors = json.loads(out)
    # EINPROGRESS first, then connected (0) or already so (EISCONN); no second prompt in between.
    assert status == 0 and errors[0] == 115 and errors[-1] in (0, 106), (errors, err)
    setting.nobody_asked(person)


# ---- what an approval covers ----


def test_scopes_cover_what_they_say():
    """Two reads each of a file: once asks for both; process for one, and again for another process; 10m for one in all."""
    person = setting.start()
    files = {scope: setting.pii(f"scope-{scope}.csv", scope) for scope in ("once", "process", "10m")}

    def begin(scope):
        words = (setting.PYTHON, setting.GUEST / "files.py", "twice", files[scope])
        return syshold.governed(*words, stdin=subprocess.PIPE)

    def step(child):
        child.stdin.write("\n")
        child.stdin.flush()

    children = {scope: begin(scope) for scope in files}
    approvals = syshold.asked(person, 3, seconds=20)
    for scope, file in files.items():
        syshold.approve(person, setting.told(approvals, str(file)), scope)
    for scope, child in children.items():
        assert child.stdout.readline() == f"{scope}\n"
        step(child)
    # The second read: only `once` asks again.
    for scope in ("process", "10m"):
        assert children[scope].stdout.readline() == f"{scope}\n"
    (again,) = syshold.asked(person)
    assert str(files["once"]) in again["title"], again
    syshold.approve(person, again, "once")
    assert children["once"].stdout.readline() == "once\n"
    # Another process: only `10m` needs nobody.
    others = {scope: begin(scope) for scope in ("process", "10m")}
    assert others["10m"].stdout.readline() == "10m\n"
    (other,) = syshold.asked(person)
    assert str(files["process"]) in other["title"], other
    syshold.deny(person, other)
    assert others["process"].stdout.readline() == "errno 1\n"
    for child in (*children.values(), others["10m"]):
        for _ in range(2):
            with contextlib.suppress(BrokenPipeError):
                step(child)
        child.stdin.close()
    for child in children.values():
        child.wait(10)
    setting.nobody_asked(person)


def test_identical_holds_are_one_request():
    person = setting.start()
    path = setting.pii("same.csv", "the same\n")
    children = [syshold.governed("cat", path) for _ in range(3)]
    holds = syshold.held(3, seconds=20)
    (approval,) = syshold.asked(person)
    syshold.until("all share it", lambda: {hold["request_id"] for hold in syshold.holds()} == {approval["id"]})
    assert len({hold["pid"] for hold in holds}) == 3, holds
    # `once` is for those who waited when people were asked; this is for all of them.
    syshold.approve(person, approval, "10m")
    for child in children:
        assert syshold.finish(child)[:2] == (0, "the same\n")
    setting.nobody_asked(person)


# ---- files ----


def test_a_new_file_is_created_once_approved():
    """O_CREAT|O_EXCL: held before the file exists, so that the restart does not find it (no EEXIST)."""
    person = setting.start()
    new = [syshold.PII / f"new-{how}.csv" for how in ("approved", "denied")]
    for path in new:
        path.unlink(missing_ok=True)
    children = [syshold.governed(setting.PYTHON, setting.GUEST / "files.py", "exclusive", path) for path in new]
    approvals = syshold.asked(person, 2, seconds=20)
    assert not new[0].exists() and not new[1].exists()
    syshold.approve(person, setting.told(approvals, "new-approved.csv"))
    syshold.deny(person, setting.told(approvals, "new-denied.csv"))
    assert syshold.finish(children[0])[:2] == (0, "wrote 5\n")
    assert syshold.finish(children[1])[:2] == (0, "errno 1\n")
    assert new[0].read_text() == "made\n" and not new[1].exists()
    setting.nobody_asked(person)


def test_exec_of_a_protected_script():
    person = setting.start()
    for name in ("good", "bad"):
        setting.pii(f"{name}.sh", f"#!/bin/sh\necho {name} ran\n").chmod(0o755)
    # sh does not name the script until the kernel says no.
    children = [syshold.governed("sh", "-c", f"/srv/pii/{name}.sh; echo $?", user=setting.USER) for name in ("good", "bad")]
    approvals = syshold.asked(person, 2, seconds=20)
    syshold.approve(person, setting.told(approvals, "good.sh"), "process")
    syshold.deny(person, setting.told(approvals, "bad.sh"))
    status, out, err = syshold.finish(children[1])
    assert out == "126\n" and "/srv/pii/bad.sh: Operation not permitted" in err, (status, out, err)
    # The interpreter opens the script again, as another program.
    while children[0].poll() is None:
        for approval in person.pending():
            syshold.approve(person, approval)
        time.sleep(0.05)
    assert syshold.finish(children[0])[:2] == (0, "good ran\n0\n")


def test_an_inherited_descriptor_is_held_when_used():
    """Opened by someone ungoverned: read, mapped, spliced and sent by the governed."""
    person = setting.start()
    named = {way: setting.pii(f"inherited-{way}.csv", f"{way}\n") for way in ("read", "mmap", "splice", "sendfile")}
    children = {}
    for way, path in named.items():
        with path.open() as file:
            words = (setting.PYTHON, setting.GUEST / "files.py", way)
            children[way] = syshold.governed(*words, stdin=file)
    approvals = syshold.asked(person, 4, seconds=20)
    # What is used without its name was found by its descriptor.
    for way in named:
        setting.told(approvals, f"inherited-{way}.csv")
    syshold.deny(person, setting.told(approvals, "inherited-splice.csv"))
    for way in ("read", "mmap", "sendfile"):
        syshold.approve(person, setting.told(approvals, f"inherited-{way}.csv"))
    for way, child in children.items():
        expected = "errno 1\n" if way == "splice" else f"{way}\n"
        assert syshold.finish(child)[:2] == (0, expected), way
    setting.nobody_asked(person)


def test_a_file_is_protected_however_it_is_reached():
    """Created after the start, through a symlink and a bind mount, by a glob; beside the root nothing is."""
    person = setting.start()
    deep = setting.pii("later/deep/down.csv", "deep\n")
    link = pathlib.Path("/tmp/link.csv")
    link.unlink(missing_ok=True)
    link.symlink_to(setting.pii("linked.csv", "linked\n"))
    bound = pathlib.Path("/tmp/bound")
    bound.mkdir(exist_ok=True)
    setting.pii("bound.csv", "bound\n")
    syshold.sh(f"mount --bind {syshold.PII} {bound}")
    syshold.at_end(syshold.sh, f"umount --lazy {bound}")
    export = setting.EXPORTS / "list.csv"
    export.write_text("export\n")
    paths = {deep: "down.csv", link: "linked.csv", bound / "bound.csv": "bound.csv", export: "list.csv"}
    children = {path: syshold.governed("cat", path) for path in paths}
    approvals = syshold.asked(person, len(paths), seconds=20)
    for path, name in paths.items():
        expected = path.read_text()
        syshold.approve(person, setting.told(approvals, name))
        assert syshold.finish(children[path])[:2] == (0, expected), path

    beside = pathlib.Path("/srv/pii-public")
    beside.mkdir(exist_ok=True)
    (beside / "a.csv").write_text("beside\n")
    other = setting.EXPORTS / "list.txt"
    other.write_text("other\n")
    child = syshold.governed("cat", beside / "a.csv", other)
    assert syshold.finish(child)[:2] == (0, "beside\nother\n")
    setting.nobody_asked(person)


# ---- what nobody can approve ----


def test_what_nobody_is_asked_about_is_denied():
    """Rings, sockets that cannot be governed, the gateway and the control socket."""
    person = setting.start()
    ran = syshold.governed(setting.PYTHON, setting.GUEST / "refused.py", "8443")
    control = syshold.governed("syshold", "status", user=setting.USER)
    status, out, err = syshold.finish(ran)
    assert status == 0, (status, out, err)
    said = json.loads(out)
    assert said == dict.fromkeys(said, 1), said
    status, out, err = syshold.finish(control)
    assert status != 0 and "governed process" in err, (status, out, err)
    setting.nobody_asked(person)
    # The same by someone ungoverned: it is Syshold that refused.
    free = json.loads(setting.ungoverned(setting.PYTHON, setting.GUEST / "refused.py", "8443").stdout)
    for name in ("packet", "raw", "raw6", "gateway", "mapped gateway"):
        assert free[name] == 0, free


# ---- who is governed ----


def test_the_governed_are_found_by_user_and_by_program_and_inherited():
    person = setting.start()
    named = {name: setting.pii(f"by-{name}.csv", f"{name}\n") for name in ("user", "exe", "descendant")}
    children = {
        "user": subprocess.Popen([*setting.AS_ROBOT, "cat", named["user"]], stdout=subprocess.PIPE, text=True),
        "exe": subprocess.Popen([setting.EXE, named["exe"]], stdout=subprocess.PIPE, text=True),
        "descendant": syshold.governed(setting.PYTHON, setting.GUEST / "descend.py", named["descendant"]),
    }
    approvals = syshold.asked(person, 3, seconds=20)
    agents = {}
    for hold in syshold.holds():
        agents[pathlib.Path(hold["object"]).name] = hold["agent"]
    expected = {"by-user.csv": "robot", "by-exe.csv": "exe-agent", "by-descendant.csv": "test-agent"}
    assert agents == expected, agents
    setting.answer_all(person, approvals, "approve")
    for name, child in children.items():
        out, _ = child.communicate(timeout=20)
        assert (child.returncode, out) == (0, f"{name}\n"), name
