"""Situation: all that a check may look at."""

from msgspec import Struct

from kubeproxy_py.checks.rivals import Facts as RivalFacts
from kubeproxy_py.model.host_facts import DoctorFacts, HostFacts, Part
from kubeproxy_py.model.node import Node
from kubeproxy_py.net import CIDR


class Situation(Struct, frozen=True, gc=False, kw_only=True):
    """The host, and what the agent knows of its node."""

    facts: HostFacts
    before: HostFacts | None = None  # the facts of the last run; None: this is the first
    node: Node | None = None  # the Node object; None: there is none
    pod_networks: tuple[CIDR, ...] = ()  # networks of the cluster's pods, as far as they are known
    servers: int = 0  # virtual and real servers that the agent wants
    # What follows is known to ``doctor`` only.
    doctor: DoctorFacts = DoctorFacts()
    rivals: RivalFacts = RivalFacts()
    wanted_sysctls: dict[str, str] = {}  # that the configuration requires, by path
    optional_sysctls: frozenset[str] = frozenset()  # those of them without which Services are served all the same
    keeps_foreign: bool = False  # the agent leaves virtual servers of other programs in place

    @property
    def unread(self) -> dict[Part, str]:
        """Why parts of the facts could not be read."""
        return {**self.facts.unread, **self.doctor.unread}
