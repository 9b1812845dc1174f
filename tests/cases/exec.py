"""Programs that rules name: asked by what they are given, and run with exactly that."""

import json
import pathlib
import shutil
import subprocess
import time

import setting
import syshold

POLICY = """
[[govern]]
name = "test-agent"
owner = "owner@example.com"

[[rule]]
name = "tool-delete"
action = "exec"
programs = ["/usr/local/bin/tool", "/usr/local/bin/script", "/usr/local/bin/again"]
argv = ["* delete *"]
verdict = "ask"
scopes = ["once", "session"]

[[rule]]
name = "ask-connect"
action = "connect"
to = ["PEER:23000"]
verdict = "ask"

[[rule]]
name = "no-other"
action = "exec"
programs = ["/usr/local/bin/other"]
verdict = "deny"
""".replace("PEER", syshold.PEER)

# Connects, and runs itself once more from a signal's handler that comes in between: called by the kernel, not by
# Python, before the connect is restarted.
AGAIN = """#!PYTHON
import ctypes, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
print("ran", flush=True)
# libc's connect() calls the kernel from elsewhere.
syscall = ctypes.cast(libc.syscall, ctypes.c_void_p).value
CONNECT = 42
argv = (ctypes.c_char_p * 4)(b"again", b"delete", b"x")
tried = []
@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def handler(number, info, context):
    # ucontext_t.uc_mcontext.gregs[REG_RIP]
    if tried or not 0 <= ctypes.c_uint64.from_address(context + 40 + 16 * 8).value - syscall < 256: return
    tried.append("run again")
    libc.execve(b"/usr/local/bin/again", argv, None)
    tried.append(ctypes.get_errno())
libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
libc.signal(signal.SIGALRM, ctypes.cast(handler, ctypes.c_void_p))
peer = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 23000) + socket.inet_aton("PEER") + bytes(8)
plug = socket.socket()
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
libc.syscall(CONNECT, plug.fileno(), peer, len(peer))
errno = ctypes.get_errno()
signal.setitimer(signal.ITIMER_REAL, 0)
print(*tried, "connect", errno, flush=True)
""".replace("PYTHON", str(setting.PYTHON)).replace("PEER", syshold.PEER)

# Runs one command after the other, each a line of JSON.
STEPS = """
import json, subprocess, sys
for line in sys.stdin:
    try:
        done = subprocess.run(json.loads(line), stdout=-1, stderr=-1)
        said = [done.returncode, done.stdout.decode()]
    except OSError as error:
        said = [error.errno, ""]
    print(json.dumps(said), flush=True)
"""

# Runs argv[2:]; writes argv[1] over the last of them as soon as it is told to.
CHANGES = """
import ctypes, os, sys, threading
program, *words = [word.encode() for word in sys.argv[2:]]
last = ctypes.create_string_buffer(words[-1], 64)
argv = (ctypes.c_void_p * (len(words) + 2))()
kept = [ctypes.create_string_buffer(word) for word in [program, *words[:-1]]]
for i, word in enumerate([*kept, last]):
    argv[i] = ctypes.addressof(word)
def change():
    if not sys.stdin.readline(): return
    last.value = sys.argv[1].encode()
    print("changed", flush=True)
threading.Thread(target=change, daemon=True).start()
envp = (ctypes.c_char_p * 1)()
ctypes.CDLL(None, use_errno=True).execve(program, argv, envp)
print("errno", ctypes.get_errno())
"""


def start():
    for name in ("tool", "other"):
        shutil.copy("/bin/echo", f"/usr/local/bin/{name}")
    for name, text in (("script", '#!/bin/sh -e\necho "$@"\n'), ("again", AGAIN)):
        script = pathlib.Path("/usr/local/bin", name)
        script.write_text(text)
        script.chmod(0o755)
    return syshold.start(POLICY)


class Agent:
    def __init__(self):
        self.child = syshold.governed(setting.PYTHON, "-c", STEPS, stdin=subprocess.PIPE)

    def say(self, *words):
        self.child.stdin.write(json.dumps(words) + "\n")
        self.child.stdin.flush()

    def heard(self):
        return tuple(json.loads(self.child.stdout.readline()))

    def does(self, *words):
        self.say(*words)
        return self.heard()


@syshold.limit(120)
def test_a_command_is_asked_by_its_arguments_and_an_approval_is_for_that_command_line():
    person = start()
    agent = Agent()
    assert agent.does("tool", "get", "x") == (0, "get x\n")
    words = ("tool", "delete", "a b", "\u202e")
    agent.say(*words)
    (approval,) = syshold.asked(person)
    assert "wants to run tool delete 'a b'" in approval["title"], approval["title"]
    assert "\u202e" not in approval["title"]
    (digest,) = syshold.facts(person, approval, "SHA-256 of what would run")
    assert digest == syshold.sh("sha256sum /usr/local/bin/tool").stdout.split()[0]
    syshold.approve(person, approval, "session")
    assert agent.heard() == (0, "delete a b \u202e\n")
    assert agent.does(*words) == (0, "delete a b \u202e\n"), "the session covers this command line"
    agent.say("tool", "delete", "another thing")
    (approval,) = syshold.asked(person)
    syshold.deny(person, approval)
    assert agent.heard() == (1, "")
    assert agent.does("other") == (1, "")
    setting.nobody_asked(person)


def runs(person, changes_to, *words):
    """Status and output of a command that was approved; its last word is another by then, if `changes_to` says so."""
    child = syshold.governed(setting.PYTHON, "-c", CHANGES, changes_to or "", *words, stdin=subprocess.PIPE)
    (approval,) = syshold.asked(person)
    if changes_to:
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "changed\n"
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    assert not err, err
    return status, out


@syshold.limit(120)
def test_a_program_whose_arguments_were_changed_after_they_were_approved_never_runs():
    person = start()
    before = syshold.leaves()[-1]["idx"]
    for program in ("/usr/local/bin/tool", "/usr/local/bin/script"):
        words = (program, "delete", "of", "good")
        assert runs(person, None, *words) == (0, "delete of good\n")
        for other in ("evil", "worse", "bad", "good "):
            assert runs(person, other, *words) == (-9, ""), (program, other)
    # One leaf for many of the same.
    found = [leaf["policy"] for leaf in syshold.leaves(kind="decision") if leaf["idx"] > before]
    assert any("arguments other than" in policy.get("why", "") for policy in found), found
    # Long ones, and empty ones, are what they are.
    for words in (("delete", "x" * 5000, "good"), ("delete", "", "good"), ("delete", *("y",) * 500, "good")):
        assert runs(person, None, "/usr/local/bin/tool", *words) == (0, " ".join(words) + "\n")
    assert runs(person, "evil", "/usr/local/bin/tool", "delete", "x" * 5000, "good") == (-9, "")
    syshold.verify()


@syshold.limit(120)
def test_once_is_once_even_while_the_same_thread_has_another_hold():
    person = start()
    child = syshold.governed("/usr/local/bin/again", "delete", "x")
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval, "once")
    # The signal comes before the connect is held for good, or once it thaws to go on, being approved.
    asked = set()
    while child.poll() is None:
        for approval in person.pending():
            asked.add("run" if "wants to run " in approval["title"] else "connect")
            # Withdrawn meanwhile: what the thread does now is asked anew.
            (person.deny if "run" in asked else person.approve)(approval)
        time.sleep(0.1)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, "ran\nrun again 1 connect 1\n"), (status, out, err)
