"""Drift: rows that another program changed, found by comparing kernel state with the known rows."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.rows import Key, Rows
from kubeproxy_py.reconcile.sync_status import count_by_kind


class ScopeDiff(Struct, frozen=True, gc=False):
    """Rows of a part of the kernel state, and the known rows that belong to that part."""

    found: Rows
    known: Sequence[Key]

    def differing(self, actual: Rows) -> list[Key]:
        """Return the keys whose rows differ from *actual*; a known key that is in neither was deleted meanwhile."""
        found, missing = self.found, object()
        # Nearly always nothing differs, and these two checks run without Python code for each row: a third of the time.
        if found.items() <= actual.items() and all(map(found.__contains__, self.known)):
            return []
        changed = [key for key, spec in found.items() if actual.get(key, missing) != spec]
        return changed + [key for key in self.known if key not in found and key in actual]


DISPUTED_TIMES = 3
DISPUTED_WINDOW_S = 600.0  # a row that has not drifted for so long starts again from zero
FIGHT_WINDOW_S = 60.0
"""A row that drifts DISPUTED_TIMES within it is fought for: another program writes it all the time."""

_TRACKED_MAX = 10_000  # rows

PAUSE = Backoff(first_s=5.0, longest_s=300.0)
"""How long a disputed row that packets do not need may stay changed: longer with each dispute, within the window."""


class Drift:
    """Numbers of drifted rows since the start, by the name of their kind, and rows that drift again and again.

    A row counts as repaired once, however often it was tried; a row that is found again has drifted again.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.disputed = 0  # times that a row became disputed
        self._unrepaired: set[Key] = set()
        self.fights: Counter[str] = Counter()  # times that a row was fought for, by the name of its kind
        self._times: dict[Key, tuple[float, ...]] = {}  # when each row drifted consecutively
        self._unreported: dict[Key, None] = {}  # since pop_found was called last
        self._disputed: dict[Key, None] = {}  # since pop_disputed was called last
        # How often each row became disputed, and when it drifted last.
        self._disputes: dict[Key, tuple[int, float]] = {}

    def record(self, keys: Iterable[Key], now_s: float) -> None:
        """Record that *keys* were found to have drifted at *now_s*."""
        drifted = dict.fromkeys(keys)
        self.found.update(count_by_kind(drifted))
        self._record_times(drifted.keys() - self._unrepaired, now_s)
        self._unrepaired |= drifted.keys()
        self._unreported |= drifted

    def pop_found(self) -> tuple[Key, ...]:
        """Return the rows that were found to have drifted since the last call."""
        found, self._unreported = tuple(self._unreported), {}
        return found

    def pop_disputed(self) -> list[Key]:
        """Return the rows that since the last call drifted for the DISPUTED_TIMES-th consecutive time."""
        disputed, self._disputed = list(self._disputed), {}
        return disputed

    def pause_s(self, key: Key, now_s: float) -> float:
        """Return for how long the repair of *key* may be put off: 0 unless it was disputed lately; longer each time."""
        times, at_s = self._disputes.get(key, (0, now_s))
        return PAUSE.delay_s(times) if times and now_s - at_s < DISPUTED_WINDOW_S else 0.0

    def _record_times(self, keys: Iterable[Key], now_s: float) -> None:
        if len(self._times) >= _TRACKED_MAX:
            self._times = {key: each for key, each in self._times.items() if now_s - each[-1] < DISPUTED_WINDOW_S}
        for key in keys:
            if key in self._disputes:
                self._disputes[key] = (self._disputes[key][0], now_s)
            times_s = self._times.pop(key, ())
            times_s = (*times_s, now_s) if times_s and now_s - times_s[-1] < DISPUTED_WINDOW_S else (now_s,)
            if len(times_s) == DISPUTED_TIMES:
                self._record_dispute(key, now_s, is_fight=now_s - times_s[0] < FIGHT_WINDOW_S)
            elif len(self._times) < _TRACKED_MAX:
                self._times[key] = times_s

    def _record_dispute(self, key: Key, now_s: float, *, is_fight: bool) -> None:
        self.disputed += 1
        self._disputed[key] = None
        if is_fight:
            self.fights.update(count_by_kind([key]))
        self._disputes = {key: each for key, each in self._disputes.items() if now_s - each[1] < DISPUTED_WINDOW_S}
        if len(self._disputes) < _TRACKED_MAX:
            self._disputes[key] = (self._disputes.get(key, (0, 0.0))[0] + 1, now_s)

    def record_outcome(self, tried: Collection[Key] | None, failed: Collection[Key]) -> None:
        """Record that of *tried* (None: of all rows) all but *failed* are as desired now."""
        if not self._unrepaired:
            return
        tried_drift = self._unrepaired if tried is None else self._unrepaired.intersection(tried)
        repaired = tried_drift.difference(failed)
        self.repaired.update(count_by_kind(repaired))
        self._unrepaired -= repaired
