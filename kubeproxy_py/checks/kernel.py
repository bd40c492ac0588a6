"""Check what differs between kernel versions and decides how well IPVS serves here.

The sysctls that IPVS mode needs are set by the agent (compile/base.py); what is found here is an administrator's to
decide, or needs another kernel.
"""

from collections.abc import Callable, Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import CONNECTIONS_PER_BUCKET_MAX, KernelFacts

_REUSE_MODE_UNNEEDED_SINCE = (5, 9)
_REUSE_MODE_HARMLESS_SINCE = (5, 16)
_ESTIMATION_BY_THREADS_SINCE = (6, 2)
_LEGACY_IS_OPTIONAL_SINCE = (6, 17)

ESTIMATION_S = 4e-8
"""What the estimation of one virtual or real server takes for each CPU: 200 ms for 50,000 on a host with 104 CPUs.

Source: Linux, commit 2232642ec3fb, ipvs: add sysctl_run_estimation to support disable estimation.
"""

STALL_MAX_S = 0.02
"""A longer stall of one CPU, every two seconds, is found."""

_TABLE_BITS_MAX = 20  # kernels before 6.5 take no more; 8 MiB


def check_kernel(situation: Situation) -> Iterator[Finding]:
    """Find what this kernel, or a setting of it, does worse than another."""
    kernel = situation.facts.kernel
    if kernel:
        for check in _CHECKS:
            if finding := check(kernel, situation):
                yield finding


def kernel_blind(situation: Situation) -> str:
    """Return why the kernel was not judged."""
    return "" if situation.facts.kernel else "version and settings of the kernel cannot be read"


def kernel_seen(situation: Situation) -> str:
    """Return the kernel, and that a setting is harmless which is known to have hurt."""
    kernel = situation.facts.kernel
    if not kernel:
        return ""
    name = f"Linux {kernel.version[0]}.{kernel.version[1]}"
    mode = kernel.ipvs_settings.get("conn_reuse_mode")
    if mode is None or kernel.version < _REUSE_MODE_HARMLESS_SINCE:
        return name
    return f"{name}; net.ipv4.vs.conn_reuse_mode is {mode}: since Linux 5.16 any value is harmless, so leave it"


def _check_source_ports(kernel: KernelFacts, _situation: Situation) -> Finding | None:
    """Find a kernel, or a setting, with which a client that reuses a source port may reach a pod that is gone.

    Before 5.9 mode 1 delays every such connection by a second, so kube-proxy and this agent set mode 0; before 5.16
    mode 0 sends it to the server of the last one, even if that drains (tests/e2e/test_source_ports.py).
    """
    mode = kernel.ipvs_settings.get("conn_reuse_mode")
    if mode is None:
        return None  # before 4.1; the probe of the host says so
    subject = "net.ipv4.vs.conn_reuse_mode"
    if kernel.version < _REUSE_MODE_UNNEEDED_SINCE:
        cause = "it is 0, as kube-proxy sets it before Linux 5.9"
        message = (
            "a client that connects again from the same port may be refused or delayed while the pod of its last "
            "connection is replaced"
        )
        hint = "run Linux 5.9 or later, where no such setting is needed"
        return Finding("SourcePortReuse", subject, message, hint, cause, "warning")
    if mode == 0 and kernel.version < _REUSE_MODE_HARMLESS_SINCE:
        cause = "it is 0, which only kernels before 5.9 need"
        message = (
            "a client that connects again from the same port may be sent to the pod of its last connection, even while "
            "that terminates"
        )
        hint = f"sysctl -w {subject}=1, and remove it from /etc/sysctl.d"
        return Finding("SourcePortReuse", subject, message, hint, cause)
    return None


def _check_estimation(kernel: KernelFacts, situation: Situation) -> Finding | None:
    """Find an estimation of rates that stalls a CPU; or one that is off, and so are the counters, without need."""
    subject = "net.ipv4.vs.run_estimation"
    state = kernel.ipvs_settings.get("run_estimation")
    stall_s = situation.servers * kernel.cpus * ESTIMATION_S
    stalls = kernel.version < _ESTIMATION_BY_THREADS_SINCE and stall_s > STALL_MAX_S
    if stalls and state != 0:
        cause = (
            f"every two seconds this kernel sums the counters of {situation.servers} virtual and real servers on "
            f"{kernel.cpus} CPUs in one go"
        )
        message = f"packets of that CPU wait for about {stall_s * 1000:.0f} ms"
        turn_off = f"sysctl -w {subject}=0, which also stops the traffic metrics of Services, or "
        hint = f"{turn_off * (state is not None)}run Linux 6.2 or later"
        return Finding("EstimationStalls", subject, message, hint, cause, "warning")
    if state == 0 and not stalls:
        cause = "it is 0: the kernel does not sum its counters"
        message = "kubeproxy_ipvs_service_* and ipvsadm --stats stand still"
        return Finding("EstimationOff", subject, message, f"sysctl -w {subject}=1", cause, "warning")
    return None


def _check_connection_table(kernel: KernelFacts, situation: Situation) -> Finding | None:
    """Find a hash table that is small for the connections of IPVS; where it grows (7.1), it grows to the same size."""
    if kernel.connections <= CONNECTIONS_PER_BUCKET_MAX * kernel.connection_buckets:
        return None
    tracked = situation.facts.conntrack.count if situation.facts.conntrack else 0
    bits = min(max(kernel.connections, tracked).bit_length(), _TABLE_BITS_MAX)
    cause = f"{kernel.connections} connections or more are in a table of {kernel.connection_buckets} buckets"
    message = f"each of their packets is compared with more than {CONNECTIONS_PER_BUCKET_MAX} others"
    hint = f"write 'options ip_vs conn_tab_bits={bits}' to /etc/modprobe.d/ip_vs.conf and reboot"
    return Finding("ConnectionTableSmall", "IPVS connection table", message, hint, cause, "warning")


def _check_legacy_tables(kernel: KernelFacts, _situation: Situation) -> Finding | None:
    """Find rules in legacy tables, where the kernel has nf_tables and its next update may lack them."""
    if not kernel.legacy or not kernel.has_nf_tables or kernel.version < _LEGACY_IS_OPTIONAL_SINCE:
        return None
    cause = (
        "its tables are an option of the kernel since Linux 6.17 (NETFILTER_XTABLES_LEGACY), which distributions leave "
        "out"
    )
    message = "after an update to such a kernel no Service is served"
    hint = "let kubelet, the CNI plugin and this agent (--iptables-flavour=nft) use iptables-nft"
    return Finding("LegacyTablesDeprecated", "iptables-legacy", message, hint, cause, "warning")


_CHECKS: tuple[Callable[[KernelFacts, Situation], Finding | None], ...] = (
    _check_source_ports,
    _check_estimation,
    _check_connection_table,
    _check_legacy_tables,
)
