"""signals.py WAY PATH: opens PATH, which is held, while signals come; prints how often the C handler ran, what became of
the open, and when it is in it.

alarm: SIGALRM every 100 ms, only the held thread may take it. cont: SIGCONT is handled. thread: a worker is held, the
main thread handles SIGALRM in Python. idle: nothing is held, it waits that many seconds. term: SIGTERM is handled and nothing more. raise: its handler raises.
"""

import ctypes
import os
import signal
import sys
import threading
import time

way, path = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
ran = 0


def raw_open():
    """One syscall: Python itself would try again after EINTR."""
    return "opened" if libc.open(path.encode(), os.O_RDONLY) >= 0 else f"errno {ctypes.get_errno()}"


def count(number, _):
    global ran
    ran += 1


def wakeups():
    """The C handler writes a byte a run; nobody else needs to be awake for that."""
    out, into = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    return out


def handled(out):
    try:
        return len(os.read(out, 65536))
    except BlockingIOError:
        return 0


if way == "alarm":
    out = wakeups()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    said = raw_open()
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(said, handled(out))
elif way == "idle":
    signal.signal(signal.SIGALRM, count)
    end = time.monotonic() + float(path)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)
    print(ran)
elif way == "cont":
    out = wakeups()
    signal.signal(signal.SIGCONT, lambda *_: None)
    for _ in range(2):
        print(raw_open(), handled(out), flush=True)
elif way == "thread":
    signal.signal(signal.SIGALRM, count)
    said = []
    worker = threading.Thread(target=lambda: said.append(raw_open()))
    worker.start()
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    while worker.is_alive():
        worker.join(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(*said, ran)
elif way == "term":
    out = wakeups()
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(raw_open(), handled(out))
elif way == "raise":
    def end(*_):
        sys.exit(7)

    signal.signal(signal.SIGTERM, end)
    open(path).read()
