"""Unix sockets: a helper that is not governed would do for an agent what the agent may not."""

import json
import os
import pathlib
import socket
import subprocess
import threading

import network
import setting
import syshold


class Helper:
    """Someone who is not governed, listening on a unix socket for whoever comes."""

    def __init__(self, name, kind=socket.SOCK_STREAM):
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        if not name.startswith("@"):
            os.chmod(name, 0o777)
            syshold.at_end(lambda: pathlib.Path(name).unlink(missing_ok=True))
        if kind == socket.SOCK_DGRAM:
            threading.Thread(target=self._receive, daemon=True).start()
        else:
            self._socket.listen()
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self._socket.accept()
            with connection:
                self.heard.append(connection.recv(100))

    def _receive(self):
        while True:
            self.heard.append(self._socket.recv(100))

    def says(self, count):
        syshold.until(f"it hears {count}", lambda: len(self.heard) == count)
        assert set(self.heard) == {b"unix"} or not count, self.heard


@syshold.limit(180)
def test_a_helper_is_out_of_reach_by_whatever_name():
    setting.start()
    folder = pathlib.Path(f"/tmp/helpers-{os.getpid()}")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    stream = Helper(f"{folder}/stream")
    (folder / "symlink").symlink_to("stream")
    os.link(folder / "stream", folder / "link")
    packets = Helper(f"{folder}/packets", socket.SOCK_SEQPACKET)
    datagram = Helper(f"{folder}/datagram", socket.SOCK_DGRAM)
    abstract = Helper("@helper-of-someone")
    tries = [
        (stream, ("unix", folder / "stream")),
        (stream, ("unix", folder / "symlink")),
        (stream, ("unix", folder / "link")),
        (stream, ("unix", f"/proc/self/root{folder}/stream")),
        (packets, ("unix", folder / "packets", "packets")),
        (datagram, ("unix", folder / "datagram", "datagram")),
        (datagram, ("unix_to", folder / "datagram")),
        (abstract, ("unix", "@helper-of-someone")),
    ]
    for helper, words in tries:
        before = len(helper.heard)
        assert network.free(*words).startswith("ok"), words
        helper.says(before + 1)
        for user in network.EVERYBODY:
            assert network.said(network.governed(*words, user=user)) == "EPERM", (words, user)
        helper.says(before + 1)


@syshold.limit(90)
def test_systemd_starts_nothing_for_an_agent():
    """The classic way out: have a service manager run the command."""
    setting.start()
    proof = pathlib.Path(f"/tmp/escaped-{os.getpid()}")
    words = ("systemd-run", "--quiet", "--wait", "--collect", "touch", str(proof))
    assert setting.ungoverned(*words).returncode == 0 and proof.exists()
    proof.unlink()
    status, out, err = syshold.finish(syshold.governed(*words), timeout=60)
    assert status != 0 and not proof.exists(), (out, err)


@syshold.limit(90)
def test_what_an_agent_made_itself_is_in_its_reach():
    setting.start()
    for user in network.EVERYBODY:
        folder = pathlib.Path(f"/tmp/own-{os.getpid()}-{user}")
        folder.mkdir()
        folder.chmod(0o777)
        expected = {
            "pair SOCK_STREAM": "pair",
            "pair SOCK_DGRAM": "pair",
            f"{folder}/own": "unix",
            "@own-of-an-agent": "unix",
            "datagrams": "datagramback",
        }
        said = network.said(network.governed("family_of_own", folder, user=user))
        assert json.loads(said.removeprefix("ok ")) == expected, said


@syshold.limit(90)
def test_logs_and_readiness_go_through():
    """What every service says to systemd and its journal."""
    setting.start()
    mark = f"said-by-an-agent-{os.getpid()}"
    done = subprocess.run(
        [
            *("systemd-run", "--quiet", "--wait", "--collect", "--unit=test-agent", "--property=Type=notify"),
            *("--property=NotifyAccess=all", "sh", "-c", f"echo {mark}-out; logger {mark}-log; systemd-notify --ready; sleep 0.2"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    look = f"journalctl --no-pager -o cat --since=-10min | grep {mark}"
    for what in ("out", "log"):
        syshold.until(f"the journal has it: {what}", lambda what=what: f"{mark}-{what}" in syshold.sh(look, check=False).stdout)
