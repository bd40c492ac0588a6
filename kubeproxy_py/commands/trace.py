"""trace: print what happens to a packet, by the rows that a sync would make or by what the kernel has now.

The agent is asked for the former (ask_trace.py).  For the latter, and without an agent, this command looks itself.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.commands.exit_status import FAILED
from kubeproxy_py.commands.kernel_lookup import KernelLookup
from kubeproxy_py.commands.output import print_json, print_lines, print_usage_error
from kubeproxy_py.commands.parts import HostPlatform, Parts, empty_platform, make_parts, real_platform
from kubeproxy_py.commands.plan import desired_rows
from kubeproxy_py.diagnose.trace.document import trace_json
from kubeproxy_py.diagnose.trace.lookup import Lookup, RowLookup
from kubeproxy_py.diagnose.trace.objects import directory_of, known_to_compiler, objects_of, pods_here
from kubeproxy_py.diagnose.trace.packet import Host, Packet
from kubeproxy_py.diagnose.trace.path import trace as trace_packet
from kubeproxy_py.diagnose.trace.request import TraceError, parse_request
from kubeproxy_py.diagnose.trace.result import Trace
from kubeproxy_py.diagnose.trace.ruleset import Ruleset, ruleset_of_save
from kubeproxy_py.diagnose.trace.text import trace_text
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.read import save_all_tables
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.net import IP, Family, family_of
from kubeproxy_py.server.host_view import HostView
from kubeproxy_py.sources import Source, SourceError

if TYPE_CHECKING:
    from kubeproxy_py.config.load import LoadedConfig

_IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")

log = logging.getLogger(__name__)


class TraceArguments(Struct, frozen=True, gc=False):
    """The arguments ``--from``, ``--to`` and ``--in-iface``."""

    sender: str
    target: str
    in_interface: str = ""


class Tracing:
    """All that traces on this host need; they see one state, as it is when they first ask for it.

    Args:
        loaded: The configuration.
        from_kernel: Use what the kernel has instead of the desired rows.
        source: Where objects come from; None: as configured.

    Raises:
        KernelError: The kernel is needed and cannot be read.
    """

    def __init__(self, loaded: "LoadedConfig", *, from_kernel: bool, source: Source | None = None) -> None:
        self._platform = real_platform(loaded) if from_kernel else _platform(loaded)
        parts = make_parts(loaded, self._platform, own_source=source)
        is_known = _compile(parts, self._platform)
        self._from_kernel = from_kernel or not is_known
        self._view = HostView()
        self._rulesets: dict[Family, Ruleset] = {}
        known = known_to_compiler(parts.compiler)
        self._host = Host(
            known.addresses or self._platform.kernel.host_addresses(),
            self._view.route_to,
            lambda family: pods_here(known, family),
            self._listens,
            self._interfaces,
        )
        self._objects, self._directory = objects_of(known), replace(directory_of(known), is_known=is_known)
        kernel, rows = self._platform.kernel, parts.compiler.desired.rows
        self._lookup: Lookup = KernelLookup(kernel) if self._from_kernel else RowLookup(rows)

    def trace(self, asked: TraceArguments) -> Trace:
        """Return the way of the packet that is *asked* for.

        Raises:
            KernelError: The kernel is needed and cannot be read.
            TraceError: An argument cannot be used.
        """
        request = parse_request(asked.sender, asked.target, asked.in_interface, self._directory)
        ruleset = self._kernel_rules(request.destination) if self._from_kernel else None
        return trace_packet(self._lookup, self._host, request, self._objects, ruleset)

    def close(self) -> None:
        """Close the sockets."""
        self._view.close()
        self._platform.kernel.close()

    def _kernel_rules(self, destination: IP) -> Ruleset:
        family = family_of(destination)
        if family not in self._rulesets:
            self._rulesets[family] = _kernel_rules(self._platform, destination)
        return self._rulesets[family]

    def _interfaces(self) -> tuple[str, ...]:
        if not self._platform.iptables_commands:
            return ()  # the objects may be of another host
        return self._view.interfaces()

    def _listens(self, packet: Packet) -> bool | None:
        if not self._platform.iptables_commands:
            return None  # the objects may be of another host
        return self._view.listens(packet)


def trace(
    loaded: "LoadedConfig", asked: TraceArguments, *, from_kernel: bool, as_json: bool, source: Source | None = None
) -> int:
    """Print the way of a packet; return its exit status (Trace.exit_status), or FAILED for unusable arguments.

    Args:
        loaded: The configuration.
        asked: Who sends the packet, and where.
        from_kernel: Use what the kernel has instead of the desired rows.
        as_json: Print JSON instead of text.
        source: Where objects come from; None: as configured.

    Raises:
        KernelError: The kernel is needed and cannot be read.
    """
    tracing = Tracing(loaded, from_kernel=from_kernel, source=source)
    try:
        traced = tracing.trace(asked)
    except TraceError as error:
        print_usage_error(str(error), "kubeproxy-py trace --help")
        return FAILED
    finally:
        tracing.close()
    if as_json:
        print_json(trace_json(traced).decode() + "\n")
    else:
        print_lines(trace_text(traced))
    return traced.exit_status


def _platform(loaded: "LoadedConfig") -> HostPlatform:
    """Return this host; if it cannot be probed, one that has all features."""
    try:
        return real_platform(loaded)
    except KernelError as error:
        log.warning("Failed to probe this host; tracing as on a host with all features", extra=values(err=error))
        return empty_platform(loaded)


def _compile(parts: Parts, platform: HostPlatform) -> bool:
    """Compile the objects of the source; return False if there are none in time, and log what follows."""
    try:
        addresses = None if platform.iptables_commands else _assumed_addresses
        desired_rows(parts, addresses_of=addresses)
    except SourceError as error:
        log.warning(
            "Failed to list Services in time; tracing what the kernel has now, without names of Services",
            extra=values(err=error),
        )
        return False
    return True


def _assumed_addresses(node: Node | None) -> tuple[HostAddress, ...]:
    """Return the addresses of the Node object, which may be another host's; else those of this host."""
    if node and node.addresses:
        return tuple(HostAddress("node", address) for address in node.addresses)
    return AddressAdapter().host_addresses()


def _remarks(platform: HostPlatform) -> Iterator[str]:
    """Yield what of the kernel's rules is not looked at."""
    is_nft = any(commands.backend == "nft" for commands in platform.iptables_commands)
    tables = [
        f"{family} {name}"
        for family, name in nf_tables.hooked_tables()
        if not (is_nft and family in ("ip", "ip6") and name in _IPTABLES_TABLES)
    ]
    if tables:
        yield f"rules of nf_tables are not looked at: see nft list table {', '.join(tables)}"


def _kernel_rules(platform: HostPlatform, destination: IP) -> Ruleset:
    """Return all rules of the destination's family.  Raises KernelError."""
    family = family_of(destination)
    for commands in platform.iptables_commands:
        if commands.family == family:
            saved = save_all_tables(commands)
            return ruleset_of_save(saved.decode("utf-8", "surrogateescape").split("\n"), tuple(_remarks(platform)))
    raise KernelError(
        f"the rules of {family} cannot be read: this host has no working iptables for it",
        hint="install iptables, or trace without --kernel",
    )
