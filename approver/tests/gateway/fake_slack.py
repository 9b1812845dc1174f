"""A Slack for one test: the Web API and Socket Mode, as far as the gateway uses them.

What it is sent it gives to slack_sdk's own models, which refuse what Slack would; what it signs, it
signs with slack_sdk's SignatureVerifier. `fake_slack.py check URL` drives it with slack_sdk's clients,
so that it is a Slack to them before it is one to the gateway.
"""

import asyncio
import json
import secrets
import sys
import time
import urllib.parse

from aiohttp import WSMsgType, web
from slack_sdk.models.blocks import Block
from slack_sdk.models.views import View
from slack_sdk.signature import SignatureVerifier

BOT, APP, SIGNING = "xoxb-1-secret", "xapp-1-secret", "8f742231b10e8888abcd99yyyzzz85a5"
TEAM, APP_ID, CHANNEL = "T1", "A1", "C1"


class Slack:
    def __init__(self):
        self.called, self.scripted, self.posted, self.views = [], {}, {}, {}
        self.tickets, self.open, self.acks, self.triggers = set(), [], {}, {}
        self.serial = 0

    def app(self):
        app = web.Application(client_max_size=2**22)
        app.router.add_post("/api/{method}", self.api)
        app.router.add_get("/link", self.link)
        for name in ("calls", "messages", "script", "click", "submit", "send", "sign", "sockets", "drop"):
            app.router.add_post(f"/_control/{name}", getattr(self, name))
        return app

    # Web API

    async def api(self, request):
        method = request.match_info["method"]
        if request.content_type == "application/json":
            body = json.loads(await request.text() or "{}")
        else:
            body = {key: value for key, value in (await request.post()).items()}
        self.called.append({"method": method, "body": body, "at": time.time()})
        queue = self.scripted.get(method)
        if queue:
            answer = queue.pop(0)
            return web.json_response(answer["body"], status=answer.get("status", 200), headers=answer.get("headers"))
        wanted = APP if method == "apps.connections.open" else BOT
        if request.headers.get("Authorization") != f"Bearer {wanted}":
            return web.json_response({"ok": False, "error": "invalid_auth"})
        try:
            return web.json_response({"ok": True, **getattr(self, "api_" + method.replace(".", "_"))(request, body)})
        except Refused as refused:
            return web.json_response({"ok": False, "error": str(refused)})

    def api_auth_test(self, _request, _body):
        return {"team_id": TEAM, "user_id": "U0", "bot_id": "B1"}

    def api_chat_postMessage(self, _request, body):
        self.check_message(body)
        assert body["unfurl_links"] is False and body["unfurl_media"] is False
        self.serial += 1
        ts = f"{int(time.time())}.{self.serial:06}"
        self.posted[ts] = body
        return {"channel": body["channel"], "ts": ts, "message": body}

    def api_chat_update(self, _request, body):
        self.check_message(body)
        if body["ts"] not in self.posted:
            raise Refused("message_not_found")
        self.posted[body["ts"]] = body
        return {"channel": body["channel"], "ts": body["ts"]}

    def api_chat_postEphemeral(self, _request, body):
        self.check_message(body)
        if not body.get("user", "").startswith("U"):
            raise Refused("user_not_in_channel")
        return {"message_ts": "1.1"}

    def api_views_open(self, _request, body):
        if time.time() - self.triggers.pop(body["trigger_id"], 0) > 3:
            raise Refused("expired_trigger_id")
        view = View(**{k: v for k, v in body["view"].items()})
        view.validate_json()
        check_blocks(body["view"]["blocks"])
        assert len(body["view"]["title"]["text"]) <= 24
        identity = f"V{len(self.views) + 1}"
        self.views[identity] = body["view"]
        return {"view": {"id": identity, **body["view"]}}

    def api_apps_connections_open(self, request, _body):
        ticket = secrets.token_hex(8)
        self.tickets.add(ticket)
        return {"url": f"ws://{request.host}/link?ticket={ticket}&app_id={APP_ID}"}

    def check_message(self, body):
        if body.get("channel") != CHANNEL:
            raise Refused("channel_not_found")
        check_blocks(body.get("blocks", []))
        assert len(json.dumps(body["blocks"], ensure_ascii=False)) <= 13000, "too long for a message"

    # Socket Mode

    async def link(self, request):
        ticket = request.query.get("ticket")
        if ticket not in self.tickets:
            raise web.HTTPForbidden()
        self.tickets.remove(ticket)
        socket = web.WebSocketResponse(heartbeat=5)
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": APP_ID}})
        self.open.append(socket)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                envelope = json.loads(message.data).get("envelope_id")
                if envelope in self.acks:
                    self.acks[envelope].set()
        self.open.remove(socket)
        return socket

    async def deliver(self, payload):
        """The newest connection gets it; whether it was acknowledged within Slack's three seconds."""
        envelope = secrets.token_hex(8)
        self.acks[envelope] = asyncio.Event()
        await self.open[-1].send_json(
            {"type": "interactive", "envelope_id": envelope, "payload": payload, "accepts_response_payload": True}
        )
        try:
            await asyncio.wait_for(self.acks[envelope].wait(), 3)
            return True
        except asyncio.TimeoutError:
            return False

    # What tests say

    async def calls(self, _request):
        return web.json_response(self.called)

    async def messages(self, _request):
        return web.json_response(list(self.posted))

    async def script(self, request):
        self.scripted.update(await request.json())
        return web.json_response({})

    async def sockets(self, _request):
        return web.json_response(len(self.open))

    async def drop(self, _request):
        for socket in list(self.open):
            socket._writer.transport.abort()
        return web.json_response({})

    async def send(self, request):
        """A frame to the oldest connection."""
        await self.open[0].send_json(await request.json())
        return web.json_response({})

    def trigger(self):
        trigger = f"{time.time_ns()}.{secrets.token_hex(4)}"
        self.triggers[trigger] = time.time()
        return trigger

    async def click(self, request):
        asked = await request.json()
        ts = asked["ts"]
        message = self.posted[ts]
        buttons = [e for block in message["blocks"] if block["type"] == "actions" for e in block["elements"]]
        button = next(b for b in buttons if b["action_id"] == asked["action"])
        payload = {
            "type": "block_actions",
            "user": {"id": asked["user"], "username": asked["user"].lower(), "name": asked["user"].lower(), "team_id": TEAM},
            "api_app_id": APP_ID,
            "token": "verification-token",
            "container": {"type": "message", "message_ts": ts, "channel_id": CHANNEL, "is_ephemeral": False},
            "trigger_id": self.trigger(),
            "team": {"id": TEAM, "domain": "example"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": CHANNEL, "name": "approvals"},
            "message": {"type": "message", "ts": ts, "bot_id": "B1", "blocks": message["blocks"]},
            "state": {"values": {}},
            "response_url": "https://hooks.slack.com/actions/T1/1/x",
            "actions": [{**button, "block_id": "syshold", "action_ts": "1.1"}],
        }
        return await self.answer(asked, payload)

    async def submit(self, request):
        asked = await request.json()
        view = self.views[asked["view"]]
        values = {}
        for block in view["blocks"]:
            if block["type"] == "input":
                name, kind = block["element"]["action_id"], block["element"]["type"]
                given = asked["values"].get(block["block_id"])
                if kind == "radio_buttons":
                    state = {"type": kind, "selected_option": next(o for o in block["element"]["options"] if o["value"] == given)}
                else:
                    state = {"type": kind, "value": given}
                values[block["block_id"]] = {name: state}
        payload = {
            "type": "view_submission",
            "team": {"id": TEAM, "domain": "example"},
            "user": {"id": asked["user"], "username": asked["user"].lower(), "name": asked["user"].lower(), "team_id": TEAM},
            "api_app_id": APP_ID,
            "token": "verification-token",
            "trigger_id": self.trigger(),
            "view": {**view, "id": asked["view"], "team_id": TEAM, "app_id": APP_ID, "bot_id": "B1", "state": {"values": values}},
            "response_urls": [],
        }
        return await self.answer(asked, payload)

    async def answer(self, asked, payload):
        for path, value in asked.get("change", {}).items():
            *parents, last = path.strip("/").split("/")
            node = payload
            for parent in parents:
                node = node[int(parent)] if isinstance(node, list) else node[parent]
            node[int(last) if isinstance(node, list) else last] = value
        acknowledged = []
        # The gateway may be connecting anew.
        while asked.get("deliver", 1) and not self.open:
            await asyncio.sleep(0.05)
        for _ in range(asked.get("deliver", 1)):
            acknowledged.append(await self.deliver(payload))
        return web.json_response({"payload": payload, "acknowledged": acknowledged})

    async def sign(self, request):
        """A payload as the form that Slack would post, with its headers."""
        asked = await request.json()
        body = urllib.parse.urlencode({"payload": json.dumps(asked["payload"])}) + asked.get("more", "")
        stamp = str(int(time.time()) + asked.get("age", 0))
        signature = SignatureVerifier(SIGNING).generate_signature(timestamp=stamp, body=body)
        return web.json_response({"body": body, "stamp": stamp, "signature": signature})


class Refused(Exception):
    pass


def check_blocks(blocks):
    assert len(blocks) <= 50
    parsed = Block.parse_all(blocks)
    assert len(parsed) == len(blocks)
    for block, raw in zip(parsed, blocks):
        assert type(block) is not Block, raw["type"]
        block.validate_json()
        assert block.to_dict()["type"] == raw["type"]
        for element in raw.get("elements", []):
            if element["type"] == "button":
                assert len(element["text"]["text"]) <= 75 and len(element.get("value", "")) <= 2000, element
        if raw["type"] == "context":
            assert len(raw["elements"]) <= 10


def check(url):
    """slack_sdk's own clients against this Slack."""
    from slack_sdk import WebClient
    from slack_sdk.errors import SlackApiError
    from slack_sdk.models.blocks import ActionsBlock, ButtonElement
    from slack_sdk.socket_mode import SocketModeClient
    from slack_sdk.socket_mode.response import SocketModeResponse

    web_client = WebClient(token=BOT, base_url=url + "/api/")
    assert web_client.auth_test()["team_id"] == TEAM
    blocks = [ActionsBlock(block_id="syshold", elements=[ButtonElement(text="Go", action_id="go", value="1")]).to_dict()]
    said = web_client.chat_postMessage(channel=CHANNEL, text="x", blocks=blocks, unfurl_links=False, unfurl_media=False)
    web_client.chat_update(channel=CHANNEL, ts=said["ts"], text="y", blocks=blocks)
    try:
        WebClient(token="xoxb-other", base_url=url + "/api/").auth_test()
        raise AssertionError("another token was taken")
    except SlackApiError as error:
        assert error.response["error"] == "invalid_auth"
    got = []

    def listener(client, request):
        got.append(request.payload)
        client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))

    client = SocketModeClient(app_token=APP, web_client=WebClient(token=BOT, base_url=url + "/api/"))
    client.socket_mode_request_listeners.append(listener)
    client.connect()
    body = json.dumps({"ts": said["ts"], "action": "go", "user": "U9"}).encode()
    import urllib.request

    request = urllib.request.Request(url + "/_control/click", body, {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request))
    assert answer["acknowledged"] == [True] and got[0]["user"]["id"] == "U9"
    client.close()
    print("good", flush=True)


async def serve():
    slack = Slack()
    runner = web.AppRunner(slack.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    else:
        asyncio.run(serve())
