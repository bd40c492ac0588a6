"""One agent for each network namespace: a successor waits for its predecessor, and gives up on one that stays."""

import logging
from errno import EACCES

import pytest

from kubeproxy_py.commands import single_instance
from kubeproxy_py.commands.single_instance import HANDOVER_S, require_no_agent, take_over, warn_of_agent
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.instance_lock import Holder, InstanceLock


class Lock(InstanceLock):
    """A lock that becomes free at *free_s* of a clock that only waiting moves."""

    def __init__(self, free_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._free_s = free_s

    def acquire(self) -> bool:
        return self.now_s >= self._free_s

    def wait(self, duration_s: float) -> None:
        self.now_s += duration_s


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Holder:
    holder = Holder(4711, 0)
    monkeypatch.setattr(single_instance, "find_holder", lambda: holder)
    return holder


def take(lock: Lock) -> None:
    take_over(lock, lambda: lock.now_s, lock.wait)


def test_an_agent_starts_at_once_where_there_is_no_other(caplog: pytest.LogCaptureFixture) -> None:
    lock = Lock(0)
    take(lock)
    assert (lock.now_s, caplog.records) == (0, [])


def test_a_successor_starts_as_soon_as_its_predecessor_ends(holder: Holder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lock = Lock(12.0)
    take(lock)
    assert 12 <= lock.now_s < 12.2
    assert [record.message for record in caplog.records] == [
        "Another agent runs in this network namespace; waiting until it ends",
        "The other agent has ended; starting",
    ]
    assert caplog.records[0].values == {"agent": holder, "timeout_s": HANDOVER_S}  # type: ignore[attr-defined]


def test_a_second_agent_gives_up_and_names_the_first(holder: Holder) -> None:
    lock = Lock(1e9)
    with pytest.raises(KernelError, match=r"another agent runs in this network namespace \(pid 4711\)"):
        take(lock)
    assert HANDOVER_S <= lock.now_s < HANDOVER_S + 1


def test_a_process_that_cannot_be_an_agent_does_not_keep_the_agent_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(single_instance, "find_holder", lambda: Holder(4711, 1000, may_be_an_agent=False))
    lock = Lock(1e9)
    take(lock)
    assert lock.now_s == 0
    assert "A process that cannot be an agent has taken the name" in caplog.text


def test_an_agent_starts_where_the_lock_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock(0)

    def fail() -> bool:
        raise PermissionError(EACCES, "Permission denied")

    monkeypatch.setattr(lock, "acquire", fail)
    take(lock)
    assert "Failed to check that no other agent runs" in caplog.text


def test_cleanup_is_refused_at_once_while_an_agent_runs(holder: Holder) -> None:
    with pytest.raises(
        KernelError, match=r"an agent runs .*\(pid 4711\) and would create again .* \(stop it first; --force"
    ):
        require_no_agent(Lock(1.0))


def test_forced_cleanup_goes_on_with_a_warning_that_names_the_agent(
    holder: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_agent(Lock(1e9))
    [record] = caplog.records
    assert record.message.startswith("Deleting while an agent runs: connections are cut")
    assert record.values == {"agent": holder}  # type: ignore[attr-defined]
    caplog.clear()
    warn_of_agent(Lock(0))
    assert caplog.records == []
