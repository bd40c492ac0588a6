"""Service: from its wire form to the value that we use.

Law: a Service with any flaw is not used at all, because half a Service would send packets astray; all its flaws are
told at once.  Values that the API server would have filled in may be absent (manifests come from people), and are
filled in as it does.
"""

from collections.abc import Iterable
from functools import lru_cache, partial
from typing import TypeVar

from kubeproxy_py.config.durations import parse_duration
from kubeproxy_py.model.services import (
    FAMILIES,
    IP,
    Family,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
    ServiceType,
    family_of,
)
from kubeproxy_py.sources.decode.address import canonical_cidr, canonical_ip
from kubeproxy_py.sources.decode.errors import FieldError, read_each, read_one
from kubeproxy_py.sources.decode.schema import (
    NO_ANNOTATIONS,
    NO_LABELS,
    NO_META,
    IngressWire,
    ServicePortWire,
    ServiceSpecWire,
    ServiceWire,
)

PORT_MAX = 65535
_DRAIN_DEADLINE = 'metadata.annotations["kubeproxy-py/drain-deadline"]'
AFFINITY_DEFAULT_S = 10800  # core/v1, DefaultClientIPServiceAffinitySeconds
AFFINITY_MAX_S = 86400  # core/v1, MaxClientIPServiceAffinitySeconds

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

Meaning = TypeVar("Meaning")


def read_service(name: ServiceName, wire: ServiceWire, flaws: list[FieldError]) -> Service:
    """The value of *wire*, to be used only if *flaws* stays empty."""
    spec = wire.spec or ServiceSpecWire()
    kind = choose("spec.type", _TYPES, spec.type, flaws)
    ports = read_each("spec.ports", spec.ports, _port, flaws)
    if len(ports) > 1:
        _refuse_duplicates(ports, flaws)
    return Service(
        name,
        kind,
        () if kind == "ExternalName" else _cluster_ips(spec, flaws),
        _shared(tuple(ports)),
        _unique(read_each("spec.externalIPs", spec.external_ips, canonical_ip, flaws)),
        _load_balancer_ips(wire, flaws),
        _unique(read_each("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges, canonical_cidr, flaws)),
        _affinity_timeout_s(spec, flaws),
        choose("spec.internalTrafficPolicy", _POLICIES, spec.internal_traffic_policy, flaws),
        choose("spec.externalTrafficPolicy", _POLICIES, spec.external_traffic_policy, flaws),
        _port_or_none("spec.healthCheckNodePort", spec.health_check_node_port, flaws),
        _drain_deadline_s(wire, flaws),
        _proxy_name(wire),
    )


@lru_cache(maxsize=4096)
def _shared(ports: tuple[ServicePort, ...]) -> tuple[ServicePort, ...]:
    """One and the same tuple for equal ones: most Services have a port like many others'."""
    return ports


def _drain_deadline_s(wire: ServiceWire, flaws: list[FieldError]) -> float | None:
    """How long a TCP real server may drain, by our annotation; None: it says nothing."""
    text = ((wire.metadata or NO_META).annotations or NO_ANNOTATIONS).drain_deadline
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        flaws.append(
            FieldError(_DRAIN_DEADLINE, f"{text!r:.64} is no duration: {error}", "such as 30s, 5m; 0s: no deadline")
        )
        return None
    if seconds < 0:
        flaws.append(FieldError(_DRAIN_DEADLINE, f"{text} is negative", "such as 30s, 5m; 0s: no deadline"))
    return seconds


def choose(field: str, table: dict[str | None, Meaning], value: str | None, flaws: list[FieldError]) -> Meaning:
    """What *table* says of *value*; what it says of an absent one, and a flaw, if it doesn't know it."""
    if value not in table:
        hint = f"one of {', '.join(key for key in table if key)}"
        flaws.append(FieldError(field, f"unknown value {value!r:.64}", hint))
        value = None
    return table[value]


def port_number(field: str, port: int | None) -> int:
    """*port* if TCP could use it.  Raises Flaw."""
    if port is None or not 1 <= port <= PORT_MAX:
        raise FieldError(field, "is missing" if port is None else f"{port} is not a port", f"1 to {PORT_MAX}")
    return port


def protocol(value: str | None) -> Protocol:
    """Raises Flaw if IPVS doesn't know it."""
    if value not in PROTOCOLS:
        raise FieldError("protocol", f"unknown protocol {value!r:.64}", "TCP, UDP or SCTP")
    return PROTOCOLS[value]


def _port(wire: ServicePortWire) -> ServicePort:
    node_port = port_number("nodePort", wire.node_port) if wire.node_port else 0
    return ServicePort(wire.name or "", protocol(wire.protocol), port_number("port", wire.port), node_port)


def _port_or_none(field: str, port: int | None, flaws: list[FieldError]) -> int:
    """*port*, 0 if it is absent or refused."""
    return next(iter(read_one(field, port, partial(port_number, ""), flaws) if port else ()), 0)


def _refuse_duplicates(ports: list[ServicePort], flaws: list[FieldError]) -> None:
    """Each name, each port and each node port (of a protocol) may stand but once, as the API server has it."""
    seen: set[object] = set()
    for index, port in enumerate(ports):
        marks: dict[str, object] = {"name": port.name, "port": (port.protocol, port.port)}
        if port.node_port:
            marks["nodePort"] = (port.protocol, "node", port.node_port)
        for field, mark in marks.items():
            if mark in seen:
                hint = "ports need names if there are several" if mark == "" else ""
                flaws.append(FieldError(f"spec.ports[{index}].{field}", "is the same as another port's", hint))
        seen.update(marks.values())


def _cluster_ips(spec: ServiceSpecWire, flaws: list[FieldError]) -> tuple[IP, ...]:
    """At most one address of each family; none if headless, or not allocated.

    The API server always fills in clusterIP, clusterIPs and ipFamilies alike.  A manifest may have one of the first
    two and no families, which then are the addresses' own.
    """
    first = spec.cluster_ip or (spec.cluster_ips or [""])[0]
    if not first or first == "None":
        return ()
    if spec.cluster_ips:
        cluster_ips = read_each("spec.clusterIPs", spec.cluster_ips, canonical_ip, flaws)
    else:
        cluster_ips = read_one("spec.clusterIP", first, canonical_ip, flaws)
    families = [family_of(ip) for ip in cluster_ips]
    if len(set(families)) < len(families):
        flaws.append(FieldError("spec.clusterIPs", "has two addresses of one family"))
    if spec.cluster_ips and spec.cluster_ip and spec.cluster_ips[0] != spec.cluster_ip:
        flaws.append(FieldError("spec.clusterIP", "is not the first of spec.clusterIPs", "leave one of the two out"))
    if spec.ip_families:
        _check_families(spec.ip_families, families, flaws)
    return tuple(cluster_ips)


def _check_families(written: list[str], families: list[Family], flaws: list[FieldError]) -> None:
    for index, (said, found) in enumerate(zip(written, families, strict=False)):
        if said != found:
            hint = "" if said in FAMILIES else f"one of {', '.join(FAMILIES)}"
            flaws.append(FieldError(f"spec.ipFamilies[{index}]", f"{said!r:.64}, but the address is {found}", hint))


def _load_balancer_ips(wire: ServiceWire, flaws: list[FieldError]) -> tuple[IP, ...]:
    """Ingress addresses that want to be answered here: not host names, not ipMode Proxy (KEP-1860)."""
    balancer = wire.status and wire.status.load_balancer
    if not balancer or not balancer.ingress:
        return ()
    read = read_each("status.loadBalancer.ingress", balancer.ingress, _ingress_ip, flaws)
    return _unique(ip for ip in read if ip)


def _ingress_ip(wire: IngressWire) -> IP:
    """The address, or "" if there is none for us."""
    found: list[FieldError] = []
    wanted = choose("ipMode", _IP_MODES, wire.ip_mode, found)
    if found:
        raise found[0]
    try:
        return canonical_ip(wire.ip) if wire.ip and wanted else ""
    except FieldError as flaw:
        raise flaw.under("ip") from None


def _affinity_timeout_s(spec: ServiceSpecWire, flaws: list[FieldError]) -> int:
    if not choose("spec.sessionAffinity", _AFFINITIES, spec.session_affinity, flaws):
        return 0
    config = spec.session_affinity_config and spec.session_affinity_config.client_ip
    timeout_s = config.timeout_seconds if config else None
    if timeout_s is None:
        return AFFINITY_DEFAULT_S
    if not 1 <= timeout_s <= AFFINITY_MAX_S:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        flaws.append(FieldError(field, f"{timeout_s} is not a timeout", f"1 to {AFFINITY_MAX_S} seconds"))
    return timeout_s


def _proxy_name(wire: ServiceWire) -> str:
    """The label's value.  An empty one, too, says that the Service is somebody else's: upstream asks if it is there."""
    name = ((wire.metadata or NO_META).labels or NO_LABELS).proxy_name
    return "(empty)" if name == "" else name or ""


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
