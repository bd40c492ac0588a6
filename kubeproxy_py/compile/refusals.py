"""Refusals: what is refused of every Service, for Kubernetes Events, status and metrics.

Invariants:
- What is refused depends only on the objects now known (law 1); a refusal ends when its cause does.
- The cost of a change is that of the Services whose frontends may have changed; a changed endpoint costs nothing.
"""

from collections import Counter
from collections.abc import Iterator

from kubeproxy_py.compile.claims import Claims
from kubeproxy_py.model.refusal import ADDRESS_CONTESTED, REASONS, Refusal
from kubeproxy_py.model.services import ServiceName


class Refusals:
    """The refusals of the Services whose claims are *claims*."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._own: dict[ServiceName, tuple[Refusal, ...]] = {}  # without those of contested frontends
        self._counts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))  # of _own, by reason
        self._refused: set[ServiceName] = set()  # those that had a refusal when pop_changed was called last
        self._changed: dict[ServiceName, None] = {}

    def copy(self, claims: Claims) -> "Refusals":
        """Return the refusals as they are now, for *claims*, a copy of the claims; they do not change when these do."""
        copied = Refusals(claims)
        copied._own, copied._counts = self._own.copy(), self._counts.copy()
        return copied

    def replace(self, name: ServiceName, own: tuple[Refusal, ...]) -> None:
        """Replace the refusals of *name* that do not depend on other Services, and mark it changed."""
        before = self._own.pop(name, ())
        if own:
            self._own[name] = own
        if before != own:
            self._counts.subtract(refusal.reason for refusal in before)
            self._counts.update(refusal.reason for refusal in own)
        self.mark_changed(name)

    def mark_changed(self, name: ServiceName) -> None:
        """Record that *name* may have other refusals than before."""
        if name in self._refused or self._is_refused(name):
            self._changed[name] = None

    def pop_changed(self) -> list[ServiceName]:
        """Return the Services whose refusals may have changed since the last call."""
        changed, self._changed = list(self._changed), {}
        for name in changed:
            (self._refused.add if self._is_refused(name) else self._refused.discard)(name)
        return changed

    def of(self, name: ServiceName) -> tuple[Refusal, ...]:
        """Return the refusals of *name*."""
        return (*self._own.get(name, ()), *self._claims.refusals(name))

    def __iter__(self) -> Iterator[Refusal]:
        """Return all refusals, in order of the names of their Services."""
        for name in sorted({*self._own, *self._claims.losers()}):
            yield from self.of(name)

    def counts(self) -> dict[str, int]:
        """Return the number of refusals by reason; every reason is there."""
        return {**self._counts, ADDRESS_CONTESTED: self._claims.lost_count}

    def _is_refused(self, name: ServiceName) -> bool:
        return name in self._own or bool(self._claims.lost_by(name))
