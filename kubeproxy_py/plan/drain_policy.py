"""Which real servers drain: the rules of graceful termination.

Invariants:
- "Draining" is derived from the rows (weight 0 and not desired), so it survives a restart.
"""

from collections.abc import Sequence

from kubeproxy_py.model.rows import DRAINING, Key, RealServer, Rows, Spec, is_draining_spec, is_tcp
from kubeproxy_py.model.steps import Plan, Step


def is_draining(key: Key, spec: Spec, desired: Rows) -> bool:
    """Return whether the actual row (*key*, *spec*) is a draining real server."""
    return is_draining_spec(spec) and isinstance(key, RealServer) and key not in desired and must_drain(key, desired)


def must_drain(key: RealServer, desired: Rows) -> bool:
    """Return whether *key*, which is not desired, drains instead of being deleted at once.

    As in kube-proxy, only TCP real servers drain; those of UDP and SCTP, and those of a virtual server that is deleted
    as well, are deleted at once.  Of a virtual server by firewall mark its spec tells whether the port is TCP.
    """
    return key.virtual_server in desired and is_tcp(key.virtual_server, desired[key.virtual_server])


def append_drained_deletes(plan: Plan, drained: Sequence[Step], desired: Rows) -> Plan:
    """Return *plan*, followed by those steps of *drained* that still apply.

    A real server may have become desired again, or its virtual server may be deleted by *plan*.
    """
    if not drained:
        return plan
    return Plan((*plan, *(step for step in drained if is_draining(step.key, DRAINING, desired))))
