"""Surroundings: what the agent knows of the network around this node: own addresses, gateways, neighbours.

Invariants:
- Gateways are read at start, a moment after addresses changed, and at most once in GATEWAYS_S besides.  Notifications
  of routes are not used: a routing daemon may change 100,000 of them at once.
"""

import logging
from collections.abc import Iterable, Mapping

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import HostAddresses, TakenAddresses
from kubeproxy_py.model.rows import Key, Rows
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import IP
from kubeproxy_py.reconcile.gone_addresses import GRACE_S, GoneAddresses
from kubeproxy_py.reconcile.neighbour_check import NeighbourCheck

GATEWAYS_S = 60.0
"""The shortest time between two readings of the gateways, unless addresses changed."""
_AFTER_CHANGE_S = 2.0  # routes are added after the addresses that they need

log = logging.getLogger(__name__)


class Surroundings:
    """Passes the addresses around this node to *compiler*; used by one thread.

    Args:
        kernel: The kernel to read.
        compiler: Gets HostAddresses and TakenAddresses.
        period_s: The time between two full compares; gateways are not read more often.
        grace_s: How long an address that is gone still counts for NodePorts.
    """

    def __init__(self, kernel: Kernel, compiler: Compiler, period_s: float, grace_s: float = GRACE_S) -> None:
        self._kernel = kernel
        self._compiler = compiler
        self._period_s = max(GATEWAYS_S, period_s)
        self._gone = GoneAddresses(grace_s)
        self._gateways: dict[IP, str] = {}
        self._gateways_due_s = NEVER
        self.neighbours = NeighbourCheck(kernel, compiler)

    @property
    def due_s(self) -> float:
        """When ``run`` has something to do."""
        return min(self._gone.due_s, self._gateways_due_s, self.neighbours.due_s)

    def read(self, now_s: float) -> None:
        """Read everything, before the first sync.  Raises KernelError."""
        self.read_addresses(now_s)
        self._read_gateways(now_s)

    def read_addresses(self, now_s: float) -> None:
        """Read the addresses of this host; if they changed, the gateways are read a moment later.  Raises KernelError.

        The link-local addresses of pods' interfaces, which are added and deleted with each pod, do not count.
        """
        if self._gone.update(self._kernel.host_addresses(), now_s):
            self._gateways_due_s = min(self._gateways_due_s, now_s + _AFTER_CHANGE_S)
        self._publish_addresses()

    def run(self, now_s: float) -> Iterable[Key]:
        """Do what is due, and return the keys that may be planned now."""
        if self._gone.expire(now_s):
            self._publish_addresses()
        if now_s >= self._gateways_due_s:
            self._read_gateways(now_s)
        return self.neighbours.run(now_s) if now_s >= self.neighbours.due_s else ()

    def after_sync(self, desired: Rows) -> None:
        """Drop the gone addresses that a Service needs now: kube-ipvs0 gets them in the *desired* rows."""
        if self._gone.drop_needed(desired):
            self._publish_addresses()

    def _publish_addresses(self) -> None:
        addresses = self._gone.addresses
        self._compiler.handle_event(HostAddresses(addresses))
        self.neighbours.set_addresses(addresses)

    def _read_gateways(self, now_s: float) -> None:
        self._gateways_due_s = now_s + self._period_s
        try:
            gateways = self._kernel.gateways()
        except KernelError as error:
            log.warning("Failed to read the routes; gateways are not protected", extra=values(err=error))
            return
        if gateways != self._gateways:
            self._gateways = gateways
            self._compiler.handle_event(gateways_event(gateways))


def gateways_event(gateways: Mapping[IP, str]) -> TakenAddresses:
    """Return the event that says that *gateways*, each with its interface, are not to be bound."""
    owners = {address: f"a gateway of this node, on {link}" for address, link in gateways.items()}
    return TakenAddresses("gateways", owners)
