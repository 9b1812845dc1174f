"""A host where nothing happens pays nothing for Syshold: the canary, every second, leaves the kernel as it was."""

import pathlib
import re
import time

import syshold

TRACING = pathlib.Path("/sys/kernel/tracing")
# What the canary does for one of its hooks: seen, or nothing is traced.
TRIED = "__x64_sys_perf_event_open"
# Kernel code is patched on all processors, each interrupted for it, and an event makes every switch of threads slower.
COSTLY = ["jump_label_update", "perf_event_alloc", "text_poke_bp_batch", "smp_text_poke_batch_finish"]
# A thorough round of the canary is one in ten (`canary::THOROUGH_EVERY`).
SECONDS = 14


@syshold.limit(90)
def test_no_kernel_code_is_patched_and_no_perf_event_made():
    syshold.start(syshold.policy())
    if not (TRACING / "trace").exists():
        syshold.sh(f"mount -t tracefs tracefs {TRACING}")
    known = set((TRACING / "available_filter_functions").read_text().split())
    functions = [name for name in COSTLY if name in known]
    assert {"jump_label_update", "perf_event_alloc"} <= set(functions) and TRIED in known, functions

    def undo():
        (TRACING / "current_tracer").write_text("nop")
        (TRACING / "set_ftrace_filter").write_text("")
        (TRACING / "trace").write_text("")

    syshold.at_end(undo)
    (TRACING / "set_ftrace_filter").write_text(" ".join([TRIED, *functions]))
    (TRACING / "current_tracer").write_text("function")
    (TRACING / "trace").write_text("")
    time.sleep(SECONDS)
    calls = re.findall(r"(\S+)-\d+ .*: (\S+) <-(\S+)", (TRACING / "trace").read_text())
    rounds = [call for call in calls if call[:2] == ("canary", TRIED)]
    assert len(rounds) > 10, f"{len(rounds)} rounds of the canary meanwhile"
    assert len(calls) == len(rounds), sorted(set(calls))
