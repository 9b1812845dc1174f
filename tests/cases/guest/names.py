"""names.py JSON: every way to change a name or what belongs to a file at once, one thread each, and what became of it as
JSON lines. JSON: a list of [name, how, path, other path]."""

import ctypes
import json
import os
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)


def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")


def rename(path, other):
    os.rename(path, other)


def exchange(path, other):
    called(libc.renameat2(-100, path.encode(), -100, other.encode(), 2))


def link(path, other):
    os.link(path, other)


def unlink(path, _):
    os.unlink(path)


def rmdir(path, _):
    os.rmdir(path)


def truncate(path, _):
    os.truncate(path, 1)


def open_truncate(path, _):
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def chmod(path, _):
    os.chmod(path, 0o600)


def chown(path, _):
    os.chown(path, os.getuid(), os.getgid())


def setxattr(path, _):
    os.setxattr(path, "user.test", b"x")


def mkdir(path, _):
    os.mkdir(path)


def symlink(path, _):
    os.symlink("/etc/hostname", path)


def mkfifo(path, _):
    os.mkfifo(path)


def create(path, _):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def rewrite(path, _):
    """Opened for writing, which is asked; what an open file may do is then not asked again."""
    file = os.open(path, os.O_RDWR)
    os.ftruncate(file, 2)
    os.posix_fallocate(file, 0, 8)
    os.pwrite(file, b"new", 0)
    os.close(file)


def one(name, how, path, other):
    try:
        globals()[how](path, other)
        said = 0
    except OSError as error:
        said = error.errno
    print(json.dumps([name, said]), flush=True)


threads = [threading.Thread(target=one, args=case) for case in json.loads(sys.argv[1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
