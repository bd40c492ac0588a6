"""A network namespace for one measurement, and the wait until the previous one is removed completely.

Linux removes a namespace in the background.  Until then the machine is busy, and the hash table of virtual servers,
which all namespaces share, is not empty; so the next measurement must not begin earlier.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import objects
from lab.namespace import Namespace, new_namespace

_POLL_S = 0.05
_TIMEOUT_S = 120.0
_SCHEDULER = "ip_vs_rr"


@contextmanager
def fresh_namespace(*, wait: bool = True) -> Iterator[Namespace]:
    """Run the `with` block in a new namespace; at its end, *wait* until the namespace is removed completely."""
    namespace = new_namespace("bench")
    try:
        with namespace.inside():
            yield namespace
    finally:
        namespace.close()
        if wait:
            _wait_until_gone()


def add_node_address() -> None:
    """Give this namespace the address of the node, where NodePorts are served."""
    for words in ("link add node0 type dummy", f"address add {objects.NODE_IP}/24 dev node0", "link set node0 up"):
        subprocess.run(["ip", *words.split()], check=True)


def _wait_until_gone() -> None:
    """Wait until the scheduler's module has no users: each virtual server is one."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while _users(_SCHEDULER):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"virtual servers are left {_TIMEOUT_S:.0f} s after their namespace was closed")
        time.sleep(_POLL_S)


def _users(module: str) -> int:
    lines = (line.split() for line in Path("/proc/modules").read_text().splitlines())
    return next(int(words[2]) for words in lines if words[0] == module)
