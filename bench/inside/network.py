"""A network namespace for one measurement, and the wait until the last one is wholly gone.

Law: nothing of one measurement is left when the next begins.  Linux takes a namespace down in the background, and
until it has done so the machine is not quiet and the hash table of virtual servers, which all namespaces share,
is not empty.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.namespace import Namespace, new_namespace

_POLL_S = 0.05
_TIMEOUT_S = 120.0
_SCHEDULER = "ip_vs_rr"


@contextmanager
def fresh_namespace(*, wait: bool = True) -> Iterator[Namespace]:
    """A namespace of one's own, which the calling thread is in; on leaving, *wait* until it is wholly gone."""
    namespace = new_namespace("bench")
    try:
        with namespace.inside():
            yield namespace
    finally:
        namespace.close()
        if wait:
            _wait_until_gone()


def _wait_until_gone() -> None:
    """Every virtual server holds its scheduler's module: none is left once nobody does."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while _users(_SCHEDULER):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"virtual servers are left {_TIMEOUT_S:.0f} s after their namespace was closed")
        time.sleep(_POLL_S)


def _users(module: str) -> int:
    lines = (line.split() for line in Path("/proc/modules").read_text().splitlines())
    return next(int(words[2]) for words in lines if words[0] == module)
