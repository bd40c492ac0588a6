"""Builders of the parts that the commands share: host, kernel, compiler, source, event announcer, reconciler.

Invariants:
- Builders create and connect, and decide nothing.
- Heavy libraries are imported by the part that needs them, when it is created.
"""

import logging
from collections.abc import Callable
from socket import gethostname
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.compile.base import desired_sysctls, sysctl_paths
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.config_warnings import node_warnings
from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.load import LoadedConfig, node_name
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.external_ip_warnings import ExternalIpWarnings
from kubeproxy_py.events.kube_events import list_doubted
from kubeproxy_py.kernel import LINK, SYSCTLS, Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Address, Rows
from kubeproxy_py.net import IP
from kubeproxy_py.reconcile.agent import Agent, Settings, Timing
from kubeproxy_py.sources import Source
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

if TYPE_CHECKING:
    from kubeproxy_py.kernel.dispatch import Adapter
    from kubeproxy_py.kernel.host_probe import ProbeResult
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands

log = logging.getLogger(__name__)


class HostPlatform(Struct, frozen=True, gc=False):
    """The host that an agent programs, and its kernel."""

    kernel: Kernel
    host: HostInfo
    iptables_commands: "tuple[IptablesCommands, ...]" = ()


class Parts(Struct, frozen=True, gc=False):
    """The parts of an agent that ``plan`` and ``status`` need too."""

    kernel: Kernel
    compiler: Compiler
    source: Source
    announcer: Announcer = Announcer()  # without an API server, events are only logged


# Host and kernel


def probe_host(loaded: LoadedConfig) -> "ProbeResult":
    """Return the features of this host, and log those that are missing."""
    from kubeproxy_py.kernel.host_probe import probe

    result = probe(loaded.agent.iptables_flavour)
    for problem in result.problems:
        log.warning("%s", problem)
    features = values(
        kernel=result.kernel_release,
        families=",".join(result.host.families),
        iptables=".".join(map(str, result.iptables_version)),
        iptables_flavour=result.backend,
        ipset="ipset restore" if result.ipset_by_tool else "netlink",
    )
    log.info("Detected host features", extra=features)
    return result


def linux_kernel(loaded: LoadedConfig, probed: "ProbeResult") -> Kernel:
    """Return the kernel of this network namespace."""
    from kubeproxy_py.kernel.linux import LinuxKernel

    return LinuxKernel(
        probed.commands,
        sysctls=sysctl_paths(loaded.config, probed.host),
        use_ipset_command=probed.ipset_by_tool,
        rules_adapter=_libiptc_adapter(probed) if loaded.agent.iptables_backend == "libiptc" else None,
    )


def _libiptc_adapter(probed: "ProbeResult") -> "Adapter":
    from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter

    return LibiptcAdapter(probed.commands, probed.backend)


def real_platform(loaded: LoadedConfig) -> HostPlatform:
    """Return this host.

    Raises:
        KernelError: The host lacks something that every Service needs; the message names all of it.
        ConfigError: The host has no name.
    """
    probed = probe_host(loaded)
    probed.require()
    host = replace(probed.host, node_name=node_name(loaded.config, gethostname()))
    return HostPlatform(linux_kernel(loaded, probed), host, probed.commands)


def empty_platform(loaded: LoadedConfig) -> HostPlatform:
    """Return a host whose kernel has no rows yet, kept in memory; needs no root."""
    return HostPlatform(MemoryKernel(), HostInfo(node_name(loaded.config, gethostname())))


# Compiler, source, announcer


def make_parts(
    loaded: LoadedConfig,
    platform: HostPlatform,
    sysctls: Rows | None = None,
    metrics: ClientMetrics = NULL_CLIENT_METRICS,
    served: frozenset[IP] = frozenset(),
) -> Parts:
    """Return the parts of an agent on *platform*.

    Args:
        loaded: The configuration.
        platform: The host.
        sysctls: The sysctls that were applied; None: those that would be.
        metrics: Counts the requests of the source.
        served: The Service addresses that the kernel serves; a source that has nothing for them is doubted.
    """
    if sysctls is None:
        sysctls = desired_sysctls(loaded.config, platform.host, platform.kernel.read(SYSCTLS))
    compiler = Compiler(_NodeContextFactory(loaded.config, platform.host), sysctls)
    make_source = _manifest_source if loaded.agent.manifests else _kubernetes_source
    source, announcer = make_source(loaded, platform.host.node_name, metrics, served)
    return Parts(platform.kernel, compiler, source, announcer)


def real_parts(loaded: LoadedConfig) -> Parts:
    """Return the parts of an agent on this host.

    Raises:
        KernelError: As real_platform.
        ConfigError: As real_platform.
    """
    return make_parts(loaded, real_platform(loaded))


def served_addresses(kernel: Kernel) -> frozenset[IP]:
    """Return the Service addresses that a predecessor left on kube-ipvs0.  Raises KernelError."""
    return frozenset(key.address for key in kernel.read(LINK) if isinstance(key, Address))


def _manifest_source(
    loaded: LoadedConfig, node: str, metrics: ClientMetrics, served: frozenset[IP]
) -> tuple[Source, Announcer]:
    """Return the directory of manifests; there is no API server to post events to."""
    from kubeproxy_py.sources.manifests.source import ManifestSource

    confirm_empty = bool(served) and loaded.agent.removal_confirm_percent > 0
    return ManifestSource(loaded.agent.manifests, node, metrics, confirm_empty=confirm_empty), Announcer()


def _kubernetes_source(
    loaded: LoadedConfig, node: str, metrics: ClientMetrics, served: frozenset[IP]
) -> tuple[Source, Announcer]:
    """Return the API server, and an announcer that posts events to it."""
    from random import random

    from kubeproxy_py.events.poster import Poster
    from kubeproxy_py.events.recorder import Recorder
    from kubeproxy_py.sources.kubernetes.source import Caution, KubeSource

    kubeconfig = loaded.config.client_connection.kubeconfig
    caution = Caution(
        loaded.agent.removal_confirm_percent,
        served,
        lambda doubt: announcer.publish(list_doubted(node, doubt.message)),
    )
    source = KubeSource(kubeconfig, loaded.agent.master, node, metrics=metrics, caution=caution)
    announcer = Announcer(Poster(source.api, Recorder(gethostname()), random))
    return source, announcer


# Agent


def make_agent(loaded: LoadedConfig, parts: Parts, on_problem: Callable[[Problem], None]) -> Agent:
    """Return the reconciler of *parts*; *on_problem* is called for each rejected object."""
    return Agent(
        parts.kernel,
        parts.compiler,
        monotonic,
        exclude=loaded.config.ipvs.exclude_cidrs,
        timing=_timing(loaded),
        on_problem=on_problem,
        on_compiled=ExternalIpWarnings(parts.compiler, parts.announcer.publish).check,
    )


def agent_settings(loaded: LoadedConfig, host: HostInfo) -> Settings:
    """Return the settings that a running reconciler takes from a new configuration."""
    return Settings(_NodeContextFactory(loaded.config, host), loaded.config.ipvs.exclude_cidrs, _timing(loaded))


def _timing(loaded: LoadedConfig) -> Timing:
    ipvs = loaded.config.ipvs
    return Timing(ipvs.sync_period_s, ipvs.min_sync_period_s, loaded.agent.drain_deadline_s)


class _NodeContextFactory:
    """Builds the node context of one configuration, and logs once what in the Node does not fit it."""

    def __init__(self, config: KubeProxyConfiguration, host: HostInfo) -> None:
        self._config = config
        self._host = host
        self._logged: tuple[str, ...] = ()  # the warnings of the last call

    def __call__(self, node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
        warnings = node_warnings(self._config, self._host.families, node)
        for warning in warnings:
            if warning not in self._logged:
                log.warning("%s", warning)
        self._logged = warnings
        return make_node_context(self._config, self._host, node, addresses)


def log_problem(problem: Problem) -> None:
    """Log a rejected object, or the part of it that is left out, with its field and the remedy."""
    severity = logging.WARNING if problem.is_warning else logging.ERROR
    log.log(severity, "%s", problem, extra=values(object=problem.where, field=problem.field))
