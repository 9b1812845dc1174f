"""Syshold attacks itself, in every way that is known, and says so when something comes through."""

import json
import os
import pathlib
import signal
import subprocess

import syshold

# Brought back with the logs.
RESULT = pathlib.Path("/var/lib/syshold-vm/out/selftest.json")
LINKS = pathlib.Path("/sys/fs/bpf/syshold/v5/links")
BAD = ("LEAKS", "UNEXPECTED")
AGENT = "syshold-selftest"
# Fewer than this of each kind would mean that little is proven.
LEAST = {"held": 40, "denied": 20}


def selftest(*words, timeout=600):
    done = syshold.sh(syshold.quote("syshold", "selftest", "--user", "agent", "--json", *words), check=False, timeout=timeout)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def bad(page):
    """What came through, or not in the way it should: a line each."""
    return [
        f"{attack['id']} {attack['title']} ({attack['expected']}): {who} {attack[who]['verdict']}: {attack[who].get('why')}"
        for attack in page["attacks"]
        for who in ("root", "user")
        if attack[who]["verdict"] in BAD
    ]


def is_gone():
    """Nothing of a self-test is left: no agent, no folder, no process."""
    agents = [agent["name"] for agent in syshold.status()["agents"]]
    processes = syshold.sh("pgrep -f syshold-bypass", check=False).stdout.split()
    return AGENT not in agents and not processes


@syshold.limit(900)
def test_no_attack_comes_through():
    syshold.start()
    status, page = selftest(*os.environ.get("SELFTEST", "").split())
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(page, indent=1))
    print("\n".join(bad(page)))
    assert status == 0 and page["good"], len(bad(page))
    verdicts = [attack[who]["verdict"] for attack in page["attacks"] for who in ("root", "user")]
    syshold.note(", ".join(f"{verdicts.count(kind)} {kind}" for kind in sorted(set(verdicts))))
    if "SELFTEST" not in os.environ:
        assert all(verdicts.count(kind) >= least for kind, least in LEAST.items()), verdicts
    (leaf,) = [leaf for leaf in syshold.leaves(kind="selftest")][-1:]
    assert leaf["result"] == "good" and len(leaf["results"]) == len(page["attacks"]), leaf
    syshold.until("nothing left", is_gone)
    assert not pathlib.Path("/var/lib/syshold-selftest").exists()
    syshold.verify()


@syshold.anywhere
def test_only_root_and_only_one_at_a_time():
    syshold.start()
    done = syshold.sh("runuser -u agent -- syshold selftest 1", check=False)
    assert done.returncode == 2 and "root" in done.stderr, (done.returncode, done.stderr)
    done = syshold.sh("syshold selftest --user agent no-such-attack", check=False)
    assert done.returncode == 2 and "no attack" in done.stderr, (done.returncode, done.stderr)
    words = ["syshold", "selftest", "--user", "agent", "connect"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    syshold.until("the agent there", lambda: AGENT in [agent["name"] for agent in syshold.status()["agents"]])
    done = syshold.sh("syshold reload", check=False)
    assert done.returncode != 0 and "self-test" in done.stderr, (done.returncode, done.stderr)
    # Killed in the middle, it leaves nothing behind.
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    syshold.until("nothing left", is_gone, 10)
    syshold.sh("syshold reload")


@syshold.anywhere
@syshold.limit(300)
def test_a_hook_that_is_gone_is_told_by_all_three():
    syshold.start()
    syshold.at_end(lambda: syshold.sh("systemctl restart sysholdd", timeout=120))
    status, page = selftest("1", "27")
    assert status == 0, bad(page)
    for name, attack in (("socket_connect", "1"), ("file_open", "27")):
        (LINKS / name).unlink()
        syshold.until("the canary red", lambda: name in (syshold.status()["canary"]["problem"] or ""), 5)
        status, page = selftest(attack)
        assert status == 1 and not page["good"], page
        assert any(attack_of(page, attack)[who]["verdict"] == "LEAKS" for who in ("root", "user")), page
    done = syshold.sh("syshold status", check=False)
    assert done.returncode == 1 and "socket_connect" in done.stdout, done.stdout
    done = syshold.sh("syshold doctor --json", check=False)
    failed = [check for check in json.loads(done.stdout) if not check["ok"]]
    assert done.returncode == 1 and any("file_open" in check["found"] for check in failed), failed
    assert all(check.get("fix") for check in failed), failed
    (leaf,) = [leaf for leaf in syshold.leaves(kind="selftest")][-1:]
    assert leaf["result"] == "bad" and leaf["bad"], leaf


def attack_of(page, number):
    return next(attack for attack in page["attacks"] if attack["id"] == number)


@syshold.anywhere
def test_doctor_has_nothing_to_mend():
    syshold.start()
    syshold.until("a canary that is well", lambda: syshold.status()["canary"]["ok"], 20)
    done = syshold.sh("syshold doctor --json", check=False)
    checks = json.loads(done.stdout)
    assert done.returncode == 0, [check for check in checks if not check["ok"]]
    hooks = [check["found"] for check in checks if check["what"] == "hooks"]
    for lacking in syshold.kernel()["lacks"]:
        if lacking == "uring_allowed":
            assert any(lacking in found and "covered by" in found for found in hooks), hooks
