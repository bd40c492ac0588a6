"""The resident process: builds every object that ``run`` needs, in order, and connects them.

Each object is given those that it depends on, all of which exist before it: there is no late binding.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kubeproxy_py import __version__
from kubeproxy_py.commands.callbacks import (
    Callbacks,
    aside_recorder,
    call_each,
    once,
    settle,
    unserved_recorder,
)
from kubeproxy_py.commands.cleanup import warn_of_stale_rules
from kubeproxy_py.commands.endpoint_watch import EndpointWatch
from kubeproxy_py.commands.host_checks import HostChecks
from kubeproxy_py.commands.own_view import source_text
from kubeproxy_py.commands.parts import HostPlatform, Parts, make_agent, make_parts, served_addresses
from kubeproxy_py.commands.reload import ConfigFile, Reloader
from kubeproxy_py.commands.rivals import RivalWatch
from kubeproxy_py.commands.startup import release_api_server
from kubeproxy_py.commands.timeout_keeper import TimeoutKeeper
from kubeproxy_py.config.current import CurrentConfig
from kubeproxy_py.config.load import ConfigInput, LoadedConfig
from kubeproxy_py.diagnose.snapshot import About
from kubeproxy_py.events.kube_events import started_event
from kubeproxy_py.kernel.address.monitor import AddressMonitor
from kubeproxy_py.kernel.host_facts import HostFactsReader
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.worker import Worker
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.metrics.rest_client import RestClientMetrics
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.reconcile.loop import Loop
from kubeproxy_py.server.debug_socket import DebugServer
from kubeproxy_py.server.deferred import deferred
from kubeproxy_py.server.http import Handler
from kubeproxy_py.server.node_servers import Collectors, NodeServers, ServeError
from kubeproxy_py.server.snapshots import Snapshots
from kubeproxy_py.systemd import SystemdNotifier

if TYPE_CHECKING:
    from kubeproxy_py.server.ui import UiServer

_FLUSH_TIMEOUT_S = 5.0  # for the events of a process that cannot start

log = logging.getLogger(__name__)


class App(Struct, frozen=True, gc=False):
    """The resident process, not started yet."""

    node_name: str
    parts: Parts
    servers: NodeServers
    loop: Loop
    rules: Worker | None
    address_monitor: AddressMonitor
    endpoint_watch: EndpointWatch
    config_file: ConfigFile | None  # None: configured by flags only
    debug: DebugServer | None  # None: the state of the agent is served to nobody
    ui: "UiServer | None"  # None: no page is served

    def start(self) -> None:
        """Start the threads: event poster, servers, rules, source, address monitor, configuration file.

        Raises:
            ServeError: A server cannot listen, and bindAddressHardFail is set.
        """
        announcer = self.parts.announcer
        announcer.start()
        try:
            self.servers.start()
        except ServeError:
            announcer.flush(_FLUSH_TIMEOUT_S)  # the process exits, and nothing else posts the event
            raise
        if self.debug:
            self.debug.start()
        if self.ui:
            self.ui.start()
        release_api_server(self.parts.kernel, self.parts.api_servers())
        if self.rules:
            self.rules.start(self.loop.enqueue)
        self.parts.source.start(self.loop.enqueue)
        self.address_monitor.start()
        self.endpoint_watch.start(self.loop.enqueue)
        if self.config_file:
            self.config_file.start()
        announcer.publish(started_event(self.node_name))

    def run(self) -> None:
        """Sync in this thread until the process ends."""
        self.loop.run()


def build_app(
    loaded: LoadedConfig, config_input: ConfigInput, platform: HostPlatform, sysctls: Rows, notifier: SystemdNotifier
) -> App:
    """Return the resident process for *platform*, on which *sysctls* were applied."""
    current = CurrentConfig(loaded)
    collectors = _make_collectors(marks=current.get().agent.policy_marks is not None)
    registry, commands = collectors.registry, platform.iptables_commands
    parts = make_parts(loaded, platform, sysctls, collectors.client, served_addresses(platform.kernel))
    node, publish = platform.host.node_name, parts.announcer.publish
    servers = NodeServers(node, platform.host.families, current.get, collectors, publish)
    rivals = RivalWatch(node, publish, registry, servers.answers_locally)
    checks = HostChecks(node, HostFactsReader(commands).read, current.get, publish, registry)
    timeouts = TimeoutKeeper(current.get, IpvsAdapter())
    watch = EndpointWatch(parts.compiler, registry, watch_nodes=loaded.agent.watch_nodes)
    callbacks = Callbacks(
        on_disputed=rivals.on_disputed,
        on_marks=call_each(checks.on_suspects, lambda _suspects: timeouts.check()),
        on_compiled=watch.update,
        on_unserved=unserved_recorder(registry),
        on_aside=aside_recorder(registry),
    )
    agent = make_agent(loaded, parts, callbacks)
    on_report = call_each(
        settle(platform.rules),
        notifier.on_report,
        once("look for stale rules", lambda: warn_of_stale_rules(commands)),
        once("look for other proxies", rivals.watch),
        once("import documents", _import_documents),
        checks.callback(lambda: parts.compiler.cluster.node, lambda: _count_servers(parts.compiler.desired.counts)),
    )
    reloader = Reloader(current, agent, platform.host, notifier)
    loop = Loop(agent, on_report, reloader.apply, notifier.alive, servers.observer)
    snapshots = Snapshots(loop.request_snapshot, _about(current, parts, platform))
    servers.serve_documents(_documents(snapshots), snapshots.drop_unused)
    return App(
        node_name=node,
        parts=parts,
        servers=servers,
        loop=loop,
        rules=platform.rules,
        address_monitor=AddressMonitor(loop.enqueue),
        endpoint_watch=watch,
        config_file=ConfigFile(config_input, loop.enqueue, notifier) if config_input.path else None,
        debug=_make_debug_server(loaded.agent.debug_socket, snapshots),
        ui=_make_ui(loaded.agent.ui, snapshots),
    )


def _documents(snapshots: Snapshots, *, at_socket: bool = False) -> Handler:
    """Return what answers with documents of *snapshots*."""

    def make() -> Handler:
        from kubeproxy_py.server.documents import PAGES, PATIENT_S, SOCKET_PAGES, Documents

        if at_socket:
            return Documents(snapshots, IpvsAdapter, SOCKET_PAGES, PATIENT_S).answer
        return Documents(snapshots, IpvsAdapter, PAGES).answer

    return deferred(make)


def _import_documents() -> None:
    """Import them soon after the start: an agent must not read files of a version that is installed later."""
    import kubeproxy_py.server.documents  # noqa: F401 - to have it


def _make_debug_server(path: str, snapshots: Snapshots) -> DebugServer | None:
    return DebugServer(path, _documents(snapshots, at_socket=True)) if path else None


def _make_ui(at: SocketAddress | None, snapshots: Snapshots) -> "UiServer | None":
    if not at:
        return None
    from kubeproxy_py.server.ui import UiServer  # few agents have a page

    return UiServer(at, _documents(snapshots))


def _about(current: CurrentConfig, parts: Parts, platform: HostPlatform) -> Callable[[], About]:
    """Return a function that returns what is known of this process; any thread may call it."""
    started_s = time()

    def about() -> About:
        loaded = current.get()
        return About(
            version=__version__,
            started_s=started_s,
            source=source_text(loaded),
            saved_s=parts.saved_s(),
            rejected=parts.source.rejected(),
            iptables_backend=platform.iptables_backend,
            config=loaded.config,
            settings=loaded.agent,
        )

    return about


def _make_collectors(*, marks: bool) -> Collectors:
    registry = MetricsRegistry()
    make_reader = partial(IpvsAdapter, marks=marks)
    return Collectors(registry, RestClientMetrics(registry), make_traffic_reader=make_reader)


def _count_servers(counts: Mapping[str, int]) -> int:
    """Return the number of virtual and real servers among *counts* by kind."""
    return sum(counts.get(kind.__name__, 0) for kind in (VirtualServer, RealServer))
