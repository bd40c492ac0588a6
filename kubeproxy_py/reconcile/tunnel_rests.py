"""TunnelRests: the devices of direct server return that stay a while after the last Service that asked for them.

Another node goes on handing on the connections that are open, which drain there, so they would break if this node took
its device down at once.  An idle connection is forgotten by IPVS after 15 minutes, and all are with the drain deadline.

Invariants:
- The time is bounded, because as long as the device is up it takes packets from anyone.
- Desired rows have a device that rests, so what compares or explains rows needs to know nothing of it.
- After a restart the time begins again, since the kernel does not record when the last Service asked.
"""

from collections.abc import Callable, Iterable

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.rows import Key, ReturnTunnel, Rows, Spec
from kubeproxy_py.model.time import NEVER

REST_S = 900.0
"""How long a device rests without a drain deadline: IPVS's timeout of idle TCP connections."""


class TunnelRests:
    """The devices that rest; all times are seconds of the caller's clock.

    *deadline_s* returns the drain deadline of the configuration; 0: there is none.
    """

    def __init__(self, compiler: Compiler, deadline_s: Callable[[], float] = lambda: 0.0) -> None:
        self.due_s = NEVER
        self._compiler = compiler
        self._deadline_s = deadline_s
        self._specs: Rows = {}
        self._since_s: dict[ReturnTunnel, float] = {}

    def adopt(self, kernel_rows: Rows, now_s: float) -> None:
        """Have the devices among *kernel_rows* rest that no Service asks for; desired rows were just compiled."""
        self._update(kernel_rows, kernel_rows, now_s)

    def update(self, changed: Iterable[Key], actual: Rows, now_s: float) -> list[Key]:
        """Begin and end rests; return the keys whose desired spec changed.

        Args:
            changed: The keys whose desired spec was changed since the last call.
            actual: The actual rows.
            now_s: The time.
        """
        tunnels = [key for key in changed if type(key) is ReturnTunnel]
        return self._update(tunnels, actual, now_s) if tunnels or self._specs else []

    def _update(self, keys: Iterable[Key], actual: Rows, now_s: float) -> list[Key]:
        changed = self._compiler.rest_tunnels({})  # for a moment: what Services want decides
        desired = self._compiler.desired.rows
        for key in keys:
            if isinstance(key, ReturnTunnel) and key in actual and key not in self._since_s:
                self._since_s[key], self._specs[key] = now_s, actual[key]
        rest_s = (self._deadline_s() or REST_S) if self._compiler.context.policy_marks else 0.0
        over = [key for key, since_s in self._since_s.items() if key in desired or now_s >= since_s + rest_s]
        for key in over:
            del self._since_s[key], self._specs[key]
        self.due_s = min(self._since_s.values(), default=NEVER) + rest_s
        specs: dict[Key, Spec] = self._specs.copy()  # a part is never changed afterwards
        return changed + self._compiler.rest_tunnels(specs)
