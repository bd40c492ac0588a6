"""What the checks of this host look at: a value that is gathered at one moment.

A part that could not be read is empty or None, and the checks that need it find nothing.
"""

from msgspec import Struct

from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import Family


class ChainFacts(Struct, frozen=True, gc=False):
    """One iptables chain, built-in or of any program."""

    rules: tuple[str, ...] = ()  # as ``iptables-save`` prints them, without ``-A CHAIN ``
    policy: str = "-"  # of a built-in chain


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
