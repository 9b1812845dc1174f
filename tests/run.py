#!/usr/bin/env python3
"""Runs the test cases inside a test machine; see README.md for the convention.

    run.py [--deal K/N] [--part K/N] [PATTERN…]

Of the tests that one kernel is enough for, `--deal` takes every Nth, beginning with the Kth; of all that are left,
`--part` does the same.

Prints one line a test, `ok NAME (MS)`, `not ok NAME (MS)` or `skip NAME: REASON`, and for what failed the
output of the test, indented by `# `. Exit status 1 when something failed.
"""

import argparse
import fnmatch
import importlib.util
import itertools
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "cases"), str(HERE / "cases" / "lib")]
import syshold  # noqa: E402

TAIL_LINES = 60
# Exit status of a test's own process.
PASSED, FAILED, SKIPPED = 0, 1, 77


def tests_of(path):
    """The test functions of a case file, in the order in which they are written."""
    spec = importlib.util.spec_from_file_location(f"case_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = [f for name, f in vars(module).items() if name.startswith("test_") and callable(f)]
    return sorted(functions, key=lambda f: f.__code__.co_firstlineno)


def run(function, name):
    """Runs one test in a process of its own; returns its status and what it printed."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(call(function))
        status = wait(child, getattr(function, "limit", syshold.LIMIT) * syshold.SLOW)
        said.seek(0)
        output = said.read().decode(errors="replace")
    if status is None:
        return FAILED, output + f"\n{name} took too long and was stopped\n"
    return status, output


def call(function):
    try:
        function()
        status = PASSED
    except syshold.Skip as skip:
        print(skip)
        status = SKIPPED
    except BaseException:
        traceback.print_exc()
        status = FAILED
    finally:
        sys.stdout.flush()
        try:
            syshold.tidy(failed=status == FAILED)
        except BaseException:
            traceback.print_exc()
            status = FAILED
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def wait(child, limit):
    """The child's exit status; None when it had to be stopped."""
    pidfd = os.pidfd_open(child)
    try:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code in (PASSED, FAILED, SKIPPED) else FAILED
            time.sleep(0.01)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    finally:
        os.close(pidfd)


def fraction(text):
    """K/N, as numbers."""
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


def taker(number, of):
    """Says of one after the other whether it is taken: every Nth."""
    turn = itertools.count()
    return lambda: next(turn) % of == number - 1


def main(patterns, deal, part):
    counts = {PASSED: 0, FAILED: 0, SKIPPED: 0}
    dealt, taken = taker(*deal), taker(*part)
    for path in sorted((HERE / "cases").glob("*.py")):
        try:
            functions = tests_of(path)
        except BaseException:
            print(f"not ok {path.stem} (0)")
            print("# " + traceback.format_exc().rstrip().replace("\n", "\n# "), flush=True)
            counts[FAILED] += 1
            continue
        for function in functions:
            name = f"{path.stem}::{function.__name__.removeprefix('test_')}"
            if patterns and not any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in patterns):
                continue
            if getattr(function, "anywhere", False) and not dealt():
                continue
            if not taken():
                continue
            start = time.monotonic()
            status, output = run(function, name)
            ms = round((time.monotonic() - start) * 1000)
            counts[status] += 1
            lines = output.rstrip().splitlines()
            if status == PASSED:
                print(f"ok {name} ({ms})")
                # Figures worth keeping: a test prints them with `syshold.note`.
                for line in lines:
                    if line.startswith("note: "):
                        print(f"# {line.removeprefix('note: ')}")
            elif status == SKIPPED:
                print(f"skip {name}: {lines[-1] if lines else 'no reason'}")
            else:
                print(f"not ok {name} ({ms})")
                if len(lines) > TAIL_LINES:
                    print(f"#   … {len(lines) - TAIL_LINES} lines before these")
                for line in lines[-TAIL_LINES:]:
                    print(f"#   {line}")
            sys.stdout.flush()
    if not any(counts.values()):
        print("not ok no test has such a name (0)")
        return 1
    return 1 if counts[FAILED] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--deal", type=fraction, default="1/1", metavar="K/N")
    parser.add_argument("--part", type=fraction, default="1/1", metavar="K/N")
    parser.add_argument("patterns", nargs="*")
    given = parser.parse_args()
    sys.exit(main(given.patterns, given.deal, given.part))
