"""Worker: runs an adapter in a thread of its own, because the programs that the adapter starts may hang for long.

A job that ends within the patience of the caller is as if the caller had done it.  Otherwise it goes on while the
caller does, and its result follows as a message (LateSteps, LateRows).

Invariants:
- Jobs are done one after the other, in the order in which they were given, and only this thread uses the adapter.
- Results become known in that order, too: until a late one was released, no caller waits for a later job.
- After a job that took long the caller waits for none, until one was quick again.
- A scope is read once, however often that is asked for meanwhile: a program that hangs lets no jobs accumulate.
- A bug in the adapter is logged, and fails its job only.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from kubeproxy_py import threads
from kubeproxy_py.kernel import LateResult, LateRows, LateSteps, Scope
from kubeproxy_py.kernel.dispatch import Adapter, apply_steps
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import UNDER_WAY, Step, StepFailure

FIRST_PATIENCE_S = 5.0
"""How long a job is waited for until `settle` is called: before the first sync is over nothing else can be done."""

PATIENCE_S = 0.5
"""The same afterwards; a run of iptables-restore takes some milliseconds, on the lab kernel 60."""

_MESSAGE = "its program has not ended yet"

log = logging.getLogger(__name__)


class _Job:
    """A job, and whether the caller still waits for its result."""

    def __init__(self, run: Callable[[], LateResult], *, is_late: bool) -> None:
        self.run = run
        self.is_late = is_late
        self.is_done = threading.Event()
        self.result: LateResult | None = None


class Worker:
    """An Adapter that runs *adapter* in the thread *name*, which `start` starts; before that, in the calling thread.

    All methods are called in one thread.
    """

    def __init__(self, name: str, adapter: Adapter, patience_s: float = FIRST_PATIENCE_S) -> None:
        self._name = name
        self._adapter = adapter
        self._patience_s = patience_s
        self._on_late: Callable[[LateResult], None] | None = None
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._lock = threading.Lock()  # protects result and is_late of each job
        self._is_slow = False  # the last job took long
        self._unreleased = 0  # late jobs whose result has not been released
        self._being_read: set[Scope] = set()  # late as well

    def start(self, on_late: Callable[[LateResult], None]) -> None:
        """Start the thread, which calls *on_late* with each late result."""
        self._on_late = on_late
        threads.start(self._name, self._work)

    def settle(self) -> None:
        """Wait for no more than PATIENCE_S from now on, because the first sync is over."""
        self._patience_s = min(self._patience_s, PATIENCE_S)

    def scopes(self) -> Sequence[Scope]:
        """Return the scopes of the adapter."""
        return self._adapter.scopes()

    def read(self, scope: Scope) -> Rows:
        """Read *scope* in the thread.  Raises KernelError; with UNDER_WAY a LateRows follows."""
        if self._on_late is None:
            return self._adapter.read(scope)
        result = None if scope in self._being_read else self._execute(lambda: self._read(scope))
        if not isinstance(result, LateRows):
            self._being_read.add(scope)
            raise KernelError(f"{scope}: {_MESSAGE}", errno=UNDER_WAY)
        if result.error:
            raise result.error
        return result.rows

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        """Apply *steps* in the thread; after failures with UNDER_WAY a LateSteps follows."""
        if self._on_late is None:
            return self._adapter.apply(steps)
        result = self._execute(lambda: self._apply(tuple(steps)))
        if not isinstance(result, LateSteps):
            return [StepFailure(step, UNDER_WAY, _MESSAGE) for step in steps]
        return result.failures

    def close(self) -> None:
        """Close the adapter."""
        self._adapter.close()

    def _execute(self, run: Callable[[], LateResult]) -> LateResult | None:
        """Return the result of the job *run*; None if it is late."""
        job = _Job(run, is_late=self._is_slow or self._unreleased > 0)
        self._jobs.put(job)
        if not job.is_late and not job.is_done.wait(self._patience_s):
            with self._lock:
                job.is_late = job.result is None
        if job.is_late:
            self._unreleased += 1
            return None
        return job.result

    def _release(self, scope: Scope | None = None) -> None:
        self._unreleased -= 1
        if scope:
            self._being_read.discard(scope)

    # In the thread

    def _work(self) -> None:
        assert self._on_late
        while True:
            if result := self._run(self._jobs.get()):
                self._on_late(result)

    def _run(self, job: _Job) -> LateResult | None:
        """Return the result of *job* if it is late; otherwise hand it to the caller."""
        began_s = monotonic()
        result = job.run()
        self._is_slow = monotonic() - began_s > self._patience_s
        with self._lock:
            job.result = result
        job.is_done.set()
        return result if job.is_late else None

    def _apply(self, steps: tuple[Step, ...]) -> LateSteps:
        try:
            failures = tuple(apply_steps(self._adapter, steps))
        except Exception as error:  # the outermost level of the job
            message = str(self._internal_error(error))
            failures = tuple(StepFailure(step, 0, message) for step in steps)
        return LateSteps(steps, failures, self._release)

    def _read(self, scope: Scope) -> LateRows:
        rows, failure = Rows(), None
        try:
            rows = self._adapter.read(scope)
        except KernelError as error:
            failure = error
        except Exception as error:  # the outermost level of the job
            failure = self._internal_error(error)
        return LateRows(scope, rows, failure, lambda: self._release(scope))

    def _internal_error(self, error: Exception) -> KernelError:
        message = "Internal error in a job (please report); it is tried again"
        log.error(message, extra=values(thread=self._name), exc_info=error)
        return KernelError(f"internal error: {error!r}")
