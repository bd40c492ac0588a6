"""The rows that exist without any Service: the device, the sets, the jumps, the kernel settings.

Law: a limit of connection tracking that the operator did not ask for is never lowered.  kube-proxy lowers
nf_conntrack_max to what its defaults come to, whatever an administrator had set; here a larger value stays, unless
conntrack.maxPerCore or conntrack.min stands in the configuration, which then is that administrator's word.
"""

from collections.abc import Mapping

from msgspec import Struct

from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import IPVS_DEVICE, JumpSpec, Link, Rows, Sysctl
from kubeproxy_py.model.services import Family

CONNTRACK_MAX = Sysctl("net/netfilter/nf_conntrack_max")
CONNTRACK_BUCKETS = Sysctl("/sys/module/nf_conntrack/parameters/hashsize")
_CONNTRACK_MAX_CAP = 1 << 20  # kube-proxy 1.36 scales no further than this
_CONNECTIONS_PER_BUCKET = 4

OPTIONAL_SYSCTLS = frozenset((CONNTRACK_BUCKETS,))
"""Settings without which every Service is served all the same; the hash table is slower when it is full, no more."""

LIMIT_FIELDS = frozenset(("conntrack.maxPerCore", "conntrack.min"))
"""The fields that mean nf_conntrack_max; one that is given may lower it."""


class Machine(Struct, frozen=True, gc=False):
    """What the kernel settings depend on besides the configuration."""

    kernel_version: tuple[int, int] = (6, 1)
    cpus: int = 1


def base_rows(families: tuple[Family, ...], settings: Rows, maxelems: Mapping[str, int] | None = None) -> Rows:
    """*settings*, the device, and every set and jump of *families*; *maxelems* as tables.ipsets takes them."""
    rows: Rows = {**settings, Link(IPVS_DEVICE): None}
    for family in families:
        for ipset, header in tables.ipsets(family, maxelems).items():
            rows[ipset] = header
        for jump, rule in tables.jumps(family).items():
            rows[jump] = JumpSpec(rule)
    return rows


def desired_sysctls(
    config: KubeProxyConfiguration, machine: Machine, present: Rows, *, may_lower: bool = False
) -> Rows:
    """The kernel settings that IPVS mode asks for, given those *present*.

    A larger nf_conntrack_max stays unless *may_lower*; a larger hash table stays in any case.
    """
    return {**_ipvs_settings(config, machine), **_conntrack_settings(config, machine, present, may_lower)}


def sysctl_paths(config: KubeProxyConfiguration, machine: Machine) -> tuple[str, ...]:
    """The paths of the settings that ``setting_rows`` asks for, whatever is present."""
    return tuple(key.path for key in desired_sysctls(config, machine, {}) if isinstance(key, Sysctl))


def _ipvs_settings(config: KubeProxyConfiguration, machine: Machine) -> Rows:
    values = {
        "net/ipv4/vs/conntrack": 1,  # without it no masquerading of what IPVS forwards
        "net/ipv4/vs/expire_nodest_conn": 1,
        "net/ipv4/vs/expire_quiescent_template": 1,
        "net/ipv4/ip_forward": 1,
    }
    # Before 5.9 re-use of a client port meets a delay of a second (kubernetes#81775); later kernels do it right.
    if (4, 1) <= machine.kernel_version < (5, 9):
        values["net/ipv4/vs/conn_reuse_mode"] = 0
    if config.ipvs.strict_arp:
        values |= {"net/ipv4/conf/all/arp_ignore": 1, "net/ipv4/conf/all/arp_announce": 2}
    return {Sysctl(path): str(value) for path, value in values.items()}


def _conntrack_settings(config: KubeProxyConfiguration, machine: Machine, present: Rows, may_lower: bool) -> Rows:
    conntrack = config.conntrack
    rows: Rows = {}
    limit = _conntrack_max(conntrack.max_per_core, conntrack.min, machine.cpus)
    if limit:
        rows[CONNTRACK_MAX] = str(limit if may_lower else max(limit, _number(present, CONNTRACK_MAX)))
        rows[CONNTRACK_BUCKETS] = str(max(limit // _CONNECTIONS_PER_BUCKET, _number(present, CONNTRACK_BUCKETS)))
    seconds = {
        "tcp_timeout_established": conntrack.tcp_established_timeout_s,
        "tcp_timeout_close_wait": conntrack.tcp_close_wait_timeout_s,
        "udp_timeout": conntrack.udp_timeout_s,
        "udp_timeout_stream": conntrack.udp_stream_timeout_s,
    }
    for name, value in seconds.items():
        if value > 0:
            rows[Sysctl(f"net/netfilter/nf_conntrack_{name}")] = str(int(value))
    if conntrack.tcp_be_liberal:
        rows[Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal")] = "1"
    return rows


def _conntrack_max(per_core: int, least: int, cpus: int) -> int:
    """Entries to allow; 0: leave alone.  The cap is on what the cores come to, not on what is asked for outright."""
    if per_core <= 0:
        return 0
    return _CONNTRACK_MAX_CAP if per_core * cpus > _CONNTRACK_MAX_CAP else max(per_core * cpus, least)


def _number(present: Rows, key: Sysctl) -> int:
    value = present.get(key)
    return int(value) if isinstance(value, str) and value.isdigit() else 0
