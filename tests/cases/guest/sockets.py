"""sockets.py JSON: every way out at once, one thread each, and what became of it as JSON lines.

JSON: a list of [name, how, address, port]; how: connect, udp, fastopen, nonblocking.
"""

import json
import socket
import sys
import threading
import time

MSG_FASTOPEN = 0x20000000


def connect(family, to):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.connect(to)
        return "connected"


def udp(family, to):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        return f"sent {s.sendto(b'datagram', to)}"


def fastopen(family, to):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        return f"sent {s.sendto(b'early', MSG_FASTOPEN, to)}"


def nonblocking(family, to):
    """As an event loop does it: connect until it says that it is connected."""
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setblocking(False)
        errors = []
        while True:
            error = s.connect_ex(to)
            if not errors or errors[-1] != error:
                errors.append(error)
            # EINPROGRESS, EALREADY: not yet.
            if error not in (115, 114):
                return errors
            time.sleep(0.01)


def one(name, how, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        said = globals()[how](family, (address, port))
    except OSError as error:
        said = f"errno {error.errno}"
    print(json.dumps([name, said]), flush=True)


threads = [threading.Thread(target=one, args=case) for case in json.loads(sys.argv[1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
