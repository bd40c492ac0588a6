"""What each verb does, once the configuration is known.

Law: each function is one story from top to bottom, and returns an exit status.  Each raises KernelError or SourceError
for what must be mended elsewhere.
"""

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.config.errors import ConfigError, error_text
from kubeproxy_py.kernel import VIRTUAL_SERVERS, read_all
from kubeproxy_py.model.events import AddressesSet, Problem, Synced
from kubeproxy_py.model.notices import starting
from kubeproxy_py.model.rows import Rows, VirtualServer
from kubeproxy_py.notify import Supervisor
from kubeproxy_py.plan.ours import ours
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.plan.report import SyncReport, changes
from kubeproxy_py.signals import hear, hold
from kubeproxy_py.sources.collect import collect
from kubeproxy_py.start import prepare, set_oom_score
from kubeproxy_py.wiring import Parts, Platform, imagined_parts, make_agent, make_parts, real_parts, real_platform

if TYPE_CHECKING:
    from kubeproxy_py.config.load import Asked, Loaded
    from kubeproxy_py.loop import Loop

log = logging.getLogger(__name__)

DONE, FAILED, UNUSABLE = 0, 1, 2
_LIST_TIMEOUT_S = 60.0
_ENDING = (signal.SIGTERM, signal.SIGINT)
_FLUSH_TIMEOUT_S = 5.0  # for the last words of a process that can't start


def run(loaded: "Loaded", asked: "Asked") -> int:
    """Keep the kernel as the Services ask.  SIGTERM or SIGINT end it at once; the kernel's state stays.

    SIGHUP has it look at the configuration file at once; without one it ends us, as it does kube-proxy.
    """
    from kubeproxy_py.cleanup import warn_of_leftovers
    from kubeproxy_py.kernel.ipvs import IpvsAdapter
    from kubeproxy_py.kernel.monitor import AddressMonitor
    from kubeproxy_py.loop import Loop
    from kubeproxy_py.reload import Reload
    from kubeproxy_py.serving import ServeError, Serving

    supervisor = Supervisor()
    faulthandler.enable()  # a watchdog's SIGABRT: the log shows where each thread was
    hold((*_ENDING, signal.SIGHUP) if asked.path else _ENDING)
    hear(_ENDING, partial(_end, supervisor))
    platform, settings = _prepare(loaded)
    set_oom_score(loaded.config.oom_score_adj)
    serving = Serving(loaded, platform.host.node_name, platform.host.families, IpvsAdapter)
    parts = make_parts(loaded, platform, settings, serving.tally)
    agent = make_agent(loaded, parts, _log_problem)
    reload = Reload(loaded, agent, platform.host, supervisor)
    on_first = _after_first(lambda: warn_of_leftovers(platform.programs))
    serving.current = lambda: reload.loaded
    loop = Loop(agent, _both(supervisor.told, on_first), reload.take, supervisor.alive, serving)
    _watch_configuration(asked, loop, supervisor)
    monitor = AddressMonitor(loop.tell)
    parts.announcer.start()
    try:
        serving.start(parts.announcer.tell)
    except ServeError as error:
        log.error(f"{error}, and bindAddressHardFail is set")
        parts.announcer.flush(_FLUSH_TIMEOUT_S)
        return FAILED
    parts.source.start(loop.tell)
    monitor.start()
    parts.announcer.tell(starting(platform.host.node_name))
    loop.run()
    return DONE


def init_only(loaded: "Loaded") -> int:
    """Make the settings that need privileges, and set the timeouts; then NET_ADMIN and NET_RAW are enough to run."""
    _prepare(loaded)
    log.info("settings and timeouts are made; ends, for --init-only is given")
    return DONE


def cleanup(loaded: "Loaded") -> int:
    """Remove all that is ours, and what kube-proxy's other modes left; nothing else."""
    from kubeproxy_py.cleanup import clean_up

    return DONE if clean_up(loaded) else FAILED


def check(asked: "Asked") -> int:
    """Print what is wrong with the configuration, all of it, and what is merely odd.  Asks no kernel and no cluster."""
    from kubeproxy_py.config.load import load

    try:
        loaded = load(asked.given, asked.content)
    except ConfigError as error:
        sys.stdout.write(f"{error_text(error)}\n")
        return UNUSABLE
    sys.stdout.write("".join(f"warning: {odd}\n" for odd in loaded.warnings) + "ok\n")
    return DONE


def write_config(loaded: "Loaded") -> int:
    """Write the effective configuration to the file that --write-config-to names."""
    from kubeproxy_py.config.write import as_yaml

    path = loaded.own.write_config_to
    try:
        Path(path).write_text(as_yaml(loaded.config), encoding="utf-8")
    except OSError as error:
        log.error(f"--write-config-to: can't write {path}: {error.strerror}")
        return FAILED
    log.info(f"wrote the effective configuration to {path}")
    return DONE


def plan(loaded: "Loaded", *, assume_empty: bool, as_json: bool) -> int:
    """Print the plan of a sync, and change nothing."""
    from kubeproxy_py.plan.render import plan_json, plan_text

    parts = imagined_parts(loaded) if assume_empty else real_parts(loaded)
    desired = _desired(parts)
    made = make_plan(desired, ours(read_all(parts.kernel), loaded.config.ipvs.exclude_cidrs, desired))
    sys.stdout.write(plan_json(made).decode() + "\n" if as_json else plan_text(made))
    if not as_json:
        sys.stdout.write(f"{changes(made)}\n")
    return DONE


def status(loaded: "Loaded") -> int:
    """Print the virtual servers that the kernel has, with the names of the Services that want them."""
    from kubeproxy_py.report.names import front_name
    from kubeproxy_py.report.status import status_text

    parts = real_parts(loaded)
    _desired(parts)
    desired, cluster = parts.compiler.desired, parts.compiler.cluster
    rows = parts.kernel.read(VIRTUAL_SERVERS)
    connections = parts.kernel.connections([key for key in rows if isinstance(key, VirtualServer)])
    sys.stdout.write(
        status_text(rows, lambda server: front_name(server, desired.owners(server), cluster.services), connections)
    )
    return DONE


def _desired(parts: Parts) -> Rows:
    """The rows desired for all that the source lists now.  Raises KernelError, SourceError."""
    parts.compiler.take(AddressesSet(parts.kernel.host_addresses()))
    for event in collect(parts.source, _LIST_TIMEOUT_S):
        if isinstance(event, Problem):
            _log_problem(event)
        elif not isinstance(event, Synced):
            parts.compiler.take(event)
    parts.compiler.compile()
    return parts.compiler.desired.rows


def _prepare(loaded: "Loaded") -> tuple[Platform, Rows]:
    """This host, made ready; with the settings that stand.  Raises ConfigError, KernelError."""
    log.info(f"kubeproxy-py {__version__} starts")
    platform = real_platform(loaded)
    return platform, prepare(loaded, platform.kernel, platform.machine, platform.host.families)


def _watch_configuration(asked: "Asked", loop: "Loop", supervisor: Supervisor) -> None:
    """Follow the configuration file, if there is one."""
    from kubeproxy_py.reload import ConfigFile

    if asked.path:
        file = ConfigFile(asked, loop.tell, supervisor)
        hear((signal.SIGHUP,), lambda _number: file.look_now())
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


def _log_problem(problem: Problem) -> None:
    log.error(str(problem))


def _end(supervisor: Supervisor, number: signal.Signals) -> None:
    """Go at once: every prefix of a plan is a state in which packets are served, so there is nothing to finish."""
    log.info(f"ends on {number.name}; the kernel's state stays")
    supervisor.stopping()
    logging.shutdown()
    os._exit(DONE)  # at once: taking the interpreter apart takes up to 0.4 s, in which another signal would be heard
