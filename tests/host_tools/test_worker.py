"""Worker: jobs that end in time, late ones, and their order."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from kubeproxy_py.kernel import LateResult, LateRows, LateSteps, Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.worker import Worker
from kubeproxy_py.model.rows import Chain, ChainSpec, Rows
from kubeproxy_py.model.steps import UNDER_WAY, Step, StepFailure

NAT = table_scope("IPv4", "nat")
A, B, C = ([Step("add", Chain("IPv4", "nat", name), ChainSpec(()))] for name in ("a", "b", "c"))
PATIENCE_S = 60.0  # of what must happen, for a busy machine
ROWS: Rows = {A[0].key: ChainSpec(())}


class HangingAdapter:
    """Does nothing before it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.began = threading.Event()
        self.began_s = 0.0
        self.done: list[object] = []
        self.error: Exception | None = None
        self.failures: list[StepFailure] = []

    def scopes(self) -> Sequence[Scope]:
        return [NAT]

    def read(self, scope: Scope) -> Rows:
        self._do(scope)
        return ROWS

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        self._do(list(steps))
        return self.failures

    def close(self) -> None:
        """Do nothing."""

    def _do(self, job: object) -> None:
        self.began_s = time.monotonic()
        self.began.set()
        assert self.released.wait(PATIENCE_S)
        self.done.append(job)
        if self.error:
            raise self.error


class Harness:
    def __init__(self, patience_s: float = 0.01) -> None:
        self.adapter = HangingAdapter()
        self.patience_s = patience_s
        self.late: list[LateResult] = []
        self.arrived = threading.Semaphore(0)
        self.worker = Worker("rules", self.adapter, patience_s)
        self.worker.start(self.receive)

    def receive(self, result: LateResult) -> None:
        self.late.append(result)
        self.arrived.release()

    def release_slow_job(self) -> None:
        """Release the adapter once its first job has taken longer than the patience, however late its thread ran."""
        assert self.adapter.began.wait(PATIENCE_S)
        while time.monotonic() - self.adapter.began_s <= self.patience_s:
            time.sleep(0.005)
        self.adapter.released.set()

    def be_patient(self) -> None:
        """Have the next jobs count as quick, however busy the machine is."""
        self.worker._patience_s = PATIENCE_S

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self.arrived.acquire(timeout=PATIENCE_S)

    def is_under_way(self, steps: Sequence[Step]) -> bool:
        """Apply *steps*, and return whether all of them are under way afterwards."""
        failures = self.worker.apply(steps)
        return [failure.step for failure in failures if failure.is_under_way] == list(steps)

    def read_errno(self) -> int:
        with pytest.raises(KernelError) as raised:
            self.worker.read(NAT)
        return raised.value.errno


def test_a_job_that_ends_in_time_is_answered_at_once() -> None:
    harness = Harness(PATIENCE_S)
    harness.adapter.released.set()
    harness.adapter.failures = [StepFailure(A[0], 22, "no")]
    assert harness.worker.apply(A) == (harness.adapter.failures[0],)
    assert harness.worker.read(NAT) == ROWS
    assert harness.late == []


def test_a_worker_that_is_not_started_works_in_the_calling_thread() -> None:
    adapter = HangingAdapter()
    adapter.released.set()
    worker = Worker("rules", adapter)
    assert worker.apply(A) == []
    assert worker.read(NAT) == ROWS


def test_late_jobs_are_done_in_order_and_their_results_follow() -> None:
    harness = Harness()
    assert [harness.is_under_way(steps) for steps in (A, B)] == [True, True]
    assert harness.read_errno() == UNDER_WAY
    harness.adapter.released.set()
    harness.wait_for(3)
    assert harness.adapter.done == [A, B, NAT]
    assert [type(result) for result in harness.late] == [LateSteps, LateSteps, LateRows]


def test_no_job_overtakes_a_late_one_whose_result_is_not_handled_yet() -> None:
    harness = Harness()
    assert harness.is_under_way(A)
    harness.be_patient()
    harness.adapter.released.set()
    harness.wait_for(1)
    assert harness.is_under_way(B)
    harness.wait_for(1)
    for result in harness.late:
        result.release()
    assert not harness.is_under_way(C)


def test_after_a_slow_job_none_is_waited_for_until_one_was_quick() -> None:
    harness = Harness()
    assert harness.is_under_way(A)
    harness.release_slow_job()
    harness.wait_for(1)
    harness.be_patient()
    harness.late[0].release()
    assert harness.is_under_way(B)
    harness.wait_for(1)
    harness.late[1].release()
    assert not harness.is_under_way(C)


def test_a_scope_whose_reading_is_under_way_is_not_read_again() -> None:
    harness = Harness()
    assert [harness.read_errno() for _ in range(3)] == [UNDER_WAY] * 3
    harness.release_slow_job()
    harness.wait_for(1)
    assert harness.read_errno() == UNDER_WAY, "its result is not handled yet"
    assert harness.adapter.done == [NAT]
    harness.late[0].release()
    assert harness.read_errno() == UNDER_WAY
    harness.wait_for(1)
    assert harness.adapter.done == [NAT, NAT]


@pytest.mark.parametrize("error", [KernelError("a fault", errno=22), RuntimeError("a fault")])
def test_an_error_fails_its_job_only(error: Exception) -> None:
    harness = Harness(PATIENCE_S)
    harness.adapter.released.set()
    harness.adapter.error = error
    (failure,) = harness.worker.apply(A)
    assert "a fault" in failure.message
    with pytest.raises(KernelError, match="a fault"):
        harness.worker.read(NAT)
    harness.adapter.error = None
    assert harness.worker.apply(B) == ()


@pytest.mark.parametrize(("begin", "kind"), [(lambda h: h.is_under_way(A), LateSteps), (Harness.read_errno, LateRows)])
def test_an_error_of_a_late_job_follows(begin: Callable[[Harness], object], kind: type) -> None:
    harness = Harness()
    harness.adapter.error = KernelError("a fault", errno=22)
    begin(harness)
    harness.adapter.released.set()
    harness.wait_for(1)
    (result,) = harness.late
    assert isinstance(result, kind)
    error = result.failures[0].message if isinstance(result, LateSteps) else str(result.error)
    assert error == "a fault"
