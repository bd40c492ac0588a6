"""Draining: a TCP real server that left has weight 0 and stays while it has connections.

Law: pure over (rows, desired, connections).  Which real servers drain is read off the rows themselves (weight 0 and
not wanted), so the list survives a restart; plan.py puts them there, this module lets them go.
"""

from collections.abc import Iterable, Mapping

from kubeproxy_py.model.rows import DRAINING, Connections, Key, RealServer, Rows, Spec
from kubeproxy_py.plan.steps import Plan, Step

FIRST_CHECK_S = 1.0
"""How long after a real server began to drain its connections are first counted."""

LONGEST_WAIT_S = 60.0
"""Counting again waits twice as long each time, up to this: upstream counts once a minute."""


def is_draining(key: Key, spec: Spec, desired: Rows) -> bool:
    """Whether a row of the kernel is a real server on its way out."""
    return spec == DRAINING and isinstance(key, RealServer) and key not in desired and drains(key, desired)


def drains(key: RealServer, desired: Rows) -> bool:
    """Whether *key*, no longer wanted, is to go by weight 0.

    TCP alone; UDP and SCTP real servers go at once, and so do those of a virtual server that goes, as upstream.
    """
    return key.virtual_server.protocol == "TCP" and key.virtual_server in desired


def plan_drained(draining: Iterable[RealServer], connections: Mapping[RealServer, Connections]) -> Plan:
    """Delete those of *draining* that have no connections left; one that was not counted stays."""
    idle = (key for key in draining if key in connections and not connections[key].total)
    return Plan(tuple(Step("delete", key, None, DRAINING) for key in idle))
