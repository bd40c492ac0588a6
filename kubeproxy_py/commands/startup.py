"""Preparation of the host before any Service is programmed: scheduler check, sysctls, IPVS timeouts.

Invariants:
- No row of a Service is touched, so traffic that a predecessor programmed continues.
- A failure is fatal unless Services can be served without it. kube-proxy does the same, in this order, when it is
  constructed.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from kubeproxy_py.compile.base import CONNTRACK_MAX_FIELDS, desired_sysctls, is_optional, suffices
from kubeproxy_py.compile.config_warnings import family_warnings, loopback_warnings
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.kernel import LINK, SYSCTLS, Kernel, ipset_scope
from kubeproxy_py.kernel.address.ipv6_switch import enable_ipv6, is_off_for_device
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import IPVS_DEVICE, Link, Rows, Sysctl
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.net import Family, SocketAddress, family_of
from kubeproxy_py.plan.api_server_release import SETS, hiding_keys, release_plan
from kubeproxy_py.plan.plan import make_plan

log = logging.getLogger(__name__)


def prepare_host(loaded: LoadedConfig, kernel: Kernel, host: HostInfo) -> Rows:
    """Check the scheduler, and apply sysctls and IPVS timeouts.

    Returns:
        The sysctls as they are now, for the agent to keep.

    Raises:
        ConfigError: The configuration cannot work on this host.
        KernelError: The scheduler is not available, or sysctls cannot be set; the message names all of them.
    """
    config = loaded.config
    check_pod_networks(config, host.families)
    for warning in (*family_warnings(config, host.families), *loopback_warnings(config, loaded.agent)):
        log.warning("%s", warning)
    if not config.node_port_addresses:
        log.info(
            "NodePorts are served on all node addresses; set nodePortAddresses: [primary] to restrict them to the "
            "node IP"
        )
    ipvs = IpvsAdapter()
    try:
        check_scheduler(ipvs, config.ipvs.scheduler)
        sysctls = apply_sysctls(kernel, desired_host_sysctls(loaded, kernel, host))
        set_timeouts(ipvs, config)
    finally:
        ipvs.close()
    if "IPv6" in host.families:
        enable_ipv6_on_device(kernel)
    return sysctls


def check_pod_networks(config: KubeProxyConfiguration, families: Iterable[Family]) -> None:
    """Check that clusterCIDR, if it identifies pods, has a network of a family that this host serves.

    No network at all is valid: rules then do not use it, as in kube-proxy.

    Raises:
        ConfigError: No network is of a served family.
    """
    if config.detect_local_mode != "ClusterCIDR":
        return
    served = tuple(families)
    if not config.cluster_cidr:
        log.warning(
            "clusterCIDR is empty; traffic from outside the cluster to ClusterIPs cannot be distinguished from pod "
            "traffic"
        )
    elif not any(family_of(network) in served for network in config.cluster_cidr):
        message = f"{', '.join(config.cluster_cidr)}: this host serves only {' and '.join(served)}"
        hint = "set a network of that family, or another detectLocalMode"
        raise ConfigError([Problem(field="clusterCIDR", message=message, hint=hint)])


def desired_host_sysctls(loaded: LoadedConfig, kernel: Kernel, host: HostInfo) -> Rows:
    """Return the sysctls that the configuration requires, given the values that *kernel* has.

    Raises:
        KernelError: The sysctls cannot be read.
    """
    may_lower = not CONNTRACK_MAX_FIELDS.isdisjoint(loaded.given_fields)
    return desired_sysctls(loaded.config, host, kernel.read(SYSCTLS), may_lower=may_lower)


def apply_sysctls(kernel: Kernel, desired: Rows) -> Rows:
    """Write the sysctls of *desired* that differ.

    Returns:
        The sysctls of *desired* as the kernel reports them now (it rounds some), without those that could not be set.

    Raises:
        KernelError: Sysctls cannot be set; the message names each one, its value and the remedy. An optional sysctl
            is not an error, but logged; one that allows more than is wanted is neither.
    """
    plan = make_plan(desired, kernel.read(SYSCTLS))
    failures = kernel.apply(plan).failures if plan.steps else ()
    fatal = [failure.message for failure in failures if not _is_optional(failure)]
    if fatal:
        raise KernelError("; ".join(fatal), errno=failures[0].errno)
    present = kernel.read(SYSCTLS)
    for failure in failures:
        _log_optional(failure, present)
    failed_keys = {failure.step.key for failure in failures}
    return {key: present[key] for key in desired if key in present and key not in failed_keys}


def _is_optional(failure: StepFailure) -> bool:
    key = failure.step.key
    return isinstance(key, Sysctl) and is_optional(key, failure.errno)


def _log_optional(failure: StepFailure, present: Rows) -> None:
    """Log that an optional sysctl cannot be set; at -v2 if its value in *present* suffices."""
    key, wanted = failure.step.key, str(failure.step.spec)
    value = str(present.get(key, ""))
    if isinstance(key, Sysctl) and suffices(key, value, wanted):
        details = values(sysctl=key, value=value, wanted=wanted, err=failure.message)
        log.log(level(2), "A limit cannot be lowered; leaving it, because it is large enough", extra=details)
        return
    log.warning("Failed to set an optional sysctl, continuing without it", extra=values(err=failure.message))


def enable_ipv6_on_device(kernel: Kernel) -> None:
    """Create kube-ipvs0 with IPv6 enabled, if new interfaces have it disabled; a failure is only logged.

    It is done here because it needs the privileges of ``--init-only``.
    """
    if not is_off_for_device():
        return
    failures = kernel.apply(Plan((Step("add", Link(IPVS_DEVICE)),))).failures
    if problem := "; ".join(failure.message for failure in failures) or enable_ipv6():
        log.warning("Failed to enable IPv6 on kube-ipvs0; IPv6 Services cannot be served", extra=values(err=problem))


def release_api_server(kernel: Kernel, servers: Collection[SocketAddress]) -> None:
    """Remove what hides the API server from this node, unless it is a ClusterIP's; a failure is only logged.

    Args:
        kernel: The kernel of this host.
        servers: Where this agent reaches the API server.
    """
    if not servers:
        return
    try:
        plan = _release_plan(kernel, servers)
        failures = kernel.apply(plan).failures if plan.steps else ()
    except KernelError as error:
        log.warning("Failed to check whether a Service hides the API server from this node", extra=values(err=error))
        return
    failed = {failure.step.key for failure in failures}
    for failure in failures:
        log.warning("Failed to remove what hides the API server from this node", extra=values(err=failure))
    for step in plan:
        if step.key not in failed:
            log.warning(
                "Removed an address or virtual server of a Service that hid the API server from this node; give the "
                "Service an address that no machine has",
                extra=values(kind=type(step.key).__name__, key=step.key),
            )


def _release_plan(kernel: Kernel, servers: Collection[SocketAddress]) -> Plan:
    """Return the plan that removes what hides *servers*; reads sets only if there may be something.

    Raises:
        KernelError: Kernel state cannot be read.
    """
    rows = kernel.read(LINK)
    for chunk in kernel.virtual_servers():  # without their real servers, which would take ten times as long
        rows |= chunk
    if not any(key in rows for key in hiding_keys(servers)):
        return Plan()
    scopes = set(kernel.scopes())
    for name in SETS:
        if (scope := ipset_scope(name)) in scopes:
            rows |= kernel.read(scope)
    return release_plan(rows, servers, [host.address for host in kernel.host_addresses()])


def set_timeouts(ipvs: IpvsAdapter, config: KubeProxyConfiguration) -> None:
    """Set the IPVS timeouts that are more than 0; a failure is only logged, as in kube-proxy."""
    timeouts = ipvs_timeouts(config)
    if timeouts == Timeouts():
        return
    try:
        ipvs.set_timeouts(timeouts)
    except KernelError as error:
        log.error("Failed to set IPVS timeouts, leaving them unchanged", extra=values(err=error))  # noqa: TRY400


def ipvs_timeouts(config: KubeProxyConfiguration) -> Timeouts:
    """Return the timeouts in integral seconds, the kernel's unit; 0 leaves a timeout unchanged."""
    ipvs = config.ipvs
    return Timeouts(int(ipvs.tcp_timeout_s), int(ipvs.tcp_fin_timeout_s), int(ipvs.udp_timeout_s))


def set_oom_score(score: int, path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Set oom_score_adj of this process to *score*; a failure is only logged, as in kube-proxy."""
    try:
        if path.read_text().strip() != str(score):
            path.write_text(str(score))
    except OSError as error:
        reason = values(file=path, score=score, err=error.strerror)
        log.warning("Failed to set oom_score_adj (oomScoreAdj)", extra=reason)
