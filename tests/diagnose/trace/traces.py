"""A node with Services of each kind, and traces on it, for the tests of trace."""

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.trace.lookup import RowLookup
from kubeproxy_py.diagnose.trace.objects import directory_of, known_to_compiler, objects_of
from kubeproxy_py.diagnose.trace.packet import Host
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import parse_request
from kubeproxy_py.diagnose.trace.result import Trace
from kubeproxy_py.diagnose.trace.ruleset import Ruleset, ruleset_of_rows, ruleset_of_save
from kubeproxy_py.model.events import NodeUpserted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.net import family_of
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service

CLUSTER_IP, LB_IP, EXTERNAL_IP, NODE_IP = "10.96.0.10", "192.0.2.80", "198.51.100.7", "192.168.3.10"
POD, OTHER_POD, REMOTE_POD = "10.244.1.5", "10.244.1.6", "10.244.2.5"
CLIENT = "203.0.113.9"
ADDRESSES = (
    HostAddress("cni0", "10.244.1.1", 24),
    HostAddress("eth0", NODE_IP, 24),
    HostAddress("eth0", "fd00:3::10", 64),
    HostAddress("kube-ipvs0", "10.96.9.9", 32),  # of a Service that is not desired any more
    HostAddress("lo", "127.0.0.1", 8),
)
HOST = Host(ADDRESSES)

_ENDPOINTS = (endpoint(POD), endpoint(REMOTE_POD, THERE))
_OBJECTS = (
    ServiceUpserted(service("web", [CLUSTER_IP], [port(80, node_port=30080)], type="NodePort")),
    SliceUpserted(endpoint_slice("web", _ENDPOINTS)),
    ServiceUpserted(
        service(
            "shop",
            ["10.96.0.20"],
            [port(443)],
            type="LoadBalancer",
            load_balancer_ips=(LB_IP,),
            source_ranges=("198.18.0.0/15", "192.0.2.0/24"),
        )
    ),
    SliceUpserted(endpoint_slice("shop", _ENDPOINTS)),
    ServiceUpserted(service("ext", ["10.96.0.30"], external_ips=(EXTERNAL_IP,), external_local=True)),
    SliceUpserted(endpoint_slice("ext", _ENDPOINTS)),
    ServiceUpserted(service("empty", ["10.96.0.40"])),
    ServiceUpserted(service("dns", ["10.96.0.53"], [port(53, "UDP")])),
    SliceUpserted(endpoint_slice("dns", [endpoint(POD)], 53, protocol="UDP")),
    ServiceUpserted(service("two", ["10.96.0.60"], [port(80, label="http"), port(443, label="https")])),
    ServiceUpserted(service("host", ["10.96.0.70"])),
    SliceUpserted(endpoint_slice("host", [endpoint(NODE_IP)], 6443)),
    ServiceUpserted(service("six", ["fd00:10:96::10"])),
    SliceUpserted(endpoint_slice("six", [endpoint("fd00:10:244:1::5"), endpoint("fd00:10:244:2::5", THERE)])),
    ServiceUpserted(service("headless", [])),
)


def compiler(**context: object) -> Compiler:
    compiled = Compiler(lambda _node, _addresses: node_context(**context))
    compiled.handle_event(NodeUpserted(Node(HERE, pod_cidrs=("10.244.1.0/24",))))
    for event in _OBJECTS:
        compiled.handle_event(event)
    compiled.compile()
    return compiled


COMPILER = compiler()
ROWS = COMPILER.desired.rows


def traced(
    source: str,
    target: str,
    in_interface: str = "",
    *,
    of: Compiler = COMPILER,
    host: Host = HOST,
    ruleset: Ruleset | None = None,
) -> Trace:
    request = parse_request(source, target, in_interface, directory_of(known_to_compiler(of)))
    return trace(of.desired.rows, host, request, objects_of(known_to_compiler(of)), ruleset)


def with_foreign(*lines: str, of: Compiler = COMPILER, target: str = CLUSTER_IP) -> Ruleset:
    """Our rules, with *lines* of iptables-save in the filter table, or those of the tables they begin with, before."""
    foreign = ruleset_of_save(lines)
    ours = ruleset_of_rows(RowLookup(of.desired.rows), family_of(target))
    keys = {*foreign.chains, *ours.chains}
    chains = {key: (*foreign.chains.get(key, ()), *ours.chains.get(key, ())) for key in keys}
    return Ruleset(chains, foreign.policies, has_foreign=True)
