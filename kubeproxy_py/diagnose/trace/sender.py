"""Who sends the traced packet, and from which address, where the request leaves it open.

Invariants:
- An address that is assumed is named, and how to give another one.
"""

from collections.abc import Iterator
from itertools import chain

from msgspec.structs import replace

from kubeproxy_py.diagnose.trace.matches import View
from kubeproxy_py.diagnose.trace.packet import ICMP, LOOPBACK_DEVICE, Packet
from kubeproxy_py.diagnose.trace.request import Request, TraceError
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Address, LoopbackPath, LoopbackSpec
from kubeproxy_py.net import IP, LOOPBACK_IP, Family, family_of

_OUTSIDE: dict[Family, tuple[IP, ...]] = {  # RFC 5737, RFC 3849: nobody's
    "IPv4": ("192.0.2.1", "198.51.100.1", "203.0.113.1"),
    "IPv6": ("2001:db8::1", "2001:db8:1::1"),
}


def first_packet(request: Request, view: View) -> tuple[Packet, str, tuple[str, ...]]:
    """Return the packet, who sends it in words, and what was assumed.  Raises TraceError."""
    destination = request.destination
    family = family_of(destination)
    packet = Packet("", destination, request.protocol, request.port)
    notes: tuple[str, ...] = ()
    match request.source:
        case "node":
            source, sender = _node_source(packet, view), "a program of this node"
        case "pod":
            source, sender = _pod_source(packet, view), "a pod of this node"
        case "outside":
            source, sender = _outside_source(family, view), "a client outside of the cluster"
        case source:
            sender = _sender_text(source, view)
    if family_of(source) != family:
        raise TraceError(f"--from {source} and --to {destination} are of different IP families; give two of one")
    from_host = request.source == "node" or view.is_local(source)
    _check_interface(request.in_interface, view, from_host=from_host)
    if from_host:
        return replace(packet, source=source, from_host=True, in_interface=None), sender, notes
    if request.source in ("pod", "outside"):
        notes = (f"{source} is assumed for --from {request.source}; give --from ADDRESS for another client",)
    route = view.host.route(source)
    interface = request.in_interface or (route.interface if route else "")
    sender = f"{sender}, by {interface}" if interface else sender
    return replace(packet, source=source, in_interface=interface, out_interface=None), sender, notes


def _check_interface(name: str, view: View, *, from_host: bool) -> None:
    """Raise TraceError if no packet of the sender arrives by the interface *name*."""
    if not name:
        return
    if from_host:
        raise TraceError(f'--in-iface "{name}": what this node sends arrives by no interface; leave it out')
    known = sorted(view.host.interfaces())
    if known and name not in known:
        raise TraceError(f'--in-iface "{name}": this host has no such interface; it has {", ".join(known)}')


def _sender_text(source: IP, view: View) -> str:
    if Address(source) in view.lookup:
        return "a program of this node, from a Service address"
    interface = view.host.interface_of(source)
    return f"a program of this node, from its address on {interface}" if interface else "a client"


def _node_source(packet: Packet, view: View) -> IP:
    """Return the address from which a program of this host sends that has not chosen one.

    To an address of the host itself it is that address, also on kube-ipvs0; to a node port at a loopback address, that
    of the route for these.
    """
    destination = packet.destination
    path = view.lookup.get(LoopbackPath(packet.family)) if destination in LOOPBACK_IP.values() else None
    if isinstance(path, LoopbackSpec) and path.is_complete and packet.protocol != ICMP:
        first, last = path.range
        if first <= packet.port <= last:
            return path.source
    if view.is_local(destination):
        return destination
    if (route := view.host.route(destination)) and route.source:
        return route.source
    family = family_of(destination)
    own = (own.address for own in view.host.addresses if family_of(own.address) == family)
    source = next((address for address in own if view.host.interface_of(address) != LOOPBACK_DEVICE), "")
    if not source:
        raise TraceError(f"--from node: no {family} address of this node is known; give --from ADDRESS")
    return source


def _pod_source(packet: Packet, view: View) -> IP:
    """Return a pod of this host, if possible one that the packet cannot be sent to."""
    server = packet.server
    own = {key.address for key in view.lookup.real_servers(server)} if server and server in view.lookup else set()
    first = ""
    for pod in chain(view.host.pods(packet.family), _pods_here(packet.family, view)):
        if pod not in own:
            return pod
        first = first or pod
    if not first:
        raise TraceError(f"--from pod: no {packet.family} pod of this node is known; give --from ADDRESS")
    return first


def _pods_here(family: Family, view: View) -> Iterator[IP]:
    """Yield the pods of this host that a hairpin entry names."""
    entries = view.lookup.entries(kube_names.LOOP_BACK.name_in(family), "")
    addresses = (entry.partition(",")[0] for entry in entries)
    return (address for address in addresses if not view.is_local(address))


def _outside_source(family: Family, view: View) -> IP:
    return next(address for address in _OUTSIDE[family] if not view.is_local(address))
