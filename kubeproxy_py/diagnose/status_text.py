"""The state document as a table for a terminal.

Invariants:
- Nothing that an object is named can change the terminal: control characters are replaced.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from kubeproxy_py.diagnose.document import (
    AgentState,
    HandingOnState,
    RealServerState,
    ServiceState,
    State,
    VirtualServerState,
)
from kubeproxy_py.terminal_text import printable

_HEADER = ("SERVICE", "KIND", "ADDRESS", "SCHEDULER", "ENDPOINTS", "STATE")
_WIDE_HEADER = (
    "SERVICE",
    "KIND",
    "ADDRESS",
    "SCHEDULER",
    "AFFINITY",
    "POLICY",
    "SOURCES",
    "ENDPOINTS",
    "CONNS",
    "STATE",
)
_REAL_HEADER = ("  ->", "POD", "NODE", "ZONE", "WEIGHT", "ACTIVE", "INACTIVE", "STATE")
_GAP = "  "
_UNSETTLED_SHOWN = 10
_NODES_SHOWN = 10  # of those to which one Service port is handed on
_BATCH = 50  # lines between two calls of `pause`


class StatusText(Struct, frozen=True, gc=False):
    """A status as text, and what a command needs of it besides."""

    text: str
    is_empty: bool  # nothing matches
    problem: str = ""  # why the agent could not see everything
    awaits: tuple[str, ...] = ()  # initial lists that were not received yet
    has_read_kernel: bool = True


def render(state: State, *, wide: bool = False, pause: Callable[[], None] = lambda: None) -> StatusText:
    """Return *state* as a table; *pause* is called now and then."""
    agent = state.agent
    text = status_text(state, wide=wide, pause=pause)
    return StatusText(text, not state.services, agent.problem, agent.awaits, agent.has_read_kernel)


def status_text(state: State, *, wide: bool = False, pause: Callable[[], None] = lambda: None) -> str:
    """Return *state* as text: totals, then each virtual server with its real servers, the worst first."""
    lines = [*_agent_lines(state), ""]
    lines += _table(state, pause, wide=wide) if state.services else ["Nothing matches"]
    return plain_lines(lines)


def ago_text(then: str, now: str) -> str:
    """Return how long *then* is before *now*, both RFC 3339, as ``3s`` or ``2m5s``; "never" if it is ""."""
    if not then:
        return "never"
    seconds = round((datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds())
    return duration_text(max(0, seconds))


def _when(then: str, now: str) -> str:
    """Return ``3s ago``, or ``never``."""
    return f"{ago_text(then, now)} ago" if then else "never"


def duration_text(seconds: int) -> str:
    """Return *seconds* as ``90s`` is written in Kubernetes: ``1m30s``, of which the two largest parts are shown."""
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    shown = [f"{number}{unit}" for number, unit in parts if number]
    return "".join(shown[:2]) or "0s"


def agent_lines(agent: AgentState, time: str) -> Iterator[str]:
    """Yield what is to be known of the agent before anything else: that objects are stale, or that it waits."""
    if agent.problem:
        yield f"INCOMPLETE: {agent.problem}"
    if agent.saved_at:
        yield f"STALE: the API server does not answer; these are objects saved {ago_text(agent.saved_at, time)} ago"
    if agent.awaits:
        yield f"WAITING for the initial list of {', '.join(agent.awaits)}; no Service is touched before"
    for unread in agent.unread:
        yield f"UNREAD: kernel state cannot be read ({unread.scope}): {unread.error}"


def _agent_lines(state: State) -> Iterator[str]:
    agent, totals = state.agent, state.totals
    yield from agent_lines(agent, state.time)
    zone = f", zone {agent.zone}" if agent.zone else ""
    yield (
        f"Node {agent.node or '(unknown)'}{zone}: {totals.services:,} Services, {totals.virtual_servers:,} virtual "
        f"servers, {totals.real_servers:,} real servers ({totals.draining:,} draining), {totals.refusals:,} refused"
    )
    if not agent.is_agent:
        return
    found, repaired = sum(agent.drift_found.values()), sum(agent.drift_repaired.values())
    yield (
        f"Last sync {_when(agent.last_sync, state.time)}, full compare {_when(agent.last_full_compare, state.time)}; "
        f"drift since the start: {found:,} rows found, {repaired:,} repaired"
    )
    if totals.pending:
        yield f"{totals.pending:,} rows are not as desired, {totals.failed:,} of them failed:"
        for row in state.unsettled[:_UNSETTLED_SHOWN]:
            waits = f"waits for {row.waits_for}" if row.waits_for else row.error or row.status
            retry = f"; retry in {ago_text(state.time, row.retry_at)}" if row.retry_at else ""
            yield f"  {row.kind} {row.key}: {waits}{retry}"
        if totals.pending > _UNSETTLED_SHOWN:
            yield f"  and {totals.pending - _UNSETTLED_SHOWN:,} more"


def _table(state: State, pause: Callable[[], None], *, wide: bool) -> Iterator[str]:
    cells, header = (_wide_cells, _WIDE_HEADER) if wide else (_cells, _HEADER)
    rows: list[tuple[str, ...]] = [header]
    real_rows: list[tuple[str, ...]] = [_REAL_HEADER]
    is_partial = False
    for number, service in enumerate(state.services):
        for server in service.virtual_servers:
            rows.append(cells(service, server))
            if server.real_servers is not None:
                real_rows += map(real_cells, server.real_servers)
            elif server.status != "refused":
                is_partial = True
        if number % _BATCH == 0:
            pause()
    line, real_line = _line_maker(rows), _line_maker(real_rows)
    yield line(header)
    if len(real_rows) > 1:
        yield real_line(_REAL_HEADER)
    rest, real_rest = iter(rows[1:]), iter(real_rows[1:])
    for number, service in enumerate(state.services):
        for server in service.virtual_servers:
            yield line(next(rest))
            if server.real_servers:
                yield from (real_line(next(real_rest)) for _ in server.real_servers)
        yield from settings_lines(service)
        if service.notes:
            yield from _notes(service)
        if number % _BATCH == 0:
            pause()
    if is_partial:
        yield "Real servers are not listed, because there are many: give a Service, -n NAMESPACE, or -o wide"


def _notes(service: ServiceState) -> Iterator[str]:
    if not service.virtual_servers:
        yield f"{service.namespace}/{service.name}"
    yield from (f"  ! {note}" for note in service.notes)


def settings_lines(service: ServiceState) -> Iterator[str]:
    """Yield a line for each annotation that is in force, then to which nodes clients are handed on."""
    yield from (f"  = {annotation}: {value}" for annotation, value in service.settings.items())
    yield from (f"  > {_handing_on_text(each)}" for each in service.handing_on)


def _handing_on_text(state: HandingOnState) -> str:
    guard = f"what {state.guard} is not handed on again"
    if not state.virtual_server:
        return f"by {state.way} to no other node; {guard}"
    named = [f"{node.name or node.address} (weight {node.weight})" for node in state.nodes[:_NODES_SHOWN]]
    more = len(state.nodes) - _NODES_SHOWN
    nodes = ", ".join([*named, *([f"{more} more"] if more > 0 else ())])
    return f"{', '.join(state.frontends)} by {state.way} also to {nodes}; {guard}"


def scheduler_text(server: VirtualServerState) -> str:
    """Return the scheduler with its flags: ``sh (port)``."""
    return f"{server.scheduler} ({', '.join(server.scheduler_flags)})" if server.scheduler_flags else server.scheduler


def affinity_text(server: VirtualServerState) -> str:
    """Return the time for which a client, or those of one network, have the same endpoint."""
    mask = f" by mask {server.affinity_mask}" if server.affinity_mask else ""
    return duration_text(server.affinity_seconds) + mask


def _line_maker(rows: Sequence[tuple[str, ...]]) -> Callable[[tuple[str, ...]], str]:
    """Return a function that puts the cells of one of *rows* in columns."""
    *padded, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    pattern = _GAP.join([*(f"%-{width}s" for width in padded), "%s"])
    return lambda row: pattern % row


def real_cells(real: RealServerState) -> tuple[str, ...]:
    """Return the cells of a real server."""
    return (
        f"  -> {address_text(real.address, real.port)}",
        real.pod or "-",
        real.node or "-",
        real.zone or "-",
        "-" if real.weight is None else str(real.weight),
        _number(real.active),
        _number(real.inactive),
        _real_state(real),
    )


def _real_state(real: RealServerState) -> str:
    if real.status == "draining":
        until = f", until {real.deadline} at the latest" if real.deadline else ""
        return f"draining since {real.since}{until}"
    limit = f", at most {real.max_connections:,} connections" if real.max_connections else ""
    return f"{real.status}: {real.error}" if real.error else f"{real.condition or real.status}{limit}"


def _cells(service: ServiceState, server: VirtualServerState) -> tuple[str, ...]:
    more = [
        "policy Local" if server.policy == "Local" else "",
        f"affinity {affinity_text(server)}" if server.affinity_seconds else "",
        f"from {', '.join(server.source_ranges)}" if server.source_ranges else "",
    ]
    state = "; ".join((_state_text(server), *filter(None, more)))
    return (*_first_cells(service, server), _endpoints(server), state)


def _wide_cells(service: ServiceState, server: VirtualServerState) -> tuple[str, ...]:
    return (
        *_first_cells(service, server),
        affinity_text(server) if server.affinity_seconds else "-",
        server.policy or "-",
        ",".join(server.source_ranges) or "-",
        _endpoints(server),
        _number(server.active),
        _state_text(server),
    )


def _first_cells(service: ServiceState, server: VirtualServerState) -> tuple[str, ...]:
    name = f"{service.namespace}/{service.name}" if service.name else "-"
    port = f":{server.port_name}" if server.port_name else ""
    address = f"{address_text(server.address, server.port)}/{server.protocol}"
    return f"{name}{port}", server.kind or "-", address, server.scheduler or "-"


def _endpoints(server: VirtualServerState) -> str:
    more = [
        f"{server.failing} failing" if server.failing else "",
        f"{server.aside} set aside" if server.aside else "",
        f"{server.draining} draining" if server.draining else "",
    ]
    return ", ".join(filter(None, (str(server.serving), *more)))


def _state_text(server: VirtualServerState) -> str:
    return f"{server.status}: {server.reason}" if server.reason else server.status


def address_text(address: str, port: int) -> str:
    """Return ``address:port``, with an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _number(number: int | None) -> str:
    return "-" if number is None else str(number)


def plain_lines(lines: Iterable[str]) -> str:
    """Return *lines* as text that is safe for a terminal."""
    return "".join(f"{printable(line).rstrip()}\n" for line in lines)
