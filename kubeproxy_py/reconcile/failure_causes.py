"""Why steps failed: failures of one cause together, so that a missing module is one line of the log, not eighty."""

from collections.abc import Iterable, Iterator, Mapping
from errno import EACCES, EMFILE, ENFILE, ENOBUFS, ENOENT, ENOMEM, EPERM, EROFS

from msgspec import Struct

from kubeproxy_py.model.rows import Key, VirtualServerSpec
from kubeproxy_py.model.steps import StepFailure

_PRIVILEGES = "give the process the capabilities NET_ADMIN and NET_RAW in the host's network namespace"
_MEMORY = "free memory on this node, or raise the memory limit of the pod"
_FILES = "raise the limit of open files (ulimit -n, LimitNOFILE)"
_REMEDIES: Mapping[int, str] = {
    EPERM: _PRIVILEGES,
    EACCES: _PRIVILEGES,
    EROFS: "mount it writable, or apply it with privileges first (run --init-only)",
    ENOMEM: _MEMORY,
    ENOBUFS: _MEMORY,
    EMFILE: _FILES,
    ENFILE: "raise fs.file-max",
}
"""What helps against errors that mean the same everywhere; others have their remedy in their text."""


class Cause(Struct, frozen=True, gc=False):
    """Failures of one cause."""

    first: StepFailure  # the first that failed for it; if *is_earlier*, the first that waits
    keys: frozenset[Key]  # of the rows that failed; if *is_earlier*, the row that failed in an earlier sync
    waiting: int = 0  # rows that wait for *keys*, or for rows that wait for them
    is_earlier: bool = False

    @property
    def error(self) -> str:
        """The text of the error."""
        return self.first.message

    @property
    def remedy(self) -> str:
        """What the operator can do, where the text of the error does not say it; "" if nothing is known."""
        return "" if "(" in self.error else _REMEDIES.get(self.first.errno, "")

    def __str__(self) -> str:
        others = len(self.keys) - 1
        counts = [f"{others} more with this error"] if others else []
        if self.waiting and not self.is_earlier:
            counts.append(f"{self.waiting} waiting for {'them' if others else 'it'}")
        elif self.waiting > 1:
            counts.append(f"{self.waiting - 1} more waiting for it")
        return f"{self.first} ({', '.join(counts)})" if counts else str(self.first)


def find_causes(failures: Iterable[StepFailure]) -> Iterator[Cause]:
    """Yield the causes of *failures*, those of failed steps first.

    Steps failed for one cause if their error text is the same.
    """
    failures = list(failures)
    failed: dict[tuple[int, str], list[StepFailure]] = {}
    blockers: dict[Key, Key] = {}
    for failure in failures:
        if failure.blocker is None:
            failed.setdefault((failure.errno, failure.message), []).append(failure)
        else:
            blockers[failure.step.key] = failure.blocker
    waiting: dict[Key, list[StepFailure]] = {}
    for failure in failures:
        if failure.blocker is not None:
            waiting.setdefault(_root(failure.blocker, blockers), []).append(failure)
    for alike in failed.values():
        keys = frozenset(failure.step.key for failure in alike)
        yield Cause(alike[0], keys, sum(len(waiting.pop(key, ())) for key in keys))
    for root, held in waiting.items():
        yield Cause(held[0], frozenset((root,)), len(held), is_earlier=True)


def _root(key: Key, blockers: dict[Key, Key]) -> Key:
    """Return the row that *key* waits for in the end."""
    seen: set[Key] = set()
    while key in blockers and key not in seen:
        seen.add(key)
        key = blockers[key]
    return key


def missing_schedulers(failures: Iterable[StepFailure]) -> set[str]:
    """Return the schedulers that the kernel lacks, by *failures*."""
    return {
        failure.step.spec.scheduler
        for failure in failures
        if failure.errno == ENOENT and isinstance(failure.step.spec, VirtualServerSpec)
    }
