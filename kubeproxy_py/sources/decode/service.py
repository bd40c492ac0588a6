"""Decode a Service from its wire form.

Invariants:
- A manifest with any error is not used at all, because half a Service would misdirect packets; all its errors are
  reported at once.
- A Service of an API server is used in spite of errors, because they come from a newer version of the API: each value
  that we do not know is read as kube-proxy reads it, and only an invalid part is left out.  What protects a Service
  (source ranges) never opens it by being left out.
- Values that the API server defaults may be absent (manifests are written by people), and get the same defaults.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from kubeproxy_py.model.services import Service, ServiceName, ServicePort, ServiceType
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import CIDR, FAMILIES, IP, PORT_MAX, Family, Protocol, family_of
from kubeproxy_py.sources.decode.errors import FieldError, quoted, read_cidr, read_each, read_ip, texts_of
from kubeproxy_py.sources.decode.schema import (
    NO_LABELS,
    NO_META,
    IngressWire,
    ServicePortWire,
    ServiceSpecWire,
    ServiceWire,
)
from kubeproxy_py.sources.decode.sharing import share

AFFINITY_DEFAULT_S = 10800  # core/v1, DefaultClientIPServiceAffinitySeconds
AFFINITY_MAX_S = 86400  # core/v1, MaxClientIPServiceAffinitySeconds
_KERNEL_TIMEOUT_MAX_S = 2**31 // 1000  # ip_vs counts in ticks of up to 1 ms in 32 bits

PROTOCOLS: dict[str | None, Protocol] = {None: "TCP", "": "TCP", "TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
_TYPES: dict[str | None, ServiceType] = {
    None: "ClusterIP",
    "": "ClusterIP",
    "ClusterIP": "ClusterIP",
    "NodePort": "NodePort",
    "LoadBalancer": "LoadBalancer",
    "ExternalName": "ExternalName",
}
_POLICIES = {None: False, "": False, "Cluster": False, "Local": True}
_AFFINITIES = {None: False, "": False, "None": False, "ClientIP": True}
_IP_MODES = {None: True, "": True, "VIP": True, "Proxy": False}

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_service(name: ServiceName, wire: ServiceWire) -> tuple[Service, list[FieldError]]:
    """Return the Service *name* without its invalid parts, and all its errors.

    Raises:
        FieldError: There is no spec, which is no Service (its metadata alone, say).
    """
    if wire.spec is None:
        raise FieldError("spec", "is missing")
    reader = _ServiceReader(wire, wire.spec)
    service = reader.read(name)
    return replace(service, problems=texts_of(reader.errors)) if reader.errors else service, reader.errors


class _ServiceReader:
    """Reads the fields of one Service and collects their errors."""

    __slots__ = ("_meta", "_spec", "_status", "errors")

    def __init__(self, wire: ServiceWire, spec: ServiceSpecWire) -> None:
        self._spec = spec
        self._meta = wire.metadata or NO_META
        self._status = wire.status
        self.errors: list[FieldError] = []

    def read(self, name: ServiceName) -> Service:
        spec = self._spec
        service_type = self._choose("spec.type", _TYPES, spec.type)
        ports = self._ports()
        source_ranges, load_balancer_ips = self._load_balancer()
        external_local = self._choose("spec.externalTrafficPolicy", _POLICIES, spec.external_traffic_policy)
        return Service(
            name,
            service_type,
            () if service_type == "ExternalName" else self._cluster_ips(),
            ports,
            self._distinct("spec.externalIPs", spec.external_ips, read_ip),
            load_balancer_ips,
            source_ranges,
            self._affinity_timeout_s(),
            self._choose("spec.internalTrafficPolicy", _POLICIES, spec.internal_traffic_policy),
            external_local and spec.type in _TYPES,  # kube-proxy: only types that it knows are reached from outside
            self._health_check_node_port(),
            (self._meta.labels or NO_LABELS).proxy_name,
            _created_s(self._meta.creation_timestamp),
        )

    def _ports(self) -> tuple[ServicePort, ...]:
        wires = self._spec.ports or ()
        ports = self._each("spec.ports", wires, _port)
        for index, wire in enumerate(wires):
            if wire.node_port and not _is_port(wire.node_port):
                self._one(f"spec.ports[{index}].nodePort", wire.node_port, partial(port_number, ""))
        if len(ports) > 1 and not _are_distinct(ports):
            ports, errors = _without_duplicates(ports)
            self.errors += errors
        return share(tuple(ports))

    def _cluster_ips(self) -> tuple[IP, ...]:
        """Return at most one address of each family; none if the Service is headless or has no address yet.

        The API server always fills in clusterIP, clusterIPs and ipFamilies.  A manifest may have one of the first two
        and no families, which then are those of the addresses.
        """
        spec = self._spec
        first = spec.cluster_ip or (spec.cluster_ips or [""])[0]
        if not first or first == "None":
            return ()
        if spec.cluster_ips:
            cluster_ips = self._each("spec.clusterIPs", spec.cluster_ips, read_ip)
        else:
            cluster_ips = self._one("spec.clusterIP", first, read_ip)
        families = [family_of(ip) for ip in cluster_ips]
        if len(set(families)) < len(families):
            self.errors.append(
                FieldError(
                    "spec.clusterIPs", "has two addresses of one family", "write one IPv4 and one IPv6 address at most"
                )
            )
            cluster_ips = [cluster_ips[families.index(family)] for family in dict.fromkeys(families)]
            families = [family_of(ip) for ip in cluster_ips]
        if spec.cluster_ips and spec.cluster_ip and spec.cluster_ips[0] != spec.cluster_ip:
            message = "is not the first of spec.clusterIPs"
            self.errors.append(FieldError("spec.clusterIP", message, "remove one of the two fields"))
        if spec.ip_families:
            self.errors += _family_mismatches(spec.ip_families, families)
        return tuple(cluster_ips)

    def _load_balancer(self) -> tuple[tuple[CIDR, ...], tuple[IP, ...]]:
        """Return the source ranges, and the ingress addresses to serve.

        No ranges mean that everybody may connect.  So if an invalid one is left out and none of a family remains,
        the addresses of that family are not served.
        """
        before = len(self.errors)
        ranges = self._distinct("spec.loadBalancerSourceRanges", self._spec.load_balancer_source_ranges, read_cidr)
        is_complete = len(self.errors) == before
        addresses = self._load_balancer_ips()
        if is_complete and not ranges:
            return ranges, addresses
        families = {family_of(cidr) for cidr in ranges}
        if is_complete:
            self.errors += _open_addresses(addresses, families)
            return ranges, addresses
        return ranges, tuple(ip for ip in addresses if family_of(ip) in families)

    def _load_balancer_ips(self) -> tuple[IP, ...]:
        """Return the ingress addresses to serve: no host names, and none of ipMode Proxy (KEP-1860)."""
        balancer = self._status and self._status.load_balancer
        if not balancer or not balancer.ingress:
            return ()
        return tuple(ip for ip in self._distinct("status.loadBalancer.ingress", balancer.ingress, _ingress_ip) if ip)

    def _affinity_timeout_s(self) -> int:
        spec = self._spec
        if not self._choose("spec.sessionAffinity", _AFFINITIES, spec.session_affinity):
            return 0
        config = spec.session_affinity_config and spec.session_affinity_config.client_ip
        timeout_s = config.timeout_seconds if config else None
        if timeout_s is None:
            return AFFINITY_DEFAULT_S
        if not 1 <= timeout_s <= AFFINITY_MAX_S:
            field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            self.errors.append(FieldError(field, f"{timeout_s} is not a timeout", f"1 to {AFFINITY_MAX_S} seconds"))
        return min(max(1, timeout_s), _KERNEL_TIMEOUT_MAX_S)  # kube-proxy passes on what the API server allowed

    def _health_check_node_port(self) -> int:
        """Return the port; 0 if there is none or it is invalid."""
        port = self._spec.health_check_node_port
        if not port:
            return 0
        return next(iter(self._one("spec.healthCheckNodePort", port, partial(port_number, ""))), 0)

    # Readers of values

    def _choose(self, field: str, table: dict[str | None, Value], value: str | None) -> Value:
        """Return the meaning of *value* by *table*; that of an absent one if it is unknown, as kube-proxy."""
        try:
            return table[value]
        except KeyError:
            self.errors.append(_unknown_value(field, table, value))
            return table[None]

    def _distinct(self, path: str, items: list[Item] | None, read: Callable[[Item], str]) -> tuple[str, ...]:
        """Return the valid values of a list, each once."""
        return tuple(dict.fromkeys(self._each(path, items, read))) if items else ()

    def _each(self, path: str, items: Iterable[Item], read: Callable[[Item], Value]) -> list[Value]:
        """Return the valid values of a list."""
        values, errors = read_each(path, items, read)
        self.errors += errors
        return values

    def _one(self, path: str, item: Item, read: Callable[[Item], Value]) -> list[Value]:
        """Return the value of a field, or nothing if it is invalid."""
        try:
            return [read(item)]
        except FieldError as error:
            self.errors.append(error.under(path))
            return []


def _created_s(timestamp: object) -> float:
    """Return the time of creation, in seconds since 1970; NEVER if it is absent (manifests) or no time."""
    with suppress(ValueError, OverflowError):
        if isinstance(timestamp, str) and timestamp:
            return datetime.fromisoformat(timestamp).timestamp()
    return NEVER


def port_number(field: str, port: int | None) -> int:
    """Return *port* if it is a port number.  Raises FieldError."""
    if port is None or not _is_port(port):
        raise FieldError(field, "is missing" if port is None else f"{port} is not a port", f"1 to {PORT_MAX}")
    return port


def _is_port(number: int) -> bool:
    return 1 <= number <= PORT_MAX


def protocol(value: str | None) -> Protocol:
    """Return the protocol.  Raises FieldError if IPVS does not support it."""
    if value not in PROTOCOLS:
        raise FieldError("protocol", f"unknown protocol {quoted(value)}", "TCP, UDP or SCTP")
    return PROTOCOLS[value]


def _port(wire: ServicePortWire) -> ServicePort:
    """Return the port, without a node port that is invalid.  Raises FieldError."""
    node_port = wire.node_port if wire.node_port and _is_port(wire.node_port) else 0
    return ServicePort(wire.name or "", protocol(wire.protocol), port_number("port", wire.port), node_port)


def _are_distinct(ports: list[ServicePort]) -> bool:
    """Return whether _without_duplicates would return *ports* as they are: nearly always, and this is much cheaper."""
    node_ports = [(port.protocol, port.node_port) for port in ports if port.node_port]
    distinct = len({port.name for port in ports}) + len({(port.protocol, port.port) for port in ports})
    return distinct == 2 * len(ports) and len(set(node_ports)) == len(node_ports)


def _without_duplicates(ports: list[ServicePort]) -> tuple[list[ServicePort], list[FieldError]]:
    """Return the ports that differ from those before them, and an error for each that does not.

    As for the API server, name, port of a protocol, and node port of a protocol must differ.  Two ports of one name
    and different protocols are two ports for kube-proxy.
    """
    seen: set[object] = set()
    distinct: list[ServicePort] = []
    errors: list[FieldError] = []
    for index, port in enumerate(ports):
        keys: dict[str, object] = {"name": port.name, "port": (port.protocol, port.port)}
        if port.node_port:
            keys["nodePort"] = (port.protocol, "node", port.node_port)
        same = [field for field, key in keys.items() if key in seen]
        errors += [_same_as_another(f"spec.ports[{index}].{field}", field, port) for field in same]
        identity = (port.name, port.protocol, "identity")
        if identity not in seen and "port" not in same:
            distinct.append(replace(port, node_port=0) if "nodePort" in same else port)
        seen.update((*keys.values(), identity))
    return distinct, errors


def _same_as_another(path: str, field: str, port: ServicePort) -> FieldError:
    """Return the error that the *field* of *port* is that of a port before it."""
    if field == "name" and not port.name:
        return FieldError(path, "is missing", "ports need names if there are several")
    written = {"name": quoted(port.name), "port": f"{port.port}/{port.protocol}"}
    message = f"{written.get(field, port.node_port)} is the same as another port's"
    return FieldError(path, message, "write another one, or remove the port")


def _family_mismatches(ip_families: list[str], families: list[Family]) -> Iterable[FieldError]:
    """Yield an error for each family that is not that of the address."""
    for index, (written, actual) in enumerate(zip(ip_families, families, strict=False)):
        if written != actual:
            hint = "" if written in FAMILIES else f"one of {', '.join(FAMILIES)}"
            yield FieldError(f"spec.ipFamilies[{index}]", f"{quoted(written)}, but the address is {actual}", hint)


def _open_addresses(addresses: Iterable[IP], restricted: Collection[Family]) -> Iterable[FieldError]:
    """Yield a warning for each address whose family is not *restricted*, while source ranges restrict the other one."""
    for address in addresses:
        if (family := family_of(address)) not in restricted:
            message = f"has no {family} range, so that everyone may connect to {address}"
            hint = f"add {family} ranges, or {'0.0.0.0/0' if family == 'IPv4' else '::/0'} if open access is intended"
            yield FieldError("spec.loadBalancerSourceRanges", message, hint, is_warning=True)


def _ingress_ip(wire: IngressWire) -> IP:
    """Return the address, or "" if there is none to serve.  Raises FieldError."""
    if wire.ip_mode not in _IP_MODES:
        raise _unknown_value("ipMode", _IP_MODES, wire.ip_mode)
    return read_ip(wire.ip, "ip") if wire.ip and _IP_MODES[wire.ip_mode] else ""


def _unknown_value(field: str, table: Iterable[str | None], value: str | None) -> FieldError:
    """Return the error that *value* is not in *table*."""
    return FieldError(field, f"unknown value {quoted(value)}", f"one of {', '.join(key for key in table if key)}")
