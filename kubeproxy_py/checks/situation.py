"""Situation: all that a check may look at."""

from msgspec import Struct

from kubeproxy_py.model.host_facts import HostFacts
from kubeproxy_py.model.node import Node
from kubeproxy_py.net import CIDR


class Situation(Struct, frozen=True, gc=False, kw_only=True):
    """The host, and what the agent knows of its node."""

    facts: HostFacts
    before: HostFacts | None = None  # the facts of the last run; None: this is the first
    node: Node | None = None  # the Node object; None: there is none
    pod_networks: tuple[CIDR, ...] = ()  # networks of the cluster's pods, as far as they are known
    servers: int = 0  # virtual and real servers that the agent wants
