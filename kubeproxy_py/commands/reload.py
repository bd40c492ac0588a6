"""Configuration reload: a changed file is applied without a restart where that is safe, else the process exits.

Invariants:
- The file is polled once a second and compared by its content, which detects every kind of change: in place, by an
  editor's rename, by the swap of a ConfigMap's symlinks, on file systems without inotify. A poll costs 30 us.
- An invalid configuration is rejected with every reason, and the current one stays in use.
- The polling thread decides nothing: it enqueues a valid configuration, which the loop's thread applies.
"""

import logging
import queue
from collections.abc import Callable
from typing import NoReturn

from msgspec import Struct

from kubeproxy_py import logging_setup, threads
from kubeproxy_py.commands.exit_status import SUCCESS
from kubeproxy_py.commands.parts import agent_settings
from kubeproxy_py.commands.startup import check_pod_networks, set_timeouts
from kubeproxy_py.config.change import change_between
from kubeproxy_py.config.current import CurrentConfig
from kubeproxy_py.config.errors import ConfigError
from kubeproxy_py.config.load import ConfigInput, LoadedConfig, load, read_file
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Reconfigured
from kubeproxy_py.systemd import SystemdNotifier

POLL_PERIOD_S = 1.0
SETTLE_S = 0.2  # a file that is being written in place is read again until it no longer changes

_TIMEOUT_FIELDS = frozenset(("ipvs.tcpTimeout", "ipvs.tcpFinTimeout", "ipvs.udpTimeout"))
_LOG_FIELDS = frozenset(("logging.format", "logging.verbosity"))

log = logging.getLogger(__name__)


class _FileState(Struct, frozen=True, gc=False):
    """The configuration file as it was last read."""

    content: bytes = b""
    error: str = ""  # why the file cannot be read; "": it can


class ConfigFile:
    """Polls the configuration file, and enqueues each valid configuration that it comes to contain."""

    def __init__(
        self,
        config_input: ConfigInput,
        enqueue: Callable[[Reconfigured], None],
        notifier: SystemdNotifier | None = None,
    ) -> None:
        self._flags = config_input.flags
        self._path = config_input.path
        self._last = _FileState(config_input.content or b"")
        self._enqueue = enqueue
        self._notifier = notifier or SystemdNotifier({})
        self._requests: queue.Queue[None] = queue.Queue()

    def start(self) -> None:
        """Poll once a second, in a thread that ends with the process."""
        threads.start("configuration file", self._run)

    def request_poll(self) -> None:
        """Poll at once, and log the result even if nothing changed; may be called from any thread."""
        self._requests.put(None)

    def poll(self, *, settle_s: float = 0.0, log_unchanged: bool = False) -> bool:
        """Read the file, and return whether a valid configuration was enqueued.

        Args:
            settle_s: A change counts once the file has not changed for this time.
            log_unchanged: Log a file that did not change.
        """
        state = self._read()
        while state != self._last and settle_s and not self._poll_requested(settle_s):
            previous, state = state, self._read()
            if state == previous:
                break
        if state != self._last:
            self._last = state
            return self._load(state)
        if log_unchanged:
            log.info("Configuration file is unchanged", extra=values(file=self._path))
        return False

    def _run(self) -> None:
        while True:
            if self._poll_requested(POLL_PERIOD_S):
                self._poll_on_request()
            else:
                self.poll(settle_s=SETTLE_S)

    def _poll_on_request(self) -> None:
        self._notifier.reloading()
        enqueued = False
        try:
            enqueued = self.poll(log_unchanged=True)
        finally:
            if not enqueued:
                self._notifier.reloaded()  # otherwise the Reloader calls it

    def _poll_requested(self, within_s: float) -> bool:
        try:
            self._requests.get(timeout=within_s)
        except queue.Empty:
            return False
        return True

    def _read(self) -> _FileState:
        try:
            return _FileState(read_file(self._path))
        except ConfigError as error:
            return _FileState(error=str(error))

    def _load(self, state: _FileState) -> bool:
        """Enqueue the configuration of *state*, and return whether it is valid."""
        if state.error:
            log.error(
                "Failed to read the configuration file, keeping the current configuration",
                extra=values(err=state.error),
            )
            return False
        try:
            loaded = load(self._flags, state.content)
        except ConfigError as error:
            _log_rejected(error)
            return False
        self._enqueue(Reconfigured(loaded))
        return True


class Reloader:
    """Applies a new configuration in place of the current one, in the thread that owns the agent."""

    def __init__(
        self, current: CurrentConfig, agent: Agent, host: HostInfo, notifier: SystemdNotifier | None = None
    ) -> None:
        self._current = current
        self._agent = agent
        self._host = host
        self._notifier = notifier or SystemdNotifier({})

    def apply(self, new: LoadedConfig, now_s: float) -> None:
        """Apply *new*; if it cannot work on this host, nothing changes.

        Raises:
            SystemExit: A changed field requires a restart.
        """
        change = change_between(self._current.get().config, new.config)
        ipvs = IpvsAdapter()
        try:
            self._check(ipvs, new, change.live)
            if change.restart:
                self._notifier.stopping()
                _exit_for_restart(change.restart)
            self._apply_live(ipvs, new, change.live, now_s)
        except (ConfigError, KernelError) as error:
            _log_rejected(error)
        finally:
            ipvs.close()
            self._notifier.reloaded()

    def _check(self, ipvs: IpvsAdapter, new: LoadedConfig, fields: tuple[str, ...]) -> None:
        """Check that *new* can work on this host.

        Raises:
            ConfigError: A field does not fit this host.
            KernelError: The scheduler is not available.
        """
        check_pod_networks(new.config, self._host.families)
        if "ipvs.scheduler" in fields:
            check_scheduler(ipvs, new.config.ipvs.scheduler)

    def _apply_live(self, ipvs: IpvsAdapter, new: LoadedConfig, fields: tuple[str, ...], now_s: float) -> None:
        if not _TIMEOUT_FIELDS.isdisjoint(fields):
            set_timeouts(ipvs, new.config)
        self._agent.reconfigure(agent_settings(new, self._host), now_s)
        if not _LOG_FIELDS.isdisjoint(fields):
            logging_setup.reconfigure(new.config.logging.format, new.config.logging.verbosity)
        self._current.replace(new)
        log.info("Applied new configuration", extra=values(changed=", ".join(fields) or "nothing"))
        for warning in new.warnings:
            log.warning("%s", warning)


def _exit_for_restart(fields: tuple[str, ...]) -> NoReturn:
    """Exit with status 0; supervisors start the process again (a DaemonSet always, systemd with Restart=always)."""
    log.info("New configuration requires a restart, exiting", extra=values(changed=", ".join(fields)))
    logging.shutdown()
    raise SystemExit(SUCCESS)


def _log_rejected(error: ConfigError | KernelError) -> None:
    """Log every reason why a new configuration is not used."""
    for warning in error.warnings if isinstance(error, ConfigError) else ():
        log.warning("%s", warning)
    for reason in error.problems if isinstance(error, ConfigError) else (error,):
        log.error("Rejected new configuration, keeping the current one", extra=values(reason=reason))
