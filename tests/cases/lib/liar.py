"""A gateway that lies: the real one's name, certificate authority and signing key, and answers of our making."""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import ssl
import subprocess
import threading
import time
import uuid

import stack
import syshold

TYPE = "application/vnd.syshold.decision.v1+json"
WORK = pathlib.Path("/run/syshold-vm/liar")


class Liar:
    """Listens where hosts ask. `lies[path]` says how a request about that file is answered: a function of the
    request and of the bytes that were signed, which gives a status, headers and a body."""

    def __init__(self, lies):
        self.lies, self.asked, self.answers = lies, {}, {}
        self.over, self.polled = threading.Event(), False
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path.endswith("/health"):
                    return self.say(204)
                if self.path.startswith("/v1/revocations?"):
                    # What is said to be taken back is no list; the second time that takes a while.
                    if liar.polled:
                        liar.over.wait(25)
                    liar.polled = True
                    return self.say(200, body=b"{}")
                name = self.path.split("/")[3]
                if name not in liar.answers:
                    request, signed = liar.asked[name]
                    answer = liar.lies[request["action"]["object"]["requested"]](request, signed)
                    # A signature takes time: it is made once.
                    if answer[0] == 200:
                        liar.answers[name] = answer
                else:
                    answer = liar.answers[name]
                self.say(*answer)
                # Whoever is told at once asks again at once.
                time.sleep(0.2)

            def do_PUT(self):
                envelope = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/log":
                    return self.say(404)
                signed = base64.b64decode(envelope["payload"])
                liar.asked[self.path.split("/")[3]] = json.loads(signed), signed
                self.say(201)

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.say(204)

            do_DELETE = do_POST

            def say(self, status, headers=(), body=b""):
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                # Nobody reads all of what is too long.
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A host that hangs up is no news, and the report is for what is."""

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate())
        port = int(stack.HOSTS_URL.rsplit(":", 1)[1])
        self._http = Quiet(("", port), Handler)
        self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        syshold.at_end(self.stop)

    def stop(self):
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


def certificate():
    """A server certificate by the CA that this host pinned."""
    WORK.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, asked, cert, names = (str(WORK / name) for name in ("tls.key", "tls.csr", "tls.pem", "names"))
    pathlib.Path(names).write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
            "-keyout", key, "-out", asked)  # fmt: skip
    openssl("x509", "-req", "-in", asked, "-CA", str(stack.GATEWAY_DIR / "ca.pem"), "-CAkey",
            str(stack.GATEWAY_DIR / "ca.key"), "-days", "2", "-extfile", names, "-out", cert)  # fmt: skip
    return cert, key


def stolen_key():
    """The key that decisions are signed with."""
    return stack.GATEWAY_DIR / "decision.key"


def other_key():
    WORK.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = WORK / "other.key"
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(path))
    return path


def approval(request, signed, **changes):
    """The decision that approves a request once."""
    now = int(time.time() * 1000)
    return {
        "v": request["v"],
        "decision_id": str(uuid7()),
        "request_id": request["request_id"],
        "request_sha256": hashlib.sha256(signed).hexdigest(),
        "host_id": request["host_id"],
        "nonce": request["nonce"],
        "verdict": "approve",
        "grant": {"objects": [request["action"]["object"]], "lifespan": "single", "max_uses": 1},
        "approvers": [{"subject": "approver@example.com", "channel": "api", "assurance": "token", "at": now}],
        "policy_sha256": request["policy"]["sha256"],
        "issued_at": now,
    } | changes


def seal(decision, key, payload_type=TYPE):
    """The envelope of a decision, signed with a key."""
    payload = json.dumps(decision, sort_keys=True, separators=(",", ":")).encode()
    kind = payload_type.encode()
    to_sign = WORK / f"to-sign-{threading.get_ident()}"
    to_sign.write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    sig = openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(to_sign))
    envelope = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": base64.b64encode(sig).decode()}],
    }
    return json.dumps(envelope).encode()


def openssl(*words):
    done = subprocess.run(["openssl", *words], capture_output=True, timeout=30)
    assert done.returncode == 0, (words, done.stderr.decode())
    return done.stdout


def uuid7():
    milliseconds, chance = int(time.time() * 1000), uuid.uuid4().int
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | (chance >> 64 & 0xFFF) << 64 | 2 << 62 | chance & (1 << 62) - 1)
