"""`python -m tests.sources.memory_of_lists URL`: the memory of a source whose lists are too large, in MiB.

Prints it as it was before, the largest, and as it was afterwards; a process of its own has no memory of other tests.
"""

import gc
import sys
import threading
import time
from pathlib import Path

from kubeproxy_py.model.events import Event
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.kubernetes.source import KubeSource

RETURNED_MIB = 30  # more than before that is kept by Python's allocator
RETURNED_WITHIN_S = 60.0  # a list that is being read when the source is stopped is dropped at its next part


def memory_mib() -> float:
    """Return the memory of this process (VmRSS)."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    url = sys.argv[1]
    KubeSource(None, url, "node-a").api.current()  # loads the HTTP client
    rejected = threading.Event()

    def emit(*events: Event) -> None:
        if any(isinstance(event, Problem) and "is larger than 64 MiB" in event.message for event in events):
            rejected.set()

    before_mib = largest_mib = memory_mib()
    source = KubeSource(None, url, "node-a")
    source.start(emit)
    while not rejected.wait(0.01):
        largest_mib = max(largest_mib, memory_mib())
    source.stop()
    deadline_s = time.monotonic() + RETURNED_WITHIN_S
    while memory_mib() - before_mib > RETURNED_MIB and time.monotonic() < deadline_s:
        time.sleep(0.1)
        gc.collect()  # on Python 3.12 pages are parts of cycles, which the busy agent's collector finds by itself
    print(before_mib, largest_mib, memory_mib())


if __name__ == "__main__":
    main()
