"""RetryQueue: the keys that are not yet as desired, and when each may be tried again.

Invariants:
- An error stays at its row (law 5): a failed row waits, twice as long each time, while all others are applied.
- Enqueueing a key again discards its failures.
- A row that waits for another is due as soon as that one is as desired.
- A row with a step under way is not due before that step has ended.
- Cost is proportional to what is pending now, not to what was pending before.
"""

from collections.abc import Collection, Iterable, Mapping

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.progress import RetryState
from kubeproxy_py.model.rows import Chain, Jump, Key
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER

RETRY = Backoff(first_s=0.5, longest_s=30.0)

TIMEOUT_RETRY = Backoff(first_s=5.0, longest_s=60.0)
"""After a program of iptables did not end in time: it may not end the next time either, but only its thread waits."""

LOOP_TIMEOUT_RETRY_S = 60.0
"""The delay after a program for which the loop waits (ipset) did not end in time."""

WAIT_S = 30.0
"""How long a row that waits for another is not tried at most, if that one is not reported as done."""


class RetryQueue:
    """Keys in the order in which they were enqueued."""

    def __init__(self) -> None:
        self.under_way: dict[Key, tuple[Step, ...]] = {}  # by row: the steps that are under way
        self._keys: dict[Key, None] = {}
        self._retries: dict[Key, RetryState] = {}
        self._waiting_for: dict[Key, dict[Key, None]] = {}  # by row: those that wait for it

    def __len__(self) -> int:
        return len(self._keys)

    def enqueue(self, keys: Iterable[Key]) -> None:
        """Make *keys* due now; those with a step under way, when it has ended."""
        if not self._retries:  # nearly always; what is under way waits
            self._keys.update(dict.fromkeys(keys))
            return
        for key in keys:
            self._keys[key] = None
            if key not in self.under_way:
                self._retries.pop(key, None)

    def defer(self, until_s: Mapping[Key, float]) -> None:
        """Make the keys of *until_s* wait until then, without having failed; enqueueing one ends its wait."""
        for key, due_s in until_s.items():
            self._keys[key] = None
            self._retries[key] = RetryState(0, due_s)

    def begin(self, steps: Iterable[Step]) -> None:
        """Record that *steps* are under way."""
        for step in steps:
            failures = self._retries[step.key].failures if step.key in self._retries else 0
            self.under_way[step.key] = (*self.under_way.get(step.key, ()), step)
            self._keys[step.key] = None
            self._retries[step.key] = RetryState(failures, NEVER)

    def end(self, keys: Iterable[Key]) -> None:
        """Record that the steps on *keys* have ended; their outcome is to be recorded next."""
        for key in keys:
            del self.under_way[key]

    @property
    def has_new(self) -> bool:
        """Whether a key is pending that does not wait."""
        return len(self._retries) < len(self._keys)

    @property
    def keys(self) -> Collection[Key]:
        """All pending keys."""
        return self._keys.keys()

    @property
    def retries(self) -> Mapping[Key, RetryState]:
        """The pending keys that wait, and for how long."""
        return self._retries

    @property
    def failed(self) -> Collection[Key]:
        """The keys that failed and wait."""
        return [key for key, retry in self._retries.items() if retry.failures]

    @property
    def waiting(self) -> Collection[Key]:
        """The keys that wait without having failed, except those with a step under way."""
        return [key for key, retry in self._retries.items() if not retry.failures and key not in self.under_way]

    @property
    def retry_due_s(self) -> float:
        """When the first key that waits may be tried."""
        return min((retry.due_s for retry in self._retries.values()), default=NEVER)

    def due(self, now_s: float) -> list[Key]:
        """Return the keys that may be tried at *now_s*."""
        if not self._retries:
            return list(self._keys)
        return [key for key in self._keys if key not in self._retries or self._retries[key].due_s <= now_s]

    def others(self, due: Collection[Key]) -> list[Key]:
        """Return the pending keys that are not in *due*."""
        if len(due) == len(self._keys):
            return []
        tried = set(due)
        return [key for key in self._keys if key not in tried]

    def record_outcome(
        self,
        tried: Collection[Key],
        failed: Mapping[Key, Key | None],
        now_s: float,
        timed_out: Collection[Key] = (),
        errors: Mapping[Key, str] = {},
    ) -> None:
        """Drop the keys of *tried* that are as desired now; make those that *failed* wait.

        *failed* has, for each key that was not tried, the key of the row that it waits for; *timed_out* are those
        whose program did not end in time.  *errors* has the reason of each in words.
        """
        for key in tried:
            if key not in failed:
                self._keys.pop(key, None)
        if self._retries:
            for key in tried:
                if key not in failed:
                    self._retries.pop(key, None)
        # A dict never shrinks, and iterating over it visits every slot: after the first sync, 140,000 empty ones.
        self._keys = dict(self._keys)
        for key, blocker in failed.items():
            self._keys[key] = None
            if blocker is None:
                failures = self._retries[key].failures + 1 if key in self._retries else 1
                delay_s = _delay_s(key, failures, timed_out=key in timed_out)
                self._retries[key] = RetryState(failures, now_s + delay_s, errors.get(key, ""))
            else:
                self._retries[key] = RetryState(0, now_s + WAIT_S, errors.get(key, ""), blocker)
                self._waiting_for.setdefault(blocker, {})[key] = None
        if self._waiting_for:
            self._release([key for key in tried if key not in failed])

    def _release(self, done: list[Key]) -> None:
        """Make every row due that waits for one of *done*, or for a row that waits for it, and so on."""
        while done:
            for key in self._waiting_for.pop(done.pop(), ()):
                retry = self._retries.get(key)
                if retry and not retry.failures and key not in self.under_way:  # otherwise it has been tried since
                    del self._retries[key]
                done.append(key)


def _delay_s(key: Key, failures: int, *, timed_out: bool) -> float:
    """Return how long *key* waits after so many consecutive *failures*."""
    if not timed_out:
        return RETRY.delay_s(failures)
    return TIMEOUT_RETRY.delay_s(failures) if isinstance(key, Chain | Jump) else LOOP_TIMEOUT_RETRY_S
