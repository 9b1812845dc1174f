"""A Slack for the test machine, out of the standard library: it takes the gateway's messages as the Web API
does, keeps every call, and clicks as Slack does: over HTTPS, signed."""

import hashlib
import hmac
import http.server
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

BOT, SIGNING = "xoxb-1-secret", "8f742231b10e8888abcd99yyyzzz85a5"
TEAM, APP, CHANNEL = "T1", "A1", "C1"


class Slack:
    def __init__(self, interactive, ca):
        self.interactive, self.calls, self.messages, self.wrong = interactive, [], {}, []
        self._tls = ssl.create_default_context(cafile=ca)
        self._changed = threading.Condition()
        slack = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps(slack.take(self.path, self.headers, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()

    def take(self, path, headers, body):
        """One call of the Web API; what Slack would refuse is refused, and kept in `wrong`."""
        method = path.removeprefix("/api/")
        faults = {
            "invalid_auth": headers["Authorization"] != f"Bearer {BOT}",
            "invalid_content_type": headers["Content-Type"].split(";")[0] != "application/json",
            "unknown_method": method not in ("chat.postMessage", "chat.update", "chat.postEphemeral"),
            "channel_not_found": body.get("channel") != CHANNEL,
            "message_not_found": method == "chat.update" and body.get("ts") not in self.messages,
            "invalid_blocks": not 1 <= len(body.get("blocks", ())) <= 50 or len(json.dumps(body["blocks"])) > 13000,
        }
        error = next((name for name, found in faults.items() if found), None)
        with self._changed:
            self.calls.append((method, body))
            self._changed.notify_all()
            if error:
                self.wrong.append((error, method, body))
                return {"ok": False, "error": error}
            ts = body.get("ts") or f"{int(time.time())}.{len(self.calls):06}"
            if method != "chat.postEphemeral":
                self.messages[ts] = body
        return {"ok": True, "channel": CHANNEL, "ts": ts}

    def wait(self, method, fits=lambda body: True, after=0, seconds=60):
        """The first call of `method` after the first `after` calls that fits."""

        def found():
            return next((body for called, body in self.calls[after:] if called == method and fits(body)), None)

        with self._changed:
            assert self._changed.wait_for(found, seconds), (method, [name for name, _ in self.calls], self.wrong)
            return found()

    def message(self, words, seconds=60):
        """Where the message is that has `words`, and what it says."""
        body = self.wait("chat.postMessage", lambda body: words in json.dumps(body), seconds=seconds)
        return next(ts for ts, kept in self.messages.items() if kept["blocks"] == body["blocks"]), body

    def click(self, ts, action, user):
        """`user` presses a button of the message as it stands now; the status of the gateway's answer."""
        message = self.messages[ts]
        buttons = [e for block in message["blocks"] if block["type"] == "actions" for e in block["elements"]]
        (button,) = [b for b in buttons if b["action_id"] == action]
        payload = {
            "type": "block_actions",
            "user": {"id": user, "username": user.lower(), "name": user.lower(), "team_id": TEAM},
            "api_app_id": APP,
            "container": {"type": "message", "message_ts": ts, "channel_id": CHANNEL, "is_ephemeral": False},
            "trigger_id": f"{time.time_ns()}.1",
            "team": {"id": TEAM, "domain": "example"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": CHANNEL, "name": "approvals"},
            "message": {"type": "message", "ts": ts, "bot_id": "B1", "blocks": message["blocks"]},
            "state": {"values": {}},
            "response_url": "https://hooks.slack.com/actions/T1/1/x",
            "actions": [{**button, "block_id": "syshold", "action_ts": "1.1"}],
        }
        return self.post(payload)

    def post(self, payload, key=SIGNING):
        body = urllib.parse.urlencode({"payload": json.dumps(payload)}).encode()
        stamp = str(int(time.time()))
        signature = hmac.new(key.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={signature}"}
        request = urllib.request.Request(self.interactive, body, headers)
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
