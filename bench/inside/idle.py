"""Idle: the CPU share of the program while nothing happens, with its full compares.

Each N is a process of its own in a namespace of its own, and all are idle during the same seconds of one boot.  The
CPU of the programs that it starts is reported separately.  The measurement begins after the first full compare, in
which the iptables tables are printed once after the first sync wrote them; its cost is reported separately.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import objects
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, cpu_s, memory_bytes, running, sleep_until, wait_first_sync

_SETTLE_S = 35.0  # after the first sync: a sync period, and time for the first full compare

Figures = dict[str, float]


def measure(sizes: Sequence[int], seconds: int) -> dict[str, Figures]:
    """Return the CPU shares within *seconds*, own and of children, and the resident memory afterwards."""
    with ExitStack() as stack:
        pids = {n: _started(n, stack) for n in sizes}
        first = {n: cpu_s(pid) for n, pid in pids.items()}
        time.sleep(_SETTLE_S)
        began_s = time.monotonic()
        before = {n: cpu_s(pid) for n, pid in pids.items()}
        sleep_until(began_s + seconds)
        after = {n: cpu_s(pid) for n, pid in pids.items()}
        took_s = time.monotonic() - began_s
        return {
            str(n): {
                "own_share": (after[n][0] - before[n][0]) / took_s,
                "children_share": (after[n][1] - before[n][1]) / took_s,
                "settling_s": sum(before[n]) - sum(first[n]),
                **memory_bytes(pid),
            }
            for n, pid in pids.items()
        }


def _started(n: int, stack: ExitStack) -> int:
    """Start an agent, wait for its first sync and return its pid."""
    folder = stack.enter_context(TemporaryDirectory())
    objects.write_manifests(Path(folder), n)
    namespace = stack.enter_context(fresh_namespace(wait=False))
    process = stack.enter_context(running(agent_words("--manifests", folder), namespace))
    wait_first_sync(process)
    return process.pid
