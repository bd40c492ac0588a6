"""GoneAddresses: addresses of this host that vanished a moment ago, and are treated as present until they expire.

DHCP renewals, network managers and failovers delete an address and add it again within a second.  The virtual servers
of NodePorts at an address that is gone do no harm, since no packet reaches them; deleting them resets their
connections, which would have survived.
"""

from msgspec.structs import replace

from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import IPVS_DEVICE, Address, Rows
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import IP

GRACE_S = 30.0
"""The grace period of an address that is gone."""

_NEVER_SERVED = ("127.", "::1", "fe80:")


class GoneAddresses:
    """The last addresses of this host, with those that are gone."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._present: tuple[HostAddress, ...] = ()
        self._due_s: dict[HostAddress, float] = {}  # when each gone address expires

    @property
    def due_s(self) -> float:
        """When the next gone address expires."""
        return min(self._due_s.values(), default=NEVER)

    @property
    def addresses(self) -> tuple[HostAddress, ...]:
        """The addresses that are present, and those that are gone, sorted."""
        gone = (replace(host, is_gone=True) for host in self._due_s)
        return tuple(sorted((*self._present, *gone)))

    def update(self, present: tuple[HostAddress, ...], now_s: float) -> bool:
        """Replace the addresses that are *present*; those that were until now are gone, unless they moved.

        Returns:
            Whether an address changed that is neither link-local nor on kube-ipvs0.
        """
        before, self._present = self._present, present
        for host in filter(_may_serve, before):
            self._due_s[host] = now_s + self._grace_s
        self._drop({host.address for host in present})
        return set(filter(_may_serve, before)) != set(filter(_may_serve, present))

    def expire(self, now_s: float) -> bool:
        """Drop the gone addresses that have expired; return whether there were any."""
        return self._drop({host.address for host, due_s in self._due_s.items() if due_s <= now_s})

    def drop_needed(self, desired: Rows) -> bool:
        """Drop the gone addresses that kube-ipvs0 gets in the *desired* rows; return whether there were any."""
        return bool(self._due_s) and self._drop(
            {host.address for host in self._due_s if Address(host.address) in desired}
        )

    def _drop(self, addresses: set[IP]) -> bool:
        kept = {host: due_s for host, due_s in self._due_s.items() if host.address not in addresses}
        is_changed = len(kept) < len(self._due_s)
        self._due_s = kept
        return is_changed


def _may_serve(host: HostAddress) -> bool:
    return host.interface != IPVS_DEVICE and not host.address.startswith(_NEVER_SERVED)
