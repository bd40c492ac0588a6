"""Wiring: a configuration -> the parts of an agent, put together.

Law: it makes and connects, and decides nothing.  Heavy libraries are imported by the parts that need them, when they
are made.
"""

import logging
from collections.abc import Callable
from socket import gethostname
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from kubeproxy_py.compile.base import Machine, desired_sysctls, sysctl_paths
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import node_warnings
from kubeproxy_py.compile.node_context import Host, NodeContext, make_node_context
from kubeproxy_py.config.load import LoadedConfig, node_name
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.external_ip_warnings import ExternalIpWarnings
from kubeproxy_py.kernel import SYSCTLS, Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.reconcile.reconciler import Reconciler, Settings, Timing
from kubeproxy_py.sources import Source
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

if TYPE_CHECKING:
    from kubeproxy_py.kernel.dispatch import Adapter
    from kubeproxy_py.kernel.host_probe import HostFacts
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands

log = logging.getLogger(__name__)


class HostPlatform(Struct, frozen=True, gc=False):
    """What an agent stands on: this host, its kernel, and who we are on it."""

    kernel: Kernel
    host: Host
    machine: Machine
    programs: "tuple[IptablesCommands, ...]" = ()


class Parts(Struct, frozen=True, gc=False):
    """What an agent is made of besides itself."""

    kernel: Kernel
    compiler: Compiler
    source: Source
    announcer: Announcer = Announcer()  # tells in the log alone


def host_facts(loaded: LoadedConfig) -> "HostFacts":
    """What this host can do; what it can't is told in the log."""
    from kubeproxy_py.kernel.host_probe import probe

    facts = probe(loaded.own.iptables_flavour)
    for problem in facts.problems:
        log.warning(str(problem))
    version = ".".join(map(str, facts.iptables_version))
    ipset = "ipset restore" if facts.ipset_by_tool else "netlink"
    log.info(
        f"this host: Linux {facts.kernel_release}, {' and '.join(facts.families)}, "
        f"iptables {version} ({facts.flavour}), ipsets by {ipset}"
    )
    return facts


def linux_kernel(loaded: LoadedConfig, facts: "HostFacts", machine: Machine) -> Kernel:
    """The kernel of this network namespace."""
    from kubeproxy_py.kernel.linux import LinuxKernel

    return LinuxKernel(
        facts.programs,
        sysctls=sysctl_paths(loaded.config, machine),
        ipset_by_tool=facts.ipset_by_tool,
        rules=_rules_by_libiptc(facts) if loaded.own.iptables_backend == "libiptc" else None,
    )


def real_platform(loaded: LoadedConfig) -> HostPlatform:
    """This host.  Raises KernelError with all that it lacks, ConfigError if it has no name."""
    facts = host_facts(loaded)
    facts.require()
    machine = Machine((facts.kernel_version[0], facts.kernel_version[1]), facts.cpus)
    name = node_name(loaded.config, gethostname())
    host = Host(name, facts.families, facts.random_fully, facts.match_ipvs)
    return HostPlatform(linux_kernel(loaded, facts, machine), host, machine, facts.programs)


def imagined_platform(loaded: LoadedConfig) -> HostPlatform:
    """A host that has nothing yet, which nobody needs to be root for."""
    return HostPlatform(MemoryKernel(), Host(node_name(loaded.config, gethostname())), Machine())


def make_parts(
    loaded: LoadedConfig,
    platform: HostPlatform,
    settings: Rows | None = None,
    tally: ClientMetrics = NULL_CLIENT_METRICS,
) -> Parts:
    """The parts on this *platform*; *settings* are those that it has been given (None: those that it would be)."""
    if settings is None:
        settings = desired_sysctls(loaded.config, platform.machine, platform.kernel.read(SYSCTLS))
    compiler = Compiler(_NodeContextFactory(loaded.config, platform.host), settings)
    source = make_source(loaded, platform.host.node_name, tally)
    return Parts(platform.kernel, compiler, source, make_announcer(loaded, source))


def real_parts(loaded: LoadedConfig) -> Parts:
    """The parts for this host.  Raises KernelError with all that the host lacks."""
    return make_parts(loaded, real_platform(loaded))


def imagined_parts(loaded: LoadedConfig) -> Parts:
    """The parts for a host that has nothing yet."""
    return make_parts(loaded, imagined_platform(loaded))


def _rules_by_libiptc(facts: "HostFacts") -> "Adapter":
    from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter

    return LibiptcAdapter(facts.programs, facts.flavour)


def make_source(loaded: LoadedConfig, name: str, tally: ClientMetrics = NULL_CLIENT_METRICS) -> Source:
    """The folder of manifests if there is one, else the API server."""
    if loaded.own.manifests:
        from kubeproxy_py.sources.manifests.source import ManifestFolder

        return ManifestFolder(loaded.own.manifests, name, tally)
    from kubeproxy_py.sources.kubernetes.source import KubeSource

    return KubeSource(loaded.config.client_connection.kubeconfig, loaded.own.master, name, tally=tally)


def make_announcer(loaded: LoadedConfig, source: Source) -> Announcer:
    """Tells people in the log, and by Events where the *source* is an API server."""
    if loaded.own.manifests:
        return Announcer()
    from random import random

    from kubeproxy_py.events.poster import Poster
    from kubeproxy_py.events.recorder import Recorder
    from kubeproxy_py.sources.kubernetes.source import KubeSource

    assert isinstance(source, KubeSource)
    return Announcer(Poster(source.access, Recorder(gethostname()), random))


def make_agent(loaded: LoadedConfig, parts: Parts, on_problem: Callable[[ObjectProblem], None]) -> Reconciler:
    """The agent of these *parts*."""
    ipvs = loaded.config.ipvs
    return Reconciler(
        parts.kernel,
        parts.compiler,
        monotonic,
        exclude=ipvs.exclude_cidrs,
        timing=_timing(loaded),
        on_problem=on_problem,
        on_compiled=ExternalIpWarnings(parts.compiler, parts.announcer.tell).look,
    )


def agent_settings(loaded: LoadedConfig, host: Host) -> Settings:
    """What a running agent takes over of another configuration."""
    return Settings(_NodeContextFactory(loaded.config, host), loaded.config.ipvs.exclude_cidrs, _timing(loaded))


def _timing(loaded: LoadedConfig) -> Timing:
    ipvs = loaded.config.ipvs
    return Timing(ipvs.sync_period_s, ipvs.min_sync_period_s, loaded.own.drain_deadline_s)


class _NodeContextFactory:
    """make_site by one configuration; what of the Node does not fit it is told once, until it changes."""

    def __init__(self, config: KubeProxyConfiguration, host: Host) -> None:
        self._config = config
        self._host = host
        self._told: tuple[str, ...] = ()

    def __call__(self, node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
        doubts = node_warnings(self._config, self._host.families, node)
        for doubt in doubts:
            if doubt not in self._told:
                log.warning(doubt)
        self._told = doubts
        return make_node_context(self._config, self._host, node, addresses)


def log_problem(problem: ObjectProblem) -> None:
    """Log an object that was rejected, with its field and the remedy."""
    log.error(str(problem))
