"""Reports: what one cycle of the reconciler did, as values.

The log, the metrics, health and systemd are derived from them; report_text.py puts them into words.
"""

from enum import Enum

from msgspec import Struct

from kubeproxy_py.model.flows import StaleFlowResult
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import Key, VirtualServer
from kubeproxy_py.model.steps import Step, StepFailure


class Trigger(Enum):
    """Why a sync ran."""

    FIRST_SYNC = "first sync"  # the initial lists were received, or the actual rows had become invalid
    EVENT = "event"  # an object changed, or a failed row was due for a retry
    DRIFT = "drift"  # the full compare found rows that differ from the actual ones


class SyncReport(Struct, frozen=True, gc=False, kw_only=True):
    """A sync: Services were compiled, and rows brought from actual to desired."""

    trigger: Trigger
    services: int  # Services that were compiled
    steps: tuple[Step, ...]  # that were tried; deletions of drained real servers and what was under way included
    failures: tuple[StepFailure, ...]
    rows: int  # actual rows afterwards
    pending: int  # rows that are not yet as desired
    compile_s: float
    plan_s: float
    apply_s: float
    since_event_s: float | None  # age of the oldest event that this sync handled; None: no event caused it
    states: tuple[ServiceState, ...] = ()  # of the Services that were compiled
    drift_rows: int = 0  # rows that differed; only with Trigger.DRIFT
    drift: tuple[Key, ...] = ()  # these rows
    foreign: tuple[VirtualServer, ...] = ()  # that another program created; their deletion is among the steps


class DrainReport(Struct, frozen=True, gc=False, kw_only=True):
    """Real servers that had drained were deleted, outside of a sync."""

    steps: tuple[Step, ...]
    failures: tuple[StepFailure, ...]
    rows: int  # actual rows afterwards
    pending: int  # rows that are not yet as desired
    apply_s: float


class StaleFlowReport(Struct, frozen=True, gc=False, kw_only=True):
    """The UDP flows of the virtual servers that earlier syncs changed were scanned."""

    result: StaleFlowResult
    duration_s: float  # of all slices of the scan, without the time between them


Report = SyncReport | DrainReport | StaleFlowReport
