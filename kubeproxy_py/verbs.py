"""What each verb does, once the configuration is known.

Law: each function is one story from top to bottom, and returns an exit status.  Each raises KernelError or SourceError
for what must be mended elsewhere.
"""

import logging
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.kernel import VIRTUAL_SERVERS, read_all
from kubeproxy_py.model.events import AddressesSet, Problem, Synced
from kubeproxy_py.model.rows import Rows, VirtualServer
from kubeproxy_py.plan.ours import ours, removable
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.plan.report import changes
from kubeproxy_py.sources.collect import collect
from kubeproxy_py.wiring import Parts, imagined_parts, make_agent, real_parts

if TYPE_CHECKING:
    from kubeproxy_py.config.load import Loaded

log = logging.getLogger(__name__)

DONE, FAILED = 0, 1
_LIST_TIMEOUT_S = 60.0


def run(loaded: "Loaded") -> int:
    """Keep the kernel as the Services ask.  SIGTERM or SIGINT end it at once; the kernel's state stays."""
    from kubeproxy_py.kernel.monitor import AddressMonitor
    from kubeproxy_py.loop import AddressesChanged, Loop

    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    log.info(f"kubeproxy-py {__version__} starts")
    parts = real_parts(loaded)
    loop = Loop(make_agent(loaded, parts, _log_problem))
    monitor = AddressMonitor(lambda: loop.tell(AddressesChanged()))
    parts.source.start(loop.tell)
    monitor.start()
    loop.run()
    return DONE


def plan(loaded: "Loaded", *, assume_empty: bool, as_json: bool) -> int:
    """Print the plan of a sync, and change nothing."""
    from kubeproxy_py.plan.render import plan_json, plan_text

    parts = imagined_parts(loaded) if assume_empty else real_parts(loaded)
    desired = _desired(parts)
    made = make_plan(desired, ours(read_all(parts.kernel), loaded.config.ipvs.exclude_cidrs))
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


def cleanup(loaded: "Loaded") -> int:
    """Remove all that is ours, and nothing else; settings stay as they are."""
    parts = real_parts(loaded)
    addresses = [host.address for host in parts.kernel.host_addresses()]
    mine = removable(ours(read_all(parts.kernel), loaded.config.ipvs.exclude_cidrs), addresses)
    made = make_plan({}, mine)
    outcome = parts.kernel.apply(made)
    for failure in outcome.failed:
        log.error(f"failed: {failure}")
    log.info(f"cleaned up: {changes(made, outcome.failed)}")
    return FAILED if outcome.failed else DONE


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


def _log_problem(problem: Problem) -> None:
    log.error(str(problem))


def _end(signum: int, _frame: FrameType | None) -> None:
    """Go at once: every prefix of a plan is a state in which packets are served, so there is nothing to finish."""
    log.info(f"ends on {signal.Signals(signum).name}; the kernel's state stays")
    logging.shutdown()
    raise SystemExit(DONE)
