"""What an entry of each set does to the packets of its frontend, which decides when it may come and go.

A packet that is forwarded to an endpoint on another node must be masqueraded, because its answer would not return
through this node.  With a traffic policy of Local there are no such endpoints, and clients keep their address.

| role | sets | an entry comes | and goes |
|---|---|---|---|
| masquerades | CLUSTER-IP, EXTERNAL-IP, LOAD-BALANCER, NODE-PORT-* | before real servers | after them |
| exempts | EXTERNAL-IP-LOCAL, LOAD-BALANCER-LOCAL, NODE-PORT-LOCAL-* | after those that go | before those that come |
| admits | CLUSTER-IP, EXTERNAL-IP, EXTERNAL-IP-LOCAL, LOAD-BALANCER | before another of them goes | after that came |
| closes | LOAD-BALANCER-FW | before what admits, and real servers | before what opens, and after real servers |
| opens | LOAD-BALANCER-SOURCE-CIDR, -IP | before what closes | after it |
| hides | IPVS-IPS | before its address | after its address |

EXTERNAL-IP-LOCAL exempts because its rules accept: where rules of a chain change, they may come before those of
EXTERNAL-IP.  LOOP-BACK masquerades a pod's connections to itself only; it comes before and goes after real servers, as
every set that masquerades.
"""

from collections.abc import Mapping

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition, family_of_set
from kubeproxy_py.model.rows import IpsetEntry, VirtualServer
from kubeproxy_py.net import FAMILIES, family_of


def _names(*definitions: IpsetDefinition) -> frozenset[str]:
    return frozenset(definition.name_in(family) for family in FAMILIES for definition in definitions)


MASQUERADES = _names(
    kube_names.CLUSTER_IP,
    kube_names.EXTERNAL_IP,
    kube_names.LOAD_BALANCER,
    kube_names.NODE_PORT_TCP,
    kube_names.NODE_PORT_UDP,
    kube_names.NODE_PORT_SCTP,
)
EXEMPTS = _names(
    kube_names.EXTERNAL_IP_LOCAL,
    kube_names.LOAD_BALANCER_LOCAL,
    kube_names.NODE_PORT_LOCAL_TCP,
    kube_names.NODE_PORT_LOCAL_UDP,
    kube_names.NODE_PORT_LOCAL_SCTP,
)
ADMITS = _names(kube_names.CLUSTER_IP, kube_names.EXTERNAL_IP, kube_names.EXTERNAL_IP_LOCAL, kube_names.LOAD_BALANCER)
CLOSES = _names(kube_names.LOAD_BALANCER_FW)
OPENS = _names(kube_names.LOAD_BALANCER_SOURCE_CIDR, kube_names.LOAD_BALANCER_SOURCE_IP)
HIDES = _names(kube_names.IPVS_IPS)
ALLOWS = EXEMPTS | ADMITS | OPENS
"""Sets of which an obsolete entry goes before its address is bound: nobody shall meet what it allows."""

NEEDED_BY_ADDRESSES = MASQUERADES | ADMITS | HIDES
"""Sets that the rules which protect any address match on."""

_FIREWALL = (
    # What opens comes before what closes, and what closes before the frontend is admitted.
    kube_names.LOAD_BALANCER_SOURCE_CIDR,
    kube_names.LOAD_BALANCER_SOURCE_IP,
    kube_names.LOAD_BALANCER_FW,
)

ENTRY_ORDER: tuple[IpsetDefinition, ...] = (
    *_FIREWALL,
    # IPVS-IPS is last: a packet meets its REJECT unless another set admits it.
    *(definition for definition in kube_names.IPSET_DEFINITIONS if definition not in _FIREWALL),
)
"""The order in which entries are added, and the reverse of that in which they are deleted."""

_NODE_PORT_PROTOCOLS: Mapping[str, str] = {
    definition.name_in(family): protocol
    for family in FAMILIES
    for definition, protocol in (
        (kube_names.NODE_PORT_TCP, "tcp"),
        (kube_names.NODE_PORT_LOCAL_TCP, "tcp"),
        (kube_names.NODE_PORT_UDP, "udp"),
        (kube_names.NODE_PORT_LOCAL_UDP, "udp"),
    )
}


def frontend_of(key: IpsetEntry) -> str:
    """Return what the entry *key* names, as ``frontends_of`` has it: ``ADDRESS,tcp:80``, or ``IPv4,tcp:30080``."""
    if key.set in OPENS:
        return key.entry.rpartition(",")[0]
    protocol = _NODE_PORT_PROTOCOLS.get(key.set)
    return f"{family_of_set(key.set)},{protocol}:{key.entry}" if protocol else key.entry


def frontends_of(server: VirtualServer) -> tuple[str, str]:
    """Return how set entries can name *server*: by address and port, and by port only."""
    port = f"{server.protocol.lower()}:{server.port}"
    return f"{server.address},{port}", f"{family_of(server.address)},{port}"


def is_port(frontend: str) -> bool:
    """Return whether *frontend* names a port of every address of its family."""
    return frontend.partition(",")[0] in FAMILIES


def port_of(frontend: str) -> str:
    """Return how a set entry can name *frontend* by port only."""
    address, _, port = frontend.partition(",")
    return frontend if address in FAMILIES else f"{family_of(address)},{port}"


def firewall_role(name: str) -> str:
    """Return what the entries of the set *name* do for source ranges; "" if nothing."""
    return "opens" if name in OPENS else "closes" if name in CLOSES else ""
