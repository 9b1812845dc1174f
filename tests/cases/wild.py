"""Syscalls by chance: a governed process that calls anything with anything. After all others: it is meant to break things.

20 s as root and as a user, always the same calls, or as long and others, as the environment says:
`WILD_SECONDS=300 WILD_SEED=7 python3 run.py wild::`.
"""

import os
import pathlib
import subprocess

import churn
import syshold

SECONDS = int(os.environ.get("WILD_SECONDS", 20))
SEED = int(os.environ.get("WILD_SEED", 1))
# Not among what it is given: it would remove the folder.
LEAKS = pathlib.Path("/srv/wild-leaks")


@syshold.limit(2 * SECONDS + 140)
def test_syscalls_by_chance_leave_the_kernel_well():
    files = churn.lay()
    syshold.start(churn.POLICY.replace('verdict = "ask"', 'verdict = "deny"').replace('scopes = ["once", "process", "10m"]', ""))
    syshold.sh(f"rm -rf {LEAKS}; install -d -m 777 {LEAKS}; chmod 777 {churn.SCRATCH}; gpasswd --add agent syshold")
    before = churn.kernel_log()
    words = [churn.PROGRAM, "fuzz", SECONDS, SEED, LEAKS]
    words += [*map(str, [path for paths in files.values() for path in paths]), str(churn.SCRATCH), str(churn.SCRATCH / "not-there"), "/srv/churn-deny"]
    for user in (None, "agent"):
        child = syshold.governed(*words, user=user) if user else syshold.governed(*words)
        try:
            status, out, err = syshold.finish(child, timeout=SECONDS + 60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end; there are\n{left()}")
        assert status == 0, (user, err)
        assert "leaks" not in out, out
        syshold.note(f"seed {SEED}, as {user or 'root'}: {out.strip()}")
    assert churn.kernel_log() == before, churn.kernel_log()
    assert not any(path.read_text() for path in files["deny"])
    # Syshold is as well as it was.
    syshold.until("a canary that is well", lambda: syshold.status()["canary"]["ok"], 10)
    churn.nobody_is_stuck()
    syshold.verify()


def left():
    """What the program's processes do."""
    said = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "exe").endswith(f"/{churn.PROGRAM}"):
                said += [(process / name).read_text() for name in ("status", "syscall", "stack")]
        except OSError:
            continue
    return "\n".join(said)
