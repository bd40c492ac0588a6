"""read_initial_snapshot: waits while objects arrive, however long a list takes, and for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, EventHandler, SourceError, initial_snapshot
from kubeproxy_py.sources.initial_snapshot import read_initial_snapshot


class SlowSource:
    """Delivers its feeds with pauses, and problems all the time, by a clock of its own."""

    def __init__(self, pause_s: float) -> None:
        self.now_s = 0.0
        self._pause_s = pause_s
        self._stopping = threading.Event()

    def monotonic(self) -> float:
        return self.now_s

    def start(self, emit: EventHandler) -> None:
        def deliver() -> None:
            for feed in FEEDS:
                end_s = self.now_s + self._pause_s
                while self.now_s < end_s and not self._stopping.wait(0.005):
                    emit(Problem(message="busy"))
                    self.now_s += 10.0
                emit(Synced(feed))

        threading.Thread(target=deliver, daemon=True).start()

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        return read_initial_snapshot(self, timeout_s, on_problem)

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """No Service asks for them."""

    def rejected(self) -> tuple[Problem, ...]:
        return ()

    def stop(self) -> None:
        self._stopping.set()


def slow_source(monkeypatch: pytest.MonkeyPatch, pause_s: float) -> SlowSource:
    """Return a source by whose clock it is waited for."""
    source = SlowSource(pause_s)
    monkeypatch.setattr(initial_snapshot, "time", source)
    return source


def test_a_list_may_take_longer_than_the_timeout_while_parts_of_it_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    source = slow_source(monkeypatch, pause_s=100.0)
    events = source.read_once(250.0, lambda _problem: None)
    assert [event.feed for event in events if isinstance(event, Synced)] == list(FEEDS)
    assert source.now_s > 250.0


def test_problems_alone_do_not_prolong_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    source = slow_source(monkeypatch, pause_s=1e9)
    with pytest.raises(SourceError, match=r"not received within 250 s \(busy\)"):
        source.read_once(250.0, lambda _problem: None)
