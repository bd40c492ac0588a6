"""Conditions of endpoints that this node itself has observed, besides those of the API: failures and slow start.

They are events for the compiler, which makes weights of them (compile/conditions.py).
"""

from collections.abc import Mapping

from msgspec import Struct

from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import FLAG_SCHED_1
from kubeproxy_py.model.services import ServiceName

FULL_STEP = 10
"""The step of slow start at which an endpoint has its whole weight; a new one begins with step 1, a tenth."""


def can_set_aside(scheduler: str, flags: int) -> bool:
    """Return whether *scheduler* with *flags* uses other real servers in place of one of weight 0.

    dh, and sh and mh without their flag, choose that one nevertheless, and give no connection.
    """
    return scheduler != "dh" and (scheduler not in ("sh", "mh") or bool(flags & FLAG_SCHED_1))


class Failure(Struct, frozen=True, gc=False, order=True):
    """An endpoint does not answer this node."""

    since_s: float  # when the first check of those failed, in seconds of the agent's clock
    reason: str  # in words: "3 TCP connects got no answer"


class Conditions(Struct, frozen=True, gc=False):
    """The conditions of the endpoints of one Service; an endpoint that is missing is as any other."""

    failures: Mapping[Destination, Failure] = {}
    steps: Mapping[Destination, int] = {}  # of slow start, from 1 to FULL_STEP - 1

    def __bool__(self) -> bool:
        return bool(self.failures or self.steps)


NO_CONDITIONS = Conditions()


class EndpointFailures(Struct, frozen=True, gc=False):
    """All endpoints of *service* that fail their checks; the event replaces its last one."""

    service: ServiceName
    failures: Mapping[Destination, Failure] = {}


class EndpointSteps(Struct, frozen=True, gc=False):
    """All endpoints of *service* that start slowly; the event replaces its last one."""

    service: ServiceName
    steps: Mapping[Destination, int] = {}
