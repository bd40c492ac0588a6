"""RetryQueue: the keys that are not yet as desired, and when each may be tried again.

Invariants:
- An error stays at its row (law 5): a failed row waits, twice as long each time, while all others are applied.
- Enqueueing a key again discards its failures.
- Cost is proportional to what is pending now, not to what was pending before.
"""

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.rows import Key
from kubeproxy_py.model.time import NEVER

RETRY = Backoff(first_s=0.5, longest_s=30.0)


class RetryState(Struct, frozen=True, gc=False):
    """A row that waits: its consecutive failures, and when it may be tried again (seconds of the caller's clock)."""

    failures: int  # 0: it has not been tried
    due_s: float


class RetryQueue:
    """Keys in the order in which they were enqueued."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._retries: dict[Key, RetryState] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def enqueue(self, keys: Iterable[Key]) -> None:
        """Make *keys* due now."""
        for key in keys:
            self._keys[key] = None
            self._retries.pop(key, None)

    def defer(self, until_s: Mapping[Key, float]) -> None:
        """Make the keys of *until_s* wait until then, without having failed; enqueueing one ends its wait."""
        for key, due_s in until_s.items():
            self._keys[key] = None
            self._retries[key] = RetryState(0, due_s)

    @property
    def has_new(self) -> bool:
        """Whether a key is pending that does not wait."""
        return len(self._retries) < len(self._keys)

    @property
    def keys(self) -> Collection[Key]:
        """All pending keys."""
        return self._keys.keys()

    @property
    def failed(self) -> Collection[Key]:
        """The keys that failed and wait."""
        return [key for key, retry in self._retries.items() if retry.failures]

    @property
    def retry_due_s(self) -> float:
        """When the first key that waits may be tried."""
        return min((retry.due_s for retry in self._retries.values()), default=NEVER)

    def due(self, now_s: float) -> list[Key]:
        """Return the keys that may be tried at *now_s*."""
        if not self._retries:
            return list(self._keys)
        return [key for key in self._keys if key not in self._retries or self._retries[key].due_s <= now_s]

    def record_outcome(self, tried: Collection[Key], failed: Collection[Key], now_s: float) -> None:
        """Drop the keys of *tried* that are as desired now; make those that *failed* wait."""
        for key in tried:
            if key not in failed:
                self._keys.pop(key, None)
                self._retries.pop(key, None)
        # A dict never shrinks, and iterating over it visits every slot: after the first sync, 140,000 empty ones.
        self._keys = dict(self._keys)
        for key in failed:
            failures = self._retries[key].failures + 1 if key in self._retries else 1
            self._keys[key] = None
            self._retries[key] = RetryState(failures, now_s + RETRY.delay_s(failures))
