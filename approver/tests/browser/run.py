"""A person at a browser. Arguments: the inbox's address, the CA's file, a folder for screenshots,
and parts of the names of the tests to run (none: all). One JSON object a line goes to the test
program on standard output; what it answers comes back on standard input."""

import base64
import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import traceback

from playwright.sync_api import sync_playwright

URL, CA, SHOTS = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
MODULES = ["passkeys", "inbox", "report"]


def call(what, **more):
    print(json.dumps({"do": what, **more}), flush=True)
    if what not in ("passed", "failed"):
        return json.loads(sys.stdin.readline())


def server_key():
    """The digest by which Chromium believes this gateway's certificate, as if its CA were installed."""
    port = int(URL.rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=CA)
    with socket.create_connection(("localhost", port)) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            pem = ssl.DER_cert_to_PEM_cert(tls.getpeercert(True))
    key = subprocess.run(["openssl", "x509", "-pubkey", "-noout"], input=pem.encode(), capture_output=True, check=True)
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.stdout, capture_output=True, check=True)
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()


class World:
    def __init__(self, browser):
        self.browser = browser
        self.url = URL
        self.shots = SHOTS
        self.people = {}

    call = staticmethod(call)

    def person(self, name, *groups):
        if name not in self.people:
            self.people[name] = call("person", name=name, groups=list(groups))["token"]
        return self.people[name]

    def ask(self, **more):
        return call("ask", **more)["id"]

    @contextlib.contextmanager
    def page(self, width=1280, height=900, **more):
        """A fresh browser profile; a page that logs an error or breaks the policy fails the test."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, base_url=URL, **more)
        page = context.new_page()
        page.set_default_timeout(15000)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
        try:
            yield page
            assert not wrong, wrong
        finally:
            context.close()

    def sign_in(self, page, name):
        page.goto("/login")
        page.fill("#token", self.people[name])
        page.click("text=Sign in with the token")
        page.wait_for_url(URL + "/")


def authenticator(page, **more):
    """Chromium's own: https://chromedevtools.github.io/devtools-protocol/tot/WebAuthn/"""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
        **more,
    }
    made = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session, made["authenticatorId"]


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[4:]
    os.environ["NODE_EXTRA_CA_CERTS"] = CA  # for page.request, which is not the browser
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[
                "--no-sandbox",
                f"--ignore-certificate-errors-spki-list={server_key()}",
                "--host-resolver-rules=MAP evil.test 127.0.0.1",
            ],
        )
        world = World(browser)
        for module in map(importlib.import_module, MODULES):
            for name, test in list(vars(module).items()):
                whole = f"{module.__name__}::{name.removeprefix('test_')}"
                if not name.startswith("test_") or wanted and not any(w in whole for w in wanted):
                    continue
                try:
                    test(world)
                    call("passed", name=whole)
                except BaseException:
                    call("failed", name=whole, why=traceback.format_exc())
        browser.close()


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.modules["run"] = sys.modules["__main__"]
    main()
