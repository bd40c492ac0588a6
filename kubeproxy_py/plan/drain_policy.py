"""Which real servers drain: the rules of graceful termination.

"Draining" is derived from the rows (weight 0 and not desired), so it survives a restart.
"""

from collections.abc import Sequence

from kubeproxy_py.model.rows import DRAINING, Key, RealServer, Rows, Spec
from kubeproxy_py.model.steps import Plan, Step


def is_draining(key: Key, spec: Spec, desired: Rows) -> bool:
    """Whether a row of the kernel is a real server on its way out."""
    return spec == DRAINING and isinstance(key, RealServer) and key not in desired and drains(key, desired)


def drains(key: RealServer, desired: Rows) -> bool:
    """Whether *key*, no longer wanted, is to go by weight 0.

    TCP alone; UDP and SCTP real servers go at once, and so do those of a virtual server that goes, as upstream.
    """
    return key.virtual_server.protocol == "TCP" and key.virtual_server in desired


def with_drained(plan: Plan, drained: Sequence[Step], desired: Rows) -> Plan:
    """*plan*, and behind it those of *drained* that are not wanted again and do not go with their virtual servers."""
    if not drained:
        return plan
    return Plan((*plan, *(step for step in drained if is_draining(step.key, DRAINING, desired))))
