"""The rows of exact policies: what a Service port needs besides those that kube-proxy makes (docs/policies.md).

IPVS has one list of real servers for each virtual server, for all clients.  A frontend with externalTrafficPolicy Local
has a second virtual server, by firewall mark, with the endpoints of the whole cluster; pods of this node and the node
itself are led there by the mark that a set gives to their packets.  What no endpoint on this node serves is dropped for
all others.

Invariants:
- The rows that kube-proxy makes, too, are the same with and without exact policies, but for two narrower rules of
  the filter for access to Service addresses, and the place of the rule that leads to NodePorts (chains.py).
- All frontends of a Service port in one family have one mark.
"""

from collections.abc import Callable, Iterable, Mapping

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.frontends import FamilyPort, Frontend
from kubeproxy_py.compile.mark_numbers import MarkOwner
from kubeproxy_py.compile.port_endpoints import PortEndpoints
from kubeproxy_py.compile.topology import EndpointSelection, SelectionRule, select_rules
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.rows import (
    FLAG_NO_DRAINING,
    FLAG_SCHED_1,
    MarkSpec,
    PolicyEntry,
    Rows,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)

# An attribute of an Enum takes 0.1 us on Python 3.11.
_CLUSTER_IP, _NONE = FrontendKind.CLUSTER_IP, SelectionRule.NONE

MarkQuery = Callable[[MarkOwner, Iterable[str]], int]
"""Returns the mark of a Service port, given its frontends as entries of the set; 0: none is left."""


def no_mark(_owner: MarkOwner, _frontends: Iterable[str]) -> int:
    """Return 0."""
    return 0


def policy_parts(  # noqa: PLR0913, PLR0917 - all that the rows depend on
    port: FamilyPort,
    fronts: Mapping[VirtualServer, Frontend],
    endpoints: PortEndpoints,
    rules: EndpointSelection,
    spec: VirtualServerSpec,
    mark_of: MarkQuery,
) -> list[Rows]:
    """Return the rows in parts: the common part first, then one for each slice, as ``compile_parts``.

    *fronts*, *rules* and *spec* are those of the port's other virtual servers.
    """
    local = [
        (front.kind is _CLUSTER_IP, server_entry(server)) for server, front in fronts.items() if front.is_local_policy
    ]
    if not local:
        return [{}]
    family = port.family
    inside = [entry for is_cluster_ip, entry in local if not is_cluster_ip]
    owner = MarkOwner(port.service.name, port.port.name, port.port.protocol, family)
    mark = mark_of(owner, inside) if inside else 0
    parts = (
        endpoints.server_parts(mark_server(family, mark), mark_server_spec(port, spec), rules.cluster) if mark else [{}]
    )
    common = parts[0]
    if mark:
        name, mark_spec = kube_names.POLICY_MARKS.name_in(family), MarkSpec(mark)
        for entry in inside:
            common[PolicyEntry(name, entry)] = mark_spec
    if _are_remote(rules, endpoints):
        name = kube_names.POLICY_NO_LOCAL.name_in(family)
        # Without a mark the frontend stays as in kube-proxy: pods of this node could not reach it otherwise.
        for is_cluster_ip, entry in local:
            if mark or is_cluster_ip:
                common[PolicyEntry(name, entry)] = None
    return parts


def _are_remote(rules: EndpointSelection, endpoints: PortEndpoints) -> bool:
    """Return whether there are *endpoints* that serve, none of them on this node."""
    if rules.local is not _NONE:
        return False
    # Of a port that needs no remote endpoints (internalTrafficPolicy Local only), *rules* select none.
    return rules.cluster is not _NONE or select_rules(endpoints.slices, cluster=True, local=False).cluster is not _NONE


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
