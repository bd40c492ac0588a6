"""What is done at start, before any Service is: the scheduler tried, settings made, timeouts set.

Law: it touches no row of a Service, and what fails here is fatal unless Services are served all the same.  So a
process that can't have its settings ends and says which; what a predecessor programmed goes on serving.  kube-proxy
does the same, in this order, when it is constructed.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from kubeproxy_py.compile.base import LIMIT_FIELDS, OPTIONAL_SYSCTLS, Machine, desired_sysctls
from kubeproxy_py.compile.config_warnings import family_doubts
from kubeproxy_py.config.errors import ConfigError, ConfigProblem
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.kernel import SYSCTLS, Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.constants import Timeouts
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.services import Family, family_of
from kubeproxy_py.plan.plan import make_plan

log = logging.getLogger(__name__)


def prepare(loaded: LoadedConfig, kernel: Kernel, machine: Machine, families: Iterable[Family]) -> Rows:
    """Make this host ready; the rows of the settings that now stand, for the agent to keep.

    Raises ConfigError for what can't work on this host, KernelError for a scheduler that is not to be had, and for
    settings, all of them at once.
    """
    served = tuple(families)
    check_pod_networks(loaded.config, served)
    for doubt in family_doubts(loaded.config, served):
        log.warning(doubt)
    if not loaded.config.node_port_addresses:
        log.info("nodePortAddresses is empty: NodePorts answer at every address of this node; primary: at its own IP")
    ipvs = IpvsAdapter()
    try:
        check_scheduler(ipvs, loaded.config.ipvs.scheduler)
        settings = make_settings(kernel, wanted_settings(loaded, kernel, machine))
        set_timeouts(ipvs, loaded.config)
    finally:
        ipvs.close()
    return settings


def check_pod_networks(config: KubeProxyConfiguration, families: Iterable[Family]) -> None:
    """Raises ConfigError if pods are to be known by clusterCIDR, and it has no network of any family served.

    With no network at all none is expected, and the rules do without, as kube-proxy's.
    """
    if config.detect_local_mode != "ClusterCIDR":
        return
    served = tuple(families)
    if not config.cluster_cidr:
        log.warning("clusterCIDR is empty: traffic from outside the cluster to ClusterIPs can't be told from pods'")
    elif not any(family_of(network) in served for network in config.cluster_cidr):
        message = f"{', '.join(config.cluster_cidr)}: this host serves {' and '.join(served)} alone"
        hint = "a network of that family, or another detectLocalMode"
        raise ConfigError([ConfigProblem("clusterCIDR", message, hint)])


def wanted_settings(loaded: LoadedConfig, kernel: Kernel, machine: Machine) -> Rows:
    """The settings that the configuration asks for, given those that *kernel* has.  Raises KernelError."""
    may_lower = not LIMIT_FIELDS.isdisjoint(loaded.given)
    return desired_sysctls(loaded.config, machine, kernel.read(SYSCTLS), may_lower=may_lower)


def make_settings(kernel: Kernel, wanted: Rows) -> Rows:
    """Write those of *wanted* that are different; what the kernel says of them then, for it rounds some.

    Raises KernelError that names every setting, its value, and what to do.  A setting that is merely of use is
    warned of and left out.
    """
    plan = make_plan(wanted, kernel.read(SYSCTLS))
    failed = kernel.apply(plan).failed if plan.steps else ()
    fatal = [failure.message for failure in failed if failure.step.key not in OPTIONAL_SYSCTLS]
    if fatal:
        raise KernelError("; ".join(fatal), errno=failed[0].errno)
    for failure in failed:
        log.warning(f"{failure.message}; carrying on without")
    left_out = {failure.step.key for failure in failed}
    present = kernel.read(SYSCTLS)
    return {key: present[key] for key in wanted if key in present and key not in left_out}


def set_timeouts(ipvs: IpvsAdapter, config: KubeProxyConfiguration) -> None:
    """Set the timeouts of IPVS that are more than 0; failing is told, no more (as upstream)."""
    asked = timeouts_of(config)
    if asked == Timeouts():
        return
    try:
        ipvs.set_timeouts(asked)
    except KernelError as error:
        log.error(f"the timeouts stay as they are: {error}")


def timeouts_of(config: KubeProxyConfiguration) -> Timeouts:
    """In whole seconds, as the kernel counts; 0 leaves one as it is."""
    ipvs = config.ipvs
    return Timeouts(int(ipvs.tcp_timeout_s), int(ipvs.tcp_fin_timeout_s), int(ipvs.udp_timeout_s))


def set_oom_score(score: int, path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Tell the kernel how soon to end this process when memory is short; failing is told, no more (as upstream)."""
    try:
        if path.read_text().strip() != str(score):
            path.write_text(str(score))
    except OSError as error:
        log.warning(f"oomScoreAdj: {path} could not be set to {score}: {error.strerror}")
