"""Decode EndpointSlices, and the older Endpoints, from their wire form.

Invariants:
- One invalid endpoint or port is left out, with an error, and the others are used: it is better that a Service loses
  one endpoint than all of them.
- Both kinds become EndpointSlice values, so no other module handles Endpoints.
"""

from collections.abc import Callable, Iterable, Sequence
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
    HintsWire,
    NamedWire,
    SliceWire,
    SubsetWire,
    TargetWire,
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
    read_endpoint, pods = _endpoint_reader(family), list[str]()

    def read_with_pod(wire: EndpointWire) -> Endpoint:
        endpoint = read_endpoint(wire)
        pods.append(_pod(wire.target_ref))
        return endpoint

    def converted(read: Callable[[Any], Read], wire_type: type) -> Callable[[Any], Read]:
        return (lambda part: read(convert(part, wire_type))) if convert else read

    read_endpoints, errors = read_each("endpoints", endpoints, converted(read_with_pod, EndpointWire))
    read_ports, port_errors = _ports("ports", ports, converted(_port, EndpointPortWire))
    errors += port_errors + _several_addresses(endpoints)
    value = EndpointSlice(
        name,
        ServiceName(name.namespace, service),
        family,
        tuple(read_endpoints),
        read_ports,
        _pods(pods),
        texts_of(errors),
    )
    return value, errors


def _pods(names: Sequence[str]) -> str:
    """Return *names*, one a line; "" if none is known, or one has a line break, which no pod's name has."""
    text = "\n".join(names)
    return text if len(text) >= len(names) and text.count("\n") == len(names) - 1 else ""


def _pod(target: TargetWire | None) -> str:
    return target.name or "" if target and target.kind == "Pod" else ""


def _several_addresses(endpoints: Iterable[Any] | None) -> list[FieldError]:
    """Return an error for each endpoint with several addresses: nothing is left out, but only the first serves.

    The API reserves the others without a meaning; kube-proxy uses the first, too.
    """
    hint = "write one endpoint for each address"
    return [
        FieldError(
            f"endpoints[{index}].addresses", f"{len(wire.addresses)} addresses in one endpoint, the first is used", hint
        )
        for index, wire in enumerate(endpoints or ())
        if isinstance(wire, EndpointWire) and wire.addresses and len(wire.addresses) > 1
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

    def read_endpoint(wire: EndpointWire) -> Endpoint:
        if not wire.addresses:
            raise FieldError("addresses", "is empty", "write the address of a pod or a host, or remove the endpoint")
        try:
            address = parse_ip(wire.addresses[0])  # by the API's definition, all addresses are interchangeable
        except ValueError as error:
            raise invalid_ip("addresses[0]", error) from None
        if family_of(address) != family:
            message = f"{address} is not {family}"
            raise FieldError("addresses[0]", message, "all addresses of a slice must be of its addressType")
        if use := special_use(address):
            raise _special_address("addresses[0]", address, use)
        conditions = wire.conditions or NO_CONDITIONS
        zone_hints, node_hints = _hints(wire.hints) if wire.hints else ((), ())
        return Endpoint(
            address,
            conditions.ready is not False,  # nil means ready, and serving: discovery/v1, EndpointConditions
            conditions.serving is not False,
            conditions.terminating is True,
            intern(wire.node_name) if wire.node_name else "",
            zone_hints,
            node_hints,
            intern(wire.zone) if wire.zone else "",
        )

    return read_endpoint


def _hints(wire: HintsWire) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the zone hints and the node hints."""
    return _names(wire.for_zones), _names(wire.for_nodes)


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
    endpoints: Sequence[tuple[Endpoint, str]],
    ports: tuple[SlicePort, ...],
    problems: tuple[str, ...],
) -> Iterable[EndpointSlice]:
    """Yield a slice for each family of *endpoints*, those of the subset *index*."""
    for family in FAMILIES:
        members = [(endpoint, pod) for endpoint, pod in endpoints if family_of(endpoint.address) == family]
        if members:
            slice_name = SliceName(name.namespace, f"endpoints/{name.name}/{index}/{family}")
            pods = _pods([pod for _, pod in members])
            yield EndpointSlice(slice_name, name, family, tuple(one for one, _ in members), ports, pods, problems)


def _subset_endpoints(path: str, subset: SubsetWire) -> tuple[list[tuple[Endpoint, str]], list[FieldError]]:
    ready, errors = read_each(f"{path}.addresses", subset.addresses, lambda wire: _endpoint(wire, ready=True))
    not_ready, not_ready_errors = read_each(
        f"{path}.notReadyAddresses", subset.not_ready_addresses, lambda wire: _endpoint(wire, ready=False)
    )
    return ready + not_ready, errors + not_ready_errors


def _endpoint(wire: EndpointAddressWire, *, ready: bool) -> tuple[Endpoint, str]:
    """Return the endpoint and its pod.  Raises FieldError."""
    address = read_ip(wire.ip, "ip")
    if use := special_use(address):
        raise _special_address("ip", address, use)
    return Endpoint(address, ready, ready, node=intern(wire.node_name or "")), _pod(wire.target_ref)


def _special_address(field: str, address: IP, use: str) -> FieldError:
    """Return the error of an *address* that no pod or host beyond this link can have, because of its special *use*.

    The API server rejects the same, except for broadcast and for multicast beyond the link.  At a loopback
    address, a Service would publish what listens for the node only.
    """
    article = "an" if use[0] == "u" else "a"
    return FieldError(field, f"{address} is {article} {use} address", "write the address of a pod or a host")
