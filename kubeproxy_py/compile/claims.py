"""Claims: which Service has each frontend, the same address and port being asked for by several.

A Service claims every frontend that it asks for.  Of several claims to one, the best holds it: that of a ClusterIP
before that of a load balancer address, before that of an externalIP, before that of a NodePort; of equal ones that of
the older Service, then of the name that sorts first.  The others get no row at all there (kubernetes#97076).

Invariants:
- Who holds a frontend depends only on the claims now known, not on their order (law 1).
- The cost of a change is that of the claims of the changed Service, whoever else claims the same.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

from msgspec import Struct

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.frontends import family_ports, servers
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.taken import Taken
from kubeproxy_py.model.refusal import ADDRESS_CONTESTED, Refusal
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName

_HINT = "use another address or port for one of them"


class Claim(Struct, frozen=True, gc=False, order=True):
    """The claim of a Service to a frontend; of several the least is the best."""

    kind: FrontendKind
    created_s: float  # of the Service; if it is unknown (manifests), any Service of known age is older
    service: ServiceName


def claims_of(service: Service, context: NodeContext, taken: Taken) -> dict[VirtualServer, Claim]:
    """Return the claims of *service*; of two kinds of its addresses at one frontend, the better counts."""
    by_kind: dict[FrontendKind, Claim] = {}
    claims: dict[VirtualServer, Claim] = {}
    for port in family_ports(service, context, taken):
        for binding, server in servers(port, taken):
            claim = by_kind.get(binding.kind)
            if claim is None:
                claim = by_kind[binding.kind] = Claim(binding.kind, service.created_s, service.name)
            known = claims.get(server)
            claims[server] = claim if known is None else min(known, claim)
    return claims


class Claims:
    """The claims of all Services."""

    def __init__(self) -> None:
        self.lost_count = 0  # frontends that a Service claims and another holds
        self._claims: dict[ServiceName, Mapping[VirtualServer, Claim]] = {}
        self._best: dict[VirtualServer, Claim] = {}
        self._contested: dict[VirtualServer, list[Claim]] = {}  # all claims to each frontend with several, best first
        self._lost: dict[ServiceName, int] = {}  # number of the frontends that each Service has lost

    def replace(self, name: ServiceName, claims: Mapping[VirtualServer, Claim]) -> list[ServiceName]:
        """Replace the claims of *name*, and return the other Services that thereby gained or lost a frontend."""
        before = self._claims.get(name, {})
        others: dict[ServiceName, None] = {}
        for server, old in before.items():
            if server not in claims:
                others.update(dict.fromkeys(self._change(server, name, old, None)))
        for server, new in claims.items():
            old_claim = before.get(server)
            if old_claim != new:
                others.update(dict.fromkeys(self._change(server, name, old_claim, new)))
        if claims:
            self._claims[name] = claims
        else:
            self._claims.pop(name, None)
        return list(others)

    def holder(self, server: VirtualServer) -> ServiceName | None:
        """Return the Service that holds *server*; None if no Service claims it."""
        best = self._best.get(server)
        return best.service if best else None

    def held_by(self, name: ServiceName) -> Iterator[VirtualServer]:
        """Return the frontends that *name* holds."""
        return (server for server in self._claims.get(name, ()) if self._best[server].service == name)

    def has_lost(self, name: ServiceName) -> bool:
        """Return whether another Service holds a frontend that *name* claims."""
        return name in self._lost

    def lost_by(self, name: ServiceName) -> frozenset[VirtualServer]:
        """Return the frontends that *name* claims and another Service holds."""
        if name not in self._lost:
            return frozenset()
        return frozenset(server for server in self._claims[name] if self._best[server].service != name)

    def refusals(self, name: ServiceName) -> Iterator[Refusal]:
        """Return a refusal for each frontend that *name* has lost; it names the holder."""
        for server in self._claims.get(name, ()) if name in self._lost else ():
            best = self._best[server]
            if best.service != name:
                message = f"not served, because Service {best.service} has it as {_WITH_ARTICLE[best.kind]}"
                yield Refusal(ADDRESS_CONTESTED, name, str(server), message, _HINT)

    def losers(self) -> Iterator[ServiceName]:
        """Return the Services that have lost a frontend."""
        return iter(self._lost)

    def _change(
        self, server: VirtualServer, name: ServiceName, old: Claim | None, new: Claim | None
    ) -> tuple[ServiceName, ...]:
        """Replace the claim of *name* to *server*; return the other Services that gained or lost it."""
        best = self._best.get(server)
        if best is None or (best.service == name and server not in self._contested):
            self._set_best(server, new)
            return ()
        claims = self._contested.pop(server, None) or [best]
        if old:
            del claims[bisect_left(claims, old)]
        if new:
            insort(claims, new)
        if len(claims) > 1:
            self._contested[server] = claims
        after = claims[0]
        self._best[server] = after
        was_lost, is_lost = old is not None and best.service != name, new is not None and after.service != name
        self._count_lost(name, is_lost - was_lost)
        if after.service == best.service:
            return ()
        if best.service != name:
            self._count_lost(best.service, 1)
        if after.service != name:
            self._count_lost(after.service, -1)
        return tuple(other for other in (best.service, after.service) if other != name)

    def _set_best(self, server: VirtualServer, claim: Claim | None) -> None:
        if claim:
            self._best[server] = claim
        else:
            self._best.pop(server, None)

    def _count_lost(self, name: ServiceName, change: int) -> None:
        if change:
            self.lost_count += change
            count = self._lost.get(name, 0) + change
            if count:
                self._lost[name] = count
            else:
                del self._lost[name]


_WITH_ARTICLE: Mapping[FrontendKind, str] = {
    FrontendKind.CLUSTER_IP: "its ClusterIP",
    FrontendKind.LOAD_BALANCER: "a load balancer address",
    FrontendKind.EXTERNAL_IP: "an externalIP",
    FrontendKind.NODE_PORT: "a NodePort",
}
