"""The inbox as people use it: live, by keys, on a phone, in the dark; and what axe finds."""

import re
import time

from axe_playwright_python.sync_playwright import Axe
from run import call

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def clean(page, what):
    """No finding at all of WCAG 2.2 A and AA, and of axe's best practices."""
    found = Axe().run(page).response["violations"]
    assert not found, (what, [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found])


def fits(page, what):
    """Nothing is wider than the screen."""
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, (what, width)


def test_every_page_at_both_widths_light_and_dark_is_clean(world):
    world.person("lea", "privacy")
    nasty = "/srv/pii/" + "very-long-folder-name/" * 6 + "customers\u202e.csv"
    open_id = world.ask(path=nasty, quorum=2, waiting=3, reason="I need it. Please approve!", approvers="privacy")
    late = world.ask(hold_ms=300, path="/srv/pii/late.csv")
    gone = world.ask(path="/srv/pii/gone.csv")
    call("withdraw", id=gone)
    denied = world.ask(path="/srv/pii/denied.csv")
    approved = world.ask(path="/srv/pii/approved.csv")
    for _ in range(2):
        world.ask(agent="batch-bot")
    time.sleep(0.5)
    with world.page() as page:
        world.sign_in(page, "lea")
        page.goto(f"/approvals/{denied}")
        page.click("summary:has-text('Deny')")
        page.fill("#no", "this file is not for bots")
        page.click("button:text-is('Deny')")
        page.goto(f"/approvals/{approved}")
        page.click("button:has-text('Approve once')")
        page.wait_for_selector("text=Approved once")
    call("outcome", id=approved)
    pages = {
        "login": "/login",
        "welcome": "/welcome#sypass_x",
        "list": "/",
        "all": "/?show=all",
        "search": "/?show=all&q=denied.csv+lea",
        "nothing-found": "/?show=all&q=zzzz",
        "waiting": f"/approvals/{open_id}",
        "late": f"/approvals/{late}",
        "withdrawn": f"/approvals/{gone}",
        "denied": f"/approvals/{denied}",
        "approved": f"/approvals/{approved}",
        "batch": "/batch?agent=batch-bot&rule=egress",
        "batch-over": "/batch?agent=nobody&rule=egress",
        "not-there": "/approvals/01938d5e-6b2a-7c3d-8e4f-000000000000",
    }
    for scheme in ["light", "dark"]:
        for width, (w, h) in WIDTHS.items():
            with world.page(w, h, color_scheme=scheme) as page:
                page.goto("/login")
                for name, path in pages.items():
                    if name == "list":
                        world.sign_in(page, "lea")
                    page.goto(path)
                    if name == "waiting":
                        page.click("summary:has-text('For longer')")
                    what = f"{name}-{width}-{scheme}"
                    page.screenshot(path=str(world.shots / f"{what}.png"), full_page=True)
                    fits(page, what)
                    clean(page, what)


def test_a_page_changes_when_something_does_and_keeps_what_is_typed(world):
    world.person("max", "privacy")
    with world.page() as page, world.page() as other:
        world.sign_in(page, "max")
        world.sign_in(other, "max")
        id = world.ask(path="/srv/pii/live.csv")
        page.wait_for_selector(f"a[href='/approvals/{id}']", timeout=8000)
        assert re.search(r"\d+ requests? waits? for you", page.inner_text("#news").replace("wait for", "waits for"))
        assert page.title().startswith("(")
        assert page.evaluate("performance.getEntriesByType('navigation').length") == 1

        # A detail page learns that somebody else decided, and takes the buttons away.
        page.goto(f"/approvals/{id}")
        left = page.inner_text("#standing time")
        page.wait_for_function("left => document.querySelector('#standing time').textContent !== left", arg=left)
        other.goto(f"/approvals/{id}")
        other.click("button:has-text('Approve once')")
        page.wait_for_selector("#standing :text('Approved once')", timeout=3000)
        assert not page.query_selector("[data-approve]")
        call("outcome", id=id)
        page.wait_for_selector("#standing :text('Applied')", timeout=3000)

        # What somebody is typing stays.
        id = world.ask(path="/srv/pii/typing.csv")
        page.goto(f"/approvals/{id}")
        page.fill("#why", "half a sen")
        page.focus("#why")
        world.ask(path="/srv/pii/another.csv")
        page.wait_for_timeout(800)
        assert page.input_value("#why") == "half a sen"


def test_signed_out_pages_hear_nothing(world):
    world.person("nia", "privacy")
    with world.page() as page:
        assert page.request.get("/events").status == 404
        world.sign_in(page, "nia")
        page.click("text=Sign out")
        assert page.request.get("/events").status == 404


def test_by_keys_alone(world):
    world.person("ola", "privacy")
    first = world.ask(path="/srv/pii/keys-1.csv", approvers="privacy")
    with world.page() as page:
        world.sign_in(page, "ola")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        clean(page, "keys")
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"/approvals/{first}"
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/approvals/{first}")
        page.keyboard.press("a")
        assert page.evaluate("document.activeElement.textContent").startswith("Approve once")
        # A key goes there; only Enter decides.
        assert call("decision", id=first).get("open")
        page.keyboard.press("d")
        page.keyboard.type("not now")
        page.keyboard.press("Enter")
        page.wait_for_selector("#standing :text('Denied')")
        page.keyboard.press("u")
        page.wait_for_url(world.url + "/")
        page.keyboard.press("/")
        page.keyboard.type("keys-1")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=keys-1.csv")


def test_narrower_in_time(world):
    world.person("pia", "privacy")
    id = world.ask(path="/srv/pii/minutes.csv")
    with world.page(390, 844) as page:
        world.sign_in(page, "pia")
        page.goto(f"/approvals/{id}")
        page.click("summary:has-text('For longer')")
        page.fill("#minutes", "3")
        page.click("text=Approve for that time")
        page.wait_for_selector("#standing :text('Approved until')")
    made = call("decision", id=id)["decision"]
    assert made["grant"]["lifespan"] == "until"
    assert made["grant"]["expires_at"] - made["issued_at"] == 3 * 60 * 1000


def test_several_of_one_kind_each_ticked(world):
    world.person("quy", "privacy")
    ids = [world.ask(agent="flock", path=f"/srv/pii/{n}.csv") for n in range(3)]
    stranger = world.ask(agent="other-flock")
    key = world.ask(agent="flock", passkey=True)
    with world.page() as page:
        world.sign_in(page, "quy")
        page.click("text=by flock under")
        boxes = page.query_selector_all("input[name=pick]")
        assert len(boxes) == 4 and not any(box.is_checked() for box in boxes), "nothing is ticked for you"
        for id in ids[:2]:
            page.check(f"[id='p{id}']")
        page.click("text=Approve the ticked")
        page.wait_for_selector("text=What became of them")
        said = page.inner_text("main")
        assert said.count("approved once") == 2, said
        assert [bool(call("decision", id=id).get("open")) for id in ids] == [False, False, True]

        # A form that was tampered with: another kind, one that needs a passkey, what has changed.
        page.goto("/batch?agent=flock&rule=egress")
        csrf = page.get_attribute("main input[name=csrf]", "value")
        digest = page.get_attribute("input[name=pick]", "value").split(":")[1]

        def post(picks, **more):
            pairs = {"csrf": csrf, "agent": "flock", "rule": "egress", "verb": "approve", "reason": "", **more}
            from urllib.parse import urlencode

            body = urlencode(list(pairs.items()) + [("pick", pick) for pick in picks])
            return page.request.post("/batch", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})

        shown = {}
        for id in [stranger, key, ids[2]]:
            page.goto(f"/approvals/{id}")
            shown[id] = page.get_attribute("input[name=rendered_sha256]", "value")
        for picks, why in [
            ([f"{stranger}:{shown[stranger]}"], "not of this kind"),
            ([f"{key}:{shown[key]}"], "asks for your passkey"),
            ([f"{ids[2]}:{'00' * 32}"], "has changed"),
        ]:
            answer = post(picks)
            assert answer.status == 200 and why in answer.text().replace("It is", "it is"), (why, answer.text()[-600:])
        assert post([f"{ids[2]}:{shown[ids[2]]}"], csrf="00").status == 403
        assert post([f"{ids[2]}:{shown[ids[2]]}"] * 21).status == 422
        assert post([f"{ids[2]}:{shown[ids[2]]}"], verb="deny").status == 422
        assert page.request.get("/batch").status == 400
        for id in [stranger, key, ids[2]]:
            assert call("decision", id=id).get("open"), id


def test_past_decisions_are_found(world):
    world.person("rob", "privacy")
    id = world.ask(path="/srv/pii/100%_sure.csv", agent="seeker")
    with world.page() as page:
        world.sign_in(page, "rob")
        page.goto(f"/approvals/{id}")
        page.click("summary:has-text('Deny')")
        page.fill("#no", "wrong customer")
        page.click("button:text-is('Deny')")
        for words, found in [
            ("100%_sure", True),
            ("100%25x", False),
            ("seeker rob@example.com denied", True),
            ("wrong customer", True),
            ("seeker nobody@example.com", False),
            ("'; DROP TABLE request; --", False),
        ]:
            page.goto("/?show=all")
            page.fill("#q", words)
            with page.expect_navigation():
                page.keyboard.press("Enter")
            assert bool(page.query_selector(f"a[href='/approvals/{id}']")) == found, words
        later = world.ask(agent="seeker")
        page.goto(f"/approvals/{later}")
        assert "100%_sure.csv" in page.inner_text(".before"), "what the agent asked before"
