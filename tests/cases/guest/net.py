"""Ways to reach another machine: `net.py WAY [ARGUMENT]...` tries one and prints what came of it.

`ok …` or the name of the error. A way that takes a descriptor was given it by its parent.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pair(address, port):
    return (address, int(port))


# ---- connecting and sending ----


def connect(address, port):
    with socket.socket(family(address)) as s:
        s.connect(pair(address, port))
        s.sendall(b"connected")


def again(address, port):
    """A non-blocking connect, and the second one by which some programs learn how it went."""
    with socket.socket(family(address)) as s:
        s.setblocking(False)
        first = s.connect_ex(pair(address, port))
        time.sleep(0.2)
        second = s.connect_ex(pair(address, port))
        return [errno.errorcode.get(code, "ok") for code in (first, second)]


def datagram(address, port):
    with socket.socket(family(address), socket.SOCK_DGRAM) as s:
        return s.sendto(b"datagram", pair(address, port))


def unspecified(address, port):
    """AF_UNSPEC in a datagram's address means AF_INET."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        to = struct.pack("=H", socket.AF_UNSPEC) + struct.pack("!H", int(port)) + socket.inet_aton(address) + bytes(8)
        return call("sendto", s.fileno(), b"unspecified", 11, 0, to, len(to))


def elsewhere(address, port):
    """Connected to this machine, sent to another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((address, 9))
        return s.sendto(b"elsewhere", pair(address, port))


class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class mmsghdr(ctypes.Structure):
    _fields_ = [("hdr", msghdr), ("len", ctypes.c_uint32)]


def several(first, second, port):
    """sendmmsg to two places, again until all are sent."""
    vector = (mmsghdr * 2)()
    kept = []
    for slot, address in zip(vector, (first, second), strict=True):
        to = struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(address) + bytes(8)
        io = iovec(b"several", 7)
        kept.append((to, io))
        slot.hdr = msghdr(to, len(to), ctypes.pointer(io), 1, None, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        sent = call("sendmmsg", s.fileno(), vector, 2, 0)
        if sent == 1:
            rest = ctypes.byref(vector, ctypes.sizeof(mmsghdr))
            sent = [1, call("sendmmsg", s.fileno(), rest, 1, 0)]
        return sent


def fastopen(address, port):
    with socket.socket(family(address)) as s:
        return s.sendto(b"fastopen", socket.MSG_FASTOPEN, pair(address, port))


# ---- descriptors that came from someone else ----


def inherited(fd, how, *rest):
    number = int(fd)
    if how == "write":
        return os.write(number, b"inherited")
    if how == "sendfile":
        with open(rest[0], "rb") as file:
            return os.sendfile(number, file.fileno(), 0, 9)
    if how == "splice":
        r, w = os.pipe()
        os.write(w, b"inherited")
        return os.splice(r, number, 9)
    s = socket.socket(fileno=number)
    if how == "send":
        return s.send(b"inherited")
    if how == "many":
        return [s.send(b"many") for _ in range(20)]
    if how == "accept":
        connection, _ = s.accept()
        with connection:
            connection.sendall(b"accepted")
        return None
    raise AssertionError(how)


def received(path):
    """A connected socket comes over a unix socket that this process has listened on."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen()
        os.chmod(path, 0o777)
        print("listening", flush=True)
        connection, _ = s.accept()
        _, fds, _, _ = socket.recv_fds(connection, 16, 1)
    return inherited(fds[0], "write")


def listen(address, port):
    """Listens, and answers one connection."""
    with socket.socket(family(address)) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(pair(address, port))
        s.listen()
        print("listening", flush=True)
        connection, _ = s.accept()
        with connection:
            connection.sendall(b"hello " + connection.recv(100))


# ---- kinds and options of sockets ----


def kinds():
    """Which sockets can be made: name by name."""
    all_kinds = {
        "raw": (socket.AF_INET, socket.SOCK_RAW, 255),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0x300),
        "mptcp": (socket.AF_INET, socket.SOCK_STREAM, 262),
        "sctp": (socket.AF_INET, socket.SOCK_STREAM, 132),
        "udplite": (socket.AF_INET, socket.SOCK_DGRAM, 136),
        "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        "alg": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
        "xdp": (44, socket.SOCK_RAW, 0),
        "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "tcp": (socket.AF_INET6, socket.SOCK_STREAM, 0),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, 17),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "route": (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    }
    return {name: attempt(lambda made=made: socket.socket(*made).close())[0] for name, made in all_kinds.items()}


# One segment of a source route, as IPv6 has had it since segment routing.
SEGMENTS = struct.pack("!BBBBBBH", 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")


# By way of another address of the same machine, as mobile hosts use it.
HOME = struct.pack("!BBBBI", 0, 2, 2, 1, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def options():
    """Which options that redirect can be set."""
    v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    label = struct.pack("=16sIBBHHHI", socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 0, 0, 255, 1, 0, 0, 0)
    all_options = {
        "ip options": (v4, socket.IPPROTO_IP, 4, b"\1\1\1\1"),
        "transparent": (v4, socket.IPPROTO_IP, 19, 1),
        "route": (v6, socket.IPPROTO_IPV6, 57, SEGMENTS),
        "packet options": (v6, socket.IPPROTO_IPV6, 6, b""),
        "flow label": (v6, socket.IPPROTO_IPV6, 32, label),
        "transparent v6": (v6, socket.IPPROTO_IPV6, 75, 1),
        "repair": (tcp, socket.IPPROTO_TCP, 19, 1),
        "reuse": (tcp, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        "nodelay": (tcp, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        "ttl": (v4, socket.IPPROTO_IP, socket.IP_TTL, 3),
    }
    return {name: attempt(lambda it=it: it[0].setsockopt(*it[1:]))[0] for name, it in all_options.items()}


def control(kind, address, port):
    """A datagram with a control message."""
    all_kinds = {
        "route": (socket.IPPROTO_IPV6, 57, HOME),
        "ip options": (socket.IPPROTO_IP, 7, b"\1\1\1\1"),
        "ttl": (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", 3)),
        "class": (socket.IPPROTO_IPV6, 67, struct.pack("=i", 0)),
    }
    with socket.socket(family(address), socket.SOCK_DGRAM) as s:
        return s.sendmsg([b"control"], [all_kinds[kind]], 0, pair(address, port))


# ---- unix sockets ----


def at(name):
    return "\0" + name[1:] if name.startswith("@") else name


def unix(name, kind="stream"):
    which = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "packets": socket.SOCK_SEQPACKET}[kind]
    with socket.socket(socket.AF_UNIX, which) as s:
        s.connect(at(name))
        s.send(b"unix")


def unix_to(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        return s.sendto(b"unix", at(name))


def family_of_own(folder):
    """What a process and its own children say to each other."""
    made = {}
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.send(b"pair")
        made["pair " + kind.name] = other.recv(9).decode()
    for name in (f"{folder}/own", "@own-of-an-agent"):
        server = socket.socket(socket.AF_UNIX)
        server.bind(at(name))
        server.listen()
        if os.fork() == 0:
            # What it says of itself is not our answer.
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
            os.execv(sys.executable, [sys.executable, __file__, "unix", name])
        connection, _ = server.accept()
        made[name] = connection.recv(9).decode()
        os.wait()
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(f"{folder}/datagrams")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.bind("")
    sender.connect(f"{folder}/datagrams")
    sender.send(b"datagram")
    text, back = receiver.recvfrom(20)
    receiver.sendto(b"back", back)
    made["datagrams"] = text.decode() + sender.recv(9).decode()
    return made


# ---- rings ----

SETUP, ENTER = 425, 426
OP_CONNECT, OP_OPENAT = 16, 18


class Ring:
    def __init__(self):
        self.params = bytearray(120)
        buffer = (ctypes.c_char * 120).from_buffer(self.params)
        self.fd = call("syscall", SETUP, 4, buffer)
        self.sq, self.cq = struct.unpack_from("=10I", self.params, 40), struct.unpack_from("=10I", self.params, 80)

    def map(self):
        def at(offset, size):
            return mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)

        self.ring = at(0, max(self.sq[6] + 4 * 4, self.cq[5] + 8 * 16))
        self.entries = at(0x10000000, 4 * 64)
        return self

    def submit(self, entry):
        """One entry in, its result out."""
        tail = struct.unpack_from("=I", self.ring, self.sq[1])[0]
        index = tail & 3
        self.entries[index * 64 : index * 64 + 64] = entry.ljust(64, b"\0")
        struct.pack_into("=I", self.ring, self.sq[6] + 4 * index, index)
        struct.pack_into("=I", self.ring, self.sq[1], tail + 1)
        call("syscall", ENTER, self.fd, 1, 1, 1, None, 0)
        head = struct.unpack_from("=I", self.ring, self.cq[0])[0]
        result = struct.unpack_from("=QiI", self.ring, self.cq[5] + 16 * (head & 7))[1]
        struct.pack_into("=I", self.ring, self.cq[0], head + 1)
        return "ok" if result >= 0 else errno.errorcode.get(-result, str(result))


def ring():
    os.close(Ring().fd)


def ring_of_another(fd):
    """Maps a ring that its parent has made."""
    mmap.mmap(int(fd), 4096, flags=mmap.MAP_SHARED).close()


def ring_before(path, address, port):
    """Makes a ring, waits until it is governed, and uses it then."""
    ring = Ring().map()
    print("ready", flush=True)
    sys.stdin.readline()
    name = ctypes.create_string_buffer(path.encode())
    s = socket.socket(socket.AF_INET)
    to = struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(address) + bytes(8)
    where = ctypes.create_string_buffer(to, 16)
    return {
        "openat": ring.submit(struct.pack("=BBHiQQII", OP_OPENAT, 0, 0, -100, 0, ctypes.addressof(name), 0, os.O_RDONLY)),
        "connect": ring.submit(struct.pack("=BBHiQQII", OP_CONNECT, 0, 0, s.fileno(), 16, ctypes.addressof(where), 0, 0)),
    }


def attempt(what):
    try:
        return "ok", what()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error)), None


if __name__ == "__main__":
    said, more = attempt(lambda: globals()[sys.argv[1]](*sys.argv[2:]))
    print(said, "" if more is None else json.dumps(more), flush=True)
