"""Notes on a Service in its document: why nothing of it is served, problems, refusals, and rows that wait."""

from collections.abc import Iterator

from kubeproxy_py.diagnose.rows import trouble_text
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.refusal import SETTING_IGNORED, grouped
from kubeproxy_py.model.rows import Address, RealServer, VirtualServer
from kubeproxy_py.model.services import Service, ServiceName

_NOTE_ROWS_MAX = 3  # rows of a Service that are named in one note


def may_have_notes(snapshot: Snapshot, service: Service, *, has_refusals: bool) -> bool:
    """Return whether there may be notes of *service*; at 10,000 Services most have none."""
    name = service.name
    return bool(
        snapshot.pending
        or service.problems
        or name in snapshot.uncompiled
        or has_refusals
        or not_served_text(service)
        or [part for part in snapshot.slices.get(name, ()) if part.problems]
    )


def notes_of(snapshot: Snapshot, service: Service, *, has_refusals: bool) -> Iterator[str]:
    """Yield what else is to be known of *service*."""
    name = service.name
    if text := not_served_text(service):
        yield text
    if name in snapshot.uncompiled:
        yield f"internal error (please report), its last rows stay: {snapshot.uncompiled[name]}"
    yield from service.problems
    for part in snapshot.slices_of(name):
        yield from (f"EndpointSlice {part.name.name}: {problem}" for problem in part.problems)
    if has_refusals:
        for one in grouped(snapshot.refusals.of(name)):
            # Explain has remedies for addresses that are refused.
            hint = f" ({one.hint})" if one.hint and one.reason == SETTING_IGNORED else ""
            yield f"{one.reason}: {one.subject}: {one.message}{hint}"
    yield from _row_notes(snapshot, name)


def _row_notes(snapshot: Snapshot, name: ServiceName) -> Iterator[str]:
    """Yield the rows of the Service *name* that wait and are neither servers nor addresses."""
    pending = snapshot.pending
    if not pending:
        return
    waiting = [
        key
        for part in snapshot.parts.get(name, ())
        for key in part.keys() & pending.keys()
        if not isinstance(key, VirtualServer | RealServer | Address)
    ]
    for key in sorted(waiting)[:_NOTE_ROWS_MAX]:
        yield f"{type(key).__name__} {key}: {trouble_text(snapshot, key)}"
    if len(waiting) > _NOTE_ROWS_MAX:
        yield f"{len(waiting) - _NOTE_ROWS_MAX:,} more rows wait"


def not_served_text(service: Service) -> str:
    """Return why nothing of *service* is served here, as it is meant to be; "" if something is."""
    if service.proxy_name is not None:
        return f"another proxy serves it (label service.kubernetes.io/service-proxy-name={service.proxy_name})"
    if service.type == "ExternalName":
        return "type ExternalName: there is nothing to serve"
    return "" if service.cluster_ips else "it has no ClusterIP (headless): there is nothing to serve"
