"""refused.py GATEWAY_PORT: what no approval opens to a governed process, tried; JSON of the error numbers."""

import ctypes
import json
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
said = {}


def tried(name, attempt):
    try:
        attempt()
        said[name] = 0
    except OSError as error:
        said[name] = error.errno


def io_uring():
    # struct io_uring_params is 120 bytes; zeroes ask for the defaults.
    if libc.syscall(425, 4, ctypes.create_string_buffer(120)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")


tried("io_uring", io_uring)
tried("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
tried("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("raw6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
tried("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
tried("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
tried("mptcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
tried("gateway", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
tried("mapped gateway", lambda: socket.create_connection(("::ffff:127.0.0.1", int(sys.argv[1]))))
print(json.dumps(said))
