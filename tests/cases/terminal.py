"""An interactive shell of an ordinary user under `syshold run`, in a terminal: it notices nothing of a hold."""

import os
import re
import time

import pexpect
import setting
import syshold

PROMPT = "ready> "


class Terminal:
    """A login of the user, and in it a governed `bash -i`."""

    def __init__(self):
        self._said = []
        self.tty = pexpect.spawn("su", ["-l", setting.USER], env={**os.environ, "TERM": "dumb"}, encoding="utf-8", timeout=60, dimensions=(24, 200))
        self.tty.delaybeforesend = None
        syshold.at_end(self.tty.close, True)
        self.tty.expect(r"\$ ")
        self.tty.sendline("exec syshold run --agent test-agent -- bash --norc -i")
        self.tty.expect(r"\$ ")
        # In two parts, so that the command's own echo is not taken for the prompt.
        self.tty.sendline("PS1='rea''dy> '")
        self.tty.expect(PROMPT)

    def type(self, command):
        self.tty.sendline(command)

    def key(self, letter):
        self.tty.sendcontrol(letter)

    def prompt(self, seconds=60):
        """What was printed up to the next prompt, without the echo."""
        self.tty.expect(PROMPT, timeout=seconds)
        text = self.tty.before.replace("\r", "")
        self._said.append(text)
        return text

    def run(self, command):
        self.type(command)
        return self.prompt().partition("\n")[2]

    def transcript(self):
        return "".join(self._said)


def test_an_interactive_shell_notices_nothing():
    """A command, a pipeline and a background job: held, approved, and no stopped job is ever reported."""
    person = setting.start()
    path = setting.pii("terminal.csv", "from the file\n")
    terminal = Terminal()
    syshold.note(f"the shell is in {terminal.run('cat /proc/self/cgroup').strip()}")
    for command, expected in (
        (f"cat {path}", "from the file\n"),
        (f"cat {path} | tr a-z A-Z", "FROM THE FILE\n"),
    ):
        terminal.type(command)
        (hold,) = setting.parked()
        assert hold["mode"] == "park", hold
        (approval,) = syshold.asked(person, seconds=20)
        time.sleep(0.5)
        syshold.approve(person, approval)
        assert terminal.prompt().partition("\n")[2] == expected
    # In the background: the prompt is there at once, and the shell calls the job running.
    began = terminal.run(f"cat {path} > /tmp/from-background &")
    assert re.fullmatch(r"\[1\] \d+\n", began), began
    setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    assert "Running" in (jobs := terminal.run("jobs")), jobs
    syshold.approve(person, approval)
    assert terminal.run("wait; cat /tmp/from-background").endswith("from the file\n")
    assert terminal.run("jobs") == ""
    assert "Stopped" not in terminal.transcript(), terminal.transcript()
    setting.nobody_asked(person)


def test_a_denied_command_says_so_in_the_terminal():
    person = setting.start()
    path = setting.pii("terminal.csv", "from the file\n")
    terminal = Terminal()
    terminal.type(f"cat {path}; echo status $?")
    setting.parked()
    (approval,) = syshold.asked(person, seconds=20)
    syshold.deny(person, approval)
    assert terminal.prompt().partition("\n")[2] == f"cat: {path}: Operation not permitted\nstatus 1\n"


def interrupt(terminal):
    """Ctrl-C: what was printed until the prompt, and how long that took."""
    start = time.monotonic()
    terminal.key("c")
    said = terminal.prompt()
    return said, time.monotonic() - start


def interrupted(terminal, person, what, held, asleep):
    """Ctrl-C on what is held gives the prompt back within half a second more than on what merely sleeps.

    At one of three tries: a machine with other work is late now and then, what Syshold costs is there each time.
    """
    tries = []
    while len(tries) < 3:
        terminal.type(asleep)
        time.sleep(2)
        free = interrupt(terminal)[1]
        terminal.type(held)
        setting.parked()
        (approval,) = syshold.asked(person, seconds=20)
        said, took = interrupt(terminal)
        setting.over(person, approval)
        tries.append((took, free))
        syshold.note(f"Ctrl-C on a held {what}: the prompt is back after {took * 1000:.0f} ms (asleep: {free * 1000:.0f} ms)")
        if took < free + 0.5:
            return said
    raise AssertionError(tries)


@syshold.limit(90)
def test_ctrl_c_gives_the_prompt_back():
    person = setting.start()
    path = setting.pii("terminal.csv", "from the file\n")
    terminal = Terminal()
    interrupted(terminal, person, "cat", f"cat {path}", "sleep 60")
    assert terminal.run("echo status $?") == "status 130\n"
    script = "/tmp/interrupted.py"
    with open(script, "w") as file:
        file.write(f"open({str(path)!r}).read()\n")
    asleep = f"{setting.PYTHON} -c 'import time; time.sleep(60)'"
    said = interrupted(terminal, person, "Python script", f"{setting.PYTHON} {script}", asleep)
    assert "KeyboardInterrupt" in said, said
    assert terminal.run("echo status $?") == "status 130\n"
    assert terminal.run("jobs") == ""


def test_ctrl_z_and_fg():
    """Stopped by its user, in the foreground again, held again, approved; and approved while it is stopped."""
    person = setting.start()
    path = setting.pii("terminal.csv", "from the file\n")
    terminal = Terminal()
    for approved_while_stopped in (False, True):
        terminal.type(f"cat {path}")
        (hold,) = setting.parked()
        (approval,) = syshold.asked(person, seconds=20)
        terminal.key("z")
        assert "Stopped" in terminal.prompt(5)
        assert "Stopped" in terminal.run("jobs")
        if approved_while_stopped:
            syshold.approve(person, approval)
            time.sleep(0.5)
            assert "Stopped" in terminal.run("jobs")
            terminal.type("fg")
        else:
            terminal.type("fg")
            terminal.tty.expect(f"cat {path}")
            time.sleep(0.5)
            (still,) = setting.parked()
            assert still["id"] == hold["id"], (still, hold)
            (same,) = syshold.asked(person, seconds=20)
            assert same["id"] == approval["id"]
            syshold.approve(person, approval)
        assert terminal.prompt().endswith("from the file\n")
        assert terminal.run("jobs") == ""
        setting.nobody_asked(person)


def test_timeout_ends_a_held_program_in_time():
    person = setting.start()
    server = syshold.Server()
    terminal = Terminal()
    # On a slow machine curl may take all of two seconds to get to its connect.
    for _ in range(5):
        terminal.type(f"timeout 2 curl --silent {server.url}")
        start = time.monotonic()
        approvals = []
        while not approvals and time.monotonic() - start < 2:
            time.sleep(0.1)
            approvals = person.pending()
        terminal.prompt()
        took = time.monotonic() - start
        assert terminal.run("echo status $?") == "status 124\n"
        if approvals:
            break
    (approval,) = approvals
    syshold.note(f"timeout 2 curl: over after {took:.2f} s")
    assert 1.8 < took < 3, took
    assert not server.seen
    setting.over(person, approval)
