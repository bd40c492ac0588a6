"""Claims: which Service has each frontend, the same address and port being asked for by several.

A Service claims every frontend that it asks for.  Of several claims to one, the best holds it: that of a ClusterIP
before that of a load balancer address, before that of an externalIP, before that of a NodePort; of equal ones that of
the older Service, then of the name that sorts first.  The others get no row at all there (kubernetes#97076).

Invariants:
- Who holds a frontend depends only on the claims now known, not on their order (law 1).
- The cost of a change is that of the claims of the changed Service, not of others that claim the same.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.frontends import Placement, placed_ports, servers
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


def claims_of(service: Service, placement: Placement, taken: Taken) -> dict[VirtualServer, Claim]:
    """Return the claims of *service*; of two kinds of its addresses at one frontend, the better counts."""
    by_kind: dict[FrontendKind, Claim] = {}
    claims: dict[VirtualServer, Claim] = {}
    for port in placed_ports(service, placement):
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
        self.lost_count = 0  # claims to frontends that another Service holds
        self._servers: dict[ServiceName, tuple[VirtualServer, ...]] = {}  # the frontends that each Service claims
        self._best: dict[VirtualServer, Claim] = {}
        self._contested: dict[VirtualServer, list[Claim]] = {}  # all claims to each frontend with several, best first
        self._lost: dict[ServiceName, dict[VirtualServer, Claim]] = {}

    def copy(self) -> "Claims":
        """Return the claims as they are now, which do not change when these do."""
        copied = Claims()
        copied.lost_count = self.lost_count
        copied._servers, copied._best = self._servers.copy(), self._best.copy()
        copied._contested = {server: claims.copy() for server, claims in self._contested.items()}
        copied._lost = {name: lost.copy() for name, lost in self._lost.items()}
        return copied

    def replace(self, name: ServiceName, claims: Mapping[VirtualServer, Claim]) -> list[ServiceName]:
        """Replace the claims of *name*, and return the other Services that thereby gained or lost a frontend."""
        before = self._servers.pop(name, ())
        if claims:
            self._servers[name] = tuple(claims)
        if not before and not any(server in self._best for server in claims):
            self._best.update(claims)
            return []
        others: dict[ServiceName, None] = {}
        for server in dict.fromkeys((*before, *claims)):
            others.update(dict.fromkeys(self._change(server, name, claims.get(server))))
        return list(others)

    def holder(self, server: VirtualServer) -> ServiceName | None:
        """Return the Service that holds *server*; None if no Service claims it."""
        best = self._best.get(server)
        return best.service if best else None

    def claims_to(self, server: VirtualServer) -> tuple[Claim, ...]:
        """Return all claims to *server*; the first holds it."""
        best = self._best.get(server)
        return tuple(self._contested.get(server, (best,) if best else ()))

    def servers(self) -> Collection[VirtualServer]:
        """Return every frontend that a Service claims."""
        return self._best.keys()

    def claimed_by(self, name: ServiceName) -> tuple[VirtualServer, ...]:
        """Return the frontends that *name* claims."""
        return self._servers.get(name, ())

    def held_by(self, name: ServiceName) -> Iterator[VirtualServer]:
        """Return the frontends that *name* holds."""
        lost = self.lost_by(name)
        return (server for server in self._servers.get(name, ()) if server not in lost)

    def lost_by(self, name: ServiceName) -> Collection[VirtualServer]:
        """Return the frontends that *name* claims and another Service holds."""
        return self._lost.get(name, {}).keys()

    def losers(self) -> Iterator[ServiceName]:
        """Return the Services that have lost a frontend."""
        return iter(self._lost)

    def refusals(self, name: ServiceName) -> Iterator[Refusal]:
        """Return a refusal for each frontend that *name* has lost; it names the holder."""
        for server in sorted(self.lost_by(name)):
            best = self._best[server]
            message = f"not served, because Service {best.service} has it as {_WITH_ARTICLE[best.kind]}"
            yield Refusal(ADDRESS_CONTESTED, name, str(server), message, _HINT)

    def _change(self, server: VirtualServer, name: ServiceName, claim: Claim | None) -> Iterator[ServiceName]:
        """Replace the claim of *name* to *server*; return the other Services that gained or lost it."""
        best = self._best.get(server)
        claims = self._contested.pop(server, None) or ([best] if best else [])
        before = self._forget_lost(name, server) or (best if best and best.service == name else None)
        if before:
            del claims[bisect_left(claims, before)]
        if claim:
            insort(claims, claim)
        if not claims:
            del self._best[server]
            return
        after = self._best[server] = claims[0]
        if len(claims) > 1:
            self._contested[server] = claims
        if claim and after.service != name:
            self._remember_lost(claim, server)
        if best and after.service != best.service:
            if after.service != name:
                self._forget_lost(after.service, server)
                yield after.service
            if best.service != name:
                self._remember_lost(best, server)
                yield best.service

    def _remember_lost(self, claim: Claim, server: VirtualServer) -> None:
        self._lost.setdefault(claim.service, {})[server] = claim
        self.lost_count += 1

    def _forget_lost(self, name: ServiceName, server: VirtualServer) -> Claim | None:
        """Remove and return the claim to *server* that *name* has lost; None if it has lost none."""
        lost = self._lost.get(name, {})
        claim = lost.pop(server, None)
        if claim:
            self.lost_count -= 1
            if not lost:
                del self._lost[name]
        return claim


_WITH_ARTICLE: Mapping[FrontendKind, str] = {
    FrontendKind.CLUSTER_IP: "its ClusterIP",
    FrontendKind.LOAD_BALANCER: "a load balancer address",
    FrontendKind.EXTERNAL_IP: "an externalIP",
    FrontendKind.NODE_PORT: "a NodePort",
}
