"""Passkeys as a person uses them, and as somebody would misuse them."""

import base64
import hashlib
import json
import subprocess
import tempfile

from run import authenticator


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def register(world, page, name):
    page.goto(world.call("invite", name=name)["path"])
    page.fill("#label", f"{name}'s laptop")
    page.click("form[data-register] button")
    page.wait_for_selector("[data-done]:not([hidden])")
    return page.inner_text("[data-pin]")


def approve(page, id, button="Approve once"):
    page.goto(f"/approvals/{id}")
    with page.expect_navigation():
        page.click(f"button:has-text('{button}')")


def says(page):
    page.wait_for_selector("[data-say]:not([hidden])")
    return page.inner_text("[data-say]")


def fetch(page, path, body):
    """A call of our own from the page, as a script in it could make."""
    return page.evaluate(
        """async ([path, body]) => {
             const answer = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"},
               body: JSON.stringify(body)});
             return [answer.status, await answer.json().catch(() => null)];
           }""",
        [path, body],
    )


def field(page, name):
    return page.eval_on_selector(f"form[data-passkey] input[name={name}]", "e => e.value")


def signed(page, asking):
    return page.evaluate("asking => sign(asking)", asking)


def test_register_sign_in_and_sign_an_approval(world):
    world.person("bob", "privacy")
    id = world.ask(passkey=True)
    with world.page() as page:
        authenticator(page)
        pin = register(world, page, "bob")
        assert pin.startswith("es256:localhost:"), pin
        assert "#" not in page.url, "the link's secret stays in the address"

        # Out, and in again with nothing but the key.
        page.goto("/")
        page.click("text=Sign out")
        page.click("text=Sign in with a passkey")
        page.wait_for_url(world.url + "/")

        page.goto(f"/approvals/{id}")
        assert "your own signature" in page.inner_text("main")
        approve(page, id)
        assert "Approved once" in page.inner_text("main"), page.inner_text("main")

    made = world.call("decision", id=id)
    assert made["verdict"] == "approve" and made["refusal"] is None, made
    approver = made["decision"]["approvers"][0]
    assert (approver["subject"], approver["assurance"], approver["proof"]["key"]) == ("bob@example.com", "passkey", pin)

    # A host that pins nobody, or somebody else's key for bob, refuses the same decision; so does one
    # that asked something else.
    assert "not one that this host's policy pins" in world.call("decision", id=id, pins=[])["refusal"]
    other = ["carol@example.com", pin]
    assert "not one that this host's policy pins" in world.call("decision", id=id, pins=[other])["refusal"]
    assert world.call("decision", id=id, request_sha256="ab" * 32)["refusal"]
    check_with_openssl(world, made["decision"], approver["proof"])


def check_with_openssl(world, decision, proof):
    """What docs/auditor.md says: years later, with nothing of ours."""
    assertion = {key: unb64(value) for key, value in proof["assertion"].items()}
    client = json.loads(assertion["client_data_json"])
    statement = {
        "v": 1,
        "request_sha256": decision["request_sha256"],
        "rendered_sha256": decision["rendered_sha256"],
        "scope": proof["scope"],
        "nonce": proof["nonce"],
    }
    kind = "application/vnd.syshold.approval.v1+json"
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"))
    challenge = hashlib.sha256(f"DSSEv1 {len(kind)} {kind} {len(payload)} {payload}".encode()).digest()
    assert unb64(client["challenge"]) == challenge, "the signature is over exactly this request"
    with tempfile.TemporaryDirectory() as folder:
        def put(name, data):
            path = f"{folder}/{name}"
            open(path, "wb").write(data)
            return path

        key = put("key.der", bytes(world.call("spki", pin=proof["key"])))
        data = put("data", assertion["authenticator_data"] + hashlib.sha256(assertion["client_data_json"]).digest())
        signature = put("signature", assertion["signature"])
        pem = f"{folder}/key.pem"
        subprocess.run(["openssl", "pkey", "-pubin", "-inform", "DER", "-in", key, "-out", pem], check=True)
        check = ["openssl", "dgst", "-sha256", "-verify", pem, "-signature", signature, data]
        assert b"OK" in subprocess.run(check, capture_output=True, check=True).stdout


def test_a_token_session_cannot_approve_what_asks_for_a_passkey(world):
    token = world.person("bob", "privacy")
    id = world.ask(passkey=True)
    with world.page() as page:
        world.sign_in(page, "bob")
        page.goto(f"/approvals/{id}")
        csrf, shown = field(page, "csrf"), field(page, "rendered_sha256")
        answer = page.request.post(
            f"/approvals/{id}/approve", form={"csrf": csrf, "scope": "once", "rendered_sha256": shown}
        )
        assert answer.status == 403 and "asks for your passkey" in answer.text(), answer.text()
        api = page.request.post(
            f"/v1/approvals/{id}/approve",
            headers={"Authorization": f"Bearer {token}"},
            data={"scope": "once", "rendered_sha256": shown},
        )
        assert api.status == 403 and api.json()["type"].endswith("assurance"), api.text()
    assert world.call("decision", id=id).get("open")


def test_a_link_is_good_once_and_for_one_person(world):
    world.person("dave")
    path = world.call("invite", name="dave")["path"]
    with world.page() as page:
        authenticator(page)
        page.goto(path)
        page.click("form[data-register] button")
        page.wait_for_selector("[data-done]:not([hidden])")
    with world.page() as page:
        authenticator(page)
        page.goto(path)
        page.click("form[data-register] button")
        assert "used already" in says(page)
        page.goto("/welcome#sypass_nonsense")
        page.reload()
        page.click("form[data-register] button")
        assert "used already" in says(page)


def test_nobody_verified_is_nobody(world):
    world.person("erin")
    with world.page() as page:
        # A key that says somebody touched it, and not who.
        authenticator(page, hasUserVerification=False, isUserVerified=False)
        page.goto(world.call("invite", name="erin")["path"])
        page.click("form[data-register] button")
        assert says(page)
    assert not [key for key in world.call("pins") if key["account"] == "erin"]


def test_what_was_signed_for_something_else_approves_nothing(world):
    world.person("frank", "privacy")
    world.person("grace", "privacy")
    ids = [world.ask(passkey=True) for _ in range(3)]
    with world.page() as page, world.page() as hers:
        session, key = authenticator(page)
        authenticator(hers)
        register(world, page, "frank")
        register(world, hers, "grace")

        def challenge(page, id, scope="once"):
            page.goto(f"/approvals/{id}")
            choice = {"csrf": field(page, "csrf"), "scope": scope, "rendered_sha256": field(page, "rendered_sha256")}
            return fetch(page, f"/approvals/{id}/challenge", choice)

        def post(page, id, proof, scope="once"):
            page.goto(f"/approvals/{id}")
            form = {"csrf": field(page, "csrf"), "scope": scope, "proof": json.dumps(proof)}
            return page.request.post(
                f"/approvals/{id}/approve", form={**form, "rendered_sha256": field(page, "rendered_sha256")}
            )

        status, asking = challenge(page, ids[0])
        assert status == 200, asking
        proof = signed(page, asking)
        for id, scope, who, why in [
            (ids[1], "once", page, "signs something else"),  # another request
            (ids[0], "process", page, "signs something else"),  # a wider scope
            (ids[0], "once", hers, "not for this account"),  # frank's signature in grace's session
        ]:
            answer = post(who, id, proof, scope)
            assert answer.status == 403 and why in answer.text(), (why, answer.text())
        forged = json.loads(json.dumps(proof))
        forged["nonce"] = "00" * 16
        assert "signs something else" in post(page, ids[0], forged).text()
        # Grace's key, said to be frank's.
        _, asked = challenge(hers, ids[0])
        other = signed(hers, asked)
        other["credential_id"] = proof["credential_id"]
        answer = post(page, ids[0], other)
        assert answer.status == 403 and "not signed by that key" in answer.text(), answer.text()
        # A challenge that nobody gave out.
        stray = signed(page, {**asking, "challenge": "A" * 43})
        assert "signs something else" in post(page, ids[0], stray).text()
        # What signs him in is no approval.
        _, asked = fetch(page, "/login/passkey", {})
        assert "signs something else" in post(page, ids[0], {**signed(page, asked), "nonce": asking["nonce"]}).text()

        for id in ids:
            assert world.call("decision", id=id).get("open"), id
        # The real one counts, and once.
        answer = post(page, ids[0], proof)
        assert answer.status == 200 and "Approved once" in answer.text(), answer.text()
        page.goto(f"/approvals/{ids[1]}")
        csrf, shown = field(page, "csrf"), field(page, "rendered_sha256")
        again = page.request.post(
            f"/approvals/{ids[0]}/approve",
            form={"csrf": csrf, "scope": "once", "proof": json.dumps(proof), "rendered_sha256": shown},
        )
        assert again.status in (403, 409), again.status
        assert world.call("decision", id=ids[0])["refusal"] is None

        # The same key in another device: its counter is behind.
        credential = session.send("WebAuthn.getCredentials", {"authenticatorId": key})["credentials"][0]
        with world.page() as copy:
            other, device = authenticator(copy)
            credential["signCount"] = 1
            other.send("WebAuthn.addCredential", {"authenticatorId": device, "credential": credential})
            copy.goto("/login")
            copy.click("text=Sign in with a passkey")
            assert "there may be a copy" in says(copy)


def test_another_site_cannot_have_it_signed(world):
    world.person("heidi", "privacy")
    with world.page() as page:
        authenticator(page)
        register(world, page, "heidi")
        page.goto(world.url.replace("localhost", "evil.test") + "/login")
        _, asking = fetch(page, "/login/passkey", {})
        refused = page.evaluate("asking => sign(asking).then(() => '', error => error.name)", asking)
        assert refused == "SecurityError", refused


def test_a_call_from_another_site_or_session_is_refused(world):
    world.person("ivan", "privacy")
    id = world.ask(passkey=True)
    with world.page() as page:
        authenticator(page)
        register(world, page, "ivan")
        page.goto(f"/approvals/{id}")
        shown = field(page, "rendered_sha256")
        status, _ = fetch(page, f"/approvals/{id}/challenge", {"csrf": "00", "scope": "once", "rendered_sha256": shown})
        assert status == 403, status
        for path in ["/passkeys/register", "/passkeys/registered", "/login/passkey", "/login/signed"]:
            answer = page.request.post(path, data={}, headers={"Sec-Fetch-Site": "cross-site"})
            assert answer.status == 403, (path, answer.status)
            assert page.request.get(path).status == 405, path
