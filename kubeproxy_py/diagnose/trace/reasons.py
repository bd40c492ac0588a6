"""Why a packet ends where it does, and what to look at, in the words of Services."""

from collections.abc import Callable

from msgspec import Struct

from kubeproxy_py.diagnose.trace.lookup import Lookup
from kubeproxy_py.diagnose.trace.matches import View
from kubeproxy_py.diagnose.trace.packet import ICMP, LOOPBACK_DEVICE, Packet
from kubeproxy_py.diagnose.trace.way import End
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, join_host_port

_RANGES_MAX = 8

ReasonAndRemedy = tuple[str, str]
"""Why, and what to look at."""


class Objects(Struct, frozen=True, gc=False):
    """What is known of the Services behind the rows; nothing, if the cluster's objects are not known.

    Attributes:
        name_of: returns "shop/web:http (ClusterIP)" of a virtual server.
        service_of: returns the Service that holds a virtual server.
        unserved: returns why a virtual server has no real servers.
        ports_at: returns the Service ports at an address, as "80/tcp".
    """

    name_of: Callable[[VirtualServer], str] = lambda _server: ""
    service_of: Callable[[VirtualServer], ServiceName | None] = lambda _server: None
    unserved: Callable[[VirtualServer], str] = lambda _server: ""
    ports_at: Callable[[IP], tuple[str, ...]] = lambda _address: ()


NO_OBJECTS = Objects()


def explain_end(end: End, view: View, objects: Objects) -> ReasonAndRemedy:
    """Return why the packet of *end* ends at its last step."""
    step, packet = end.step, end.way.packet
    ours = _ENDS.get(step.chain) if not step.foreign else None
    if ours:
        return ours(packet, view.lookup, objects)
    if step.chain in _POLICY_ENDS and not step.foreign:
        is_unallocated = kube_names.POLICY_NO_LOCAL.name_in(packet.family) not in step.rule
        return (_unallocated if is_unallocated else _no_local_endpoint)(packet, objects)
    place = f"{step.table} {step.chain}"
    if step.kind == "policy":
        return (
            f"the policy of {place} is DROP, and no rule accepts the packet",
            f"find what sets the policy of {step.chain}, and accept this traffic there",
        )
    whose = "a rule of another program" if step.foreign else "the rule"
    begin = f"{whose} takes it elsewhere" if end.verdict == "unknown" else f"by {whose}"
    return (
        f"{begin}: {place}, rule {step.number}: {step.rule}",
        f"find out which program wrote it: iptables -t {step.table} -S {step.chain}",
    )


def explain_refused(server: VirtualServer, draining: int, objects: Objects) -> ReasonAndRemedy:
    """Return why *server* refuses new connections."""
    why = objects.unserved(server)
    if not why:
        why = f"its {draining} real servers drain, or are set aside" if draining else "it has no real server"
    return f"IPVS has no endpoint for {server}: {why}", _slices_command(objects.service_of(server))


def explain_host(packet: Packet, view: View, objects: Objects, *, is_heard: bool | None) -> ReasonAndRemedy:
    """Return why the programs of this host get *packet*; *is_heard*: whether one listens, None if not known."""
    if packet.protocol == ICMP:
        return f"this node itself answers an echo request to {packet.destination}", ""
    elsewhere = _node_port_elsewhere(packet, view)
    if elsewhere:
        return (
            f"no virtual server has {packet.target}: NodePorts are not served at {packet.destination}",
            f"use {join_host_port(elsewhere, packet.port)}",
        )
    other = _other_protocol(packet, view.lookup)
    reason = f"no virtual server has {packet.target}/{packet.protocol.lower()}, and {_HEARD[is_heard]}"
    if other:
        return f"{reason}; the Service is of protocol {other}", f"use --to {packet.target}/{other.lower()}"
    if ports := objects.ports_at(packet.destination):
        reason = f"{reason}; its Service ports are {', '.join(ports)}"
    return reason, "" if is_heard else f"see what listens: ss -ln 'sport = :{packet.port}'"


_HEARD = {
    True: "a program of this node listens there",
    False: "no program of this node listens there",
    None: "a program of this node has to answer",
}


def explain_forwarded(packet: Packet, view: View) -> ReasonAndRemedy:
    """Return why this host sends *packet* on."""
    if packet.diverted:
        return (
            f"a rule of another program changed its destination to {packet.target}: {packet.diverted}",
            "find out which program wrote it: iptables-save -t nat",
        )
    server = packet.server
    if server and server in view.lookup:
        return (
            f"{packet.destination} is not bound to kube-ipvs0, so only programs of this node reach its virtual server",
            "look for a warning about this address in the agent's log, and at the Events of the Service",
        )
    return (
        f"{packet.destination} is not an address of this node or of a Service served here: it is routed on",
        "check the address; if it is a Service's, it is not served here: see status",
    )


def explain_not_routed(packet: Packet) -> ReasonAndRemedy:
    """Return why this host drops *packet*, which another node seems to have handed on."""
    by = f"arrives by {packet.in_interface}"
    return (
        f"{packet.destination} is not an address of this node, and nothing is routed on that {by}",
        "check the address; if it is a Service's, it is not served here: see status",
    )


def _source_ranges(packet: Packet, lookup: Lookup, objects: Objects) -> ReasonAndRemedy:
    server = packet.virtual_server or packet.server
    name = objects.service_of(server) if server else None
    entry = kube_names.server_entry(server) if server else packet.entry
    ranges = _ranges(lookup, entry, packet)
    suffix = f" ({ranges})" if ranges else ""
    return (
        f"source {packet.source} is not in loadBalancerSourceRanges of {name or f'the Service at {entry}'}{suffix}",
        _ranges_remedy(name),
    )


def _node_is_shut_out(packet: Packet, lookup: Lookup, objects: Objects) -> ReasonAndRemedy:
    server = packet.virtual_server
    name = objects.service_of(server) if server else None
    ranges = _ranges(lookup, kube_names.server_entry(server), packet) if server else ""
    whose = f"{name or 'the Service'}{f' ({ranges})' if ranges else ''}"
    return f"no address of this node is in loadBalancerSourceRanges of {whose}", _ranges_remedy(name)


def _ranges_remedy(name: ServiceName | None) -> str:
    if name is None:
        return "spec.loadBalancerSourceRanges of the Service; add the client's network, if it may connect"
    return (
        f"kubectl -n {name.namespace} edit service {name.name}: add the client's network to "
        "spec.loadBalancerSourceRanges, if it may connect"
    )


def _ranges(lookup: Lookup, entry: str, packet: Packet) -> str:
    definitions: tuple[IpsetDefinition, ...] = (
        kube_names.LOAD_BALANCER_SOURCE_CIDR,
        kube_names.LOAD_BALANCER_SOURCE_IP,
    )
    found = [
        text.rpartition(",")[2]
        for definition in definitions
        for text in lookup.entries(definition.name_in(packet.family), f"{entry},")
    ]
    more = f" and {len(found) - _RANGES_MAX} more" if len(found) > _RANGES_MAX else ""
    return ", ".join(sorted(found)[:_RANGES_MAX]) + more


def _no_such_port(packet: Packet, lookup: Lookup, objects: Objects) -> ReasonAndRemedy:
    if packet.protocol == ICMP:
        return (
            f"{packet.destination} is a Service address: it serves its ports only, and a ping is never answered",
            "test with a connection to a port of the Service",
        )
    ports = objects.ports_at(packet.destination)
    serves = f"; its ports are {', '.join(ports)}" if ports else ""
    if other := _other_protocol(packet, lookup):
        serves = f"; that port is {other.lower()}"
    return (
        f"{packet.destination} is a Service address without a port {packet.port}/{packet.protocol.lower()}{serves}",
        "use a port of the Service; programs of this node are not reachable at Service addresses",
    )


def _other_protocol(packet: Packet, lookup: Lookup) -> str:
    """Return the protocol of a virtual server at the packet's address and port; "" if there is none."""
    own = packet.server
    if own is None:
        return ""
    others = (VirtualServer(own.address, own.port, protocol) for protocol in ("TCP", "UDP", "SCTP"))
    return next((server.protocol for server in others if server != own and server in lookup), "")


def _node_port_elsewhere(packet: Packet, view: View) -> IP:
    """Return an address of this host at which the port is a NodePort, if it is not one at a loopback address."""
    own = packet.server
    if own is None or view.host.interface_of(packet.destination) != LOOPBACK_DEVICE:
        return ""
    addresses = (own_address.address for own_address in view.host.addresses)
    return next((ip for ip in addresses if VirtualServer(ip, own.port, own.protocol) in view.lookup), "")


def _slices_command(name: ServiceName | None) -> str:
    if name is None:
        return "look at the EndpointSlices of the Service"
    return f"kubectl -n {name.namespace} get endpointslices -l kubernetes.io/service-name={name.name} -o yaml"


def _unallocated(packet: Packet, _objects: Objects) -> ReasonAndRemedy:
    return (
        f"{packet.destination} is in serviceCIDR, and no Service that this agent serves has it",
        "look at the clusterIPs of the Service that is meant: kubectl get services -A -o wide",
    )


def _no_local_endpoint(packet: Packet, objects: Objects) -> ReasonAndRemedy:
    name = objects.service_of(packet.server) if packet.server else None
    return (
        f"its policy is Local, and no endpoint of {name or 'the Service'} on this node is ready",
        _slices_command(name),
    )


_POLICY_ENDS = frozenset(
    (kube_names.POLICY_INPUT_CHAIN, kube_names.POLICY_FORWARD_CHAIN, kube_names.POLICY_OUTPUT_CHAIN)
)
_ENDS: dict[str, Callable[[Packet, Lookup, Objects], ReasonAndRemedy]] = {
    kube_names.SOURCE_RANGES_CHAIN: _source_ranges,
    kube_names.POLICY_RANGES_CHAIN: _source_ranges,
    kube_names.OUT_FILTER_CHAIN: _node_is_shut_out,
    kube_names.ACCESS_FILTER_CHAIN: _no_such_port,
}
