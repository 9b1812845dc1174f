"""What a SIEM reads: each leaf is a line of the journal, a moment after its commit, with fields to filter on."""

import json

import syshold


def lines(*fields):
    words = ("journalctl", "--no-pager", "-o", "json", "-u", "sysholdd", *fields)
    return [json.loads(line) for line in syshold.sh(syshold.quote(*words)).stdout.splitlines()]


def line(*fields):
    """The one line that all the fields are in."""
    syshold.until(f"in the journal: {fields}", lambda: lines(*fields), 10)
    (found,) = lines(*fields)
    return found


@syshold.anywhere
def test_a_decision_of_people_and_its_outcome_are_found_by_their_fields():
    person = syshold.start()
    path = syshold.PII / "for-the-journal"
    path.write_text("secret\n")
    child = syshold.governed("cat", path)
    (approval,) = syshold.asked(person)
    syshold.deny(person, approval, "a name that may have to go")
    assert syshold.finish(child)[0] == 1
    (leaf,) = [leaf for leaf in syshold.leaves(kind="decision") if leaf["object"].get("path") == str(path)]

    denied = ("SYSHOLD_KIND=decision", "SYSHOLD_VERDICT=deny", "SYSHOLD_BY=human", f"SYSHOLD_OBJECT={path}")
    said = line(*denied)
    expected = {
        "SYSHOLD_LEAF": str(leaf["idx"]),
        "SYSHOLD_TIME": leaf["t"],
        "SYSHOLD_AGENT": leaf["agent"]["name"],
        "SYSHOLD_OWNER": leaf["agent"]["owner"],
        "SYSHOLD_OP": leaf["action"]["op"],
        "SYSHOLD_LABELS": " ".join(leaf["object"]["labels"]),
        "SYSHOLD_RULE": leaf["policy"]["rule"],
        "SYSHOLD_APPROVERS": leaf["approvers"][0]["subject"],
        "SYSHOLD_REQUEST": leaf["request"],
        "PRIORITY": "5",
        "_SYSTEMD_UNIT": "sysholdd.service",
    }
    assert {name: said.get(name) for name in expected} == expected, said
    # What can be redacted in the ledger is in no copy of a leaf; the operator's line tells why, as `syshold why` does.
    told = [entry for entry in lines(f"SYSHOLD_REQUEST={leaf['request']}") if "may have to go" in json.dumps(entry)]
    assert [entry.get("SYSHOLD_LEAF") for entry in told] == [None], told
    assert told[0]["SYSHOLD_REASON"] == "a name that may have to go", told

    outcome = line("SYSHOLD_KIND=outcome", f"SYSHOLD_HOLD={leaf['hold']}")
    assert outcome["SYSHOLD_RESULT"] == "denied" and int(outcome["SYSHOLD_HELD_MS"]) >= 0, outcome
    assert int(outcome["SYSHOLD_LEAF"]) > leaf["idx"], outcome
