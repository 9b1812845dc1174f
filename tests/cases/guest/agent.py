"""An agent that calls out in one thread, reads a file in another, and goes on in a third.

agent.py URL FILE PAUSE: prints what both gave, writes to PAUSE the longest pause (ms) of a thread that does nothing
sensitive and wants to run every 10 ms.
"""

import sys
import threading
import time
import urllib.request

url, path, pause = sys.argv[1:]
said = {}


def fetch():
    try:
        # No proxy, no name: one connection.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        said["fetch"] = opener.open(url, timeout=60).read().decode().strip()
    except OSError as error:
        said["fetch"] = repr(error)


def read():
    try:
        with open(path) as file:
            said["read"] = file.read().strip()
    except OSError as error:
        said["read"] = repr(error)


def run_on():
    last = time.monotonic()
    while workers[0].is_alive() or workers[1].is_alive():
        time.sleep(0.01)
        now = time.monotonic()
        pauses.append(now - last)
        last = now


pauses = []
workers = [threading.Thread(target=fetch), threading.Thread(target=read)]
other = threading.Thread(target=run_on)
for thread in (*workers, other):
    thread.start()
for thread in (*workers, other):
    thread.join()
print("fetch:", said["fetch"])
print("read:", said["read"])
with open(pause, "w") as file:
    file.write(f"{max(pauses) * 1000:.0f} {len(pauses)}")
