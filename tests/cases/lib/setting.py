"""What the cases about programs, terminals and signals share: one policy, so that one daemon serves
them all, an ordinary user, and the small programs of `guest/`."""

import contextlib
import pathlib
import subprocess
import sys

import syshold

GUEST = pathlib.Path("/usr/local/lib/syshold-guest")
PYTHON = sys.executable
# Works with Syshold, is not governed by being who it is.
USER = "agent"
# Governed by being who it is.
ROBOT = "robot"
# Not runuser: PAM takes on the user and is root again, and from then on may not open an audit socket.
AS_ROBOT = ("setpriv", f"--reuid={ROBOT}", f"--regid={ROBOT}", "--clear-groups", "--")
# Governed by the program it runs.
EXE = pathlib.Path("/usr/local/bin/exe-agent")
EXPORTS = pathlib.Path("/home/agent/exports")

POLICY = """
[host]
hold = "5m"

[[govern]]
name = "test-agent"
owner = "owner@example.com"
unit = "test-agent.service"

[[govern]]
name = "robot"
owner = "owner@example.com"
user = "robot"

[[govern]]
name = "exe-agent"
owner = "owner@example.com"
exe = "/usr/local/bin/exe-agent"

[[protect]]
name = "pii"
paths = ["/srv/pii", "/home/*/exports/*.csv"]
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


def start(*, fresh=False):
    """The daemon with the policy above; returns the person who may approve."""
    syshold.sh(f"id {ROBOT} > /dev/null 2>&1 || useradd --create-home --shell /bin/bash {ROBOT}")
    syshold.sh(f"gpasswd --add {USER} syshold > /dev/null")
    if not EXE.exists():
        syshold.sh(f"cp /bin/cat {EXE}")
    EXPORTS.mkdir(exist_ok=True)
    GUEST.mkdir(exist_ok=True)
    for program in (pathlib.Path(__file__).parent.parent / "guest").iterdir():
        to = GUEST / program.name
        if not to.exists() or to.read_bytes() != program.read_bytes():
            to.write_bytes(program.read_bytes())
            to.chmod(0o755)
    return syshold.start(POLICY, fresh=fresh)


def pii(name, text):
    """A protected file that everyone could read."""
    path = syshold.PII / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def service(*words, user=None):
    """Starts a command as test-agent.service, which the policy governs by its unit."""
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--unit=test-agent"]
    if user:
        run.append(f"--uid={user}")
    child = subprocess.Popen(
        [*run, "--", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    syshold.at_end(end_service, child)
    return child


def end_service(child):
    syshold.sh("systemctl kill --signal=KILL test-agent.service", check=False)
    if child.poll() is None:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)


def ungoverned(*words, user=None, **more):
    """The same command without Syshold: what a governed one has to look like."""
    run = ["runuser", "-u", user, "--", *words] if user else words
    return subprocess.run(list(map(str, run)), capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL, **more)


def told(approvals, what):
    """The one approval whose title names `what`."""
    found = [approval for approval in approvals if what in approval["title"]]
    assert len(found) == 1, (what, [approval["title"] for approval in approvals])
    return found[0]


def answer_all(person, approvals, how):
    for approval in approvals:
        if how == "approve":
            syshold.approve(person, approval)
        else:
            syshold.deny(person, approval)


def parked(count=1):
    """The holds, when their threads sleep and people have been asked."""

    def probe():
        now = syshold.holds()
        return now if len(now) == count and all(hold["state"] == "waiting" for hold in now) else None

    return syshold.until(f"{count} held and asked", probe, 20)


def over(person, approval):
    """The gateway has heard that nobody needs an answer any more, and nothing is pending here."""

    def state():
        return person.ask("GET", f"/v1/approvals/{approval['id']}")[1]["state"]

    syshold.until("the request is withdrawn", lambda: state() == "withdrawn", pause=0.1)
    syshold.until("nothing is pending", lambda: syshold.status()["counts"]["pending"] == 0)


def nobody_asked(person):
    waiting = person.pending()
    assert not waiting, [approval["title"] for approval in waiting]
    assert not syshold.holds(), syshold.holds()
