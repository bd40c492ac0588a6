"""Builders of the parts that the commands share: host, kernel, compiler, source, event announcer, agent.

Invariants:
- Builders create and connect, and decide nothing.
- Heavy libraries are imported by the part that needs them, when it is created.
"""

import logging
from collections.abc import Callable, Collection
from socket import gethostname
from time import monotonic, time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.commands.after_sync import checks_after_sync
from kubeproxy_py.commands.callbacks import Callbacks
from kubeproxy_py.compile.base import desired_sysctls, sysctl_paths
from kubeproxy_py.compile.compiler import Compiler, OnFailure
from kubeproxy_py.compile.config_warnings import mark_warnings, node_warnings, service_network_warnings
from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.load import LoadedConfig, node_name
from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.kube_events import Publish, compile_failed, list_doubted, saved_objects_replaced
from kubeproxy_py.kernel import LINK, SYSCTLS, Kernel
from kubeproxy_py.kernel.host.cpu_time import cpu_s
from kubeproxy_py.kernel.host.outgoing import outgoing_addresses
from kubeproxy_py.kernel.iptables.text import POLICY_TABLES, TABLES
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.kernel.worker import Worker
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.kube_names import POLICY_MARK_SETS
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Address, Rows
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, SocketAddress
from kubeproxy_py.reconcile.agent import Agent, Settings, Timing
from kubeproxy_py.reconcile.drift_watch import MARKS_PERIOD_S
from kubeproxy_py.sources import Source
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

if TYPE_CHECKING:
    from kubeproxy_py.kernel.dispatch import Adapter
    from kubeproxy_py.kernel.host_probe import ProbeResult
    from kubeproxy_py.kernel.iptables.backend import IptablesCommands
    from kubeproxy_py.sources.kubernetes.source import KubeSource

_COMMAND_SILENCE_S = 2.0  # a command has more time for its server than an agent, and gives up after 5 s

log = logging.getLogger(__name__)


class HostPlatform(Struct, frozen=True, gc=False):
    """The host that an agent programs, and its kernel."""

    kernel: Kernel
    host: HostInfo
    iptables_commands: "tuple[IptablesCommands, ...]" = ()
    rules: Worker | None = None  # reads and writes chains and jumps; not started
    iptables_backend: str = ""  # legacy or nft; "": unknown


class Parts(Struct, frozen=True, gc=False):
    """The parts of an agent that ``plan`` and ``status`` need too."""

    kernel: Kernel
    compiler: Compiler
    source: Source
    announcer: Announcer = Announcer()  # without an API server, events are only logged
    api_servers: Callable[[], tuple[SocketAddress, ...]] = tuple  # where it is reached; raises SourceError
    saved_s: Callable[[], float | None] = lambda: None  # when the objects of the source were saved; None: are current
    mark_range: MarkRange | None = None  # of exact policies, whether these are on or not; None: that of the default


# Host and kernel


def probe_host(loaded: LoadedConfig, *, require: bool = False, verbosity: int = 0) -> "ProbeResult":
    """Return the features of this host, and log those that are missing.

    Args:
        loaded: The configuration.
        require: Raise an error if the host lacks something essential.
        verbosity: From which -v on the features are logged.

    Raises:
        KernelError: With *require*: the host lacks something that every Service needs; the message names all of it.
    """
    from kubeproxy_py.kernel.host_probe import probe

    result = probe(loaded.agent.iptables_flavour, policies=loaded.agent.policy_marks is not None)
    for problem in result.problems:
        if not (require and problem.fatal):  # the error has it
            log.warning("%s", problem)
    features = values(
        kernel=result.kernel_release,
        families=",".join(result.host.families),
        iptables=".".join(map(str, result.iptables_version)),
        iptables_flavour=result.backend,
        ipset="ipset restore" if result.ipset_by_tool else "netlink",
    )
    log.log(level(verbosity), "Detected host features", extra=features)
    if require:
        result.require()
    return result


def linux_kernel(
    loaded: LoadedConfig,
    probed: "ProbeResult",
    rules: "Adapter | None" = None,
    sysctls: Collection[str] | None = None,
) -> Kernel:
    """Return the kernel of this network namespace.

    Args:
        loaded: The configuration.
        probed: What the host supports.
        rules: Reads and writes chains and jumps; None: by iptables' programs, in this thread.
        sysctls: The paths of the sysctls that it reads; None: those of the configuration.
    """
    from kubeproxy_py.kernel.linux import LinuxKernel

    return LinuxKernel(
        probed.commands,
        sysctls=sysctl_paths(loaded.config, probed.host) if sysctls is None else sysctls,
        use_ipset_command=probed.ipset_by_tool,
        rules_adapter=rules or _rules_adapter(loaded, probed),
        policies=has_policies(loaded),
    )


def has_policies(loaded: LoadedConfig) -> bool:
    """Return whether the kernel may have rows of exact policies: because they are on, or because they were."""
    from kubeproxy_py.kernel.ipset.headers import has_set

    return loaded.agent.policy_marks is not None or any(map(has_set, sorted(POLICY_MARK_SETS)))


def _rules_adapter(loaded: LoadedConfig, probed: "ProbeResult") -> "Adapter":
    tables = POLICY_TABLES if has_policies(loaded) else TABLES
    if loaded.agent.iptables_backend == "libiptc":
        from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter

        return LibiptcAdapter(probed.commands, probed.backend, tables)
    from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter

    return IptablesAdapter(probed.commands, tables)


def real_platform(loaded: LoadedConfig) -> HostPlatform:
    """Return this host.

    Raises:
        KernelError: The host lacks something that every Service needs; the message names all of it.
        ConfigError: The host has no name.
    """
    probed = probe_host(loaded, require=True)
    host = replace(probed.host, node_name=node_name(loaded.config, gethostname()))
    rules = Worker("rules", _rules_adapter(loaded, probed))
    return HostPlatform(linux_kernel(loaded, probed, rules), host, probed.commands, rules, probed.backend)


def empty_platform(loaded: LoadedConfig) -> HostPlatform:
    """Return a host whose kernel has no rows yet, kept in memory; needs no root."""
    name = node_name(loaded.config, gethostname())
    return HostPlatform(MemoryKernel(), HostInfo(name, outgoing_addresses=outgoing_addresses()))


# Compiler, source, announcer


def make_parts(  # noqa: PLR0913, PLR0917 - what the parts are made for
    loaded: LoadedConfig,
    platform: HostPlatform,
    sysctls: Rows | None = None,
    metrics: ClientMetrics = NULL_CLIENT_METRICS,
    served: frozenset[IP] | None = None,
    own_source: Source | None = None,
) -> Parts:
    """Return the parts of an agent on *platform*.

    Args:
        loaded: The configuration.
        platform: The host.
        sysctls: The sysctls that were applied; None: those that would be.
        metrics: Counts the requests of the source.
        served: For an agent that runs until the process ends, the Service addresses that the kernel serves; a source
            that has nothing for them is doubted.  None: for a command that runs once, and saves nothing.
        own_source: The source; None: that of the configuration.
    """
    if sysctls is None:
        sysctls = desired_sysctls(loaded.config, platform.host, platform.kernel.read(SYSCTLS))
    node, mark_range = platform.host.node_name, loaded.agent.mark_range

    def make_compiler(announcer: Announcer) -> Compiler:
        context_factory = _NodeContextFactory(loaded, platform.host)
        return Compiler(context_factory, sysctls, _report_failure_to(announcer.publish, node))

    if own_source:
        return Parts(platform.kernel, make_compiler(Announcer()), own_source, mark_range=mark_range)
    if loaded.agent.manifests:  # there is no API server to post events to
        folder, announcer = _manifest_source(loaded, node, metrics, served or frozenset()), Announcer()
        return Parts(platform.kernel, make_compiler(announcer), folder, announcer, mark_range=mark_range)
    source, announcer = _kubernetes_source(loaded, node, metrics, served)
    return Parts(
        platform.kernel,
        make_compiler(announcer),
        source,
        announcer,
        source.server_addresses,
        source.saved_s,
        mark_range,
    )


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


def _manifest_source(loaded: LoadedConfig, node: str, metrics: ClientMetrics, served: frozenset[IP]) -> Source:
    """Return the directory of manifests."""
    from kubeproxy_py.sources.manifests.source import ManifestSource

    confirm_empty = bool(served) and loaded.agent.removal_confirm_percent > 0
    return ManifestSource(loaded.agent.manifests, node, metrics, confirm_empty=confirm_empty)


def _kubernetes_source(
    loaded: LoadedConfig, node: str, metrics: ClientMetrics, served: frozenset[IP] | None
) -> "tuple[KubeSource, Announcer]":
    """Return the API server, and an announcer that posts events to it."""
    from random import random

    from kubeproxy_py.events.poster import Poster
    from kubeproxy_py.events.recorder import Recorder
    from kubeproxy_py.sources.kubernetes.saved_objects import SILENCE_S, Saving, Use
    from kubeproxy_py.sources.kubernetes.source import Caution, KubeSource

    def on_replaced(use: Use) -> None:
        served_s, age_s = max(0.0, time() - use.since_s), max(0.0, use.since_s - use.saved_s)
        announcer.publish(saved_objects_replaced(node, use.services, served_s, age_s))

    kubeconfig = loaded.config.client_connection.kubeconfig
    caution = Caution(
        loaded.agent.removal_confirm_percent,
        served or frozenset(),
        lambda doubt: announcer.publish(list_doubted(node, doubt.message)),
    )
    saving = None
    if loaded.agent.state_dir:
        is_resident = served is not None
        silence_s = SILENCE_S if is_resident else _COMMAND_SILENCE_S
        saving = Saving(loaded.agent.state_dir, loaded.agent.state_max_age_s, is_resident, silence_s, on_replaced)
    source = KubeSource(kubeconfig, loaded.agent.master, node, metrics=metrics, caution=caution, saving=saving)
    announcer = Announcer(Poster(source.api, Recorder(gethostname()), random))
    return source, announcer


# Agent


def make_agent(loaded: LoadedConfig, parts: Parts, callbacks: Callbacks = Callbacks()) -> Agent:  # noqa: B008 - frozen
    """Return the agent of *parts*, which logs rejected objects."""
    return Agent(
        parts.kernel,
        parts.compiler,
        monotonic,
        cpu_clock=cpu_s,
        exclude=loaded.config.ipvs.exclude_cidrs,
        keep_foreign=loaded.agent.keep_foreign_virtual_servers,
        mark_range=parts.mark_range,
        watch_nodes=loaded.agent.watch_nodes,
        timing=_timing(loaded),
        on_problem=log_problem,
        on_compiled=checks_after_sync(loaded, parts.compiler, parts.kernel, parts.announcer.publish, callbacks),
        on_disputed=callbacks.on_disputed,
        on_marks=callbacks.on_marks,
        watch_peers=parts.source.watch_peers,
    )


def agent_settings(loaded: LoadedConfig, host: HostInfo) -> Settings:
    """Return the settings that a running agent takes from a new configuration."""
    return Settings(_NodeContextFactory(loaded, host), loaded.config.ipvs.exclude_cidrs, _timing(loaded))


def _timing(loaded: LoadedConfig) -> Timing:
    ipvs = loaded.config.ipvs
    return Timing(
        ipvs.sync_period_s, ipvs.min_sync_period_s, loaded.agent.drain_deadline_s, marks_period_s=MARKS_PERIOD_S
    )


class _NodeContextFactory:
    """Builds the node context of one configuration, and logs once what in the Node does not fit it."""

    def __init__(self, loaded: LoadedConfig, host: HostInfo) -> None:
        self._config = loaded.config
        self._settings = loaded.agent
        self._host = host
        self._logged: tuple[str, ...] = ()  # the warnings of the last call

    def __call__(self, node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
        warnings = node_warnings(self._config, self._host.families, node)
        warnings += mark_warnings(self._settings.policy_marks, self._config.iptables.masquerade_bit, addresses)
        warnings += service_network_warnings(self._settings, node)
        for warning in warnings:
            if warning not in self._logged:
                log.warning("%s", warning)
        self._logged = warnings
        return make_node_context(self._config, self._host, node, addresses, self._settings)


def _report_failure_to(publish: Publish, node: str) -> OnFailure:
    """Return a function that logs what cannot be compiled, with the traceback, and publishes an Event."""

    def report(name: ServiceName | None, error: Exception) -> None:
        log.error(
            "Internal error (please report): the last change of this object is not applied, what was served before "
            "stays, and all others are served; it is tried again when it changes",
            extra=values(object=f"Service {name}" if name else f"Node {node}"),
            exc_info=error,
        )
        publish(compile_failed(name, node, error))

    return report


def log_problem(problem: Problem) -> None:
    """Log a rejected object, or the part of it that is left out, with its field and the remedy."""
    severity = logging.WARNING if problem.is_warning else logging.ERROR
    log.log(severity, "%s", problem, extra=values(object=problem.where, field=problem.field))
