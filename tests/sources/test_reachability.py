"""Reachability: which watch tries when the server does not answer, with threads and short times."""

import threading
import time

import pytest

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.sources.kubernetes import reachability
from kubeproxy_py.sources.kubernetes.reachability import ATTEMPT_MAX_S, DELAY, Reachability
from tests.sources.conftest import PATIENCE_S


class Clock:
    """A clock that a test sets, for calls that need not wait."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def waiting(shared: Reachability, wait_s: float = 0.0) -> threading.Thread:
    thread = threading.Thread(target=shared.wait_turn, args=(wait_s,), daemon=True)
    thread.start()
    return thread


def test_answering_server_is_asked_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "DELAY", Backoff(600.0, 600.0))
    before_s = time.monotonic()
    assert Reachability().wait_turn(0.0)
    assert time.monotonic() - before_s < PATIENCE_S


def test_one_watch_tries_and_the_others_follow_when_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "DELAY", Backoff(0.05, 0.05))
    monkeypatch.setattr(reachability, "ATTEMPT_MAX_S", 600.0)
    shared = Reachability()
    shared.failed(time.monotonic())
    assert shared.wait_turn(0.0)  # this watch tries
    others = [waiting(shared), waiting(shared)]
    time.sleep(0.3)
    assert all(other.is_alive() for other in others)
    shared.answered()
    for other in others:
        other.join(PATIENCE_S)
        assert not other.is_alive()


def test_attempt_that_hangs_keeps_no_other_watch_from_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "DELAY", Backoff(0.05, 0.05))
    monkeypatch.setattr(reachability, "ATTEMPT_MAX_S", 0.2)
    shared = Reachability()
    shared.failed(time.monotonic())
    before_s = time.monotonic()
    assert shared.wait_turn(0.0)  # and is never answered
    assert shared.wait_turn(0.0)
    assert 0.2 <= time.monotonic() - before_s < PATIENCE_S


def test_delay_grows_to_5_s_at_most_and_differs_between_nodes() -> None:
    for random, longest_s in ((0.0, 2.0), (0.999, 5.0)):
        clock = Clock()
        shared = Reachability(clock, lambda random=random: random)  # type: ignore[misc]
        delays_s = []
        for _ in range(8):
            shared.failed(clock.now_s)
            delays_s.append(round(shared._due_s - clock.now_s, 3))
            clock.now_s = shared._due_s
        assert delays_s == sorted(delays_s)
        assert delays_s[-1] == pytest.approx(longest_s, abs=0.01)
    assert ATTEMPT_MAX_S <= 5
    assert DELAY.longest_s <= 5


def test_attempts_that_fail_at_the_same_moment_are_one_failure() -> None:
    clock = Clock()
    shared = Reachability(clock, lambda: 0.0)
    for _ in range(3):
        shared.failed(clock.now_s - 1)
    assert shared._due_s - clock.now_s == pytest.approx(0.25)


def test_stop_ends_all_waiting() -> None:
    shared = Reachability()
    threads = [waiting(shared, 600.0), waiting(shared, 600.0)]
    shared.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert not shared.wait_turn(0.0)
