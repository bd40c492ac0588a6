"""What an entry of each set does to the packets of its frontend, which decides when it may be added and deleted.

A packet that is forwarded to an endpoint on another node must be masqueraded, because its answer would not return
through this node.  With a traffic policy of Local there are no such endpoints, and clients keep their address.

| role | sets | an entry comes | and goes |
|---|---|---|---|
| masquerades | CLUSTER-IP, EXTERNAL-IP, LOAD-BALANCER, NODE-PORT-* | before real servers | after them and exemptions |
| exempts | EXTERNAL-IP-LOCAL, LOAD-BALANCER-LOCAL, NODE-PORT-LOCAL-* | after those that go | before those that come |
| admits | CLUSTER-IP, EXTERNAL-IP, EXTERNAL-IP-LOCAL, LOAD-BALANCER | before another of them goes | after that came |
| closes | LOAD-BALANCER-FW | before what admits, and real servers | before what opens, and after real servers |
| opens | LOAD-BALANCER-SOURCE-CIDR, -IP | before what closes | after it; if that stays, before those that come |
| hides | IPVS-IPS | before its address | after its address |

What exempts a NodePort does so at every address, and goes before one comes, too.  EXTERNAL-IP-LOCAL exempts because its
rules accept: where rules of a chain change, they may come before those of EXTERNAL-IP.  LOOP-BACK masquerades a pod's
connections to itself only; it comes before and goes after real servers, as every set that masquerades.
"""

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import NODE_PORT_BITMAPS, IpsetDefinition, names_of, server_entry
from kubeproxy_py.model.rows import ChainSpec, IpsetEntry, Rows, VirtualServer, referenced_sets
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, family_of

MASQUERADES = names_of(
    kube_names.CLUSTER_IP,
    kube_names.EXTERNAL_IP,
    kube_names.LOAD_BALANCER,
    kube_names.NODE_PORT_TCP,
    kube_names.NODE_PORT_UDP,
    kube_names.NODE_PORT_SCTP,
)
_EXEMPTING = (
    kube_names.EXTERNAL_IP_LOCAL,
    kube_names.LOAD_BALANCER_LOCAL,
    kube_names.NODE_PORT_LOCAL_TCP,
    kube_names.NODE_PORT_LOCAL_UDP,
    kube_names.NODE_PORT_LOCAL_SCTP,
)
EXEMPTS = names_of(*_EXEMPTING)
ADMITS = names_of(kube_names.CLUSTER_IP, kube_names.EXTERNAL_IP, kube_names.EXTERNAL_IP_LOCAL, kube_names.LOAD_BALANCER)
CLOSES = names_of(kube_names.LOAD_BALANCER_FW)
OPENS = names_of(kube_names.LOAD_BALANCER_SOURCE_CIDR, kube_names.LOAD_BALANCER_SOURCE_IP)
HIDES = names_of(kube_names.IPVS_IPS)
ALLOWS = EXEMPTS | ADMITS | OPENS
"""Sets of which an obsolete entry goes before its address is bound: no packet may match what it allows."""

NEEDED_BY_ADDRESSES = MASQUERADES | ADMITS | HIDES
"""Sets that the rules which protect any address match on."""

_FIREWALL = (
    # What opens comes before what closes, and what closes before the frontend is admitted.
    kube_names.LOAD_BALANCER_SOURCE_CIDR,
    kube_names.LOAD_BALANCER_SOURCE_IP,
    kube_names.LOAD_BALANCER_FW,
)

_LAST = (
    # What exempts a frontend from masquerading is there only while what masquerades it is.
    *_EXEMPTING,
    kube_names.IPVS_IPS,  # a packet matches its REJECT unless another set admits it
)

ENTRY_ORDER: tuple[IpsetDefinition, ...] = (
    *_FIREWALL,
    *(definition for definition in kube_names.IPSET_DEFINITIONS if definition not in (*_FIREWALL, *_LAST)),
    *_LAST,
)
"""The order in which entries are added, and the reverse of that in which they are deleted."""


def frontend_of(key: IpsetEntry) -> str:
    """Return what the entry *key* names, as ``frontends_of`` has it: ``ADDRESS,tcp:80``, or ``IPv4,tcp:30080``."""
    if key.set in OPENS:
        return key.entry.rpartition(",")[0]
    if not (bitmap := NODE_PORT_BITMAPS.get(key.set)):
        return key.entry
    family, protocol = bitmap
    return f"{family},{protocol.lower()}:{key.entry}"


def frontends_of(server: VirtualServer) -> tuple[str, str]:
    """Return how set entries can name *server*: by address and port, and by port only."""
    port = f"{server.protocol.lower()}:{server.port}"
    return server_entry(server), f"{family_of(server.address)},{port}"


def server_of(frontend: str) -> VirtualServer:
    """Return the virtual server of *frontend*, which has an address."""
    address, _, protocol_port = frontend.partition(",")
    protocol, _, port = protocol_port.partition(":")
    return VirtualServer(address, int(port), protocol.upper())  # type: ignore[arg-type]


def is_port(frontend: str) -> bool:
    """Return whether *frontend* names a port of every address of its family."""
    return frontend.partition(",")[0] in FAMILIES


def port_of(frontend: str) -> str:
    """Return how a set entry can name *frontend* by port only."""
    address, _, port = frontend.partition(",")
    return frontend if is_port(frontend) else f"{family_of(address)},{port}"


def waiting_role(name: str, *, is_deleted: bool) -> str:
    """Return what entries of the set *name* do that others wait for, in the order of one plan; "" if nothing."""
    if is_deleted and name in EXEMPTS:
        return "exempts"
    if name in kube_names.POLICY_MARK_SETS:
        return "leads"
    return "opens" if name in OPENS else "closes" if name in CLOSES else ""


def is_closed(frontend: str, desired: Rows) -> bool:
    """Return whether *frontend*, an address and port, is *desired* to be closed to those whom no entry admits."""
    return any(IpsetEntry(name, frontend) in desired for name in CLOSES)


def is_exempt(frontend: str, desired: Rows) -> bool:
    """Return whether *frontend*, an address and port, is *desired* to be exempt from masquerading."""
    return any(IpsetEntry(name, frontend) in desired for name in EXEMPTS)


def newly_matched_sets(step: Step) -> set[str]:
    """Return the sets on which rules match that *step* adds to a chain, and on which no other rule of it did."""
    after, before = (spec.rules if isinstance(spec, ChainSpec) else () for spec in (step.spec, step.before))
    return referenced_sets(after) - referenced_sets(before)
