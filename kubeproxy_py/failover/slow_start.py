"""Slow start: how far each new endpoint of one Service is.

Invariants:
- An endpoint is at step 1 when it is new, and at FULL_STEP *duration_s* later.
- How far each is follows at start from the kernel's weights, so a restart neither slows nor hastens one.
"""

from collections.abc import Collection, Mapping

from kubeproxy_py.model.conditions import FULL_STEP
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.time import NEVER

_PAUSES = FULL_STEP - 1


class SlowStart:
    """The endpoints of one Service that start slowly; all times are seconds of the caller's clock."""

    def __init__(self, duration_s: float, known: Mapping[Destination, int] | None = None, now_s: float = 0.0) -> None:
        """Begin with the *known* endpoints, each at its step at *now_s*."""
        self.duration_s = duration_s
        self._known: frozenset[Destination] = frozenset(known or ())
        self._began_s = {
            place: now_s - duration_s * (step - 1) / _PAUSES
            for place, step in (known or {}).items()
            if step < FULL_STEP
        }

    def update(self, serving: Collection[Destination], now_s: float) -> None:
        """Record that the endpoints *serving* are those that may get connections now."""
        self._began_s = {place: at_s for place, at_s in self._began_s.items() if place in serving}
        self._began_s |= {place: now_s for place in serving if place not in self._known}
        self._known = frozenset(serving)

    def steps(self, now_s: float) -> dict[Destination, int]:
        """Return the step of each that is not at FULL_STEP yet; forget those that are."""
        steps = {place: self._step(at_s, now_s) for place, at_s in self._began_s.items()}
        steps = {place: step for place, step in steps.items() if step < FULL_STEP}
        self._began_s = {place: self._began_s[place] for place in steps}
        return steps

    def next_s(self, now_s: float) -> float:
        """Return when the next step of one is."""
        pause_s = self.duration_s / _PAUSES
        return min((at_s + self._step(at_s, now_s) * pause_s for at_s in self._began_s.values()), default=NEVER)

    def _step(self, began_s: float, now_s: float) -> int:
        return min(FULL_STEP, 1 + int((now_s - began_s) * _PAUSES / self.duration_s + 1e-9))


def steps_in_kernel(weights: Mapping[Destination, int], desired: Mapping[Destination, int]) -> dict[Destination, int]:
    """Return the step of each endpoint of one virtual server, by the *weights* that the kernel has.

    *desired* are their whole weights.  Weights are relative: where all have the same share, as after kube-proxy, none
    is slow.  One of weight 0 drained, and is new.
    """
    shares = {place: weights[place] / whole for place, whole in desired.items() if whole and weights.get(place, 0) > 0}
    furthest = max(shares.values(), default=0.0)
    return {place: max(1, min(FULL_STEP, round(FULL_STEP * share / furthest))) for place, share in shares.items()}
