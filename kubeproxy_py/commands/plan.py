"""plan: print the changes that a sync would make now, without making them."""

import logging
import sys
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

from kubeproxy_py.commands.exit_status import CHANGES, FAILED, SUCCESS
from kubeproxy_py.commands.output import print_raw
from kubeproxy_py.commands.parts import HostPlatform, Parts, empty_platform, log_problem, make_parts, real_platform
from kubeproxy_py.compile.config_warnings import endpoints_at_own_address
from kubeproxy_py.compile.node_context import foreign_addresses
from kubeproxy_py.compile.unserved import unserved_texts
from kubeproxy_py.kernel import read_all
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import HostAddresses, Synced
from kubeproxy_py.model.kube_names import POLICY_MARK_SETS
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import foreign_mark_servers
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.refusal import SETTING_IGNORED, grouped
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import Plan
from kubeproxy_py.net import FAMILIES
from kubeproxy_py.plan.ownership import filter_owned, is_foreign
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile.agent import warn_if_node_is_missing
from kubeproxy_py.reconcile.report_text import changes_text
from kubeproxy_py.reconcile.slow_starts import SlowStarts
from kubeproxy_py.reconcile.surroundings import gateways_event
from kubeproxy_py.reconcile.tunnel_rests import TunnelRests
from kubeproxy_py.terminal_text import printable_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubeproxy_py.config.load import LoadedConfig
    from kubeproxy_py.sources import Source

LIST_TIMEOUT_S = 5.0
"""How long a command waits for a source that sends nothing."""

_ASSUMED_INTERFACE = "node"  # of addresses that are known from the Node object only

log = logging.getLogger(__name__)


class PlanOptions(Struct, frozen=True, gc=False):
    """What a plan compares with, and how it is printed."""

    assume_empty: bool = False  # a kernel that has no rows yet, of a host with the addresses of the Node object
    kernel_state: str = ""  # the kernel state in this file; "": that of this host
    output: str = "text"  # text, json, diff
    colour: str = "auto"  # auto, always, never


class Planned(Struct, frozen=True, gc=False):
    """A plan that was printed."""

    steps: Plan
    errors: int  # how many objects, or parts of one, are rejected


def plan(loaded: "LoadedConfig", options: PlanOptions, source: "Source | None" = None) -> int:
    """Print the plan of a sync, and return the exit status.  Arguments and errors are those of print_plan."""
    return status_of(print_plan(loaded, options, source))


def status_of(planned: Planned) -> int:
    """Return FAILED if an object, or a part of one, is rejected; else CHANGES if there is a step."""
    if planned.errors:
        return FAILED
    return CHANGES if planned.steps.steps else SUCCESS


def print_plan(loaded: "LoadedConfig", options: PlanOptions, source: "Source | None" = None) -> Planned:
    """Print the plan of a sync for the objects of *source* (None: as configured), and return it.

    Raises:
        KernelError: The kernel, or the file of its state, cannot be read.
        SourceError: The objects cannot be read.
    """
    errors: list[Problem] = []
    seen: set[Problem] = set()

    def on_problem(problem: Problem) -> None:
        if problem in seen:  # a server that cannot be reached is asked several times
            return
        seen.add(problem)
        log_problem(problem)
        if not problem.is_warning:
            errors.append(problem)

    parts = make_parts(loaded, _platform(loaded, options), own_source=source)
    desired = desired_rows(parts, on_problem, _assumed_addresses if options.assume_empty else None)
    _log_refusals(parts)
    _log_endpoints(parts)
    rows = read_all(parts.kernel)
    if source is None:  # without an agent's own state: one that starts now would take over what the kernel has
        SlowStarts(parts.compiler, watch_nodes=loaded.agent.watch_nodes).adopt(rows, 0.0)
    TunnelRests(parts.compiler).adopt(rows, 0.0)  # a device goes later, with the agent's clock
    actual = _owned_rows(loaded, parts, desired, rows)
    steps = make_plan(desired, actual)
    print_raw(_rendered(steps, actual, parts, options))
    return Planned(steps, len(errors))


def _platform(loaded: "LoadedConfig", options: PlanOptions) -> HostPlatform:
    """Return the host that is compared with.  Raises KernelError."""
    if options.assume_empty:
        return empty_platform(loaded)
    if options.kernel_state:
        from kubeproxy_py.commands.dump import dumped_platform

        return dumped_platform(loaded, options.kernel_state)
    return real_platform(loaded)


def _rendered(steps: Plan, actual: Rows, parts: Parts, options: PlanOptions) -> str:
    """Return *steps*, from the *actual* rows, as they are to be printed, safe for a terminal."""
    from kubeproxy_py.commands.colour import painter
    from kubeproxy_py.commands.row_owners import RowOwners
    from kubeproxy_py.plan.render import group_by_service, grouped_text, plan_diff, plan_json

    owners = RowOwners(parts.compiler.desired, actual, parts.compiler.holder_of)
    if options.output == "json":
        return printable_json(plan_json(steps, owners).decode() + "\n")
    groups, paint = group_by_service(steps, owners), painter(options.colour, sys.stdout)
    if options.output == "diff":
        return plan_diff(groups, paint)
    text = grouped_text(groups, paint)
    return f"{text}\n{changes_text(steps)}\n" if text else f"{changes_text(steps)}\n"


def _log_refusals(parts: Parts) -> None:
    """Log what is refused of Services, which the agent publishes as Events."""
    for refusal in grouped(parts.compiler.refusals):
        if refusal.reason == SETTING_IGNORED:
            why = f"{refusal.message} ({refusal.hint})"
            details = values(service=refusal.service, setting=refusal.subject, why=why)
            log.warning("Ignored a setting of a Service", extra=details)
            continue
        details = values(service=refusal.service, address=refusal.subject, reason=refusal.reason, why=refusal.message)
        log.warning("Refused an address of a Service", extra=details)


def _log_endpoints(parts: Parts) -> None:
    """Log which Service ports no endpoint serves, and which endpoints are the Service itself: both are mostly typos."""
    compiler = parts.compiler
    for name, service in sorted(compiler.cluster.services.items()):
        slices = compiler.cluster.slices_of(name)
        if own := endpoints_at_own_address(service, slices):
            details = values(service=name, addresses=", ".join(own))
            log.warning("The ClusterIP of a Service is one of its endpoints; write the address of a pod", extra=details)
        if texts := unserved_texts(service, slices, compiler.context):
            log.warning("No endpoint serves these Service ports", extra=values(service=name, ports="; ".join(texts)))


def _owned_rows(loaded: "LoadedConfig", parts: Parts, desired: Rows, rows: Rows) -> Rows:
    """Return those of *rows*, the kernel's, that a sync would consider ours."""
    exclude = loaded.config.ipvs.exclude_cidrs
    foreign = foreign_mark_servers(rows, rows, loaded.agent.mark_range)
    if not loaded.agent.keep_foreign_virtual_servers:
        return filter_owned(rows, exclude, desired, foreign=foreign)
    addresses = frozenset(chain.from_iterable(parts.compiler.context.foreign_addresses.values()))
    return filter_owned(rows, exclude, desired, lambda server: is_foreign(server, rows, addresses), foreign)


def desired_rows(
    parts: Parts,
    on_problem: "Callable[[Problem], None]" = log_problem,
    addresses_of: "Callable[[Node | None], tuple[HostAddress, ...]] | None" = None,
) -> Rows:
    """Return the rows that the objects of the source require now.

    Args:
        parts: The parts of an agent.
        on_problem: Called with each Problem of the objects.
        addresses_of: Returns the host's addresses, given its Node object; None: the kernel tells them.

    Raises:
        KernelError: The host's addresses cannot be read.
        SourceError: The source does not list its objects in time.
    """
    compiler = parts.compiler
    if addresses_of is None:
        compiler.handle_event(HostAddresses(parts.kernel.host_addresses()))
    compiler.handle_event(gateways_event(parts.kernel.gateways()))
    for event in parts.source.read_once(LIST_TIMEOUT_S, on_problem):
        if not isinstance(event, Problem | Synced):
            compiler.handle_event(event)
    if addresses_of is not None:
        compiler.handle_event(HostAddresses(addresses_of(compiler.cluster.node)))
    warn_if_node_is_missing(compiler)
    if any(scope.name in POLICY_MARK_SETS for scope in parts.kernel.scopes()):
        compiler.adopt_marks(read_all(parts.kernel), parts.mark_range)
    compiler.compile()
    return compiler.desired.rows


def _assumed_addresses(node: Node | None) -> tuple[HostAddress, ...]:
    """Return the addresses of a host that may be another one: those that its Node names, else those of this host."""
    if node and node.addresses:
        return tuple(HostAddress(_ASSUMED_INTERFACE, address) for address in node.addresses)
    addresses = _own_addresses()
    if not any(foreign_addresses(addresses, family) for family in FAMILIES):
        log.warning(
            "No address of the node is known; NodePorts are not planned. Add a Node with status.addresses",
            extra=values(node=node.name if node else ""),
        )
    return addresses


def _own_addresses() -> tuple[HostAddress, ...]:
    """Return the addresses of this host, none if they cannot be read; needs no privileges."""
    from kubeproxy_py.kernel.address.adapter import AddressAdapter

    try:
        return AddressAdapter().host_addresses()
    except (KernelError, OSError) as error:
        log.warning("Failed to read the addresses of this host", extra=values(err=error))
        return ()
