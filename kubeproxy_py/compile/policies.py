"""The rows of exact policies: what a Service port needs besides those that kube-proxy makes (docs/policies.md).

IPVS has one list of real servers for each virtual server, for all clients.  A frontend with externalTrafficPolicy Local
has a second virtual server, by firewall mark, with the endpoints of the whole cluster; pods of this node and the node
itself are led there by the mark that a set gives to their packets.  What no endpoint on this node serves is dropped for
all others.

Invariants:
- The rows that kube-proxy makes, too, are the same with and without exact policies, but for two narrower rules of
  the filter for access to Service addresses (chains.py).
- All frontends of a Service port in one family have one mark.
"""

from collections.abc import Callable, Iterable

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.frontends import FamilyPort, Frontend
from kubeproxy_py.compile.mark_numbers import MarkOwner
from kubeproxy_py.compile.port_endpoints import PortEndpoints
from kubeproxy_py.compile.topology import SelectionRule, select_rules
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.rows import (
    FLAG_NO_DRAINING,
    FLAG_SCHED_1,
    MarkSpec,
    PolicyEntry,
    Rows,
    VirtualServerSpec,
    mark_server,
)

MarkQuery = Callable[[MarkOwner, Iterable[str]], int]
"""Returns the mark of a Service port, given its frontends as entries of the set; 0: none is left."""


def no_mark(_owner: MarkOwner, _frontends: Iterable[str]) -> int:
    """Return 0."""
    return 0


def policy_parts(
    port: FamilyPort,
    served: Iterable[Frontend],
    endpoints: PortEndpoints,
    spec: VirtualServerSpec,
    mark_of: MarkQuery,
) -> list[Rows]:
    """Return the rows in parts: the common part first, then one for each slice, as ``compile_parts``.

    *spec* is that of the port's other virtual servers.
    """
    common: Rows = {}
    local = [frontend for frontend in {each.server: each for each in served}.values() if frontend.is_local_policy]
    if not local:
        return [common]
    family, rules = port.family, select_rules(endpoints.slices, cluster=True, local=True)
    inside = [frontend for frontend in local if frontend.kind is not FrontendKind.CLUSTER_IP]
    entries = [server_entry(frontend.server) for frontend in inside]
    parts = [common]
    mark = mark_of(MarkOwner(port.service.name, port.port.name, port.port.protocol, family), entries) if inside else 0
    if mark:
        server = mark_server(family, mark)
        server_rows, *slice_parts = endpoints.server_parts(server, mark_server_spec(port, spec), rules.cluster)
        common |= server_rows
        parts += slice_parts
        name = kube_names.POLICY_MARKS.name_in(family)
        common |= {PolicyEntry(name, entry): MarkSpec(mark) for entry in entries}
    if rules.local is SelectionRule.NONE and rules.cluster is not SelectionRule.NONE:
        name = kube_names.POLICY_NO_LOCAL.name_in(family)
        # Without a mark the frontend stays as in kube-proxy: pods of this node could not reach it otherwise.
        dropped = [frontend for frontend in local if mark or frontend.kind is FrontendKind.CLUSTER_IP]
        common |= {PolicyEntry(name, server_entry(frontend.server)): None for frontend in dropped}
    return parts


def mark_server_spec(port: FamilyPort, spec: VirtualServerSpec) -> VirtualServerSpec:
    """Return the spec of a virtual server by mark; *spec* is that of the port's others.

    With affinity it hashes the client's address, because a persistent virtual server by mark sends each packet to the
    port at which it came (net/netfilter/ipvs/ip_vs_core.c, ip_vs_sched_persist); a client whose real server drains is
    given another one (sh-fallback).
    """
    drains = 0 if port.port.protocol == "TCP" else FLAG_NO_DRAINING
    if spec.persistence_s:
        return VirtualServerSpec("sh", FLAG_SCHED_1 | drains)
    return VirtualServerSpec(spec.scheduler, spec.flags | drains)
