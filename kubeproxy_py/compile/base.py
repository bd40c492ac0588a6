"""The rows that exist without any Service: device, sets, jumps and sysctls.

Invariants:
- A connection tracking limit that the operator did not configure is never lowered.  kube-proxy lowers nf_conntrack_max
  to the value of its defaults, even if an administrator had raised it; here the larger value stays unless
  conntrack.maxPerCore or conntrack.min is configured.
"""

from collections.abc import Collection, Mapping
from errno import EACCES, EPERM, EROFS

from msgspec.structs import replace

from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.rows import IPVS_DEVICE, JumpSpec, Link, LoopbackPath, LoopbackSpec, Rows, Sysctl
from kubeproxy_py.net import Family

CONNTRACK_MAX = Sysctl("net/netfilter/nf_conntrack_max")
CONNTRACK_BUCKETS = Sysctl("/sys/module/nf_conntrack/parameters/hashsize")
_CONNTRACK_MAX_CAP = 1 << 20  # entries; kube-proxy 1.36 scales no further
_CONNECTIONS_PER_BUCKET = 4

_CONNTRACK = "net/netfilter/nf_conntrack_"
_READ_ONLY = frozenset((EACCES, EPERM, EROFS))

CONNTRACK_MAX_FIELDS = frozenset(("conntrack.maxPerCore", "conntrack.min"))
"""The configuration fields that determine nf_conntrack_max; if one is given, the value may be lowered."""


def base_rows(  # noqa: PLR0913 - all that these rows depend on
    families: tuple[Family, ...],
    sysctls: Rows,
    maxelems: Mapping[str, int] | None = None,
    without_comments: Collection[Family] = (),
    *,
    policy_sets: bool = False,
    direct_sets: Collection[str] = (),
    policy_jumps: bool = False,
    loopback: Mapping[Family, LoopbackSpec] | None = None,
) -> Rows:
    """Return *sysctls*, the device, and every set and jump of *families*.

    Args:
        families: The address families that are served.
        sysctls: The rows of the kernel settings.
        maxelems: The maxelem of sets that differ from kube-proxy's, by name.
        without_comments: The families whose rules cannot have comments.
        policy_sets: The sets of exact policies, too.
        direct_sets: Those of direct server return that are among them.
        policy_jumps: The jumps of exact policies, too.
        loopback: The paths to node ports at loopback addresses, by family.
    """
    rows: Rows = {**sysctls, Link(IPVS_DEVICE): None}
    rows |= {LoopbackPath(family): spec for family, spec in (loopback or {}).items()}
    for family in families:
        for ipset, header in kube_names.ipsets(family, maxelems).items():
            rows[ipset] = header
        if policy_sets:
            unused = {each.name_in(family) for each in kube_names.POLICY_DIRECT_DEFINITIONS} - {*direct_sets}
            for ipset, header in kube_names.ipsets(family, maxelems, kube_names.POLICY_IPSET_DEFINITIONS).items():
                if ipset.name not in unused:
                    rows[ipset] = header
        comments = family not in without_comments
        for jump, rule in kube_names.jumps(family, comments=comments, policies=policy_jumps).items():
            rows[jump] = JumpSpec(rule)
    return rows


def desired_sysctls(config: KubeProxyConfiguration, host: HostInfo, present: Rows, *, may_lower: bool = False) -> Rows:
    """Return the sysctls that IPVS mode needs.

    Args:
        config: The configuration.
        host: This host.
        present: The present values; a larger hash table is never made smaller.
        may_lower: Whether nf_conntrack_max may be lowered.
    """
    return {**_ipvs_sysctls(config, host), **_conntrack_sysctls(config, host, present, may_lower=may_lower)}


def is_optional(sysctl: Sysctl, errno: int) -> bool:
    """Return whether every Service still works if *sysctl* cannot be set because of *errno*.

    The limits and timeouts of connection tracking are read-only in a nested container and, since Linux 5.12, in every
    network namespace but the initial one (kubernetes#141943); connections are tracked all the same.  Without the size
    of the hash table, a full one is slower.
    """
    return sysctl == CONNTRACK_BUCKETS or (sysctl.path.startswith(_CONNTRACK) and errno in _READ_ONLY)


def suffices(sysctl: Sysctl, present: str, wanted: str) -> bool:
    """Return whether the *present* value allows as much as *wanted*: that of a limit which is only larger."""
    limits = (CONNTRACK_MAX, CONNTRACK_BUCKETS)
    return sysctl in limits and present.isdecimal() and wanted.isdecimal() and int(present) >= int(wanted)


def sysctl_paths(config: KubeProxyConfiguration, host: HostInfo) -> tuple[str, ...]:
    """Return the paths of the sysctls that ``desired_sysctls`` sets, independent of their present values."""
    return tuple(key.path for key in desired_sysctls(config, host, {}) if isinstance(key, Sysctl))


def known_sysctl_paths(host: HostInfo) -> tuple[str, ...]:
    """Return the paths of the sysctls that this agent sets on *host* by any configuration."""
    config = KubeProxyConfiguration()
    every_s = 1.0
    conntrack = replace(
        config.conntrack,
        max_per_core=1,
        tcp_established_timeout_s=every_s,
        tcp_close_wait_timeout_s=every_s,
        udp_timeout_s=every_s,
        udp_stream_timeout_s=every_s,
        tcp_be_liberal=True,
    )
    return sysctl_paths(replace(config, ipvs=replace(config.ipvs, strict_arp=True), conntrack=conntrack), host)


def _ipvs_sysctls(config: KubeProxyConfiguration, host: HostInfo) -> Rows:
    values = {
        "net/ipv4/vs/conntrack": 1,  # required for masquerading what IPVS forwards
        "net/ipv4/vs/expire_nodest_conn": 1,
        "net/ipv4/vs/expire_quiescent_template": 1,
        "net/ipv4/ip_forward": 1,
    }
    # Before 5.9 the reuse of a client port is delayed by a second (kubernetes#81775); later kernels do not need this.
    if (4, 1) <= host.kernel_version < (5, 9):
        values["net/ipv4/vs/conn_reuse_mode"] = 0
    if config.ipvs.strict_arp:
        values |= {"net/ipv4/conf/all/arp_ignore": 1, "net/ipv4/conf/all/arp_announce": 2}
    return {Sysctl(path): str(value) for path, value in values.items()}


def _conntrack_sysctls(config: KubeProxyConfiguration, host: HostInfo, present: Rows, *, may_lower: bool) -> Rows:
    conntrack = config.conntrack
    rows: Rows = {}
    limit = _conntrack_max(conntrack.max_per_core, conntrack.min, host.cpus)
    if limit:
        rows[CONNTRACK_MAX] = str(limit if may_lower else max(limit, _number(present, CONNTRACK_MAX)))
        rows[CONNTRACK_BUCKETS] = str(max(limit // _CONNECTIONS_PER_BUCKET, _number(present, CONNTRACK_BUCKETS)))
    timeouts_s = {
        "tcp_timeout_established": conntrack.tcp_established_timeout_s,
        "tcp_timeout_close_wait": conntrack.tcp_close_wait_timeout_s,
        "udp_timeout": conntrack.udp_timeout_s,
        "udp_timeout_stream": conntrack.udp_stream_timeout_s,
    }
    for name, timeout_s in timeouts_s.items():
        if timeout_s > 0:
            rows[Sysctl(f"net/netfilter/nf_conntrack_{name}")] = str(int(timeout_s))
    if conntrack.tcp_be_liberal:
        rows[Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal")] = "1"
    return rows


def _conntrack_max(per_core: int, minimum: int, cpus: int) -> int:
    """Return the number of conntrack entries to allow; 0: do not change it.

    The cap applies to what the cores amount to, not to *minimum*.
    """
    if per_core <= 0:
        return 0
    return _CONNTRACK_MAX_CAP if per_core * cpus > _CONNTRACK_MAX_CAP else max(per_core * cpus, minimum)


def _number(present: Rows, key: Sysctl) -> int:
    value = present.get(key)
    return int(value) if isinstance(value, str) and value.isdigit() else 0
