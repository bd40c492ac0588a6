"""The documents that an agent publishes of its state, and which commands and pages render: version 1.

docs/state.md is generated from this module (`make state-page`): each class is a JSON object, each field a member of it,
in camelCase.

Invariants:
- Within a version, members are added, never changed or removed.
- Times are RFC 3339 in UTC; "" means never, or unknown.  Numbers that were not read are null.
"""

from typing import Any, Literal

from msgspec import Struct

VERSION = "kubeproxy-py/v1"

RealServerStatus = Literal["serving", "set aside", "draining", "pending", "failing"]
VirtualServerStatus = Literal["serving", "unserved", "refused", "stale", "pending", "failing"]
RowStatus = Literal["present", "pending", "failing", "waiting", "under way", "draining"]
Verdict = Literal["well", "wrong"]


class Document(Struct, frozen=True, gc=False, rename="camel"):
    """Base of all parts of documents."""


class RealServerState(Document, frozen=True):
    """One endpoint that a virtual server sends connections to, or sent to until it began to drain."""

    address: str
    port: int
    status: RealServerStatus  # set aside, draining: no new connections; pending: not in the kernel; failing: refused
    weight: int | None = None  # in the kernel; null: it is not there
    pod: str = ""  # name of the pod, which is in the namespace of the Service
    node: str = ""
    zone: str = ""
    since: str = ""  # draining: since when
    deadline: str = ""  # draining: when it is deleted, even with connections; "": when it has none left
    error: str = ""  # why it is not as desired
    active: int | None = None  # active connections
    inactive: int | None = None  # inactive connections (closing, or UDP)
    max_connections: int = 0  # with which it gets no new ones, in the kernel; 0: no limit
    condition: str = ""  # what this node observed: that it is set aside, fails checks, or starts slowly


class VirtualServerState(Document, frozen=True):
    """One address and port at which a Service is served."""

    address: str
    port: int
    protocol: str
    kind: str  # ClusterIP, NodePort, LoadBalancer, externalIP; "": no Service has it
    status: VirtualServerStatus  # the worst that applies
    port_name: str = ""  # of the Service port
    scheduler: str = ""
    affinity_seconds: int = 0  # session affinity ClientIP; 0: none
    policy: str = ""  # traffic policy that applies here: Cluster, Local
    source_ranges: tuple[str, ...] = ()  # networks that may connect; empty: all
    reason_kind: str = ""  # why no endpoint answers: one of the kinds in compile/unserved.py
    reason: str = ""  # the same in words; for other states, what is wrong
    serving: int = 0  # real servers that get new connections
    draining: int = 0  # real servers that drain
    failing: int = 0  # real servers that are pending or failing
    active: int | None = None  # active connections of all real servers
    inactive: int | None = None
    real_servers: tuple[RealServerState, ...] | None = None  # null: not listed
    affinity_mask: str = ""  # of clients that share an endpoint by affinity, as ipvsadm prints it; "": none does
    scheduler_flags: tuple[str, ...] = ()  # fallback, port
    aside: int = 0  # endpoints that are set aside, also those that only clients of this node would reach here


class NextNode(Document, frozen=True):
    """A node to which direct server return hands clients on."""

    address: str
    name: str  # "": unknown
    weight: int  # of its endpoints together; 0: all of them are set aside


class HandingOnState(Document, frozen=True):
    """How clients outside are handed on to other nodes (annotation ``dsr``), at one Service port in one family."""

    way: str  # route, tunnel
    virtual_server: str = ""  # by firewall mark; "": nothing is handed on, because no other known node has endpoints
    frontends: tuple[str, ...] = ()  # that lead there, as ipset prints them
    nodes: tuple[NextNode, ...] = ()
    guard: str = ""  # by what a node knows what another one handed on, and so does not hand it on again


class ServiceState(Document, frozen=True):
    """One Service, and where it is served."""

    namespace: str
    name: str
    type: str  # of the Service; "": these virtual servers belong to no Service
    virtual_servers: tuple[VirtualServerState, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out of the objects, what is refused, what cannot be compiled
    settings: dict[str, str] = {}  # the annotations that are in force, as they were written
    handing_on: tuple[HandingOnState, ...] = ()  # empty without direct server return


class ScopeError(Document, frozen=True):
    """A part of kernel state that cannot be read now."""

    scope: str
    error: str


class RowState(Document, frozen=True):
    """A kernel object of the agent."""

    kind: str  # the kind of row, as the label of kubeproxy_ipvs_rows: VirtualServer, Address, ...
    key: str  # as ip, ipset, iptables and ipvsadm print it
    status: RowStatus
    desired: str = ""  # the spec that it should have; "": it has none, or the row is not desired
    actual: str = ""  # the spec that it has in the kernel
    in_kernel: bool = True
    error: str = ""  # why it is not as desired
    failures: int = 0  # consecutive
    retry_at: str = ""
    waits_for: str = ""  # the row that it waits for


class AgentState(Document, frozen=True):
    """The process, and what it did."""

    version: str
    node: str
    zone: str = ""
    is_agent: bool = True  # false: a command looked itself, because no agent answered
    problem: str = ""  # why it could not see everything
    started_at: str = ""
    source: str = ""  # where objects come from
    saved_at: str = ""  # not "": the API server does not answer, and objects saved then are served
    awaits: tuple[str, ...] = ()  # initial lists that were not received yet: services, slices, node
    has_read_kernel: bool = True
    last_sync: str = ""
    last_full_compare: str = ""
    full_compares: int = 0
    partial_compares: int = 0
    drift_found: dict[str, int] = {}  # rows by kind, since the start
    drift_repaired: dict[str, int] = {}
    disputed: int = 0  # times that a row had drifted again and again
    iptables: str = ""  # legacy or nft
    unread: tuple[ScopeError, ...] = ()
    config: dict[str, str] = {}  # the settings on which rows depend, and those that differ from the default


class Totals(Document, frozen=True):
    """Numbers of all that the agent has, whatever is listed."""

    services: int = 0
    virtual_servers: int = 0
    real_servers: int = 0
    draining: int = 0  # real servers
    rows: int = 0
    pending: int = 0  # rows that are not as desired, the failed ones among them
    failed: int = 0  # rows
    refusals: int = 0


class DrainState(Document, frozen=True):
    """A real server that drains."""

    namespace: str  # of the Service that has the virtual server; "": none has it
    name: str
    virtual_server: str
    real_server: str
    since: str
    deadline: str = ""  # when it is deleted, even with connections; "": when it has none left


class State(Document, frozen=True):
    """The state of an agent: /v1/state, /v1/status, and `status -o json`."""

    api_version: str
    kind: str  # State
    time: str  # of the snapshot
    agent: AgentState
    totals: Totals
    unsettled: tuple[RowState, ...] = ()  # rows that are not as desired; the first 1,000
    drains: tuple[DrainState, ...] = ()  # all real servers that drain; the first 1,000
    services: tuple[ServiceState, ...] = ()  # those that match the filters; the worst first


class EndpointState(Document, frozen=True):
    """One endpoint of a Service port, and why it gets connections or not."""

    port_name: str
    protocol: str
    family: str
    address: str
    port: int  # 0: it has no such port
    serves: tuple[str, ...]  # the kinds of addresses at which it gets new connections, also from this node only
    reason: str  # why it does, or does not
    pod: str = ""
    node: str = ""
    zone: str = ""
    slice: str = ""  # the EndpointSlice that has it
    weight: int | None = None  # with weights, or slow start: that of the endpoint; null: without, or it serves nothing
    weight_by: str = ""  # which of the weights gives it that: ``zone/a=3``, ``pool=large:4``; "": none fits
    ipvs_weights: tuple[int, ...] = ()  # those that it is to have in IPVS: in tenths with slow start, 0 if set aside


class ClaimState(Document, frozen=True):
    """That a Service asks for an address and port."""

    virtual_server: str
    service: str
    kind: str
    holds: bool  # it is served there; of several, one is


class ServiceExplanation(Document, frozen=True):
    """A Service, with all that follows from it."""

    service: ServiceState
    endpoints: tuple[EndpointState, ...] = ()
    rows: tuple[RowState, ...] = ()
    claims: tuple[ClaimState, ...] = ()  # all claims to its addresses and ports


class Explanation(Document, frozen=True):
    """The answer to `explain`: /v1/explain."""

    api_version: str
    kind: str  # Explanation
    time: str
    agent: AgentState
    target: str
    summary: str  # what the target is, in one sentence
    verdict: Verdict
    problems: tuple[str, ...] = ()  # what is wrong; empty if all is well
    services: tuple[ServiceExplanation, ...] = ()
    rows: tuple[RowState, ...] = ()  # of the target, that belong to no Service
    next: tuple[str, ...] = ()  # commands to look further
    remedies: tuple[str, ...] = ()  # what to do about the problems, and about what drains


class Config(Document, frozen=True):
    """The configuration of an agent: /v1/config."""

    api_version: str
    kind: str  # Config
    version: str  # of the agent
    source: str  # where its objects come from
    config: dict[str, Any]  # KubeProxyConfiguration, every field, as in a file
    settings: dict[str, Any]  # the settings that such a file has no field for, by their flags in camelCase


class Counters(Document, frozen=True):
    """What the kernel counted since the object was created; "received" is what clients sent."""

    connections: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class RealServerTraffic(Document, frozen=True):
    """Counters of one real server."""

    virtual_server: str
    address: str
    port: int
    weight: int
    active: int  # active connections
    inactive: int
    counters: Counters


class TrafficDocument(Document, frozen=True):
    """Counters of a Service's real servers: /v1/traffic."""

    api_version: str
    kind: str  # Traffic
    time_s: float  # of the agent's clock, which never goes back: rates are differences by it
    real_servers: tuple[RealServerTraffic, ...] | None = None  # null: the kernel cannot be read


class Rates(Document, frozen=True):
    """Counters per second."""

    connections: float = 0.0
    received_packets: float = 0.0
    sent_packets: float = 0.0
    received_bytes: float = 0.0
    sent_bytes: float = 0.0


class TopRealServer(Document, frozen=True):
    """One endpoint of a Service port, with what it gets at all its addresses."""

    address: str
    port: int
    status: Literal["serving", "draining"]  # draining: weight 0 at each virtual server
    rates: Rates | None  # null: it appeared since the first sample
    active: int = 0
    inactive: int = 0
    pod: str = ""
    node: str = ""


class TopService(Document, frozen=True):
    """One Service port, with all addresses at which it is served; or a virtual server of which no Service is known."""

    namespace: str
    name: str  # "": unknown
    port_name: str
    protocol: str
    addresses: tuple[str, ...]
    rates: Rates | None
    active: int = 0
    inactive: int = 0
    serving: int = 0  # real servers
    draining: int = 0
    real_servers: tuple[TopRealServer, ...] = ()


class Top(Document, frozen=True):
    """Traffic now: `top --once -o json`."""

    api_version: str
    kind: str  # Top
    time: str  # of the second sample
    interval_seconds: float  # between the samples
    problem: str = ""  # why Services are not named
    services: tuple[TopService, ...] = ()  # in the order and with the filter of the command line


class ErrorDocument(Document, frozen=True):
    """Why a request has no other document."""

    error: str
    nearest: tuple[str, ...] = ()  # names like the one that was asked for
