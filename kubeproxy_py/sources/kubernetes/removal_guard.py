"""RemovalGuard: whether a list that would remove much is accepted.

A list can be well-formed and wrong: etcd was emptied, a proxy leads to another cluster.  Accepting one removes the
Services of every node at the same moment, and nothing is lost by asking once more.  So such a list is accepted only
after a second one, a few seconds later, confirms it.

A new process has no earlier state to compare with, but the kernel has: the Service addresses that it still serves.
"""

from collections.abc import Hashable, Iterable
from enum import Enum, auto

from kubeproxy_py.model.services import EndpointSlice, Service
from kubeproxy_py.net import IP
from kubeproxy_py.sources.decode.objects import Kind, Value
from kubeproxy_py.sources.object_cache import Identity

SHARE_OF_AT_LEAST = 10  # fewer objects may well be removed at once; all of them are doubted in any case


class Decision(Enum):
    """What to do with a list."""

    ACCEPT = auto()
    HOLD = auto()  # list again before anything is removed
    CONFIRMED = auto()  # use it: it confirms the doubted one


class RemovalGuard:
    """The guard of one resource.

    Args:
        percent: More than this share of at least 10 objects is doubted, and all of any number; 0: nothing is.
        served: The Service addresses that the kernel serves at start.
    """

    def __init__(self, percent: int = 0, served: frozenset[IP] = frozenset()) -> None:
        self._percent = percent
        self._served = served
        self._doubted: frozenset[Hashable] = frozenset()

    @property
    def serves(self) -> bool:
        """Whether the kernel serves anything at start."""
        return bool(self._served)

    def examine(self, missing: frozenset[Identity], known: int, kind: Kind) -> tuple[str, Decision]:
        """Return what a list that lacks *missing* of *known* objects would remove, and whether to use it."""
        text = f"{len(missing)} of {known} known {kind} objects are missing"
        return text, self._decide(missing, known)

    def examine_first(self, values: Iterable[Value]) -> tuple[str, Decision]:
        """Return what the first list, which consists of *values*, would remove, and whether to use it."""
        unlisted, served = self._unlisted(values), len(self._served)
        text = f"{len(unlisted)} of {served} Service addresses of this node would no longer be served"
        return text, self._decide(unlisted, served)

    def _decide(self, removed: frozenset[Hashable], known: int) -> Decision:
        doubted, self._doubted = self._doubted, frozenset()
        if not self._is_mass(len(removed), known):
            return Decision.ACCEPT
        if self._is_mass(len(removed & doubted), known):
            return Decision.CONFIRMED
        self._doubted = removed
        return Decision.HOLD

    def _is_mass(self, removed: int, known: int) -> bool:
        if not self._percent or not removed:
            return False
        return removed >= known or (known >= SHARE_OF_AT_LEAST and removed * 100 > self._percent * known)

    def _unlisted(self, values: Iterable[Value]) -> frozenset[IP]:
        """Return the addresses served that an initial list of *values* would remove.

        These are all that no Service has, and, if there are no endpoints at all, all of them.
        """
        remaining = set(self._served)
        for value in values:
            if isinstance(value, Service):
                remaining.difference_update(value.cluster_ips, value.external_ips, value.load_balancer_ips)
            elif not isinstance(value, EndpointSlice) or value.endpoints:
                return frozenset()
        return frozenset(remaining)
