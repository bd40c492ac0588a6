"""Decide for each address of a Service whether it is served, and whether kube-ipvs0 gets it.

Anyone who may write a Service, its status or a manifest may name any address.  Some of them would cut the node off.

Invariants:
- A ClusterIP is bound even if an endpoint has the same address: otherwise a user who may write an EndpointSlice could
  take the address of any Service from the node.
- An external address that is known to be another machine's or a pod's is served but not bound: bound, it would lead all
  traffic of this node to that machine into this node.
"""

from enum import IntEnum

from msgspec import Struct

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.taken import NOTHING_TAKEN, Taken
from kubeproxy_py.model.refusal import ADDRESS_IN_USE, FORBIDDEN_ADDRESS, Refusal
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, family_of, special_use


class FrontendKind(IntEnum):
    """The kinds of addresses of a Service, in their order of precedence.

    The API server allocates ClusterIPs, a cloud or load balancer controller its addresses; externalIPs may be anything.
    """

    CLUSTER_IP = 0
    LOAD_BALANCER = 1
    EXTERNAL_IP = 2
    NODE_PORT = 3


_CLUSTER_IP, *_, _NODE_PORT = FrontendKind  # an attribute of an Enum takes 0.1 us on Python 3.11
_USE_ANOTHER = "give the Service an address that no machine has"


class Binding(Struct, frozen=True, gc=False):
    """The decision for one address of a Service."""

    kind: FrontendKind
    address: IP
    is_served: bool = True  # it has virtual servers and set entries
    is_bound: bool = True  # it belongs on kube-ipvs0
    refusal: Refusal | None = None


def bind(
    service: ServiceName, kind: FrontendKind, address: IP, context: NodeContext, taken: Taken = NOTHING_TAKEN
) -> Binding:
    """Return the decision for *address*, which *service* has as an address of *kind*."""
    if kind is _NODE_PORT:  # an address of this node
        return Binding(kind, address, is_bound=False)
    if use := special_use(address) or ("broadcast" if address in context.broadcast_addresses else ""):
        message = f"not served, because it is a{'n' if use[0] == 'u' else ''} {use} address"
        refusal = Refusal(FORBIDDEN_ADDRESS, service, address, message, _USE_ANOTHER)
        return Binding(kind, address, is_served=False, is_bound=False, refusal=refusal)
    if kind is _CLUSTER_IP:
        return Binding(kind, address)
    if address in context.foreign_addresses.get(family_of(address), ()):  # it stays on its interface
        return Binding(kind, address, is_bound=False)
    if owner := taken.owner_text(address):
        message = f"not bound to kube-ipvs0, because it is {owner}"
        refusal = Refusal(ADDRESS_IN_USE, service, address, message, _USE_ANOTHER)
        return Binding(kind, address, is_bound=False, refusal=refusal)
    return Binding(kind, address)


def is_closed(kind: FrontendKind, server: VirtualServer, taken: Taken) -> bool:
    """Return whether *server* may not exist because this agent's own connection to the API server would enter it.

    The API server may be reached by the ClusterIP of Service default/kubernetes, so a ClusterIP is never closed.
    """
    return kind is not FrontendKind.CLUSTER_IP and server in taken.api_servers


def closed_refusal(service: ServiceName, server: VirtualServer) -> Refusal:
    """Return the refusal of *server*, which ``is_closed``."""
    message = "not served, because this agent reaches the API server there"
    return Refusal(ADDRESS_IN_USE, service, str(server), message, "use another address or port")
