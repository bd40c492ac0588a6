"""read_initial_snapshot: waits while objects arrive, however long a list takes, and for nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, EventHandler, SourceError
from kubeproxy_py.sources.initial_snapshot import read_initial_snapshot


class SlowSource:
    """Delivers its feeds with pauses, and problems all the time."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stopping = threading.Event()

    def start(self, emit: EventHandler) -> None:
        def deliver() -> None:
            for feed in FEEDS:
                end_s = time.monotonic() + self._pause_s
                while time.monotonic() < end_s and not self._stopping.wait(0.01):
                    emit(Problem(message="busy"))
                emit(Synced(feed))

        threading.Thread(target=deliver, daemon=True).start()

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        return read_initial_snapshot(self, timeout_s, on_problem)

    def watch_peers(self, needs: PeerNeeds) -> None:
        """No Service asks for them."""

    def rejected(self) -> tuple[Problem, ...]:
        return ()

    def stop(self) -> None:
        self._stopping.set()


def test_a_list_may_take_longer_than_the_timeout_while_parts_of_it_arrive() -> None:
    began_s = time.monotonic()
    events = SlowSource(pause_s=1.0).read_once(2.5, lambda _problem: None)
    assert [event.feed for event in events if isinstance(event, Synced)] == list(FEEDS)
    assert time.monotonic() - began_s > 2.5


def test_problems_alone_do_not_prolong_the_wait() -> None:
    with pytest.raises(SourceError, match=r"not received within 0.2 s \(busy\)"):
        SlowSource(pause_s=60.0).read_once(0.2, lambda _problem: None)
