"""A gateway that is away, and people who do not answer or may not: never released, and it is recorded why."""

import time

import stack
import syshold


def decision_about(path):
    """The decision leaf of the hold on a file."""
    found = [leaf for leaf in syshold.leaves(kind="decision") if leaf["object"].get("path") == str(path)]
    assert len(found) == 1, found
    return found[0]


def test_gateway_down():
    syshold.start(syshold.policy(hold="5s"))
    path = syshold.PII / "gateway-down"
    path.write_text("secret\n")
    syshold.at_end(syshold.sh, "systemctl start syshold-approver")
    syshold.sh("systemctl stop syshold-approver")
    status, out, err = syshold.finish(syshold.governed("cat", path), timeout=30)
    assert (status, out) == (1, "") and err.endswith("Operation not permitted\n"), (status, out, err)
    decision = decision_about(path)["decision"]
    assert (decision["verdict"], decision["by"], decision["cause"]) == ("deny", "unreachable", "unreachable"), decision
    # And why it could not be asked.
    assert any("gateway" in leaf for leaf in syshold.leaves(kind="degraded"))
    syshold.verify()


def test_nobody_answers():
    syshold.start(syshold.policy(hold="3s"))
    path = syshold.PII / "nobody-answers"
    path.write_text("secret\n")
    begin = time.monotonic()
    status, out, err = syshold.finish(syshold.governed("cat", path), timeout=30)
    assert time.monotonic() - begin >= 3
    assert (status, out) == (1, "") and err.endswith("Operation not permitted\n"), (status, out, err)
    decision = decision_about(path)["decision"]
    assert (decision["verdict"], decision["by"], decision["cause"]) == ("deny", "timeout", "expired"), decision
    syshold.verify()


def test_the_owner_cannot_approve_and_may_deny():
    person = syshold.start()
    owner = stack.add_person("owner", email="owner@example.com")
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    (approval,) = syshold.asked(person)
    status, answer = owner.approve(approval)
    assert status == 403 and answer["type"].endswith(":self_approval"), (status, answer)
    time.sleep(0.5)
    assert child.poll() is None and len(syshold.holds()) == 1
    syshold.deny(owner, approval, "not my bot")
    status, out, err = syshold.finish(child)
    assert (status, out) == (1, ""), (status, out, err)
