"""run: keep kernel state in sync with Services until the process is stopped."""

import faulthandler
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING

from kubeproxy_py import __version__, logging_setup, threads
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS
from kubeproxy_py.commands.parts import HostPlatform, real_platform
from kubeproxy_py.commands.single_instance import take_over
from kubeproxy_py.commands.startup import prepare_host, set_oom_score
from kubeproxy_py.kernel.host.instance_lock import InstanceLock
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.signals import block, handle_in_thread
from kubeproxy_py.systemd import SystemdNotifier

if TYPE_CHECKING:
    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

log = logging.getLogger(__name__)

_TERMINATION = (signal.SIGTERM, signal.SIGINT)


def run(loaded: "LoadedConfig", config_input: "ConfigInput") -> int:
    """Run the proxy, and return the exit status.

    SIGTERM and SIGINT end the process immediately and leave kernel state in place. SIGHUP reads the configuration file
    again; without a file it ends the process, as it ends kube-proxy.

    Raises:
        ConfigError: The configuration cannot work on this host.
        KernelError: The host lacks something that every Service needs.
    """
    from kubeproxy_py.commands.app import build_app  # heavy, and --init-only does without
    from kubeproxy_py.server.node_servers import ServeError

    notifier = SystemdNotifier()
    faulthandler.enable()  # on a watchdog's SIGABRT the log shows where each thread is
    block((*_TERMINATION, signal.SIGHUP) if config_input.path else _TERMINATION)
    threads.end_process_on_thread_death()
    threads.start("log", logging_setup.write_in_background())  # after the signals were blocked, as every thread
    handle_in_thread(_TERMINATION, partial(_exit, notifier))

    log.info("Starting kubeproxy-py", extra=values(version=__version__))
    lock = InstanceLock()  # held for as long as this function runs
    take_over(lock)
    platform, sysctls = _prepare(loaded)
    set_oom_score(loaded.config.oom_score_adj)

    app = build_app(loaded, config_input, platform, sysctls, notifier)
    if app.config_file:
        config_file = app.config_file
        handle_in_thread((signal.SIGHUP,), lambda _signal: config_file.request_poll())
    try:
        app.start()
    except ServeError as error:
        log.error("%s", error)  # noqa: TRY400 - an expected failure, not a bug
        return FAILED
    app.run()
    return SUCCESS


def init_only(loaded: "LoadedConfig") -> int:
    """Apply sysctls and IPVS timeouts, which need privileges; NET_ADMIN and NET_RAW are then enough to run.

    Raises:
        ConfigError: The configuration cannot work on this host.
        KernelError: The host lacks something that every Service needs.
    """
    log.info("Starting kubeproxy-py", extra=values(version=__version__))
    _prepare(loaded)
    log.info("Applied sysctls and IPVS timeouts; exiting (--init-only)")
    return SUCCESS


def _prepare(loaded: "LoadedConfig") -> tuple[HostPlatform, Rows]:
    """Prepare this host, and return it with the sysctls that were applied."""
    platform = real_platform(loaded)
    return platform, prepare_host(loaded, platform.kernel, platform.host)


def _exit(notifier: SystemdNotifier, number: signal.Signals) -> None:
    """End the process immediately: after any part of a plan the kernel forwards traffic; nothing is to be finished."""
    log.info("Received %s, exiting; kernel state is left in place", number.name)
    try:
        notifier.stopping()
    finally:
        threads.end_process(SUCCESS)
