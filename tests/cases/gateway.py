"""A gateway that is away, slow or lying, and people who do not answer or may not: never released, and it is recorded why."""

import collections
import json
import time

import liar
import many
import stack
import syshold

EPERM = 1
TROUBLE = {"html-waiting", "error", "redirect", "huge", "forbidden"}
DSSE = {"Content-Type": "application/vnd.dsse.envelope.v1+json"}


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
    assert any("cannot be reached" in leaf.get("gateway", "") for leaf in syshold.leaves(kind="degraded"))
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


def lies():
    """By name: the lie, and what the ledger says of it; those in `TROUBLE` are no answers that could be refused."""
    stolen, other = liar.stolen_key(), liar.other_key()
    used, now = {}, int(time.time() * 1000)
    waiting = 202, {}, json.dumps({"state": "waiting", "have": 0, "need": 1, "expires_at": now + 60_000}).encode()

    def decision(key=stolen, payload_type=liar.TYPE, **changes):
        return lambda request, signed: (200, DSSE, liar.seal(liar.approval(request, signed, **changes), key, payload_type))

    def changed(change):
        def lie(request, signed):
            approval = liar.approval(request, signed)
            change(approval, request)
            return 200, DSSE, liar.seal(approval, stolen)

        return lie

    def replayed(request, signed):
        # What `honest` was answered, byte for byte.
        if "honest" not in used:
            return waiting
        return 200, DSSE, used["honest"]

    def used_id(request, signed):
        if "id" not in used:
            return waiting
        return 200, DSSE, liar.seal(liar.approval(request, signed, decision_id=used["id"]), stolen)

    def honest(request, signed):
        approval = liar.approval(request, signed)
        used["id"], used["honest"] = approval["decision_id"], liar.seal(approval, stolen)
        return 200, DSSE, used["honest"]

    def late(request, signed):
        time.sleep(3)
        return 200, DSSE, liar.seal(liar.approval(request, signed), stolen)

    def plain(status, body, **headers):
        return lambda request, signed: (status, headers, body)

    def grant(**changes):
        return changed(lambda approval, request: approval["grant"].update(changes))

    def elsewhere(approval, request):
        approval["grant"]["objects"].append(request["action"]["object"] | {"inode": "1"})

    html = b"<html><body>Approved. Please log in.</body></html>"
    return {
        "honest": (honest, None),
        "slow": (late, None),
        "other-key": (decision(key=other), "no signature by a pinned key"),
        "other-type": (decision(payload_type="application/vnd.syshold.request.v1+json"), "payload type"),
        "other-request": (decision(request_id=str(liar.uuid7())), "it decides request"),
        "other-host": (decision(host_id="another-host"), "it is for host another-host"),
        "other-nonce": (decision(nonce="0" * 32), "nonce"),
        "other-digest": (decision(request_sha256="0" * 64), "something else was approved"),
        "other-policy": (decision(policy_sha256="0" * 64), "made under policy"),
        "no-grant": (changed(lambda approval, _: approval.pop("grant")), "carries no grant"),
        "nobody": (decision(approvers=[]), "0 of 1 people"),
        "owner": (
            decision(approvers=[{"subject": "owner@example.com", "channel": "api", "assurance": "token", "at": now}]),
            "is the agent's owner",
        ),
        "wider-object": (changed(elsewhere), "was not asked for"),
        "wider-lifespan": (grant(lifespan="session"), "not allowed"),
        "wider-time": (grant(lifespan="until", expires_at=now + 86_400_000), "wider than the policy"),
        "wider-uses": (grant(max_uses=1000), "wider than the request"),
        "old": (decision(issued_at=now - 3_600_000), "set the clocks"),
        "unknown-field": (decision(allow_everything=True), "does not parse"),
        "replayed": (replayed, "it decides request"),
        "used-id": (used_id, "was used before"),
        "empty": (plain(200, b""), "empty"),
        "null": (plain(200, b"null", **DSSE), "not a DSSE envelope"),
        "true": (plain(200, b"true", **DSSE), "not a DSSE envelope"),
        "html": (plain(200, html, **{"Content-Type": "text/html"}), "not a DSSE envelope"),
        "html-waiting": (plain(202, html, **{"Content-Type": "text/html"}), None),
        "error": (plain(500, b"oops"), None),
        "redirect": (plain(302, b"", Location="https://localhost:8444/"), None),
        "huge": (plain(200, b" " * 3_000_000, **DSSE), None),
        "forbidden": (plain(403, b"{}"), None),
    }


@syshold.limit(240)
def test_lies_release_nothing():
    hold = 30
    syshold.start(syshold.policy(hold=f"{hold}s"))
    syshold.at_end(syshold.sh, "systemctl start syshold-approver")
    syshold.sh("systemctl stop syshold-approver")
    told, before = lies(), syshold.leaves()[-1]["idx"]
    paths = {name: syshold.PII / f"lie-{name}" for name in told}
    for path in paths.values():
        path.write_text("secret\n")
    gateway = liar.Liar({str(paths[name]): lie for name, (lie, _) in told.items()})
    program = many.Many(*paths.values())
    back = program.wait_for(*paths.values(), seconds=hold + 60)
    assert len(gateway.asked) >= len(told), len(gateway.asked)
    # The one that tells the truth is believed: what is wrong with the others is what they say.
    released = {name for name, errno in zip(told, back) if errno == 0}
    assert released == {"honest", "slow"}, released
    assert set(back) == {0, EPERM}, collections.Counter(back)

    leaves = [leaf for leaf in syshold.leaves() if leaf["idx"] > before]
    asked = {leaf["request"]: leaf["object"]["path"] for leaf in leaves if leaf["kind"] == "request"}
    causes = collections.defaultdict(set)
    for leaf in leaves:
        if leaf.get("outcome", {}).get("result") == "refused:decision":
            causes[asked[leaf["request"]]].add(leaf["cause"])
        elif leaf["kind"] == "degraded" and "gateway" in leaf:
            causes[asked[leaf["request"]]].add(leaf["gateway"])
    for name, (_, cause) in told.items():
        decision, said = decision_about(paths[name])["decision"], causes[str(paths[name])]
        if name in released:
            assert (decision["verdict"], decision["by"]) == ("allow", "human"), (name, decision)
            continue
        assert decision["verdict"] == "deny" and decision["by"] in ("timeout", "unreachable"), (name, decision)
        # What happened last counts where nothing could be refused: that may be no answer in time.
        cause = "the gateway" if name in TROUBLE else cause
        assert any(cause in text for text in said), (name, said)
    # Said once, however often it comes.
    refused = [leaf for leaf in leaves if "revocations refused" in leaf.get("revocations", "")]
    assert len(refused) == 1 and refused[0]["kind"] == "degraded", refused
    syshold.note(f"{len(told) - len(released)} lies, none believed; {sum(map(len, causes.values()))} causes in the ledger")
    syshold.verify()
