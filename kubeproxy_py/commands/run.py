"""run: keep the kernel state in sync with Services until the process is stopped."""

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.commands.app import (
    HostPlatform,
    make_agent,
    make_parts,
    real_platform,
)
from kubeproxy_py.commands.startup import prepare, set_oom_score
from kubeproxy_py.events.kube_events import started_event
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.signals import block, handle_in_thread
from kubeproxy_py.systemd import SystemdNotifier

if TYPE_CHECKING:
    from kubeproxy_py.config.load import ConfigInput, LoadedConfig
    from kubeproxy_py.reconcile.loop import Loop

from kubeproxy_py.commands.app import log_problem
from kubeproxy_py.commands.exit_status import DONE, FAILED

log = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT)
_FLUSH_TIMEOUT_S = 5.0  # for the last words of a process that can't start


def run(loaded: "LoadedConfig", asked: "ConfigInput") -> int:
    """Keep the kernel as the Services ask.  SIGTERM or SIGINT end it at once; the kernel's state stays.

    SIGHUP has it look at the configuration file at once; without one it ends us, as it does kube-proxy.
    """
    from kubeproxy_py.commands.cleanup import warn_of_leftovers
    from kubeproxy_py.commands.reload import Reload
    from kubeproxy_py.kernel.address.monitor import AddressMonitor
    from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
    from kubeproxy_py.reconcile.loop import Loop
    from kubeproxy_py.server.observer import ServeError, ServerObserver

    supervisor = SystemdNotifier()
    faulthandler.enable()  # a watchdog's SIGABRT: the log shows where each thread was
    block((*_ENDING, signal.SIGHUP) if asked.path else _ENDING)
    handle_in_thread(_ENDING, partial(_end, supervisor))
    platform, settings = _prepare(loaded)
    set_oom_score(loaded.config.oom_score_adj)
    serving = ServerObserver(loaded, platform.host.node_name, platform.host.families, IpvsAdapter)
    parts = make_parts(loaded, platform, settings, serving.client_metrics)
    agent = make_agent(loaded, parts, log_problem)
    reload = Reload(loaded, agent, platform.host, supervisor)
    on_first = _after_first(lambda: warn_of_leftovers(platform.programs))
    serving.current = lambda: reload.loaded
    loop = Loop(agent, _both(supervisor.told, on_first), reload.take, supervisor.alive, serving)
    _watch_configuration(asked, loop, supervisor)
    monitor = AddressMonitor(loop.enqueue)
    parts.announcer.start()
    try:
        serving.start(parts.announcer.tell)
    except ServeError as error:
        log.error(f"{error}, and bindAddressHardFail is set")
        parts.announcer.flush(_FLUSH_TIMEOUT_S)
        return FAILED
    parts.source.start(loop.enqueue)
    monitor.start()
    parts.announcer.tell(started_event(platform.host.node_name))
    loop.run()
    return DONE


def init_only(loaded: "LoadedConfig") -> int:
    """Make the settings that need privileges, and set the timeouts; then NET_ADMIN and NET_RAW are enough to run."""
    _prepare(loaded)
    log.info("settings and timeouts are made; ends, for --init-only is given")
    return DONE


def _prepare(loaded: "LoadedConfig") -> tuple[HostPlatform, Rows]:
    """This host, made ready; with the settings that stand.  Raises ConfigError, KernelError."""
    log.info(f"kubeproxy-py {__version__} starts")
    platform = real_platform(loaded)
    return platform, prepare(loaded, platform.kernel, platform.machine, platform.host.families)


def _watch_configuration(asked: "ConfigInput", loop: "Loop", supervisor: SystemdNotifier) -> None:
    """Follow the configuration file, if there is one."""
    from kubeproxy_py.commands.reload import ConfigFile

    if asked.path:
        file = ConfigFile(asked, loop.enqueue, supervisor)
        handle_in_thread((signal.SIGHUP,), lambda _number: file.look_now())
        file.start()


def _both(one: Callable[[SyncReport], None], other: Callable[[SyncReport], None]) -> Callable[[SyncReport], None]:
    def on_report(report: SyncReport) -> None:
        one(report)
        other(report)

    return on_report


def _after_first(act: Callable[[], None]) -> Callable[[SyncReport], None]:
    """Has *act* done once, in a thread of its own, when the first sync is reported."""
    todo = [act]

    def on_report(_report: SyncReport) -> None:
        if todo:
            threading.Thread(target=todo.pop(), name="after the first sync", daemon=True).start()

    return on_report


def _end(supervisor: SystemdNotifier, number: signal.Signals) -> None:
    """Go at once: every prefix of a plan is a state in which packets are served, so there is nothing to finish."""
    log.info(f"ends on {number.name}; the kernel's state stays")
    supervisor.stopping()
    logging.shutdown()
    os._exit(DONE)  # at once: taking the interpreter apart takes up to 0.4 s, in which another signal would be heard
