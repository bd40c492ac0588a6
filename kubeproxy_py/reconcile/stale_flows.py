"""Sweep: looks at the flows of virtual servers that changed, and has the stale ones forgotten.

Law: a sweep never holds up traffic.  It goes on in short turns, bounded in parts of the listing, and the agent does
whatever else is due between two of them.  What is stale is judged by what is allowed at that moment: an endpoint that
comes while a sweep is under way is known to its next turn.  Virtual servers that change meanwhile are swept after it,
so there is one listing at a time, and one for however many changes came during the last.

Like all that lies below the agent it is given the time (seconds of the agent's clock) and never asks for it.
"""

from collections.abc import Callable, Iterable, Iterator

from kubeproxy_py.kernel import FlowTable
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.flows import Allowed, Destination, Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.stale_flows import stale_flows

SLICE_BATCHES = 8
"""Parts of a listing that are looked at in one turn: of Linux 1,400 entries, some 5 ms (40 if all are stale)."""

RETRY_S = 30.0
"""After the kernel could not be asked; cheap, since a kernel without conntrack says so at the first message."""


class StaleFlowCleaner:
    """Which flows are to be looked at, and how far that is.

    *table* is None for a kernel that has no flows; then nothing is ever due.  *allowed* tells where flows of the given
    virtual servers may go now.
    """

    def __init__(self, table: FlowTable | None, allowed: Callable[[Iterable[VirtualServer]], Allowed]) -> None:
        self.due_s = NEVER
        self.failures = 0  # in a row
        self._table = table
        self._allowed_now = allowed
        self._waiting: dict[VirtualServer, None] = {}
        self._allowed: dict[VirtualServer, frozenset[Destination]] = {}  # of the sweep under way
        self._listing: Iterator[list[Flow]] | None = None
        self._seen = self._forgotten = self._forgotten_ipv6 = 0
        self._refused: list[str] = []

    def enqueue(self, servers: Iterable[VirtualServer], now_s: float) -> None:
        """*servers*, or where their flows may go, changed."""
        changed = dict.fromkeys(servers)
        if not changed or self._table is None:
            return
        self._waiting |= changed
        self._allowed |= self._allowed_now(self._allowed.keys() & changed)
        self.due_s = min(self.due_s, now_s) if not self.failures else self.due_s

    def run_slice(self, now_s: float) -> StaleFlowResult | None:
        """Go on for TURN_PARTS; the report when all was looked at.

        Raises KernelError, after which it begins anew in RETRY_S.
        """
        try:
            return self._go_on(now_s)
        except KernelError:
            self._waiting |= dict.fromkeys(self._allowed)
            self._allowed, self._listing = {}, None
            self.failures += 1
            self.due_s = now_s + RETRY_S
            raise

    def _go_on(self, now_s: float) -> StaleFlowResult | None:
        listing = self._listing or self._begin()
        for _ in range(SLICE_BATCHES):
            part = next(listing, None)
            if part is None:
                return self._end(now_s)
            self._look_at(part)
        return None

    def _begin(self) -> Iterator[list[Flow]]:
        self._allowed = dict(self._allowed_now(self._waiting))
        self._waiting = {}
        self._seen, self._forgotten, self._forgotten_ipv6, self._refused = 0, 0, 0, []
        assert self._table is not None, "nothing is due"
        self._listing = self._table.udp_flows(list(self._allowed))
        return self._listing

    def _look_at(self, part: list[Flow]) -> None:
        self._seen += len(part)
        stale = stale_flows(part, self._allowed)
        for is_ipv6 in (False, True):
            mine = [flow for flow in stale if (":" in flow.virtual_server.address) == is_ipv6]
            if self._table and mine:
                forgotten, refused = self._table.delete_flows(mine)
                self._forgotten += forgotten
                self._forgotten_ipv6 += forgotten if is_ipv6 else 0
                self._refused += refused

    def _end(self, now_s: float) -> StaleFlowResult:
        refused = tuple(self._refused)
        report = StaleFlowResult(len(self._allowed), self._seen, self._forgotten, refused, self._forgotten_ipv6)
        self._allowed, self._listing = {}, None
        self.failures = 0
        self.due_s = now_s if self._waiting else NEVER
        return report
