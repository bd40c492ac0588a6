"""The stand-in for kube-apiserver, in a process of its own.

It runs in the measured namespace and shares the lab kernel's only CPU with the agent, so its CPU time is reported.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.inside.process import running
from lab.namespace import Namespace


class StandIn(NamedTuple):
    url: str
    pid: int


@contextmanager
def stand_in(objects: Path, namespace: Namespace) -> Iterator[StandIn]:
    """Serve *objects* (objects.write_list) within the `with`."""
    words = [sys.executable, "-m", "tests.apiserver", "--objects", str(objects)]
    with running(words, namespace) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield StandIn(f"http://{address}", process.pid)
