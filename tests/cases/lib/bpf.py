"""Reads and fills pinned maps, without a BPF tool in the machine."""

import contextlib
import ctypes
import os
import struct

_SYSCALL, _LOOKUP, _UPDATE, _OBJ_GET, _UPDATE_BATCH, _DELETE_BATCH = 321, 1, 2, 7, 26, 27
_libc = ctypes.CDLL(None, use_errno=True)


def per_cpu_words(path):
    """A per-CPU array of 64-bit words: the sum over all CPUs of each."""
    cpus = _possible_cpus()
    fd = _open(path)
    try:
        words = []
        while True:
            key = ctypes.c_uint32(len(words))
            value = (ctypes.c_uint64 * cpus)()
            try:
                _bpf(_LOOKUP, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
            except FileNotFoundError:
                return words
            words.append(sum(value))
    finally:
        os.close(fd)


def value(path, key, size):
    """The value of one key, bytes both; None when there is none."""
    fd = _open(path)
    asked = ctypes.create_string_buffer(key, len(key))
    found = ctypes.create_string_buffer(size)
    try:
        _bpf(_LOOKUP, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(asked), ctypes.addressof(found), 0))
    except FileNotFoundError:
        return None
    finally:
        os.close(fd)
    return found.raw


def store(path, key, new):
    """Stores the value of one key, bytes both."""
    fd = _open(path)
    key, new = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(new, len(new))
    try:
        _bpf(_UPDATE, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(new), 0))
    finally:
        os.close(fd)


def record():
    """What is attached: what it was made of, and numbers of links and programs (`abi::Loaded`)."""
    words = memoryview(value("/sys/fs/bpf/syshold/v5/maps/LOADED", bytes(4), 800)).cast("I")
    return bytes(words[:8]), {tuple(words[at : at + 2]) for at in range(8, len(words), 2)} - {(0, 0)}


@contextlib.contextmanager
def full(path, most, key_size, value_size):
    """A hash map that has no room: zeroes under keys from the end of the number range, gone afterwards."""
    fd = _open(path)
    keys = b"".join((2 ** (8 * key_size) - 1 - index).to_bytes(key_size, "little") for index in range(most))
    keys, values = ctypes.create_string_buffer(keys, len(keys)), ctypes.create_string_buffer(most * value_size)
    batch = (0, 0, ctypes.addressof(keys), ctypes.addressof(values), most, fd, 0, 0)
    try:
        # What is in it already is in the way of the last ones.
        with contextlib.suppress(OSError):
            _bpf(_UPDATE_BATCH, struct.pack("=QQQQIIQQ", *batch))
        yield
    finally:
        with contextlib.suppress(OSError):
            _bpf(_DELETE_BATCH, struct.pack("=QQQQIIQQ", *batch))
        os.close(fd)


def _open(path):
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QIIi", ctypes.addressof(name), 0, 0, 0))


def _possible_cpus():
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().split("-")[-1]) + 1


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(_SYSCALL, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
