"""Idle: what the real program takes of a core while nothing happens, the full compares included.

Law: each N is a process of its own in a namespace of its own, and all are idle in the same seconds of one boot.  What
the programs that it starts take is told apart.  The seconds begin when the first full compare is over, in which the
tables of iptables are printed after the first sync wrote them; it comes once, and what it takes is told as well.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import objects
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, cpu_s, first_sync, memory_bytes, running, wait_s

_SETTLE_S = 35.0  # after the last first sync: a sync period, and time for the first full compare

Figures = dict[str, float]


def measure(sizes: Sequence[int], seconds: int) -> dict[str, Figures]:
    """CPU seconds within *seconds*, own and of children, and the resident memory after them."""
    with ExitStack() as stack:
        pids = {n: _started(n, stack) for n in sizes}
        first = {n: cpu_s(pid) for n, pid in pids.items()}
        time.sleep(_SETTLE_S)
        began_s = time.monotonic()
        before = {n: cpu_s(pid) for n, pid in pids.items()}
        wait_s(began_s + seconds)
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
    """The process of an agent that has made its first sync."""
    folder = stack.enter_context(TemporaryDirectory())
    objects.write_manifests(Path(folder), n)
    namespace = stack.enter_context(fresh_namespace(wait=False))
    process = stack.enter_context(running(agent_words("--manifests", folder), namespace))
    first_sync(process)
    return process.pid
