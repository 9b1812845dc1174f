"""A running Syshold on a test machine: the gateway, the daemon, and people who answer.

Used by `serve` and `answer` (`cargo xtask vm … --policy`), by the demo and by the test cases.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import ssl
import subprocess
import threading
import time
import tomllib
import urllib.parse

GATEWAY_DIR = pathlib.Path("/var/lib/syshold-approver")
GATEWAY_CONFIG = pathlib.Path("/etc/syshold/approver.toml")
POLICY = pathlib.Path("/etc/syshold/agent.toml")
HOSTS_URL = "https://localhost:8443"
PEOPLE_URL = "https://127.0.0.1:8444"
# Whom personal tokens are kept for, between the scripts of one boot.
TOKENS = pathlib.Path("/run/syshold-vm/tokens")


class Failed(Exception):
    """A command ended badly; the text is what it said."""


def call(*words, stdin=None, timeout=60, check=True):
    """Runs a command and returns what it printed."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


# Cases ask the same again and again, and many things at once.
ROOMY = "max_pending_per_agent = 20000\nauto_deny_after = 0\n"


def start_gateway():
    """Starts the gateway; at its first start it makes its keys and its CA."""
    old = GATEWAY_CONFIG.read_text() if GATEWAY_CONFIG.exists() else ""
    if ROOMY not in old:
        GATEWAY_CONFIG.parent.mkdir(parents=True, exist_ok=True)
        GATEWAY_CONFIG.write_text(ROOMY + old)
    call("systemctl", "start", "syshold-approver.service")


def add_person(name, groups=(), email=None):
    """A person with a personal token; asking again gives the same one."""
    token = TOKENS / name
    if not token.exists():
        TOKENS.mkdir(parents=True, exist_ok=True, mode=0o700)
        words = [word for group in groups for word in ("--group", group)]
        added = call("syshold-approver", "accounts", "add", name, "--json", "--email", email or f"{name}@example.com", *words)
        token.touch(mode=0o600)
        token.write_text(json.loads(added)["token"])
    return Person(name)


def enrol():
    """Enrols this host at the gateway, once."""
    if pathlib.Path("/var/lib/syshold/gateway.json").exists():
        return
    token = json.loads(call("syshold-approver", "enrol-token", "--json"))["token"]
    call("syshold", "enrol", "--gateway", HOSTS_URL, "--token-file", "-", stdin=token)


def new_ledger():
    """Has the gateway take the next ledger of this host for its own."""
    host = json.loads(pathlib.Path("/var/lib/syshold/gateway.json").read_text())["host_id"]
    subprocess.run(["syshold-approver", "hosts", "new-ledger", host], capture_output=True)


def start_daemon(policy=None):
    """Starts sysholdd with this policy (text), or has the running one take it: loading the kernel's
    programs anew takes seconds under emulation."""
    if policy is not None:
        POLICY.parent.mkdir(parents=True, exist_ok=True)
        POLICY.write_text(policy)
    try:
        if subprocess.run(["systemctl", "is-active", "--quiet", "sysholdd.service"]).returncode == 0:
            # Refused when agents went or moved: running processes are known by their agent's place.
            if subprocess.run(["syshold", "reload"], capture_output=True).returncode == 0:
                return
        call("systemctl", "restart", "sysholdd.service", timeout=180)
    except Failed as failed:
        said = call("journalctl", "--no-pager", "-n", "40", "-u", "sysholdd.service", check=False)
        raise Failed(f"{failed}\n{said}") from None


def groups_of(policy):
    """The groups that a policy asks, so that someone is in them."""
    return sorted({rule["approvers"] for rule in tomllib.loads(policy).get("rule", []) if "approvers" in rule})


class Person:
    """Someone with a personal token, at the people API."""

    def __init__(self, name):
        self.name = name
        self._token = (TOKENS / name).read_text().strip()
        self._tls = ssl.create_default_context(cafile=GATEWAY_DIR / "ca.pem")
        # A handshake costs an emulated machine more than the answer does.
        self._kept = threading.local()

    def ask(self, method, path, body=None):
        """One call: the status and the JSON."""
        kept = getattr(self._kept, "connection", None)
        if kept:
            # The gateway ends connections that it thinks idle, and tests restart it.
            with contextlib.suppress(ConnectionError, ssl.SSLError, http.client.HTTPException):
                return self._ask(kept, method, path, body)
            self._kept.connection = None
        connection = http.client.HTTPSConnection(urllib.parse.urlsplit(PEOPLE_URL).netloc, context=self._tls, timeout=30)
        try:
            answer = self._ask(connection, method, path, body)
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        self._kept.connection = connection
        return answer

    def _ask(self, connection, method, path, body):
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {"detail": text}

    def pending(self):
        """What waits for an answer, oldest first."""
        status, answer = self.ask("GET", "/v1/approvals")
        if status != 200:
            raise Failed(f"cannot list approvals: {status} {answer}")
        return [a for a in reversed(answer["approvals"]) if a["state"] == "waiting"]

    def approve(self, approval, scope=None, reason=None):
        body = {"scope": scope or approval["scopes"][0], "rendered_sha256": approval["rendered_sha256"]}
        if reason:
            body["reason"] = reason
        return self.ask("POST", f"/v1/approvals/{approval['id']}/approve", body)

    def deny(self, approval, reason="denied by a test"):
        return self.ask("POST", f"/v1/approvals/{approval['id']}/deny", {"reason": reason})


def answer_forever(person, how, pause=0.1):
    """Answers everything as `how` says: approve, deny, or after:SECONDS (approve, that much later)."""
    wait = int(how.removeprefix("after:")) if how.startswith("after:") else 0

    def answer(approval):
        status, said = person.deny(approval) if how == "deny" else person.approve(approval)
        print(f"{how} {approval['code']} {approval['title']}: {status} {said.get('detail', '')}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(4) as people:
        while True:
            try:
                due = [one for one in person.pending() if time.time() * 1000 - one["created_at"] >= wait * 1000]
                list(people.map(answer, due))
            except (OSError, Failed) as error:
                print(f"the gateway does not answer: {error}", flush=True)
                time.sleep(0.5)
            time.sleep(pause)
