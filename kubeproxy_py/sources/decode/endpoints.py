"""EndpointSlice, and its elder Endpoints, from the wire form to slices as we use them.

Law: one broken endpoint or port is left out, with a Flaw, and the others are used: a Service had better lose one
endpoint than all.  Both kinds become EndpointSlice values, so that nothing below knows of Endpoints.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from sys import intern
from typing import Any

from kubeproxy_py.model.services import (
    FAMILIES,
    IP,
    Endpoint,
    EndpointSlice,
    Family,
    ServiceName,
    SliceName,
    SlicePort,
    family_of,
)
from kubeproxy_py.sources.decode.address import canonical_ip
from kubeproxy_py.sources.decode.errors import FieldError, read_each
from kubeproxy_py.sources.decode.schema import (
    NO_CONDITIONS,
    NO_LABELS,
    NO_META,
    EndpointAddressWire,
    EndpointPortWire,
    EndpointsWire,
    EndpointWire,
    HintsWire,
    NamedWire,
    SliceWire,
    SubsetWire,
)
from kubeproxy_py.sources.decode.service import port_number, protocol

ReadEndpoint = Callable[[Any], Endpoint]
ReadPort = Callable[[Any], SlicePort]


def read_slice(
    name: SliceName,
    wire: SliceWire,
    endpoints: Iterable[Any] | None,
    ports: Iterable[Any] | None,
    flaws: list[FieldError],
    typed: Callable[[Any, type], Any] = lambda part, _: part,
) -> EndpointSlice | None:
    """The slice of *endpoints* and *ports*, whose wire forms *typed* makes.

    None if its addresses are no IPs (FQDN), or if it is labelled headless: kube-proxy never sees those, since it asks
    the API server for slices without that label.

    Raises Flaw if the slice as a whole can't be used.
    """
    labels = (wire.metadata or NO_META).labels or NO_LABELS
    if wire.address_type == "FQDN" or labels.headless is not None:
        return None
    family = _family(wire.address_type)
    service = labels.service_name
    if not service:
        raise FieldError("metadata.labels", "kubernetes.io/service-name is missing", "it names the slice's Service")
    in_family = _reader_of_endpoints(family)
    return EndpointSlice(
        name,
        ServiceName(name.namespace, service),
        family,
        tuple(read_each("endpoints", endpoints, lambda part: in_family(typed(part, EndpointWire)), flaws)),
        _ports("ports", ports, lambda part: _port(typed(part, EndpointPortWire)), flaws),
    )


def _family(address_type: str | None) -> Family:
    for family in FAMILIES:
        if address_type == family:
            return family
    message = f"unknown value {address_type!r:.64}" if address_type else "is missing"
    raise FieldError("addressType", message, f"one of {', '.join(FAMILIES)}, FQDN")


def _reader_of_endpoints(family: Family) -> Callable[[EndpointWire], Endpoint]:
    def endpoint(wire: EndpointWire) -> Endpoint:
        if not wire.addresses:
            raise FieldError("addresses", "has no address")
        try:
            address = canonical_ip(wire.addresses[0])  # the API says that all of them are the same
        except FieldError as flaw:
            raise flaw.under("addresses[0]") from None
        if family_of(address) != family:
            raise FieldError(
                "addresses[0]", f"{address} is not {family}", "a slice has addresses of its addressType only"
            )
        conditions = wire.conditions or NO_CONDITIONS
        return Endpoint(
            address,
            conditions.ready is not False,  # unknown is read as ready, and as serving: discovery/v1, EndpointConditions
            conditions.serving is not False,
            conditions.terminating is True,
            intern(wire.node_name) if wire.node_name else "",
            *(_hints(wire.hints) if wire.hints else ()),
        )

    return endpoint


def _hints(wire: HintsWire) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _names(wire.for_zones), _names(wire.for_nodes)


def _names(wires: list[NamedWire] | None) -> tuple[str, ...]:
    return _shared(tuple(wire.name for wire in wires)) if wires else ()


@lru_cache(maxsize=4096)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """One and the same tuple for equal ones: 100,000 endpoints have but a few zones."""
    return names


def _port(wire: EndpointPortWire) -> SlicePort:
    return SlicePort(intern(wire.name or ""), protocol(wire.protocol), port_number("port", wire.port))


def _ports(
    path: str, wires: Iterable[Any] | None, read: Callable[[Any], SlicePort], flaws: list[FieldError]
) -> tuple[SlicePort, ...]:
    """The ports, of which no two may have the same name."""
    names: set[str] = set()

    def unique(wire: Any) -> SlicePort:
        port = read(wire)
        if port.name in names:
            raise FieldError("name", f"{port.name!r:.64} is the same as another port's")
        names.add(port.name)
        return port

    return _shared_ports(tuple(read_each(path, wires, unique, flaws)))


@lru_cache(maxsize=4096)
def _shared_ports(ports: tuple[SlicePort, ...]) -> tuple[SlicePort, ...]:
    """One and the same tuple for equal ones: most slices have a port like many others'."""
    return ports


def read_endpoints(name: ServiceName, wire: EndpointsWire, flaws: list[FieldError]) -> tuple[EndpointSlice, ...]:
    """A slice for each subset and family that has addresses.

    Their names have slashes, which no object's name has, so that none is ever taken for a real slice.
    """
    slices: list[EndpointSlice] = []
    for index, subset in enumerate(wire.subsets or ()):
        path = f"subsets[{index}]"
        endpoints = _subset_endpoints(path, subset, flaws)
        ports = _ports(f"{path}.ports", subset.ports, _port, flaws)
        slices.extend(_by_family(name, index, endpoints, ports))
    return tuple(slices)


def _by_family(
    name: ServiceName, index: int, endpoints: Sequence[Endpoint], ports: tuple[SlicePort, ...]
) -> Iterable[EndpointSlice]:
    for family in FAMILIES:
        members = tuple(endpoint for endpoint in endpoints if family_of(endpoint.address) == family)
        if members:
            slice_name = SliceName(name.namespace, f"endpoints/{name.name}/{index}/{family}")
            yield EndpointSlice(slice_name, name, family, members, ports)


def _subset_endpoints(path: str, subset: SubsetWire, flaws: list[FieldError]) -> list[Endpoint]:
    return [
        *read_each(f"{path}.addresses", subset.addresses, lambda wire: _address(wire, True), flaws),
        *read_each(f"{path}.notReadyAddresses", subset.not_ready_addresses, lambda wire: _address(wire, False), flaws),
    ]


def _address(wire: EndpointAddressWire, ready: bool) -> Endpoint:
    return Endpoint(_ip(wire.ip), ready, ready, node=intern(wire.node_name or ""))


def _ip(text: str) -> IP:
    try:
        return canonical_ip(text)
    except FieldError as flaw:
        raise flaw.under("ip") from None
