"""What is known of a watch that sends nothing, and what the server says about it.

A watch of an idle resource may be silent for many minutes: an API server sends bookmarks only if something changed, or
if etcd's progress notices are on.  So silence says nothing, and the server is asked (probe.py).
"""

from enum import Enum, auto

from msgspec import Struct

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.kubernetes.resources import Resource

PROBE_AFTER_S = 30.0  # of silence.  With the time that a probe may take, a server that hangs is noticed in 45 s
PROBE_TIMEOUT_S = 10.0


class Verdict(Enum):
    """The server's answer about a silent watch."""

    IDLE = auto()  # it has nothing to send
    FROZEN = auto()  # the server has changes that the watch did not send
    RESTORED = auto()  # the server does not have our resource version: it was restored from a backup
    UNREACHABLE = auto()  # the server does not answer
    UNKNOWN = auto()  # the server answers, but not this question


class Answer(Struct, frozen=True, gc=False):
    """The result of a probe."""

    verdict: Verdict
    problem: Problem | None = None  # why the server cannot be reached


class WatchActivity(Struct, frozen=True, gc=False):
    """An open watch."""

    resource: Resource
    version: str
    last_activity_s: float  # of the clock: when the server last sent something for it, or was asked about it

    def is_silent(self, now_s: float, probe_after_s: float) -> bool:
        """Return whether the server should be asked about the watch."""
        return now_s - self.last_activity_s >= probe_after_s
