"""Pending: the keys that are not yet as desired, and when each may be tried again.

Law: an error stays at its row.  A row that failed waits, twice as long each time, while all others go on; asking for
it anew forgets its failures.  The cost of asking what is due is that of what is pending, not of what once was.
"""

from collections.abc import Collection, Iterable

from msgspec import Struct

from kubeproxy_py.model.rows import Key
from kubeproxy_py.model.time import NEVER

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0


class RetryState(Struct, frozen=True, gc=False):
    """A row that failed: how often, and when it may be tried again (seconds of the caller's clock)."""

    attempts: int
    due_s: float


class RetryQueue:
    """Keys in the order in which they were asked for."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._retries: dict[Key, RetryState] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def enqueue(self, keys: Iterable[Key]) -> None:
        """Have *keys* looked at as soon as may be."""
        for key in keys:
            self._keys[key] = None
            self._retries.pop(key, None)

    @property
    def is_asked(self) -> bool:
        """Whether a key waits that has not failed since it was asked for."""
        return len(self._retries) < len(self._keys)

    @property
    def keys(self) -> Collection[Key]:
        """All that is pending."""
        return self._keys.keys()

    @property
    def failed(self) -> Collection[Key]:
        """Those that failed and wait."""
        return self._retries.keys()

    @property
    def retry_due_s(self) -> float:
        """When the first of those that failed may be tried again."""
        return min((retry.due_s for retry in self._retries.values()), default=NEVER)

    def due(self, now_s: float) -> list[Key]:
        """The keys that may be tried at *now_s*."""
        if not self._retries:
            return list(self._keys)
        return [key for key in self._keys if key not in self._retries or self._retries[key].due_s <= now_s]

    def mark_done(self, tried: Collection[Key], refused: Collection[Key], now_s: float) -> None:
        """Of *tried*, all but *refused* are as desired now; those wait."""
        for key in tried:
            if key not in refused:
                self._keys.pop(key, None)
                self._retries.pop(key, None)
        # A dict keeps the length that it once had, and is walked by it: after the first sync, 140,000 empty places.
        self._keys = dict(self._keys)
        for key in refused:
            attempts = self._retries[key].attempts + 1 if key in self._retries else 1
            self._keys[key] = None
            self._retries[key] = RetryState(attempts, now_s + min(FIRST_RETRY_S * 2 ** (attempts - 1), LONGEST_RETRY_S))
