"""Builders of the parts that the commands share: host, kernel, compiler, source, event announcer, agent.

Invariants:
- Builders create and connect, and decide nothing.
- Heavy libraries are imported by the part that needs them, when it is created.
"""

import logging
from collections.abc import Callable, Collection
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
from kubeproxy_py.events.node_port_guard import NodePortGuard
from kubeproxy_py.events.service_warnings import ServiceWarnings
from kubeproxy_py.kernel import SYSCTLS, Kernel, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.listening import listening_sockets
from kubeproxy_py.kernel.host.reserved_ports import ReservedPorts, local_port_range
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.plan.ownership import NODE_PORT_SETS, node_ports_in
from kubeproxy_py.reconcile.agent import Agent, Settings, Timing
from kubeproxy_py.sources import Source
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

if TYPE_CHECKING:
    from kubeproxy_py.kernel.dispatch import Adapter
    from kubeproxy_py.kernel.host_probe import ProbeResult
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands
    from kubeproxy_py.sources.kubernetes.source import KubeSource

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
    api_servers: Callable[[], tuple[SocketAddress, ...]] = tuple  # where it is reached; raises SourceError


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
) -> Parts:
    """Return the parts of an agent on *platform*.

    Args:
        loaded: The configuration.
        platform: The host.
        sysctls: The sysctls that were applied; None: those that would be.
        metrics: Counts the requests of the source.
    """
    if sysctls is None:
        sysctls = desired_sysctls(loaded.config, platform.host, platform.kernel.read(SYSCTLS))
    compiler = Compiler(_NodeContextFactory(loaded.config, platform.host), sysctls)
    node = platform.host.node_name
    if loaded.agent.manifests:
        return Parts(platform.kernel, compiler, _manifest_source(loaded, node, metrics))
    source, announcer = _kubernetes_source(loaded, node, metrics)
    return Parts(platform.kernel, compiler, source, announcer, source.server_addresses)


def real_parts(loaded: LoadedConfig) -> Parts:
    """Return the parts of an agent on this host.

    Raises:
        KernelError: As real_platform.
        ConfigError: As real_platform.
    """
    return make_parts(loaded, real_platform(loaded))


def _manifest_source(loaded: LoadedConfig, node: str, metrics: ClientMetrics) -> Source:
    """Return the directory of manifests; there is no API server to post events to."""
    from kubeproxy_py.sources.manifests.source import ManifestSource

    return ManifestSource(loaded.agent.manifests, node, metrics)


def _kubernetes_source(loaded: LoadedConfig, node: str, metrics: ClientMetrics) -> "tuple[KubeSource, Announcer]":
    """Return the API server, and an announcer that posts events to it."""
    from random import random

    from kubeproxy_py.events.poster import Poster
    from kubeproxy_py.events.recorder import Recorder
    from kubeproxy_py.sources.kubernetes.source import KubeSource

    kubeconfig = loaded.config.client_connection.kubeconfig
    source = KubeSource(kubeconfig, loaded.agent.master, node, metrics=metrics)
    return source, Announcer(Poster(source.api, Recorder(gethostname()), random))


# Agent


def make_agent(loaded: LoadedConfig, parts: Parts, on_problem: Callable[[Problem], None]) -> Agent:
    """Return the agent of *parts*; *on_problem* is called for each rejected object."""
    return Agent(
        parts.kernel,
        parts.compiler,
        monotonic,
        exclude=loaded.config.ipvs.exclude_cidrs,
        timing=_timing(loaded),
        on_problem=on_problem,
        on_compiled=_checks_after_sync(loaded, parts),
    )


def _checks_after_sync(loaded: LoadedConfig, parts: Parts) -> Callable[[Collection[ServiceName]], None]:
    """Return what is called with the Services of each sync, after it."""
    publish = parts.announcer.publish
    reserve = _port_reserver(parts.kernel) if loaded.agent.reserve_node_ports else _reserve_nothing
    checks = (
        ServiceWarnings(parts.compiler, publish).check,
        NodePortGuard(parts.compiler, publish, listening_sockets, reserve, local_port_range).check,
    )

    def check(names: Collection[ServiceName]) -> None:
        for each in checks:
            each(names)

    return check


def _port_reserver(kernel: Kernel) -> Callable[[Collection[int], Collection[int]], None]:
    """Return a function that reserves NodePorts, and knows those that an earlier process reserved."""
    present = set(kernel.scopes())
    try:
        rows = [key for name in NODE_PORT_SETS if (scope := ipset_scope(name)) in present for key in kernel.read(scope)]
    except KernelError as error:
        log.debug("NodePorts of an earlier process not read; they stay reserved", extra=values(err=error))
        rows = []
    return ReservedPorts(node_ports_in(rows)).update


def _reserve_nothing(_added: Collection[int], _removed: Collection[int]) -> None:
    """Leave the reserved ports as they are."""


def agent_settings(loaded: LoadedConfig, host: HostInfo) -> Settings:
    """Return the settings that a running agent takes from a new configuration."""
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
    """Log a rejected object, with its field and the remedy."""
    log.error("%s", problem, extra=values(object=problem.where, field=problem.field))
