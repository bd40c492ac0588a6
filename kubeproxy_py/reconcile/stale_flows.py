"""StaleFlowCleaner: deletes conntrack entries of UDP virtual servers whose destination is no longer an endpoint.

Invariants:
- Cleaning never delays traffic: it runs in short slices, and everything else that is due runs between two of them.
- A flow is judged by the destinations that are allowed at that moment: an endpoint that is added during a scan is known
  to its next slice.
- There is one scan at a time; virtual servers that change during it are scanned together afterwards.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.flows import AllowedDestinations, Destination, Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import is_ipv6
from kubeproxy_py.plan.stale_flows import find_stale_flows
from kubeproxy_py.reconcile.report import StaleFlowReport

log = logging.getLogger(__name__)

SLICE_BATCHES = 8
"""Batches of a listing per slice: on Linux 1,400 entries, some 5 ms (40 ms if all are stale)."""

RETRY = Backoff(first_s=30.0, longest_s=30.0)
"""Delay after the kernel could not list flows; cheap, because a kernel without conntrack fails at the first message."""


class StaleFlowCleaner:
    """Scans the flows of the virtual servers that were enqueued.

    *allowed* returns the destinations that the given virtual servers allow now. *clock* measures durations only.
    """

    def __init__(
        self,
        kernel: Kernel,
        allowed: Callable[[Iterable[VirtualServer]], AllowedDestinations],
        clock: Callable[[], float],
    ) -> None:
        self.due_s = NEVER
        self.failures = 0  # consecutive
        self._kernel = kernel
        self._allowed_now = allowed
        self._clock = clock
        self._waiting: dict[VirtualServer, None] = {}
        self._allowed: dict[VirtualServer, frozenset[Destination]] = {}  # of the running scan
        self._scan: Iterator[list[Flow]] | None = None
        self._took_s = 0.0  # the running scan, until now
        self._seen = self._deleted = self._deleted_ipv6 = 0
        self._errors: list[str] = []

    def enqueue(self, servers: Iterable[VirtualServer], now_s: float) -> None:
        """Scan the flows of *servers*, whose allowed destinations changed."""
        changed = dict.fromkeys(servers)
        if not changed:
            return
        self._waiting |= changed
        self._allowed |= self._allowed_now(self._allowed.keys() & changed)
        self.due_s = min(self.due_s, now_s) if not self.failures else self.due_s

    def run_slice(self, now_s: float) -> StaleFlowReport | None:
        """Scan SLICE_BATCHES batches; return the report if the scan ended.

        If the kernel cannot list flows, that is logged once, and the scan begins again later (RETRY).
        """
        began_s = self._clock()
        try:
            result = self._scan_batches(now_s)
        except KernelError as error:
            self._retry_later(now_s)
            if self.failures == 1:
                message = "Failed to list UDP flows; flows to removed endpoints remain until they time out"
                log.warning(message, extra=values(err=str(error)))
            return None
        except Exception:  # a bug that one flow triggers must not stop the sync, nor occur again
            log.exception(
                "Internal error while deleting UDP flows (please report); stale ones stay until they time out"
            )
            self._abandon_scan(now_s)
            return None
        self._took_s += self._clock() - began_s
        if not result:
            return None
        took_s, self._took_s = self._took_s, 0.0
        return StaleFlowReport(result=result, duration_s=took_s)

    def _scan_batches(self, now_s: float) -> StaleFlowResult | None:
        scan = self._scan or self._begin_scan()
        for _ in range(SLICE_BATCHES):
            batch = next(scan, None)
            if batch is None:
                return self._end_scan(now_s)
            self._delete_stale(batch)
        return None

    def _begin_scan(self) -> Iterator[list[Flow]]:
        self._allowed = dict(self._allowed_now(self._waiting))
        self._waiting = {}
        self._seen, self._deleted, self._deleted_ipv6, self._errors = 0, 0, 0, []
        self._scan = self._kernel.udp_flows(list(self._allowed))
        return self._scan

    def _delete_stale(self, batch: list[Flow]) -> None:
        self._seen += len(batch)
        stale = find_stale_flows(batch, self._allowed)
        for ipv6 in (False, True):
            flows = [flow for flow in stale if is_ipv6(flow.virtual_server.address) is ipv6]
            if flows:
                deleted, errors = self._kernel.delete_flows(flows)
                self._deleted += deleted
                self._deleted_ipv6 += deleted if ipv6 else 0
                self._errors += errors

    def _end_scan(self, now_s: float) -> StaleFlowResult:
        errors = tuple(self._errors)
        result = StaleFlowResult(len(self._allowed), self._seen, self._deleted, errors, self._deleted_ipv6)
        self.failures = 0
        self._abandon_scan(now_s)
        return result

    def _abandon_scan(self, now_s: float) -> None:
        self._allowed, self._scan = {}, None
        self.due_s = now_s if self._waiting else NEVER

    def _retry_later(self, now_s: float) -> None:
        self._waiting |= dict.fromkeys(self._allowed)
        self._allowed, self._scan = {}, None
        self.failures += 1
        self.due_s = now_s + RETRY.delay_s(self.failures)
