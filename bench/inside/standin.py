"""The API server that is at hand: the stand-in for kube-apiserver, in a process of its own.

It is in the namespace that is measured, and shares the lab kernel's one CPU with the agent, so its own CPU is told.
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
    """Serves *objects* (objects.write_list) until the end."""
    words = [sys.executable, "-m", "tests.apiserver", "--objects", str(objects)]
    with running(words, namespace) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield StandIn(f"http://{address}", process.pid)
