"""What a policy says of a process that has read something, and what it leaves an agent beside its rules."""

import pathlib
import subprocess

import setting
import syshold

POLICY = """
[[govern]]
name = "test-agent"
owner = "owner@example.com"

[[govern]]
name = "team"
owner = "owner@example.com"
taint = "agent"

[[govern]]
name = "trusted"
owner = "owner@example.com"
devices = ["/dev/loop-contro*", "/dev/hpet", "/dev/cpu_dma_latency", "/dev/rtc0"]
capabilities = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
allow = ["user-namespaces"]

[[protect]]
name = "pii"
paths = ["/srv/pii"]
class = "pii"

[[rule]]
name = "export"
action = ["connect", "send"]
after = ["pii"]
verdict = "ask"
scopes = ["once", "process", "10m"]

[[rule]]
name = "web"
action = ["connect", "send"]
verdict = "allow"

[[rule]]
name = "pii"
action = "read"
data = ["pii"]
verdict = "ask"
scopes = ["once", "process", "10m"]
"""

# Python that does one line of its input after the other, and says so.
STEPS = """
import sys, urllib.request
def fetch(url):
    try:
        print(urllib.request.urlopen(url).read().decode(), end="")
    except OSError as error:
        print(error)
for line in sys.stdin:
    exec(line.strip())
    print("done", flush=True)
"""


class Agent:
    """A governed Python that does what it is told, step by step."""

    def __init__(self, agent="test-agent"):
        self.child = syshold.governed(setting.PYTHON, "-c", STEPS, agent=agent, stdin=subprocess.PIPE)
        self.does("pass")

    def say(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def heard(self):
        said = []
        while (line := self.child.stdout.readline()) not in ("done\n", ""):
            said.append(line)
        assert line, ("it died", said, self.child.communicate())
        return "".join(said)

    def does(self, line):
        self.say(line)
        return self.heard()


def read(person, agent, path):
    agent.say(f"print(open({str(path)!r}).read())")
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    return approval, agent.heard()


@syshold.anywhere
@syshold.limit(120)
def test_who_has_read_is_asked_before_it_sends_and_the_request_says_what_was_read():
    person = syshold.start(POLICY)
    server = syshold.Server()
    agent, other = Agent(), Agent()
    path = setting.pii("export.csv", "Ada")
    fetch = f"fetch({server.url!r})"
    hello = "hello from the server\n"
    assert agent.does(fetch) == hello, "a rule allows it, until something was read"
    first, text = read(person, agent, path)
    assert text == "Ada\n"

    agent.say(fetch)
    (approval,) = syshold.asked(person)
    assert len(server.seen) == 1
    assert approval["title"].endswith(" after reading pii"), approval["title"]
    assert approval["risk"] == "high", approval
    (line,) = syshold.facts(person, approval, "Read before")
    expected = (str(path), "(pii)", f"pid {agent.child.pid}", f"approved by approver@example.com", first["code"])
    assert all(word in line for word in expected), (line, expected)
    assert syshold.facts(person, approval, "Has read") == ["pii"]
    (leaf,) = syshold.leaves(kind="request", request=approval["id"])
    assert leaf["taint"]["classes"] == ["pii"] and leaf["taint"]["readings"][0]["request_id"] == first["id"], leaf["taint"]
    shown = syshold.sh(syshold.quote("syshold", "holds", "--json")).stdout
    assert '"export"' in shown, shown
    syshold.deny(person, approval)
    assert "Operation not permitted" in agent.heard()

    # A child carries it, and is told of what its parent read; a stranger of the same agent goes on.
    agent.does("import subprocess")
    agent.say(f"p = subprocess.run(['curl', '-sS', {server.url!r}], stdout=-1); print(p.stdout.decode(), end='')")
    (approval,) = syshold.asked(person)
    assert "export.csv" in syshold.facts(person, approval, "Read before")[0]
    syshold.approve(person, approval)
    assert agent.heard() == hello
    assert other.does(fetch) == hello
    setting.nobody_asked(person)
    syshold.verify()


@syshold.anywhere
@syshold.limit(120)
def test_with_taint_of_the_agent_one_reads_and_another_is_asked():
    person = syshold.start(POLICY)
    server = syshold.Server()
    reader, sender = Agent("team"), Agent("team")
    fetch = f"fetch({server.url!r})"
    path = setting.pii("team.csv", "Bob")
    read(person, reader, path)
    sender.say(fetch)
    (approval,) = syshold.asked(person)
    assert str(path) in syshold.facts(person, approval, "Read before")[0]
    syshold.deny(person, approval)
    assert "Operation not permitted" in sender.heard()
    assert Agent().does(fetch) == "hello from the server\n", "another agent has read nothing"
    setting.nobody_asked(person)


@syshold.anywhere
@syshold.limit(90)
def test_an_agent_keeps_what_its_govern_table_names():
    syshold.start(POLICY)
    kept = "\n".join(syshold.status()["relaxed"])
    assert "trusted may use, unheld" in kept and "CAP_SYS_ADMIN" in kept and "/dev/hpet" in kept, kept
    named = ("/dev/loop-control", "/dev/hpet", "/dev/cpu_dma_latency", "/dev/rtc0")
    device = next(path for path in named if pathlib.Path(path).exists())
    steps = (
        (f"import os; os.close(os.open({device!r}, os.O_RDONLY))", "PermissionError"),
        ("import socket; socket.sethostname(socket.gethostname())", "PermissionError"),
    )
    trusted, usual = Agent("trusted"), Agent()
    for step, error in steps:
        try_it = f"exec(\"try:\\n {step}\\n print('went')\\nexcept OSError as e:\\n print(type(e).__name__)\")"
        assert usual.does(try_it) == f"{error}\n", step
        assert trusted.does(try_it) == "went\n", step
    unshare = ("unshare", "--user", "--map-root-user", "true")
    assert syshold.finish(syshold.governed(*unshare))[0] != 0
    assert syshold.finish(syshold.governed(*unshare, agent="trusted"))[0] == 0
