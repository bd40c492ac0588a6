"""What is checked of the Services of each sync, after it, so that it delays no Service."""

import logging
from collections.abc import Callable, Collection

from kubeproxy_py.commands.callbacks import Callbacks
from kubeproxy_py.commands.failure_reports import FailureReports
from kubeproxy_py.commands.marks_log import MarksLog
from kubeproxy_py.commands.unserved_counts import UnservedCounts
from kubeproxy_py.commands.unserved_log import UnservedLog
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.events.node_port_guard import NodePortGuard
from kubeproxy_py.events.service_warnings import ServiceWarnings
from kubeproxy_py.kernel import Kernel, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.listening import listening_sockets
from kubeproxy_py.kernel.host.reserved_ports import ReservedPorts, local_port_range
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.plan.ownership import NODE_PORT_SETS, node_ports_in
from kubeproxy_py.reconcile.containment import contained

_Check = Callable[[Collection[ServiceName]], None]

log = logging.getLogger(__name__)


def checks_after_sync(
    loaded: LoadedConfig, compiler: Compiler, kernel: Kernel, publish: Publish, callbacks: Callbacks
) -> Callable[[Collection[ServiceName]], None]:
    """Return what is called with the Services of each sync, after it; a failure of one check stops no other."""
    reserve = _port_reserver(kernel) if loaded.agent.reserve_node_ports else _reserve_nothing
    of_services: dict[str, _Check] = {
        "warnings about Services": ServiceWarnings(compiler, publish).check,
        "NodePorts in use": NodePortGuard(compiler, publish, listening_sockets, reserve, local_port_range).check,
    }
    of_endpoints: dict[str, _Check] = {
        "Services that nothing serves": UnservedLog(compiler).check,
        "Service ports without a mark": MarksLog(compiler).check,
        "endpoints that are set aside": FailureReports(compiler, publish, callbacks.on_aside).check,
        "endpoints that are watched": callbacks.on_compiled,
        "number of Service ports that nothing serves": UnservedCounts(compiler, callbacks.on_unserved).check,
    }
    is_first = True

    def check(names: Collection[ServiceName]) -> None:
        nonlocal is_first
        if (moved := compiler.pop_moved()) or is_first:  # seldom: nearly always only endpoints have changed
            is_first = False
            for task, each in of_services.items():
                contained(task, each, moved)
        for task, each in of_endpoints.items():
            contained(task, each, names)

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
