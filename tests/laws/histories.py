"""Random histories of a small cluster, in which Services share addresses, change their type and lose their pods.

There are only four Services and few addresses, so that they often conflict.  Some addresses are those of an endpoint,
some become another machine's, and some are forbidden.
"""

from collections.abc import Iterable

from hypothesis import strategies as st

from kubeproxy_py.model.conditions import FULL_STEP, EndpointFailures, EndpointSteps, Failure
from kubeproxy_py.model.events import (
    NodeUpserted,
    ObjectEvent,
    PeerDeleted,
    PeersRefused,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    TakenAddresses,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import (
    Endpoint,
    EndpointSlice,
    ObjectName,
    Service,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kubeproxy_py.model.settings import NO_SETTINGS
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import Family, Protocol, SocketAddress
from kubeproxy_py.sources.decode.settings import PREFIX, read_settings
from tests.builders import HERE, THERE

_SERVICE_NAMES = [ObjectName("shop", n) for n in ("api", "cart", "db", "web")]
_CLUSTER_IPS = {n: (f"10.96.0.{i}", f"fd00:96::{i}") for i, n in enumerate(_SERVICE_NAMES, 10)}
_SHARED_CLUSTER_IPS = ("10.96.0.20", "fd00:96::20")  # of several Services, as only manifests can have it
_SHARED_IPS = ["203.0.113.7", "203.0.113.8", "2001:db8::7", "192.168.3.10", "10.96.0.10", "fd00:96::10", "127.0.0.1"]
_PODS = ["10.244.1.5", "10.244.1.6", "10.244.2.5", "10.244.2.6", "203.0.113.8"]
_PODS_6 = ["fd00:10:244:1::5", "fd00:10:244:2::5"]
_RANGES = ["0.0.0.0/0", "198.51.100.0/24", "192.168.3.0/24", "192.0.2.7/32", "2001:db8:1::/64"]

_TYPES: list[ServiceType] = ["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"]
_OTHER_PODS = ["10.244.1.7", "10.244.2.7"]  # in no other slice; slices 1 and 2 may have the same endpoints
_SLICES: list[tuple[str, Family, list[str]]] = [
    *(("1", "IPv4", _PODS), ("2", "IPv4", _PODS)),
    *(("3", "IPv4", _OTHER_PODS), ("6", "IPv6", _PODS_6)),
]

_ports = st.lists(
    st.builds(
        ServicePort,
        name=st.sampled_from(["a", "b"]),
        protocol=st.sampled_from(["TCP", "UDP", "SCTP"]),
        port=st.sampled_from([53, 80]),
        node_port=st.sampled_from([0, 0, 30053, 30080]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda port: (port.name, port.protocol),
).filter(lambda ports: len({(p.port, p.protocol) for p in ports}) == len(ports))


# Strategies are made once, not in each draw: making and validating them would take more time than drawing from them.
_shared = st.lists(st.sampled_from(_SHARED_IPS), max_size=2, unique=True).map(tuple)
_ranges = st.lists(st.sampled_from(_RANGES), max_size=2, unique=True).map(tuple)
_service_names = st.sampled_from(_SERVICE_NAMES)
_types = st.sampled_from(_TYPES)
_cluster_ips = {
    name: st.sampled_from([own_ips, own_ips, own_ips[:1], _SHARED_CLUSTER_IPS, ()])
    for name, own_ips in _CLUSTER_IPS.items()
}
_affinities_s = st.sampled_from([0, 0, 600])
_booleans = st.booleans()
_health_ports = st.sampled_from([0, 31000])
_proxy_names = st.sampled_from([None, None, None, "other"])
_creations_s = st.sampled_from([NEVER, 1.0, 2.0])
_ANNOTATIONS = {
    "scheduler": ["wrr", "mh", "sh", "rr", "none-such"],
    "source-hash-port": ["true", "false"],
    "weights": ["own-node=3", "zone/zone-a=2, others=5", "address/10.244.1.5=9", "pool=large:4, disk=ssd:2", "wrong"],
    "max-connections": ["5", "0"],
    "affinity-mask": ["ipv4/24", "ipv4/16,ipv6/64"],
    "affinity-timeout": ["1h"],
    "unknown": ["x"],
    "slow-start": ["30s"],
    "health-check": ["tcp"],
}
_settings = st.one_of(
    st.just(NO_SETTINGS),
    st.fixed_dictionaries(
        {}, optional={PREFIX + key: st.sampled_from(texts) for key, texts in _ANNOTATIONS.items()}
    ).map(read_settings),
)


@st.composite
def _services(draw: st.DrawFn) -> Service:
    name = draw(_service_names)
    kind = draw(_types)
    ips = draw(_cluster_ips[name])
    return Service(
        name,
        kind,
        ips,
        tuple(draw(_ports)),
        external_ips=draw(_shared),
        load_balancer_ips=draw(_shared) if kind == "LoadBalancer" else (),
        source_ranges=draw(_ranges),
        affinity_timeout_s=draw(_affinities_s),
        internal_local=draw(_booleans),
        external_local=draw(_booleans),
        health_check_node_port=draw(_health_ports),
        proxy_name=draw(_proxy_names),
        created_s=draw(_creations_s),
        settings=draw(_settings),
    )


services = _services()

_labels = {name: st.sampled_from([name] * 7 + _SERVICE_NAMES) for name in _SERVICE_NAMES}
"""By the Service for which a slice is named: the label may name another Service."""
_slice_kinds = st.sampled_from(_SLICES)
_endpoints = {
    suffix: st.lists(
        st.builds(
            Endpoint,
            address=st.sampled_from(pods),
            ready=_booleans,
            serving=_booleans,
            terminating=_booleans,
            node=st.sampled_from([HERE, THERE, ""]),
            zone_hints=st.sampled_from([(), ("zone-a",), ("zone-b",)]),
            node_hints=st.sampled_from([(), (), (HERE,), (THERE,)]),
            zone=st.sampled_from(["", "zone-a", "zone-b"]),
        ),
        max_size=4,
    )
    for suffix, _, pods in _SLICES
}
_pod_ports = st.sampled_from([8080, 8081])


@st.composite
def _slices(draw: st.DrawFn) -> EndpointSlice:
    named_for = draw(_service_names)
    service = draw(_labels[named_for])
    suffix, family, _ = draw(_slice_kinds)
    endpoints = draw(_endpoints[suffix])
    ports = [SlicePort(name, protocol, draw(_pod_ports)) for name in ("a", "b") for protocol in ("TCP", "UDP", "SCTP")]
    return EndpointSlice(
        ObjectName(named_for.namespace, f"{named_for.name}-{suffix}"),
        service,
        family,
        tuple(endpoints),
        tuple(ports),
    )


slices = _slices()

_nodes = st.builds(
    Node,
    name=st.just(HERE),
    zone=st.sampled_from(["", "zone-a", "zone-b"]),
    addresses=st.sampled_from([("192.168.3.10",), ("198.51.100.9",), ("192.168.3.10", "fd00:3::10")]),
)

_taken = st.builds(
    TakenAddresses,
    source=st.sampled_from(["API server", "gateways"]),
    addresses=st.dictionaries(st.sampled_from(_SHARED_IPS), st.just("a gateway of this node"), max_size=2),
    api_servers=st.sampled_from([(), (SocketAddress("203.0.113.7", 80), SocketAddress("192.168.3.10", 30080))]),
)

_peers = st.one_of(
    st.builds(
        PeerUpserted,
        st.sampled_from([HERE, THERE]),
        st.just(("192.168.3.11",)),
        st.sampled_from([("pool=large",), ("disk=ssd",), ("disk=ssd", "pool=large"), ()]),
    ),
    st.builds(PeerDeleted, st.sampled_from([HERE, THERE])),
    st.builds(PeersRefused, st.sampled_from(["", "forbidden"])),
)

_places = st.tuples(st.sampled_from([*_PODS, *_OTHER_PODS, *_PODS_6]), st.sampled_from([8080, 8081]))
_failures = st.dictionaries(_places, st.builds(Failure, st.sampled_from([1.0, 2.0, 3.0]), st.just("")), max_size=6)
_steps = st.dictionaries(_places, st.integers(1, FULL_STEP - 1), max_size=4)

events: st.SearchStrategy[ObjectEvent] = st.one_of(
    st.builds(ServiceUpserted, services),
    st.builds(ServiceUpserted, services),
    st.builds(SliceUpserted, slices),
    st.builds(SliceUpserted, slices),
    st.builds(ServiceDeleted, st.sampled_from(_SERVICE_NAMES)),
    st.builds(
        SliceDeleted,
        st.builds(
            lambda service, suffix: ObjectName(service.namespace, f"{service.name}-{suffix}"),
            st.sampled_from(_SERVICE_NAMES),
            st.sampled_from(["1", "2", "3", "6"]),
        ),
    ),
    st.builds(NodeUpserted, _nodes),
    _peers,
    _taken,
    st.builds(EndpointFailures, st.sampled_from(_SERVICE_NAMES), _failures),
    st.builds(EndpointSteps, st.sampled_from(_SERVICE_NAMES), _steps),
)
"""One change of one object."""

batches = st.lists(st.lists(events, min_size=1, max_size=6), min_size=1, max_size=5)
"""The events between one sync and the next, for several syncs."""


_EDITED = _SERVICE_NAMES[-1]
_EDITED_PODS: dict[Family, tuple[tuple[str, str], ...]] = {
    "IPv4": (("10.244.1.5", HERE), ("10.244.1.6", HERE), ("10.244.2.5", THERE), ("10.244.2.6", THERE)),
    "IPv6": (("fd00:10:244:1::5", HERE), ("fd00:10:244:2::5", THERE)),
}
_edited_types: st.SearchStrategy[ServiceType] = st.sampled_from(
    ["LoadBalancer", "LoadBalancer", "LoadBalancer", "NodePort", "ClusterIP"]
)
_edited_protocols: st.SearchStrategy[Protocol] = st.sampled_from(["TCP", "TCP", "UDP"])
_edited_external_ips = st.sampled_from(
    [("203.0.113.7", "2001:db8::7"), ("203.0.113.8",), ("2001:db8::7", "203.0.113.8")]
)
_edited_vips = st.sampled_from([("203.0.113.9", "2001:db8::9"), ("203.0.113.8", "2001:db8::9"), ()])
_edited_ranges = st.sampled_from([(), (), ("198.51.100.0/24", "2001:db8:1::/64"), ("203.0.113.250/32",)])
_mostly = st.sampled_from([True, True, False])


@st.composite
def _edits(draw: st.DrawFn) -> list[ObjectEvent]:
    """The Service and both slices of one edit: it has every kind of frontend, and endpoints here and elsewhere."""
    service = Service(
        _EDITED,
        draw(_edited_types),
        _CLUSTER_IPS[_EDITED],
        (ServicePort("a", draw(_edited_protocols), 80, 30080),),
        external_ips=draw(_edited_external_ips),
        load_balancer_ips=draw(_edited_vips),
        source_ranges=draw(_edited_ranges),
        external_local=draw(_booleans),
        internal_local=draw(_booleans),
    )
    return [ServiceUpserted(service), *draw(_slices_of(_EDITED))]


@st.composite
def _slices_of(draw: st.DrawFn, name: ObjectName) -> list[ObjectEvent]:
    """A slice of each family with some of few pods, which other Services may have, too."""
    endpoints = {
        family: tuple(Endpoint(pod, node=node) for pod, node in pods if draw(_mostly))
        for family, pods in _EDITED_PODS.items()
    }
    ports = tuple(SlicePort("a", protocol, 8080) for protocol in ("TCP", "UDP"))
    return [
        SliceUpserted(
            EndpointSlice(ObjectName("shop", f"{name.name}-{family}"), name, family, endpoints[family], ports)
        )
        for family in _EDITED_PODS
    ]


edits = st.lists(_edits(), min_size=2, max_size=5)
"""Edits of one Service, with a sync after each: policies, source ranges, addresses, type and endpoints change."""

_moved_ips = st.sampled_from([(), ("203.0.113.7", "2001:db8::7"), ("203.0.113.7", "192.168.3.10"), ("10.96.0.10",)])
_moved_types: st.SearchStrategy[ServiceType] = st.sampled_from(["LoadBalancer", "LoadBalancer", "ClusterIP"])
_moved_ports = st.sampled_from([80, 80, 80, 30080])
_moved_node_ports = st.sampled_from([0, 30080])
_moved_ranges = st.sampled_from([(), ("198.51.100.0/24", "2001:db8:1::/64"), ("203.0.113.250/32",)])
_moved_creations_s = st.sampled_from([1.0, 2.0])
_seldom = st.sampled_from([True, False, False])


@st.composite
def _moves(draw: st.DrawFn) -> list[ObjectEvent]:
    """Edits of two Services that ask for the same few addresses, as externalIP, load balancer's address or both."""
    events: list[ObjectEvent] = []
    for name in _SERVICE_NAMES[:2]:
        if draw(_seldom):
            events.append(ServiceDeleted(name))
            continue
        kind = draw(_moved_types)
        service = Service(
            name,
            kind,
            _CLUSTER_IPS[name],
            (ServicePort("a", "TCP", draw(_moved_ports), draw(_moved_node_ports)),),
            external_ips=draw(_moved_ips),
            load_balancer_ips=draw(_moved_ips) if kind == "LoadBalancer" else (),
            source_ranges=draw(_moved_ranges),
            external_local=draw(_booleans),
            internal_local=draw(_booleans),
            created_s=draw(_moved_creations_s),
        )
        events += [ServiceUpserted(service), *draw(_slices_of(name))]
    return events


moves = st.lists(_moves(), min_size=2, max_size=5)
"""Edits of two Services, with a sync after each, by which a frontend moves from one Service, or kind, to another."""


def known(history: Iterable[ObjectEvent]) -> list[ObjectEvent]:
    """The last event of each object that exists after *history*: what a newly started agent would receive."""
    last: dict[tuple[str, object], ObjectEvent] = {}
    for event in history:
        match event:
            case ServiceUpserted(service=service):
                last["Service", service.name] = event
            case ServiceDeleted(name=name):
                last.pop(("Service", name), None)
            case SliceUpserted(slice=endpoint_slice):
                last["EndpointSlice", endpoint_slice.name] = event
            case SliceDeleted(name=name):
                last.pop(("EndpointSlice", name), None)
            case PeerUpserted(name=name):
                last["Peer", name] = event
            case PeerDeleted(name=name):
                last.pop(("Peer", name), None)
            case PeersRefused():
                last["PeersRefused", ""] = event
            case TakenAddresses(source=source):
                last["TakenAddresses", source] = event
            case EndpointFailures(service=name) | EndpointSteps(service=name):
                last[type(event).__name__, name] = event
            case _:
                last["Node", HERE] = event
    return list(last.values())
