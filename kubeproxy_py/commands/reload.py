"""Reload: a changed configuration file is followed without restart where that is safe, else by ending.

Law: the file is looked at once a second and compared by its content, which sees whatever way it was changed in: in
place, by an editor's rename, by the swap of a ConfigMap's links, on file systems that tell of nothing.  It costs 30 us.
What is not valid is refused with every reason, and the configuration in use stays.  The thread that looks decides
nothing: a valid configuration crosses the loop's queue as a value, and all that follows is done in the loop's thread.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import NoReturn

from kubeproxy_py import logging_setup as logs
from kubeproxy_py.commands.app import agent_settings
from kubeproxy_py.commands.startup import check_pod_networks, set_timeouts
from kubeproxy_py.compile.node_context import Host
from kubeproxy_py.config.change import change_between
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import ConfigInput, LoadedConfig, load, read_file
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from kubeproxy_py.reconcile.loop import Reconfigured
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.systemd import SystemdNotifier

LOOK_PERIOD_S = 1.0
SETTLE_S = 0.2  # a file that is being written in place is looked at again until it stays
RESTART = 0  # the exit status; supervisors start us again (a DaemonSet always, systemd with Restart=always)

_TIMEOUTS = frozenset(("ipvs.tcpTimeout", "ipvs.tcpFinTimeout", "ipvs.udpTimeout"))

log = logging.getLogger(__name__)


class ConfigFile:
    """Looks at the configuration file, and tells of each valid configuration that it comes to hold."""

    def __init__(
        self, asked: ConfigInput, tell: Callable[[Reconfigured], None], supervisor: SystemdNotifier | None = None
    ) -> None:
        self._given = asked.given
        self._path = asked.path
        self._known: bytes | str | None = asked.content  # what it held when last looked at; text: why it can't be read
        self._tell = tell
        self._supervisor = supervisor or SystemdNotifier({})
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put() may be called by a signal handler

    def start(self) -> None:
        """Look once a second, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="configuration file", daemon=True).start()

    def look_now(self) -> None:
        """Look at once, and say what was found even if nothing changed; may be called from anywhere."""
        self._asked.put(None)

    def look(self, *, settle_s: float = 0.0, tell_same: bool = False) -> bool:
        """Look; whether there was a valid configuration to tell of.  A change counts once it stood for *settle_s*."""
        found = self._content()
        while found != self._known and settle_s and not self._is_asked(settle_s):
            before, found = found, self._content()
            if found == before:
                break
        if found != self._known:
            self._known = found
            return self._take(found)
        if tell_same:
            log.info(f"{self._path} is as it was")
        return False

    def _run(self) -> None:
        while True:
            if self._is_asked(LOOK_PERIOD_S):
                self._supervisor.reloading()
                if not self.look(tell_same=True):
                    self._supervisor.reloaded()  # else whoever was told says so
            else:
                self.look(settle_s=SETTLE_S)

    def _is_asked(self, within_s: float) -> bool:
        try:
            self._asked.get(timeout=within_s)
        except queue.Empty:
            return False
        return True

    def _content(self) -> bytes | str:
        try:
            return read_file(self._path)
        except ConfigError as error:
            return str(error)

    def _take(self, found: bytes | str | None) -> bool:
        if not isinstance(found, bytes):
            log.error(f"the configuration in use stays: {found}")
            return False
        try:
            loaded = load(self._given, found)
        except ConfigError as error:
            refuse(error)
            return False
        self._tell(Reconfigured(loaded))
        return True


class Reload:
    """The configuration in use, and how another takes its place.  For the thread that owns *agent*."""

    def __init__(
        self, loaded: LoadedConfig, agent: Reconciler, host: Host, supervisor: SystemdNotifier | None = None
    ) -> None:
        self._loaded = loaded
        self._agent = agent
        self._host = host
        self._supervisor = supervisor or SystemdNotifier({})

    @property
    def loaded(self) -> LoadedConfig:
        """The configuration in use."""
        return self._loaded

    def take(self, new: LoadedConfig) -> None:
        """Go by *new*.  Raises SystemExit if that takes another process.

        If *new* can't work on this host, all stays as it is.
        """
        change = change_between(self._loaded.config, new.config)
        ipvs = IpvsAdapter()
        try:
            self._check(ipvs, new, change.live)
            if change.restart:
                self._supervisor.stopping()
                _end(change.restart)
            self._apply(ipvs, new, change.live)
        except (ConfigError, KernelError) as error:
            refuse(error)
        finally:
            ipvs.close()
            self._supervisor.reloaded()

    def _check(self, ipvs: IpvsAdapter, new: LoadedConfig, fields: tuple[str, ...]) -> None:
        """Raises ConfigError, KernelError if *new* can't work on this host."""
        check_pod_networks(new.config, self._host.families)
        if "ipvs.scheduler" in fields:
            check_scheduler(ipvs, new.config.ipvs.scheduler)

    def _apply(self, ipvs: IpvsAdapter, new: LoadedConfig, fields: tuple[str, ...]) -> None:
        if _TIMEOUTS.intersection(fields):
            set_timeouts(ipvs, new.config)
        self._agent.reconfigure(agent_settings(new, self._host))
        if "logging.format" in fields or "logging.verbosity" in fields:
            logs.setup(new.config.logging.format, new.config.logging.verbosity)
        self._loaded = new
        log.info(f"follows the new configuration: {', '.join(fields) or 'nothing that matters here'} changed")
        for warning in new.warnings:
            log.warning(str(warning))


def _end(fields: tuple[str, ...]) -> NoReturn:
    log.info(f"ends, to be started again with the new configuration: {', '.join(fields)} changed")
    logging.shutdown()
    raise SystemExit(RESTART)


def refuse(error: ConfigError | KernelError) -> None:
    """Say why a configuration is not followed, each reason a line."""
    for odd in error.warnings if isinstance(error, ConfigError) else ():
        log.warning(str(odd))
    for reason in error.problems if isinstance(error, ConfigError) else (error,):
        log.error(f"the new configuration is refused, the one in use stays: {reason}")
