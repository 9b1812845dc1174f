"""The first hold, end to end: held, decided by a person, the ungoverned result or EPERM, evidence."""

import syshold


def test_cat_is_held_and_approved():
    person = syshold.start()
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    (hold,) = syshold.held()
    assert hold["action"] == "read", hold
    (approval,) = syshold.asked(person)
    assert child.poll() is None
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, (syshold.PII / "customers.csv").read_text()), (status, out, err)
    assert not syshold.holds()


def test_cat_is_held_and_denied():
    person = syshold.start()
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    (approval,) = syshold.asked(person)
    syshold.deny(person, approval)
    status, out, err = syshold.finish(child)
    assert status == 1 and out == "", (status, out, err)
    assert err == "cat: /srv/pii/customers.csv: Operation not permitted\n", err


def test_curl_is_held_and_approved():
    person = syshold.start()
    server = syshold.Server()
    child = syshold.governed("curl", "--silent", "--show-error", server.url)
    (approval,) = syshold.asked(person)
    assert not server.seen
    syshold.approve(person, approval)
    status, out, err = syshold.finish(child)
    assert (status, out) == (0, "hello from the server\n"), (status, out, err)


def test_the_ungoverned_are_not_held():
    syshold.start()
    server = syshold.Server()
    assert syshold.sh(f"cat {syshold.PII}/customers.csv && curl -sS {server.url}").stdout.endswith("hello from the server\n")
    assert not syshold.holds()


def test_the_ledger_has_every_decision_and_is_clean():
    person = syshold.start()
    child = syshold.governed("cat", syshold.PII / "customers.csv")
    (hold,) = syshold.held()
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval)
    syshold.finish(child)
    (decision,) = syshold.leaves(kind="decision", request=approval["id"])
    assert decision["decision"]["verdict"] == "allow", decision
    syshold.verify()
