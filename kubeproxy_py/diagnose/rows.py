"""Rows as documents: whether the kernel has each, and why not."""

from datetime import UTC, datetime

from kubeproxy_py.diagnose.document import RowState, RowStatus
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.progress import RetryState
from kubeproxy_py.model.rows import Key, RealServer, Rows, Spec
from kubeproxy_py.model.time import NEVER


def time_text(since_1970_s: float) -> str:
    """Return a time as RFC 3339 in UTC; "" for one that is never reached, or 0."""
    if not since_1970_s or not abs(since_1970_s) < NEVER:
        return ""
    return datetime.fromtimestamp(since_1970_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_text(snapshot: Snapshot, at_s: float) -> str:
    """Return *at_s*, a time of the agent's clock, as RFC 3339; "" for NEVER."""
    return time_text(snapshot.wall_time(at_s)) if abs(at_s) < NEVER else ""


def row_status(snapshot: Snapshot, key: Key) -> RowStatus:
    """Return how the row *key* compares with what is desired."""
    if key in snapshot.under_way:
        return "under way"
    if key in snapshot.pending:
        retry = snapshot.retries.get(key)
        if retry is None:
            return "pending"
        return "waiting" if retry.blocker or not retry.failures else "failing"
    if isinstance(key, RealServer) and key in snapshot.draining:
        return "draining"
    return "present"


def row_state(snapshot: Snapshot, key: Key, desired: Rows) -> RowState:
    """Return the row *key*, which *desired* has, or should not exist."""
    retry, now_s = snapshot.retries.get(key), snapshot.taken_s
    return RowState(
        type(key).__name__,
        str(key),
        row_status(snapshot, key),
        desired=_text(desired.get(key)),
        actual=_text(snapshot.kernel_rows.get(key, (desired,))),
        in_kernel=snapshot.kernel_rows.has(key, (desired,)),
        error=retry.error or ("" if key in snapshot.under_way else _wait_text(retry)) if retry else "",
        failures=retry.failures if retry else 0,
        retry_at=moment_text(snapshot, max(retry.due_s, now_s)) if retry else "",
        waits_for=f"{type(retry.blocker).__name__} {retry.blocker}" if retry and retry.blocker else "",
    )


def _text(spec: Spec) -> str:
    return "" if spec is None else str(spec)


def trouble_text(snapshot: Snapshot, key: Key) -> str:
    """Return why the row *key* is not as desired, in words; "" if it is."""
    if key not in snapshot.pending:
        return ""
    retry = snapshot.retries.get(key)
    if key in snapshot.under_way:
        return "its step is under way"
    if retry is None:
        return "not applied yet"
    if retry.blocker:
        return f"waits for {type(retry.blocker).__name__} {retry.blocker}"
    return retry.error or _wait_text(retry) or "tried again later"


def _wait_text(retry: RetryState) -> str:
    """Return what a row waits for that is not tried again at a time; see WeightHold."""
    is_held = retry.due_s >= NEVER and not retry.failures and not retry.blocker
    return "keeps its weight until the Nodes are listed, whose labels decide it" if is_held else ""
