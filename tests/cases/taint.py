"""What a process has read, it carries: to its children, through exec, and not to others."""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess

import bpf
import setting
import syshold

# A rule that asks what was read.
AFTER = """
[[rule]]
name = "export"
action = ["connect", "send"]
after = ["pii"]
verdict = "ask"
scopes = ["once", "process", "10m"]

"""
GOVERNED = "/sys/fs/bpf/syshold/v5/maps/GOVERNED"
# Python that does one line of its input after the other, and says so.
STEPS = """
import sys
for line in sys.stdin:
    exec(line.strip().replace("\\\\n", "\\n"))
    print("done", flush=True)
"""


class Agent:
    """A governed Python that does what it is told, step by step."""

    def __init__(self, *, user=None):
        self.child = syshold.governed(setting.PYTHON, "-c", STEPS, user=user, stdin=subprocess.PIPE)
        self.say("pass")
        self.heard()

    @property
    def pid(self):
        return self.child.pid

    def say(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def heard(self):
        """What it printed until it was done with the last step."""
        said = []
        while (line := self.child.stdout.readline()) not in ("done\n", ""):
            said.append(line)
        assert line, ("it died", said, self.child.communicate())
        return "".join(said)

    def does(self, line):
        self.say(line)
        return self.heard()


def taint(pid):
    """Bits of the classes that a governed process carries."""
    found = bpf.value(GOVERNED, struct.pack("=I", pid), 40)
    assert found, f"{pid} is not governed"
    return struct.unpack("=QIIQQQ", found)[5]


def read(person, agent, path, how=syshold.approve):
    agent.say(f"try: open({str(path)!r}).read()\\nexcept PermissionError: print('denied')")
    (approval,) = syshold.asked(person)
    how(person, approval)
    return agent.heard()


@syshold.limit(90)
def test_a_process_carries_what_it_read():
    person = setting.start()
    one = setting.pii("taint-one.csv", "one")
    agent, other = Agent(), Agent()
    assert taint(agent.pid) == 0
    assert read(person, agent, one, syshold.deny) == "denied\n"
    assert taint(agent.pid) == 0, "a read that was denied leaves no mark"
    assert read(person, agent, one) == ""
    pii = taint(agent.pid)
    assert pii.bit_count() == 1, hex(pii)
    assert taint(other.pid) == 0

    # A child, its child, and what they execute.
    agent.does("import subprocess")
    child = int(agent.does("p = subprocess.Popen(['sh', '-c', 'sleep 60 & echo $!; wait'], stdout=-1); print(p.pid)"))
    sleep = int(agent.does("print(p.stdout.readline().decode())"))
    comm = pathlib.Path(f"/proc/{sleep}/comm")
    syshold.until("it has executed", lambda: comm.read_text() == "sleep\n")
    assert (taint(child), taint(sleep)) == (pii, pii)
    os.kill(sleep, signal.SIGKILL)

    # A child that reads does not mark its parent.
    other.does("import subprocess")
    other.does(f"p = subprocess.Popen(['cat', {str(one)!r}], stdout=-1)")
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    assert other.does("print(p.stdout.read(), p.wait())") == "b'one' 0\n"
    assert taint(other.pid) == 0


@syshold.limit(90)
def test_every_way_of_reading_leaves_its_mark():
    """By an inherited descriptor, by a mapping; and a file that only looks like a protected one leaves none."""
    person = setting.start()
    path = setting.pii("taint-mapped.csv", "mapped")
    with path.open() as file:
        child = syshold.governed(setting.PYTHON, "-c", STEPS, stdin=subprocess.PIPE, pass_fds=[file.fileno()])
        number = file.fileno()
    child.stdin.write(f"import mmap; m = mmap.mmap({number}, 6, prot=mmap.PROT_READ)\n")
    child.stdin.flush()
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    assert child.stdout.readline() == "done\n"
    assert taint(child.pid) != 0

    # The kernel compares the suffix, the daemon the path.
    elsewhere = pathlib.Path("/home/agent/elsewhere.csv")
    elsewhere.write_text("harmless")
    export = setting.EXPORTS / "taint.csv"
    export.write_text("export")
    agent = Agent()
    assert agent.does(f"print(open({str(elsewhere)!r}).read())") == "harmless\n"
    assert taint(agent.pid) == 0
    read(person, agent, export)
    assert taint(agent.pid) != 0


class Connection:
    """An agent's connection that was approved."""

    def __init__(self, person, agent):
        self.agent = agent
        with socket.create_server((syshold.PEER, 0)) as server:
            self.port = server.getsockname()[1]
            agent.does("import socket")
            agent.say(f"s = socket.create_connection(({syshold.PEER!r}, {self.port}))")
            (approval,) = syshold.asked(person)
            syshold.approve(person, approval)
            agent.heard()
            self.end, _ = server.accept()

    def says(self, text):
        self.agent.say(f"s.sendall({text!r}.encode())")

    def hears(self):
        self.agent.heard()
        return self.end.recv(100).decode()

    def decisions(self):
        found = [leaf for leaf in syshold.leaves(kind="decision") if f":{self.port}" in json.dumps(leaf)]
        return [leaf["decision"]["by"] for leaf in found]


@syshold.limit(60)
def test_a_connection_stays_nobodys_business_where_no_rule_asks_what_was_read():
    person = setting.start()
    connection = Connection(person, Agent())
    for text in ("before", "and again"):
        connection.says(text)
        assert connection.hears() == text
    read(person, connection.agent, setting.pii("taint-sent.csv", "sent"))
    assert taint(connection.agent.pid) != 0
    connection.says("after")
    assert connection.hears() == "after"
    assert connection.decisions() == ["human"]


@syshold.limit(120)
def test_a_connection_is_looked_at_again_after_a_read_that_a_rule_asks_for():
    """Allowed once it is nobody's business, until the process has something to carry."""
    setting.start()
    first = setting.POLICY.index("[[rule]]")
    person = syshold.start(setting.POLICY[:first] + AFTER + setting.POLICY[first:])
    connection = Connection(person, Agent())
    connection.says("before")
    assert connection.hears() == "before"
    assert connection.decisions() == ["human"]
    read(person, connection.agent, setting.pii("taint-sent.csv", "sent"))
    for text, way in (("after", syshold.approve), ("once more", None)):
        connection.says(text)
        if way:
            (approval,) = syshold.asked(person)
            assert "taint-sent.csv" in syshold.facts(person, approval, "Read before")[0]
            way(person, approval)
        assert connection.hears() == text
    assert connection.decisions() == ["human", "human"]
