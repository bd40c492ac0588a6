"""Decode EndpointSlices, and the older Endpoints, from their wire form.

Invariants:
- One invalid endpoint or port is left out, with an error, and the others are used: it is better that a Service loses
  one endpoint than all of them.
- Both kinds become EndpointSlice values, so no other module handles Endpoints.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from sys import intern
from typing import Any

from kubeproxy_py.model.services import Endpoint, EndpointSlice, ServiceName, SliceName, SlicePort
from kubeproxy_py.net import FAMILIES, IP, Family, family_of, parse_ip, special_use
from kubeproxy_py.sources.decode.errors import FieldError, Read, invalid_ip, quoted, read_each, read_ip, texts_of
from kubeproxy_py.sources.decode.schema import (
    NO_CONDITIONS,
    NO_LABELS,
    NO_META,
    EndpointAddressWire,
    EndpointPortWire,
    EndpointsWire,
    EndpointWire,
    NamedWire,
    SliceWire,
    SubsetWire,
)
from kubeproxy_py.sources.decode.service import port_number, protocol
from kubeproxy_py.sources.decode.sharing import share


def read_slice(
    name: SliceName,
    wire: SliceWire,
    endpoints: Iterable[Any] | None,
    ports: Iterable[Any] | None,
    convert: Callable[[Any, type], Any] | None = None,
) -> tuple[EndpointSlice | None, list[FieldError]]:
    """Return the slice with *endpoints* and *ports*, and the errors of those that were left out.

    Args:
        name: The slice's name.
        wire: The slice, of which only metadata and addressType are read.
        endpoints: Its endpoints.
        ports: Its ports.
        convert: Converts an endpoint or a port into its wire form; raises FieldError.  None: they have it.

    Returns:
        No slice if its addresses are not IPs (FQDN), or if it is labelled headless: kube-proxy does not see those,
        since it requests slices without that label.

    Raises:
        FieldError: The complete slice cannot be used.
    """
    labels = (wire.metadata or NO_META).labels or NO_LABELS
    if wire.address_type == "FQDN" or labels.headless is not None:
        return None, []
    family = _family(wire.address_type)
    service = labels.service_name
    if not service:
        raise FieldError("metadata.labels", "kubernetes.io/service-name is missing", "set it to the Service's name")

    def converted(read: Callable[[Any], Read], wire_type: type) -> Callable[[Any], Read]:
        return (lambda part: read(convert(part, wire_type))) if convert else read

    read_endpoint = converted(_endpoint_reader(family), EndpointWire)
    read_endpoints, errors = read_each("endpoints", endpoints, read_endpoint)
    pods = _pods(_used(endpoints or (), read_endpoint, convert) if errors or convert else endpoints or ())
    read_ports, port_errors = _ports("ports", ports, converted(_port, EndpointPortWire))
    errors += port_errors
    if not convert and endpoints:
        errors += _several_addresses(endpoints)
    service_name, problems = ServiceName(name.namespace, service), texts_of(errors) if errors else ()
    return EndpointSlice(name, service_name, family, tuple(read_endpoints), read_ports, pods, problems), errors


def _used(
    parts: Iterable[Any], read: Callable[[Any], Endpoint], convert: Callable[[Any, type], Any] | None
) -> Iterator[EndpointWire]:
    """Yield the wire form of those endpoints that *read* does not refuse; only of a slice of which one is refused."""
    for part in parts:
        with suppress(FieldError):
            read(part)
            yield convert(part, EndpointWire) if convert else part


def _pods(wires: Iterable[EndpointWire | EndpointAddressWire]) -> str:
    """Return the names of the pods of endpoints, one a line.

    It is "" if none is known, or if one has a line break, which no pod's name has.
    """
    names = [
        target.name or "" if (target := wire.target_ref) is not None and target.kind == "Pod" else "" for wire in wires
    ]
    text = "\n".join(names)
    return text if len(text) >= len(names) and text.count("\n") == len(names) - 1 else ""


def _several_addresses(wires: Iterable[EndpointWire]) -> list[FieldError]:
    """Return an error for each endpoint with several addresses: nothing is left out, but only the first serves.

    The API reserves the others without a meaning; kube-proxy uses the first, too.
    """
    hint = "write one endpoint for each address"
    return [
        FieldError(
            f"endpoints[{index}].addresses", f"{len(wire.addresses)} addresses in one endpoint, the first is used", hint
        )
        for index, wire in enumerate(wires)
        if wire.addresses and len(wire.addresses) > 1
    ]


def unknown_address_type(wire: SliceWire) -> FieldError | None:
    """Return the error of an addressType that is not known; None if it is known, or missing."""
    if not wire.address_type or wire.address_type in (*FAMILIES, "FQDN"):
        return None
    return _address_type_error(f"unknown value {quoted(wire.address_type)}")


def _family(address_type: str | None) -> Family:
    """Return the family of an addressType.  Raises FieldError."""
    for family in FAMILIES:
        if address_type == family:
            return family
    raise _address_type_error(f"unknown value {quoted(address_type)}" if address_type else "is missing")


def _address_type_error(message: str) -> FieldError:
    return FieldError("addressType", message, f"one of {', '.join(FAMILIES)}, FQDN")


def _endpoint_reader(family: Family) -> Callable[[EndpointWire], Endpoint]:
    """Return a function that reads an endpoint of a slice of *family*; it raises FieldError."""
    is_ipv6 = family == "IPv6"

    def read_endpoint(wire: EndpointWire) -> Endpoint:
        addresses, conditions, hints = wire.addresses, wire.conditions or NO_CONDITIONS, wire.hints
        if not addresses:
            raise FieldError("addresses", "is empty", "write the address of a pod or a host, or remove the endpoint")
        try:
            address = parse_ip(addresses[0])  # by the API's definition, all addresses are interchangeable
        except ValueError as error:
            raise invalid_ip("addresses[0]", error) from None
        if (":" in address) is not is_ipv6:  # family_of() would be a tenth of reading the endpoint
            message = f"{address} is not {family}"
            raise FieldError("addresses[0]", message, "all addresses of a slice must be of its addressType")
        if use := special_use(address):
            raise _special_address("addresses[0]", address, use)
        return Endpoint(
            address,
            conditions.ready is not False,  # nil means ready, and serving: discovery/v1, EndpointConditions
            conditions.serving is not False,
            conditions.terminating is True,
            intern(wire.node_name) if wire.node_name else "",
            _names(hints.for_zones) if hints else (),
            _names(hints.for_nodes) if hints else (),
            intern(wire.zone) if wire.zone else "",
        )

    return read_endpoint


def _names(wires: list[NamedWire] | None) -> tuple[str, ...]:
    return share(tuple(wire.name for wire in wires)) if wires else ()


def _port(wire: EndpointPortWire) -> SlicePort:
    """Return the port.  Raises FieldError."""
    return SlicePort(intern(wire.name or ""), protocol(wire.protocol), port_number("port", wire.port))


def _ports(
    path: str, wires: Iterable[Any] | None, read: Callable[[Any], SlicePort]
) -> tuple[tuple[SlicePort, ...], list[FieldError]]:
    """Return the ports, of which no two may have the same name, and the errors of those that were left out."""
    names: set[str] = set()

    def read_unique(wire: Any) -> SlicePort:
        port = read(wire)
        if port.name in names:
            raise FieldError("name", f"{quoted(port.name)} is the name of another port, too", "write another one")
        names.add(port.name)
        return port

    ports, errors = read_each(path, wires, read_unique)
    return share(tuple(ports)), errors


def read_endpoints(name: ServiceName, wire: EndpointsWire) -> tuple[tuple[EndpointSlice, ...], list[FieldError]]:
    """Return a slice for each subset and family that has addresses, and the errors of the parts that were left out.

    The slices' names contain slashes, which no object's name does, so they never collide with an EndpointSlice.
    """
    slices: list[EndpointSlice] = []
    errors: list[FieldError] = []
    for index, subset in enumerate(wire.subsets or ()):
        path = f"subsets[{index}]"
        endpoints, endpoint_errors = _subset_endpoints(path, subset)
        ports, port_errors = _ports(f"{path}.ports", subset.ports, _port)
        part_errors = [*endpoint_errors, *port_errors]
        slices.extend(_by_family(name, index, endpoints, ports, texts_of(part_errors)))
        errors += part_errors
    return tuple(slices), errors


def _by_family(
    name: ServiceName,
    index: int,
    endpoints: Sequence[tuple[Endpoint, EndpointAddressWire]],
    ports: tuple[SlicePort, ...],
    problems: tuple[str, ...],
) -> Iterable[EndpointSlice]:
    """Yield a slice for each family of *endpoints*, those of the subset *index*."""
    for family in FAMILIES:
        members = [(endpoint, wire) for endpoint, wire in endpoints if family_of(endpoint.address) == family]
        if members:
            slice_name = SliceName(name.namespace, f"endpoints/{name.name}/{index}/{family}")
            pods = _pods(wire for _, wire in members)
            yield EndpointSlice(slice_name, name, family, tuple(one for one, _ in members), ports, pods, problems)


def _subset_endpoints(
    path: str, subset: SubsetWire
) -> tuple[list[tuple[Endpoint, EndpointAddressWire]], list[FieldError]]:
    ready, errors = read_each(f"{path}.addresses", subset.addresses, lambda wire: _endpoint(wire, ready=True))
    not_ready, not_ready_errors = read_each(
        f"{path}.notReadyAddresses", subset.not_ready_addresses, lambda wire: _endpoint(wire, ready=False)
    )
    return ready + not_ready, errors + not_ready_errors


def _endpoint(wire: EndpointAddressWire, *, ready: bool) -> tuple[Endpoint, EndpointAddressWire]:
    """Return the endpoint, and what it was read from.  Raises FieldError."""
    address = read_ip(wire.ip, "ip")
    if use := special_use(address):
        raise _special_address("ip", address, use)
    return Endpoint(address, ready, ready, node=intern(wire.node_name or "")), wire


def _special_address(field: str, address: IP, use: str) -> FieldError:
    """Return the error of an *address* that no pod or host beyond this link can have, because of its special *use*.

    The API server rejects the same, except for broadcast and for multicast beyond the link.  At a loopback
    address, a Service would publish what listens for the node only.
    """
    article = "an" if use[0] == "u" else "a"
    return FieldError(field, f"{address} is {article} {use} address", "write the address of a pod or a host")
