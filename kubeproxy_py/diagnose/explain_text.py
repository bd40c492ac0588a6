"""An explanation as text for a terminal."""

from collections.abc import Iterator

from kubeproxy_py.diagnose.document import EndpointState, Explanation, RowState, ServiceExplanation
from kubeproxy_py.diagnose.status_text import (
    address_text,
    affinity_text,
    agent_lines,
    plain_lines,
    real_cells,
    scheduler_text,
    settings_lines,
)

_ROWS_SHOWN = 60  # of each Service; those in trouble are always shown


def explain_text(explanation: Explanation) -> str:
    """Return *explanation* as text: the verdict first, then what leads to it."""
    return plain_lines(_lines(explanation))


def _lines(explanation: Explanation) -> Iterator[str]:
    yield from agent_lines(explanation.agent, explanation.time)
    yield explanation.summary
    if explanation.problems:
        yield "Wrong:"
        yield from (f"  ! {problem}" for problem in explanation.problems)
    elif any(service.rows for service in explanation.services):
        yield "Well: every address is served, and the kernel has every row"
    if explanation.remedies:
        yield "Remedy"
        yield from (f"  {remedy}" for remedy in explanation.remedies)
    for service in explanation.services:
        yield ""
        yield from _service_lines(service)
    if explanation.rows:
        yield ""
        yield "Rows of no Service"
        yield from map(_row_line, explanation.rows)
    if explanation.next:
        yield ""
        yield "Next"
        yield from (f"  {command}" for command in explanation.next)


def _service_lines(one: ServiceExplanation) -> Iterator[str]:
    service = one.service
    yield f"Service {service.namespace}/{service.name} ({service.type})"
    yield from settings_lines(service)
    for server in service.virtual_servers:
        port = f" port {server.port_name}" if server.port_name else ""
        details = [
            f"scheduler {scheduler_text(server)}" if server.scheduler else "",
            f"policy {server.policy}" if server.policy else "",
            f"affinity {affinity_text(server)}" if server.affinity_seconds else "",
            f"only from {', '.join(server.source_ranges)}" if server.source_ranges else "",
        ]
        state = f"{server.status}: {server.reason}" if server.reason else server.status
        yield f"  {server.kind} {address_text(server.address, server.port)}/{server.protocol}{port}: {state}"
        yield f"    {', '.join(filter(None, details))}"
        yield from (f"  {'  '.join(real_cells(real))}" for real in server.real_servers or ())
    yield from (f"  ! {note}" for note in service.notes)
    contested = [claim for claim in one.claims if sum(c.virtual_server == claim.virtual_server for c in one.claims) > 1]
    if contested:
        yield "Claims"
        for claim in contested:
            has = "has it" if claim.holds else "does not get it"
            yield f"  {claim.virtual_server}: {claim.service} as {claim.kind}, {has}"
    yield "Endpoints" if one.endpoints else "Endpoints: none"
    yield from map(_endpoint_line, one.endpoints)
    yield "Rows"
    troubled = [row for row in one.rows if row.status not in ("present", "draining")]
    others = [row for row in one.rows if row.status in ("present", "draining")]
    yield from map(_row_line, troubled)
    yield from map(_row_line, others[:_ROWS_SHOWN])
    if len(others) > _ROWS_SHOWN:
        yield f"  and {len(others) - _ROWS_SHOWN:,} more that the kernel has (-o json lists all)"


def _endpoint_line(endpoint: EndpointState) -> str:
    sign = "+" if endpoint.serves else "-"
    port = f"{endpoint.port_name or endpoint.protocol}" if endpoint.port_name or endpoint.port else ""
    where = f"{address_text(endpoint.address, endpoint.port)}" if endpoint.port else endpoint.address
    place = ", ".join(filter(None, (endpoint.pod, endpoint.node, endpoint.zone)))
    kinds = f" [{', '.join(endpoint.serves)}]" if endpoint.serves else ""
    return f"  {sign} {port} {where}{f' ({place})' if place else ''}{kinds}: {endpoint.reason}"


def _row_line(row: RowState) -> str:
    """Return one row: ``=`` as desired, ``!`` not."""
    sign = "=" if row.status in ("present", "draining") else "!"
    spec = f"  ({row.actual or row.desired})" if row.actual or row.desired else ""
    trouble = ""
    if sign == "!":
        has = "is in the kernel" if row.in_kernel else "is not in the kernel"
        why = f", waits for {row.waits_for}" if row.waits_for else f": {row.error}" if row.error else ""
        trouble = f"  {row.status}, {has}{why}" + (f", retry at {row.retry_at}" if row.retry_at else "")
    return f"  {sign} {row.kind} {row.key}{spec}{trouble}"
