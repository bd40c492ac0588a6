"""What the checks of this host look at: values that are gathered at one moment.

A part that could not be read is empty or None, and the checks that need it find nothing; ``unread`` says why.
HostFacts are cheap to read, and the running agent reads them again and again; only ``doctor`` reads DoctorFacts.
"""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import IP, Family


class ChainFacts(Struct, frozen=True, gc=False):
    """One iptables chain, built-in or of any program."""

    rules: tuple[str, ...] = ()  # as ``iptables-save`` prints them, without ``-A CHAIN ``
    policy: str = "-"  # of a built-in chain


Part = Literal[
    "iptables", "bridges", "addresses", "kernel", "rights", "versions", "sets", "virtual servers", "IPVS timeouts",
    "processes", "routes", "pod networks", "API server", "certificates",
]  # fmt: skip
"""A part of the facts, by the name that ``doctor`` prints."""

Chains = dict[str, ChainFacts]
"""The chains of one table, by name."""


class ConntrackFacts(Struct, frozen=True, gc=False):
    """How full the table of tracked connections is."""

    count: int
    maximum: int  # 0: no limit
    drops: int  # packets that were dropped, and connections that had to make room, since the kernel started


CONNECTIONS_PER_BUCKET_MAX = 8
"""With more the table of IPVS connections counts as small; the connections are counted no further."""


class KernelFacts(Struct, frozen=True, gc=False, kw_only=True):
    """The kernel's version, and the settings and sizes of its IPVS and iptables."""

    version: tuple[int, int, int]
    cpus: int = 1
    ipvs_settings: dict[str, int] = {}  # sysctls of net/ipv4/vs by name; one that this kernel lacks is missing
    connection_buckets: int = 0  # of the hash table of IPVS connections, at most; 0: not known
    connections: int = 0  # in that table, counted up to CONNECTIONS_PER_BUCKET_MAX of each bucket and one more
    legacy: bool = False  # whether the agent's rules are in legacy tables
    has_nf_tables: bool = False  # whether the module is loaded


class HostFacts(Struct, frozen=True, gc=False, kw_only=True):
    """The host at one moment."""

    tables: dict[tuple[Family, Table], Chains] = {}
    bridges: tuple[str, ...] = ()  # names of those that have a port
    bridge_netfilter: dict[Family, bool] = {}  # whether iptables sees what is bridged
    conntrack: ConntrackFacts | None = None
    addresses: tuple[HostAddress, ...] = ()
    kernel: KernelFacts | None = None
    # By bridge, its ports that do not send a packet back where it came from.
    hairpin_off: dict[str, tuple[str, ...]] = {}
    unread: dict[Part, str] = {}  # why a part could not be read


class Rights(Struct, frozen=True, gc=False):
    """What this process may do."""

    user: int  # effective UID
    missing: tuple[str, ...] = ()  # capabilities that the agent needs and this process lacks


class Lack(Struct, frozen=True, gc=False):
    """A feature that the kernel, or a program, of this host lacks."""

    message: str
    hint: str = ""
    fatal: bool = False  # no Service can be served without it


class Outdated(Struct, frozen=True, gc=False):
    """A library that is older than this agent needs."""

    name: str
    version: str
    needed: str


AddressKind = Literal["ClusterIP", "externalIP", "load balancer address"]


class ServedAddress(Struct, frozen=True, gc=False, order=True):
    """A Service address that the sets of the kernel name."""

    address: IP
    kind: AddressKind


class Affinity(Struct, frozen=True, gc=False):
    """A virtual server with session affinity."""

    server: str
    timeout_s: int


class IpvsTimeouts(Struct, frozen=True, gc=False):
    """How long IPVS keeps idle connections."""

    tcp_s: int
    tcp_fin_s: int
    udp_s: int


class Certificate(Struct, frozen=True, gc=False):
    """A certificate that the agent uses towards the API server, or trusts."""

    role: str  # "client certificate", "certificate authority"
    place: str  # the file, and the field of the kubeconfig
    not_before_s: float  # seconds since 1970
    not_after_s: float


class ApiServer(Struct, frozen=True, gc=False):
    """What a request to the API server showed."""

    url: str
    error: str = ""  # "": it answered
    hint: str = ""
    skew_s: float | None = None  # how much our clock is ahead of its clock; None: it sent no Date


class DoctorFacts(Struct, frozen=True, gc=False, kw_only=True):
    """What only ``doctor`` looks at."""

    rights: Rights | None = None
    lacks: tuple[Lack, ...] = ()
    versions: dict[str, str] = {}  # of the kernel, programs and libraries, by name
    outdated: tuple[Outdated, ...] = ()
    sysctls: dict[str, str] = {}  # by path, as in a Sysctl row; one that the kernel lacks is missing
    read_only: frozenset[str] = frozenset()  # those of them that this process cannot write
    rp_filter: dict[str, int] = {}  # by interface, as it is in force
    interfaces_of_routes: frozenset[str] = frozenset()  # interfaces by which a gateway is reached
    interfaces: tuple[str, ...] = ()
    device_mtu: int | None = None  # of kube-ipvs0; None: it does not exist, or cannot be asked
    set_names: tuple[str, ...] = ()  # of all sets, of any program
    backend: str = ""  # the iptables backend that this agent uses here
    kubelet_backends: tuple[str, ...] = ()  # those in which kubelet has left a chain
    stale_rules: str = ""  # of another kube-proxy mode, in words
    programs: tuple[tuple[str, int], ...] = ()  # (program, pid) of those that matter to Service traffic
    served: frozenset[ServedAddress] = frozenset()
    node_ports: frozenset[int] = frozenset()
    affinities: tuple[Affinity, ...] = ()
    virtual_servers: int = 0
    foreign_servers: tuple[str, ...] = ()  # virtual servers that neither a set nor kube-ipvs0 names
    local_ports: tuple[int, int] = (0, -1)  # first and last port from which this host opens connections
    reserved_ports: frozenset[int] = frozenset()
    timeouts: IpvsTimeouts | None = None
    api_server: ApiServer | None = None
    certificates: tuple[Certificate, ...] = ()
    now_s: float = 0.0  # seconds since 1970
    unread: dict[Part, str] = {}
