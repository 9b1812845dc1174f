"""files.py WAY [PATH]: reads standard input, a descriptor opened by someone else, or opens a path, one way; prints what
it got or the error's number."""

import mmap
import os
import sys

way, paths = sys.argv[1], sys.argv[2:]


def use():
    if way == "read":
        return os.read(0, 100)
    if way == "mmap":
        return mmap.mmap(0, 0, prot=mmap.PROT_READ)[:]
    if way == "splice":
        out, into = os.pipe()
        os.splice(0, into, 100)
        return os.read(out, 100)
    if way == "sendfile":
        out, into = os.pipe()
        os.sendfile(into, 0, None, 100)
        return os.read(out, 100)
    if way == "exclusive":
        file = os.open(paths[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        return b"wrote %d" % os.write(file, b"made\n")
    if way == "twice":
        for _ in range(2):
            with open(paths[0], "rb") as file:
                text = file.read()
            print(text.decode().strip(), flush=True)
            sys.stdin.readline()
        return b"end"
    raise ValueError(way)


try:
    print(use().decode().strip())
except OSError as error:
    print(f"errno {error.errno}")
