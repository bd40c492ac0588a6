"""KubeProxyConfiguration v1alpha1, and the settings that only this agent has.

Invariants:
- Each setting is declared here once, with its default and its type. Its name in the file follows from its name here
  (``upstream_name``); our names end with their unit.
- Defaults are kube-proxy's (1.36), except ``mode``, which is ``ipvs``.
"""

from functools import cache
from typing import Annotated, Any, Literal, get_origin

from msgspec import Struct

from kubeproxy_py.config.fields import (
    BOOLEAN,
    DIRECTORY,
    DURATION,
    FILE,
    FLUSH_FREQUENCY,
    MARK_MASK,
    NUMBER,
    PERIOD,
    TEXT,
    URL,
    FieldType,
    integer,
    one_of,
    pointer,
    unused,
)
from kubeproxy_py.config.kubeproxy_fields import (
    ADDRESS,
    CIDRS,
    CLUSTER_CIDR,
    FEATURE_GATES,
    INTERFACE,
    MODE,
    NODE_NAME,
    NODE_PORT_ADDRESSES,
    PORT_RANGE,
    QUANTITY,
    SCHEDULER,
    VERSION,
    VMODULE,
    Patterns,
    loopback_address,
    socket_address,
)
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.net import CIDR, IP, SocketAddress

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

HEALTHZ_PORT = 10256
METRICS_PORT = 10249
UI_PORT = 10247

DetectLocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
Flavour = Literal["auto", "legacy", "nft"]
Backend = Literal["restore", "libiptc"]
Policies = Literal["kube-proxy", "exact"]

_CAPITALS = {"Cidr": "CIDR", "Cidrs": "CIDRs", "Arp": "ARP", "Dsr": "DSR"}


def upstream_name(name: str) -> str:
    """Return the name in the file: ``excludeCIDRs`` for ``exclude_cidrs``, ``syncPeriod`` for ``sync_period_s``."""
    first, *rest = name.removesuffix("_s").split("_")
    return first + "".join(_CAPITALS.get(word.capitalize(), word.capitalize()) for word in rest)


class Section(Struct, frozen=True, gc=False, kw_only=True, rename=upstream_name):
    """A group of settings, each with a default."""


class ClientConnection(Section, frozen=True):
    """The connection to the API server; without a kubeconfig, that of the pod's service account."""

    kubeconfig: Annotated[str, FILE] = ""
    accept_content_types: Annotated[str, unused(TEXT)] = ""
    content_type: Annotated[str, unused(TEXT)] = "application/vnd.kubernetes.protobuf"
    qps: Annotated[float, unused(NUMBER)] = 5.0
    burst: Annotated[int, unused(integer(0))] = 10


class LogStream(Section, frozen=True):
    """Buffering of klog's streams; has no effect here."""

    split_stream: Annotated[bool, unused(BOOLEAN)] = False
    info_buffer_size: Annotated[str, unused(QUANTITY)] = "0"


class LogOptions(Section, frozen=True):
    """Options of each log format; have no effect here."""

    text: LogStream = LogStream()
    json: LogStream = LogStream()


class Logging(Section, frozen=True):
    """Format and verbosity of the log."""

    format: Annotated[Literal["text", "json"], one_of("log format", "text", "json")] = "text"
    flush_frequency_s: Annotated[float, unused(FLUSH_FREQUENCY)] = 5.0
    verbosity: Annotated[int, integer(0, metavar="LEVEL")] = 0
    vmodule: Annotated[Patterns, unused(VMODULE)] = ()
    options: LogOptions = LogOptions()


class Iptables(Section, frozen=True):
    """Settings of kube-proxy's iptables mode; IPVS mode uses the first two."""

    masquerade_bit: Annotated[int, pointer(integer(0, 31, metavar="BIT"))] = 14
    masquerade_all: Annotated[bool, BOOLEAN] = False
    localhost_node_ports: Annotated[bool, unused(pointer(BOOLEAN))] = True
    sync_period_s: Annotated[float, unused(PERIOD)] = 30.0
    min_sync_period_s: Annotated[float, unused(DURATION)] = 1.0


class Ipvs(Section, frozen=True):
    """Settings of IPVS mode; a timeout of 0 leaves the kernel's value unchanged."""

    sync_period_s: Annotated[float, PERIOD] = 30.0
    min_sync_period_s: Annotated[float, DURATION] = 0.0
    scheduler: Annotated[str, SCHEDULER] = "rr"
    exclude_cidrs: Annotated[tuple[CIDR, ...], CIDRS] = ()
    strict_arp: Annotated[bool, BOOLEAN] = False
    tcp_timeout_s: Annotated[float, DURATION] = 0.0
    tcp_fin_timeout_s: Annotated[float, DURATION] = 0.0
    udp_timeout_s: Annotated[float, DURATION] = 0.0


class Nftables(Section, frozen=True):
    """Settings of kube-proxy's nftables mode; have no effect here."""

    masquerade_bit: Annotated[int, unused(pointer(integer(0, 31)))] = 14
    masquerade_all: Annotated[bool, unused(BOOLEAN)] = False
    sync_period_s: Annotated[float, unused(PERIOD)] = 30.0
    min_sync_period_s: Annotated[float, unused(DURATION)] = 1.0


class Winkernel(Section, frozen=True):
    """Settings for Windows; have no effect here."""

    network_name: Annotated[str, unused(TEXT)] = ""
    source_vip: Annotated[str, unused(TEXT)] = ""
    enable_dsr: Annotated[bool, unused(BOOLEAN)] = False
    root_hns_endpoint_name: Annotated[str, unused(TEXT)] = ""
    forward_health_check_vip: Annotated[bool, unused(BOOLEAN)] = False


class DetectLocal(Section, frozen=True):
    """Parameters of ``detectLocalMode``, each required in the mode that it is named after."""

    bridge_interface: Annotated[str, INTERFACE] = ""
    interface_name_prefix: Annotated[str, INTERFACE] = ""


class Conntrack(Section, frozen=True):
    """Sysctls of the kernel's connection tracking; 0 leaves a value unchanged."""

    max_per_core: Annotated[int, pointer(integer(0))] = 32768
    min: Annotated[int, pointer(integer(0))] = 131072
    tcp_established_timeout_s: Annotated[float, pointer(DURATION)] = 86400.0
    tcp_close_wait_timeout_s: Annotated[float, pointer(DURATION)] = 3600.0
    tcp_be_liberal: Annotated[bool, BOOLEAN] = False
    udp_timeout_s: Annotated[float, DURATION] = 0.0
    udp_stream_timeout_s: Annotated[float, DURATION] = 0.0


class KubeProxyConfiguration(Section, frozen=True):
    """The file's settings, with every null and zero replaced by its default.

    ``healthz_bind_address`` None: no health server (``--healthz-port=0``).  ``node_port_addresses`` is empty (all
    addresses of the node), or networks and the words ``primary`` and ``localhost``.
    """

    feature_gates: Annotated[dict[str, bool], FEATURE_GATES] = {}
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: Annotated[str, NODE_NAME] = ""
    bind_address: Annotated[IP, ADDRESS] = "0.0.0.0"
    healthz_bind_address: Annotated[SocketAddress | None, socket_address(HEALTHZ_PORT)] = SocketAddress(
        "0.0.0.0", HEALTHZ_PORT
    )
    metrics_bind_address: Annotated[SocketAddress, socket_address(METRICS_PORT)] = SocketAddress(
        "127.0.0.1", METRICS_PORT
    )
    bind_address_hard_fail: Annotated[bool, BOOLEAN] = False
    enable_profiling: Annotated[bool, BOOLEAN] = False
    show_hidden_metrics_for_version: Annotated[str, unused(VERSION)] = ""
    mode: Annotated[Literal["ipvs"], MODE] = "ipvs"
    iptables: Iptables = Iptables()
    ipvs: Ipvs = Ipvs()
    nftables: Nftables = Nftables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: Annotated[
        DetectLocalMode,
        one_of("mode of local traffic detection", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
    ] = "ClusterCIDR"
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: Annotated[tuple[CIDR, ...], CLUSTER_CIDR] = ()
    node_port_addresses: Annotated[tuple[str, ...], NODE_PORT_ADDRESSES] = ()
    oom_score_adj: Annotated[int, pointer(integer(-1000, 1000, metavar="SCORE"))] = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period_s: Annotated[float, PERIOD] = 900.0
    port_range: Annotated[str, unused(TEXT)] = ""
    windows_run_as_service: Annotated[bool, unused(BOOLEAN)] = False


class AgentSettings(Section, frozen=True):
    """Settings that the file has no field for: kube-proxy's flags of that kind, then this agent's own."""

    master: Annotated[str, URL] = ""  # of the API server; overrides the kubeconfig's
    cleanup: Annotated[bool, BOOLEAN] = False
    init_only: Annotated[bool, BOOLEAN] = False
    write_config_to: Annotated[str, FILE] = ""
    manifests: Annotated[str, DIRECTORY] = ""  # watched instead of an API server
    iptables_flavour: Annotated[Flavour, one_of("iptables flavour", "auto", "legacy", "nft")] = "auto"
    iptables_backend: Annotated[Backend, one_of("iptables backend", "restore", "libiptc")] = "restore"
    traffic_series: Annotated[int, pointer(integer(0))] = 1000  # Service ports with their own traffic metrics; 0: none
    traffic_services_max: Annotated[int, pointer(integer(0))] = 20_000  # with more Service ports, no traffic metrics
    drain_deadline_s: Annotated[float, DURATION] = 0.0  # 0: a real server drains until it has no connections
    # A list that lacks a larger share of at least 10 objects, or all, is confirmed by a second one; 0: never
    removal_confirm_percent: Annotated[int, pointer(integer(0, 100, metavar="PERCENT"))] = 50
    healthz_at_service_addresses: Annotated[bool, BOOLEAN] = False  # for health checks of passthrough load balancers
    keep_foreign_virtual_servers: Annotated[bool, BOOLEAN] = False  # those that no set and no address of ours names
    state_dir: Annotated[str, DIRECTORY] = ""  # where objects are saved for the next start; "": nowhere
    state_max_age_s: Annotated[float, pointer(DURATION)] = 604_800.0  # older ones are not served; 0: of any age
    debug_socket: Annotated[str, FILE] = ""  # where the state of the agent is served to root; "": nowhere
    ui: Annotated[SocketAddress | None, loopback_address(UI_PORT)] = None  # where the page /ui is served; None: nowhere
    # For whom traffic policies apply: as in kube-proxy's IPVS mode, or exactly as in its nftables mode
    policies: Annotated[Policies, one_of("policies", "kube-proxy", "exact")] = "kube-proxy"
    policy_mark_mask: Annotated[int, MARK_MASK] = MarkRange().mask  # the bits of packet marks that exact policies use
    service_cidr: Annotated[tuple[CIDR, ...], CLUSTER_CIDR] = ()  # the networks of ClusterIPs, for exact policies
    # The ports at which NodePorts on loopback addresses are served
    node_port_range: Annotated[str, PORT_RANGE] = "30000-32767"
    reserve_node_ports: Annotated[bool, BOOLEAN] = True  # add NodePorts to net.ipv4.ip_local_reserved_ports
    watch_nodes: Annotated[bool, BOOLEAN] = False  # check the endpoints of all Services on other nodes

    @property
    def mark_range(self) -> MarkRange:
        """The marks that exact policies use."""
        return MarkRange(self.policy_mark_mask)

    @property
    def policy_marks(self) -> MarkRange | None:
        """The marks of exact policies; None if policies are kube-proxy's."""
        return self.mark_range if self.policies == "exact" else None


class Field(Struct, frozen=True, gc=False):
    """A setting, or a group of settings, as its section declares it."""

    name: str
    key: str  # the name in the file
    default: Any
    field_type: FieldType | None  # None: a group, whose type is that of its default


@cache
def fields_of(section: type[Section]) -> tuple[Field, ...]:
    """Return the fields of *section* in the order declared."""
    defaults = section()
    return tuple(
        Field(name, key, getattr(defaults, name), _field_type_of(section.__annotations__[name]))
        for name, key in zip(section.__struct_fields__, section.__struct_encode_fields__, strict=True)
    )


def _field_type_of(annotation: Any) -> FieldType | None:
    return annotation.__metadata__[0] if get_origin(annotation) is Annotated else None
