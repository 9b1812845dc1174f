"""What goes wrong on a host: one clear error, the exit code for it, and nothing is allowed because of it."""

import json
import pathlib
import time

import bpf
import stack
import syshold

EPERM_TEXT = "Operation not permitted\n"
BAD_POLICY = """
[host]
hold = "60s"

[[rule]]
name = "egress"
action = "conect"
verdict = "ask"
"""
SMALL = pathlib.Path("/var/lib/syshold/small")
PINS = pathlib.Path("/sys/fs/bpf/syshold")


def journal_since(stamp):
    return syshold.sh(f"journalctl --no-pager -o cat -u sysholdd --since @{stamp:.3f}").stdout


def has_position(text, policy=BAD_POLICY):
    """Whether an error names file, line and column, shows the line and marks the place."""
    line = next(number for number, line in enumerate(policy.splitlines(), 1) if "conect" in line)
    return f"{stack.POLICY}:{line}:" in text and 'action = "conect"' in text and "^" in text


def denied_at_once(*words):
    begin = time.monotonic()
    status, out, err = syshold.finish(syshold.governed(*words), timeout=30)
    assert (status, out) == (1, "") and err.endswith(EPERM_TEXT), (status, out, err)
    return time.monotonic() - begin


def one_error(text):
    """One error: a line, and at most one more with the fix."""
    first, *more = text.strip().splitlines()
    assert "panicked" not in text and (not more or len(more) == 1 and more[0].startswith("    fix: ")), text
    return first


def test_bad_policy_at_reload_changes_nothing():
    person = syshold.start()
    before = syshold.status()["policy"]
    stack.POLICY.write_text(BAD_POLICY)
    done = syshold.sh("syshold reload", check=False)
    assert done.returncode == 78 and has_position(done.stderr), (done.returncode, done.stderr)
    after = syshold.status()["policy"]
    assert after["sha256"] == before["sha256"] and after["problem"], after
    shown = syshold.sh("syshold status", check=False)
    assert shown.returncode == 1 and "policy" in shown.stdout, shown.stdout
    # By systemd too.
    now = time.time()
    syshold.sh("systemctl reload sysholdd")
    syshold.until("an error in the journal", lambda: has_position(journal_since(now)), 10)
    # What was in force is in force.
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    (approval,) = syshold.asked(person)
    syshold.deny(person, approval)
    assert syshold.finish(child)[2].endswith(EPERM_TEXT)
    # And the mended file is taken.
    stack.POLICY.write_text(syshold.policy())
    syshold.sh("syshold reload")
    assert not syshold.status()["policy"]["problem"]


@syshold.limit(90)
def test_bad_policy_at_start():
    syshold.start()
    stack.POLICY.write_text(BAD_POLICY)
    now = time.time()
    done = syshold.sh("systemctl restart sysholdd", check=False, timeout=60)
    assert done.returncode != 0
    code = syshold.sh("systemctl show -P ExecMainStatus sysholdd").stdout.strip()
    assert code == "78", code
    said = journal_since(now)
    assert has_position(said) and said.count("conect") <= 2, said
    # Starting again would change nothing, so nothing starts it.
    time.sleep(1)
    assert syshold.sh("systemctl is-active sysholdd", check=False).stdout.strip() == "failed"


def test_bad_command_lines():
    syshold.start()
    for words in ("syshold frobnicate", "syshold run --agent", "syshold status --colour", "sysholdd --nope",
                  "syshold-approver nope", "syshold ledger tail -n many"):  # fmt: skip
        done = syshold.sh(words, check=False)
        assert done.returncode == 2 and not done.stdout, (words, done.returncode, done.stdout)
        assert done.stderr.startswith("error: ") and "--help" in done.stderr, (words, done.stderr)
    done = syshold.sh("syshold run --agent nobody -- true", check=False)
    assert done.returncode == 126 and "nobody" in one_error(done.stderr), (done.returncode, done.stderr)
    done = syshold.sh("syshold policy check /no/such/file", check=False)
    assert done.returncode == 78 and "/no/such/file" in one_error(done.stderr), (done.returncode, done.stderr)
    done = syshold.sh("sysholdd --config /no/such/file", check=False)
    assert done.returncode == 78 and "/no/such/file" in one_error(done.stderr), (done.returncode, done.stderr)
    syshold.sh("systemctl stop sysholdd", timeout=60)
    done = syshold.sh("syshold status", check=False)
    assert done.returncode == 69 and "sysholdd" in one_error(done.stderr), (done.returncode, done.stderr)
    done = syshold.sh("syshold run --agent test-agent -- true", check=False)
    assert done.returncode == 126 and "sysholdd" in one_error(done.stderr), (done.returncode, done.stderr)


def test_a_ledger_that_cannot_be_written_at_start():
    syshold.start()
    SMALL.mkdir(mode=0o750, exist_ok=True)
    syshold.sh(f"mount -t tmpfs -o size=8m,mode=0750,ro tmpfs {SMALL}")
    syshold.at_end(syshold.sh, f"umount {SMALL}")
    syshold.sh("systemctl stop sysholdd", timeout=60)
    config = pathlib.Path("/run/syshold-vm/read-only.toml")
    config.write_text(syshold.policy().replace("[host]", f'[host]\nledger = "{SMALL}/ledger.db"'))
    done = syshold.sh(f"sysholdd --config {config}", check=False, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert str(SMALL) in done.stderr and "ead-only" in done.stderr, done.stderr


@syshold.anywhere
@syshold.limit(150)
def test_after_a_boot_with_a_ledger_that_cannot_be_used_nobody_is_ungoverned():
    secret = syshold.PII / "customers.csv"
    unit = ("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--unit=test-agent", "--")
    agent = syshold.quote(*unit, "timeout", "--signal=KILL", "10", "cat", secret)
    syshold.start()
    syshold.sh("systemctl stop sysholdd", timeout=60)
    # As after a boot: the kernel knows nothing of any policy. Only the numbers of holds go on, since this is the same boot.
    for pin in PINS.rglob("*"):
        if pin.is_file() and pin.name != "SEQUENCE":
            pin.unlink()
    # They go when the kernel has time; until then what they hold waits for a daemon.
    syshold.until("no program", lambda: syshold.sh(agent, check=False).stdout == secret.read_text(), 60, pause=1)
    SMALL.mkdir(mode=0o750, exist_ok=True)
    syshold.sh(f"mount -t tmpfs -o size=8m,mode=0750,ro tmpfs {SMALL}")
    syshold.at_end(syshold.sh, f"umount {SMALL}")
    config = pathlib.Path("/run/syshold-vm/unusable.toml")
    config.write_text(syshold.policy().replace("[host]", f'[host]\nledger = "{SMALL}/ledger.db"'))
    done = syshold.sh(f"sysholdd --config {config}", check=False, timeout=60)
    assert done.returncode == 1 and "ead-only" in done.stderr, (done.returncode, done.stderr)
    denied = syshold.sh(agent, check=False)
    assert (denied.returncode, denied.stdout) == (1, "") and denied.stderr.endswith(EPERM_TEXT), denied
    free = syshold.sh(syshold.quote("cat", secret))
    assert free.stdout == secret.read_text(), free


@syshold.limit(150)
def test_a_full_disk_denies_and_recovers():
    person = syshold.start()
    SMALL.mkdir(mode=0o750, exist_ok=True)
    syshold.sh(f"mount -t tmpfs -o size=6m,mode=0750 tmpfs {SMALL}")
    # The gateway witnesses one ledger of a host, and is told that this is another, and the first one again.
    syshold.sh("systemctl stop sysholdd", timeout=60)
    stack.new_ledger()
    syshold.at_end(stack.new_ledger)
    syshold.at_end(lambda: syshold.sh(f"systemctl stop sysholdd; umount {SMALL}", timeout=60))
    stack.POLICY.write_text(syshold.policy().replace("[host]", f'[host]\nledger = "{SMALL}/ledger.db"'))
    syshold.sh("systemctl restart sysholdd", timeout=120)
    path = syshold.PII / "customers.csv"
    child = syshold.governed("cat", path)
    (approval,) = syshold.asked(person)

    syshold.sh(f"dd if=/dev/zero of={SMALL}/fill bs=4k", check=False)
    # Approved, and still not released: the decision cannot be recorded.
    syshold.approve(person, approval)
    result, out, err = syshold.finish(child, timeout=30)
    assert (result, out) == (1, "") and err.endswith(EPERM_TEXT), (result, out, err)
    for _ in range(3):
        assert denied_at_once("cat", path) < 20
    ledger = syshold.until("a problem in the status", lambda: (lambda now: now if not now["ok"] else None)(syshold.status()["ledger"]))
    assert "full" in ledger["problem"] or "space" in ledger["problem"], ledger
    shown = syshold.sh("syshold status", check=False)
    assert shown.returncode == 1 and "the ledger cannot be written" in shown.stdout, shown.stdout

    pathlib.Path(f"{SMALL}/fill").unlink()
    syshold.until("a ledger that is well", lambda: syshold.status()["ledger"]["ok"], 20)
    child = syshold.governed("cat", path)
    approval = syshold.asked(person)[-1]
    syshold.approve(person, approval)
    result, out, err = syshold.finish(child, timeout=30)
    assert (result, out) == (0, path.read_text()), (result, out, err)
    said = syshold.sh(f"syshold ledger tail --db {SMALL}/ledger.db -n 1000 --json").stdout
    kinds = [json.loads(line)["kind"] for line in said.splitlines()]
    assert "gap" in kinds or "degraded" in kinds, kinds
    syshold.note(f"after a full disk: {[kind for kind in kinds if kind in ('gap', 'degraded')]}")
    done = syshold.sh(f"syshold ledger verify --db {SMALL}/ledger.db", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_permission_to_load_programs():
    syshold.start()
    syshold.sh("systemctl stop sysholdd", timeout=60)
    state = pathlib.Path("/run/syshold-vm/powerless")
    state.mkdir(mode=0o750, exist_ok=True)
    config = state / "agent.toml"
    config.write_text(syshold.policy().replace("[host]", f'[host]\nledger = "{state}/ledger.db"'))
    done = syshold.sh(
        f"setpriv --bounding-set=-bpf,-sys_admin,-perfmon sysholdd --config {config} --state {state} --socket {state}/socket",
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and "panicked" not in done.stderr, (done.returncode, done.stderr)
    error = one_error(done.stderr)
    assert "run sysholdd as root" in error and "CAP_BPF" in error, error


@syshold.limit(120)
def test_the_canary_sees_that_enforcement_is_off():
    switch = pathlib.Path("/proc/sys/kernel/ftrace_enabled")
    if not switch.exists():
        raise syshold.Skip("this kernel has no ftrace_enabled")
    person = syshold.start()
    syshold.until("a canary that is well", lambda: syshold.status()["canary"]["ok"], 20)
    syshold.at_end(switch.write_text, "1")
    off = syshold.sh(f"echo 0 > {switch}", check=False)
    begin = time.monotonic()
    if off.returncode != 0:
        syshold.note(f"ftrace_enabled cannot be turned off: {off.stderr.strip()}")
    canary = None
    while time.monotonic() - begin < 8 and (canary := syshold.status()["canary"])["ok"]:
        time.sleep(0.05)
    seconds = time.monotonic() - begin
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    if canary["ok"]:
        # Enforcement went on, and the canary is right to say so.
        (approval,) = syshold.asked(person)
        syshold.deny(person, approval)
        assert syshold.finish(child)[2].endswith(EPERM_TEXT)
        syshold.note("ftrace_enabled=0 does not turn enforcement off here")
        return
    syshold.note(f"ftrace_enabled=0: red after {seconds:.1f} s: {canary['problem']}")
    assert seconds < 2
    assert syshold.sh("syshold status", check=False).returncode == 1
    # The next daemon will not go on with these programs.
    assert bpf.record() == (bytes(32), set()), bpf.record()
    syshold.finish(child)
    switch.write_text("1")
    syshold.until("live again", lambda: syshold.status()["canary"]["ok"], 15)
    changes = [leaf["canary"] for leaf in syshold.leaves(kind="degraded") if "canary" in leaf]
    assert len(changes) >= 2 and changes[-1] == "live again", changes


@syshold.limit(180)
def test_the_canary_sees_every_link_that_goes():
    syshold.start()
    syshold.until("a canary that is well", lambda: syshold.status()["canary"]["ok"], 20)
    links = pathlib.Path("/sys/fs/bpf/syshold/v5/links")
    # A daemon that starts attaches them again.
    syshold.at_end(lambda: syshold.sh("systemctl restart sysholdd", timeout=120))
    proven = {hook["name"] for hook in syshold.status()["kernel"]["hooks"] if hook["attached"] and hook["live"]}
    assert proven == {link.name for link in links.iterdir()}, proven
    for name in ("file_open", "sched_process_exit"):
        (links / name).unlink()
        begin = time.monotonic()
        syshold.until(f"{name} missed", lambda: name in (syshold.status()["canary"]["problem"] or ""), 8, pause=0.05)
        seconds = time.monotonic() - begin
        syshold.note(f"{name} gone: red after {seconds:.1f} s")
        assert seconds < 2
    (hook,) = [hook for hook in syshold.status()["kernel"]["hooks"] if hook["name"] == "file_open"]
    assert not hook["attached"] and not hook["live"], hook
    done = syshold.sh("syshold status", check=False)
    assert done.returncode == 1 and "file_open" in done.stdout, (done.returncode, done.stdout)
