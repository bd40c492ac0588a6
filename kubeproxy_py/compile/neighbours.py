"""Decide whether an address that a neighbour answers for is that neighbour's own.

An external address of a Service may be another machine's: bound to kube-ipvs0, it would cut this node off from that
machine.  So before such an address of a network of this node is bound, the neighbours are asked for it.  An answer
alone means little, because load balancers announce the very addresses that every node must bind: MetalLB and kube-vip
answer with the MAC address of a node, keepalived with that of its holder or with a virtual one, and a node without
strictARP answers for all that is on its kube-ipvs0.

| who answers | decision |
|---|---|
| nobody | it is free: bind |
| a virtual MAC address of VRRP or CARP | it is announced: bind |
| a MAC address with another IP address of the family | it is announced by that machine (or proxied): bind |
| a MAC address with no other | it is that machine's own: do not bind |

IPv6 link-local addresses do not count as another address, since every machine has one.  Neither do the other addresses
that Services ask for, unless they are known to be a machine's: two Services may name the two addresses of one machine.
So a machine of which this node knows a second address, a gateway with two addresses for example, is taken for one that
announces; and a node that announces an address and that this node has never talked to, for a machine of its own.
"""

from collections.abc import Collection, Container, Iterable
from ipaddress import ip_interface

from msgspec import Struct

from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import IPVS_DEVICE
from kubeproxy_py.net import IP, family_of, pack

_VIRTUAL_MACS = ("00:00:5e:00:01:", "00:00:5e:00:02:")
"""The beginnings of the MAC addresses of VRRP for IPv4 (CARP uses them too) and for IPv6 (RFC 9568)."""

_LINK_LOCAL = "fe80:"
_HOST_PREFIXES = (0, 32, 128)


class Network(Struct, frozen=True, gc=False):
    """A network in which this node has an address, and the interface that leads to it."""

    interface: str
    first: bytes  # its first and last address, packed
    last: bytes


def own_networks(addresses: Iterable[HostAddress]) -> tuple[Network, ...]:
    """Return the networks of *addresses*, without single addresses, link-local networks and those of kube-ipvs0."""
    candidates = (
        (host.interface, ip_interface(f"{host.address}/{host.prefix_length}").network)
        for host in addresses
        if host.interface not in (IPVS_DEVICE, "lo") and _may_have_neighbours(host)
    )
    return tuple(
        Network(interface, network.network_address.packed, network.broadcast_address.packed)
        for interface, network in dict.fromkeys(candidates)
    )


def interfaces_to(address: IP, networks: Iterable[Network]) -> tuple[str, ...]:
    """Return the interfaces on which *address* would be a neighbour.

    It is called for each address of a first sync; packed addresses compare several times as fast as parsed ones.
    """
    packed = pack(address)
    return tuple(
        network.interface
        for network in networks
        if len(packed) == len(network.first) and network.first <= packed <= network.last
    )


def find_owners(
    asked: Collection[IP], neighbours: Iterable[Neighbour], known: Container[IP] = ()
) -> dict[IP, Neighbour]:
    """Return those of *asked* that are a machine's own address, each with the neighbour that answered.

    Args:
        asked: Every external address of a Service for which neighbours were asked.
        neighbours: All that answered, to any question.
        known: The addresses that are known to be a machine's.
    """
    by_mac: dict[tuple[str, str], list[Neighbour]] = {}
    for neighbour in neighbours:
        by_mac.setdefault((neighbour.interface, neighbour.mac), []).append(neighbour)
    return {
        neighbour.address: neighbour
        for (_, mac), same_mac in by_mac.items()
        if not mac.startswith(_VIRTUAL_MACS)
        for neighbour in same_mac
        if neighbour.address in asked and not _is_announced(neighbour, same_mac, asked, known)
    }


def _is_announced(
    neighbour: Neighbour, same_mac: Iterable[Neighbour], asked: Container[IP], known: Container[IP]
) -> bool:
    """Return whether the machine of *neighbour* has another address, so that this one may be one that it announces."""
    return any(
        other.address != neighbour.address
        and family_of(other.address) == family_of(neighbour.address)
        and not other.address.startswith(_LINK_LOCAL)
        and (other.address not in asked or other.address in known)
        for other in same_mac
    )


def _may_have_neighbours(host: HostAddress) -> bool:
    return host.prefix_length not in _HOST_PREFIXES and not host.address.startswith((_LINK_LOCAL, "127."))
