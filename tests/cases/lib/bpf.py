"""Reads pinned maps, without a BPF tool in the machine."""

import ctypes
import os
import struct

_SYSCALL, _LOOKUP, _OBJ_GET = 321, 1, 7
_libc = ctypes.CDLL(None, use_errno=True)


def per_cpu_words(path):
    """A per-CPU array of 64-bit words: the sum over all CPUs of each."""
    cpus = _possible_cpus()
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = _bpf(_OBJ_GET, struct.pack("=QIIi", ctypes.addressof(name), 0, 0, 0))
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
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = _bpf(_OBJ_GET, struct.pack("=QIIi", ctypes.addressof(name), 0, 0, 0))
    asked = ctypes.create_string_buffer(key, len(key))
    found = ctypes.create_string_buffer(size)
    try:
        _bpf(_LOOKUP, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(asked), ctypes.addressof(found), 0))
    except FileNotFoundError:
        return None
    finally:
        os.close(fd)
    return found.raw


def _possible_cpus():
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().split("-")[-1]) + 1


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(_SYSCALL, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
