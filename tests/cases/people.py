"""People, end to end: a host asks through nginx, a message is in Slack, the owner's click is refused, somebody
else's click lets the syscall go on; an agent that was denied, or not answered, reads why; two people break the glass."""

import http.client
import json
import os
import pathlib
import re
import shutil
import ssl
import threading
import time
import urllib.parse

import slack
import stack
import syshold

NGINX = pathlib.Path("/run/people-nginx")
# Where hosts and people reach the gateway: nginx. Behind it the gateway listens at loopback.
HOSTS, PEOPLE, BEHIND = 8443, 9444, 18443
LINKED = {"UOWNER": "owner", "UOTHER": "approver"}


def nginx():
    """nginx with its own time-outs in front of both listeners, with a certificate of the gateway's CA."""
    NGINX.mkdir(exist_ok=True)
    ca = stack.GATEWAY_DIR
    (NGINX / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    syshold.sh(
        f"cd {NGINX} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -subj /CN=localhost -out csr"
        f" && openssl x509 -req -in csr -CA {ca}/ca.pem -CAkey {ca}/ca.key -CAcreateserial -CAserial {NGINX}/serial"
        f" -days 2 -extfile ext -out cert"
    )
    server = "server {{ listen 127.0.0.1:{0} ssl; location / {{ proxy_pass https://127.0.0.1:{1}; }} }}"
    (NGINX / "conf").write_text(
        f"""daemon off; pid {NGINX}/pid; error_log {NGINX}/error; events {{ }}
        http {{ access_log {NGINX}/access; ssl_certificate cert; ssl_certificate_key key;
        proxy_ssl_trusted_certificate {ca}/ca.pem; proxy_ssl_verify on; proxy_ssl_name localhost;
        proxy_http_version 1.1; client_body_temp_path {NGINX}/body; proxy_temp_path {NGINX}/proxy;
        fastcgi_temp_path {NGINX}/f; uwsgi_temp_path {NGINX}/u; scgi_temp_path {NGINX}/s;
        {server.format(HOSTS, BEHIND)} {server.format(PEOPLE, 8444)} }}
        """
    )
    unit = f"systemd-run --quiet --unit=people-nginx nginx -p {NGINX} -c {NGINX}/conf -e {NGINX}/error"
    syshold.at_end(syshold.sh, "systemctl stop people-nginx")
    syshold.sh(unit)


def behind_nginx(fake):
    """The gateway behind nginx, with that Slack as its channel, until the test is over."""
    config, before = stack.GATEWAY_CONFIG, stack.GATEWAY_CONFIG.read_text()
    secrets = {"bot": slack.BOT, "signing": slack.SIGNING}
    for name, secret in secrets.items():
        path = stack.GATEWAY_DIR / f"people-{name}"
        path.touch(mode=0o600)
        path.write_text(secret + "\n")
        syshold.sh(f"chown --reference={stack.GATEWAY_DIR} {path}")
    top = f'host_listen = "127.0.0.1:{BEHIND}"\ninbox_url = "https://localhost:{PEOPLE}"\n'
    channel = (
        f'\n[channel.ops]\nkind = "slack"\nchannel = "{slack.CHANNEL}"\nteam = "{slack.TEAM}"\napp = "{slack.APP}"\n'
        f'bot_token_file = "{stack.GATEWAY_DIR}/people-bot"\nsigning_secret_file = "{stack.GATEWAY_DIR}/people-signing"\n'
        f'api_url = "{fake.url}/api"\n'
    )

    def restore():
        config.write_text(before)
        syshold.sh("systemctl restart syshold-approver")

    syshold.at_end(restore)
    lines = [line for line in before.splitlines() if not line.startswith(("host_listen", "inbox_url"))]
    config.write_text(top + "\n".join(lines) + channel)
    syshold.sh("systemctl restart syshold-approver")
    nginx()


def link(name, path):
    """As in a browser: signed in with the personal token, the link opened and confirmed."""
    tls = ssl.create_default_context(cafile=stack.GATEWAY_DIR / "ca.pem")
    browser = http.client.HTTPSConnection("localhost", PEOPLE, context=tls, timeout=30)

    def call(method, path, form=None, **headers):
        body = urllib.parse.urlencode(form) if form else None
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        browser.request(method, path, body, kind | headers)
        answer = browser.getresponse()
        return answer, answer.read().decode()

    token = (stack.TOKENS / name).read_text().strip()
    answer, _ = call("POST", "/login", {"token": token})
    cookie = answer.headers["Set-Cookie"].split(";")[0]
    _, page = call("GET", path, Cookie=cookie)
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]
    answer, page = call("POST", path, {"csrf": csrf}, Cookie=cookie)
    assert answer.status == 200, page


@syshold.anywhere
@syshold.limit(120)
def test_the_owners_click_is_refused_and_anothers_releases_the_syscall():
    syshold.start()
    stack.add_person("owner", email="owner@example.com")
    path = syshold.PII / "people.csv"
    path.write_text("name,mail\n")
    fake = slack.Slack(f"https://localhost:{PEOPLE}/slack/ops/interactive", stack.GATEWAY_DIR / "ca.pem")
    syshold.at_end(fake.close)
    behind_nginx(fake)

    begin = time.monotonic()
    child = syshold.governed("cat", path)
    ts, message = fake.message("people.csv")
    asked = time.monotonic()
    (hold,) = syshold.holds()
    assert "test-agent" in json.dumps(message) and "pii" in json.dumps(message), message
    for user, name in LINKED.items():
        # The first click of a stranger is a link that only they see, and no answer.
        seen = len(fake.calls)
        assert fake.click(ts, "syshold_approve", user) == 200
        said = json.dumps(fake.wait("chat.postEphemeral", lambda body: body["user"] == user, after=seen))
        link(name, re.search(rf"https://localhost:{PEOPLE}(/link/[^\"\\|>]+)", said)[1])
    seen = len(fake.calls)
    assert fake.click(ts, "syshold_approve", "UOWNER") == 200
    said = json.dumps(fake.wait("chat.postEphemeral", lambda body: body["user"] == "UOWNER", after=seen))
    assert "the agent is yours" in said, said
    # Somebody who does not have the app's secret.
    assert fake.post({"type": "block_actions"}, key="0" * 32) == 401
    assert child.poll() is None and [h["id"] for h in syshold.holds()] == [hold["id"]], said

    resumed = []

    def read():
        resumed.append((os.read(child.stdout.fileno(), 65536).decode(), time.monotonic()))

    reader = threading.Thread(target=read)
    reader.start()
    click = time.monotonic()
    assert fake.click(ts, "syshold_approve", "UOTHER") == 200
    reader.join(60)
    ((first, at),) = resumed
    status, out, err = syshold.finish(child)
    assert (status, first + out) == (0, path.read_text()), (status, out, err)
    took, before = round((at - click) * 1000), round((asked - begin) * 1000)
    syshold.note(f"from the click to the syscall going on: {took} ms; from the syscall to the message: {before} ms")
    # The message has lost its buttons, and says what the kernel made of it.
    last = fake.wait("chat.update", lambda body: "Applied: the call went on" in json.dumps(body))
    assert [b["type"] for b in last["blocks"][-1]["elements"]] == ["button"], last["blocks"][-1]
    assert not fake.wrong, fake.wrong
    (decision,) = syshold.leaves(kind="decision", request=hold["request_id"])
    assert "approver@example.com" in json.dumps(decision) and "slack" in json.dumps(decision), decision
    assert "PUT /v1/requests/" in (NGINX / "access").read_text(), "the host went past nginx"
    syshold.verify()


WHY = """
cat /srv/pii/why-denied; cat /srv/pii/why-expired
for i in 1 2 3 4 5 6 7 8 9 10; do
    syshold why -n 2 --json > /tmp/why; [ $(wc -l < /tmp/why) = 2 ] && break; sleep 0.3
done
cat /tmp/why; syshold why
"""


@syshold.anywhere
@syshold.limit(90)
def test_an_agent_reads_why_it_was_denied_and_why_nobody_answered():
    person = syshold.start(syshold.policy(hold="6s"))
    for name in ("why-denied", "why-expired"):
        (syshold.PII / name).write_text("secret\n")
    child = syshold.governed("sh", "-c", WHY)
    (approval,) = syshold.asked(person)
    syshold.deny(person, approval, "use the anonymised copy in /srv/anon")
    status, out, err = syshold.finish(child, timeout=40)
    assert status == 0 and "secret" not in out, (status, out, err)
    expired, denied, *text = out.splitlines()
    expired, denied = json.loads(expired), json.loads(denied)
    assert (denied["cause"], denied["reason"]) == ("denied", "use the anonymised copy in /srv/anon"), denied
    assert denied["object"].endswith("/why-denied") and not denied["retry"], denied
    assert (expired["cause"], expired.get("reason")) == ("expired", None), expired
    assert expired["object"].endswith("/why-expired") and expired["retry"], expired
    assert "why-expired" in "\n".join(text) and expired["advice"] in "\n".join(text), text


@syshold.anywhere
@syshold.limit(90)
def test_an_approval_that_is_taken_back_is_asked_about_again():
    person = syshold.start()
    server = syshold.Server()

    def connect():
        return syshold.governed("curl", "--silent", "--show-error", server.url)

    child = connect()
    (approval,) = syshold.asked(person)
    syshold.approve(person, approval, "10m")
    assert syshold.finish(child)[:2] == (0, "hello from the server\n")
    # Nobody is asked for ten minutes …
    assert syshold.finish(connect())[:2] == (0, "hello from the server\n")
    assert not person.pending()
    # … or until somebody takes it back: the agent's owner may not approve, and may do this.
    owner = stack.add_person("owner", email="owner@example.com")
    begin = time.monotonic()
    status, said = owner.ask("POST", f"/v1/approvals/{approval['id']}/revoke", {"reason": "the wrong server"})
    assert (status, said["by"]) == (200, "owner@example.com"), (status, said)

    def revoked():
        return [leaf for leaf in syshold.leaves(kind="revoke") if leaf.get("request") == approval["id"]]

    syshold.until("in the ledger of the host", revoked, 10)
    syshold.note(f"from taking back to the host's ledger: {round((time.monotonic() - begin) * 1000)} ms")
    child = connect()
    (again,) = syshold.asked(person)
    assert again["id"] != approval["id"], again
    assert len(server.seen) == 2, server.seen
    syshold.deny(person, again, "still the wrong server")
    assert syshold.finish(child)[0] != 0 and len(server.seen) == 2, server.seen

    (leaf,) = revoked()
    assert (leaf["revoke"]["cause"], leaf["revoke"]["count"]) == ("revoked", 1), leaf
    assert [who["subject"] for who in leaf["approvers"]] == ["owner@example.com"], leaf
    (decision,) = syshold.leaves(kind="decision", request=approval["id"])[:1]
    assert leaf["decision_id"] == decision["decision"]["id"], (leaf, decision)
    told = syshold.sh(f"journalctl --no-pager -o cat -u sysholdd SYSHOLD_REQUEST={approval['id']}").stdout
    assert "taken back by owner@example.com: the wrong server" in told, told
    syshold.verify()


@syshold.anywhere
@syshold.limit(120)
def test_two_people_break_the_glass_while_nobody_can_be_asked():
    folder = pathlib.Path("/root/break-glass")
    folder.mkdir(exist_ok=True)
    syshold.at_end(shutil.rmtree, folder)

    def key(name):
        line = stack.call("syshold", "break-glass", "key", "--out", folder / name)
        return f'[[break_glass]]\nsubject = "{name}@example.com"\n{line}'

    def glass(*words):
        return syshold.sh(syshold.quote("syshold", "break-glass", *words), check=False)

    def cat():
        return syshold.governed("cat", syshold.PII / "customers.csv")

    def is_held(child):
        syshold.held(1)
        child.kill()
        child.wait()
        syshold.until("it is withdrawn", lambda: not syshold.holds())

    # Nobody can be asked, and what waits is let go on by an order of two.
    person = syshold.start(syshold.policy(rules=key("dora") + key("erik")))
    waits = cat()
    syshold.asked(person)
    syshold.at_end(syshold.sh, "systemctl start syshold-approver")
    syshold.sh("systemctl stop syshold-approver")
    order = folder / "order"
    words = ("--agent", syshold.AGENT, "--rule", "pii", "--reason", "INC-7", "--key", folder / "dora", "--out", order)
    assert glass("order", *words).returncode == 0
    alone = glass("use", order)
    assert alone.returncode == 1 and "1 of 2 people" in alone.stderr, alone
    assert waits.poll() is None and len(syshold.holds()) == 1
    assert glass("countersign", order, "--key", folder / "erik").returncode == 0
    used = glass("use", order)
    assert used.returncode == 0 and "In force until" in used.stdout, used
    assert syshold.finish(waits)[0] == 0
    assert syshold.finish(cat())[0] == 0
    status = syshold.sh("syshold status", check=False).stdout
    assert f"BREAK-GLASS: what {syshold.AGENT} asks is ALLOWED" in status, status

    # It is one rule's: what another asks waits as ever. And the gateway hears of it once it can.
    server = syshold.Server()
    is_held(syshold.governed("curl", "--silent", server.url))
    assert not server.seen
    syshold.sh("systemctl start syshold-approver")

    def told():
        return "BREAK-GLASS: a host lets an agent through" in syshold.sh(
            "journalctl --no-pager -o cat -u syshold-approver"
        ).stdout

    syshold.until("the gateway is told", told, seconds=30, pause=0.5)

    # It is over when somebody ends it, and counts once: the daemon that starts next knows.
    assert "Ended: 1." in glass("end").stdout
    is_held(cat())
    for _ in range(2):
        again = glass("use", order)
        assert again.returncode == 1 and "was used before" in again.stderr, again
        stack.call("systemctl", "restart", "sysholdd", timeout=180)
    is_held(cat())

    decided = [leaf for leaf in syshold.leaves(kind="decision") if leaf["decision"]["by"] == "break_glass"]
    (ordered,) = [leaf for leaf in syshold.leaves(kind="break_glass") if "order" in leaf]
    assert len(decided) == 2 and {leaf["decision"]["id"] for leaf in decided} == {ordered["decision_id"]}, decided
    assert [one["subject"] for one in ordered["approvers"]] == ["dora@example.com", "erik@example.com"], ordered
    syshold.verify()
