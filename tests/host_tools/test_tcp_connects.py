"""TcpConnects: whether somebody answers, on the loopback interface of this machine."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from selectors import SelectorKey

import pytest

from kubeproxy_py.kernel.host.tcp_connects import Answer, TcpConnects
from kubeproxy_py.model.flows import Destination

SHORT_S, LONG_S = 0.05, 30.0


@pytest.fixture
def connects() -> Iterator[TcpConnects]:
    made = TcpConnects()
    yield made
    made.close()


def place_of(bound: socket.socket) -> Destination:
    address, port = bound.getsockname()[:2]
    return address, port


@contextmanager
def full_listener() -> Iterator[Destination]:
    """Yield a place whose queue of connections is full, so that Linux drops further SYNs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            client.connect_ex(listener.getsockname())
        yield place_of(listener)


def ask(connects: TcpConnects, *places: Destination) -> dict[Destination, Answer]:
    answers = {place: answer for place in places if (answer := connects.begin(place, LONG_S))}
    while len(answers) < len(places):
        answers.update(connects.results(LONG_S))
    assert not len(connects)
    return answers


def test_a_listener_answers_and_gets_nothing(connects: TcpConnects) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert ask(connects, place_of(listener)) == {place_of(listener): "answered"}
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(LONG_S)
            assert accepted.recv(1) == b""


def test_a_port_without_listener_refuses(connects: TcpConnects) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert ask(connects, place_of(bound)) == {place_of(bound): "refused"}


def test_what_does_not_answer_in_time_is_silent_and_delays_nobody(connects: TcpConnects) -> None:
    with full_listener() as silent, socket.create_server(("127.0.0.1", 0)) as listener:
        assert connects.begin(silent, 1.0) is None
        lively = place_of(listener)
        assert connects.begin(lively, LONG_S) is None
        order: list[tuple[Destination, Answer]] = []
        while len(order) < 2:
            order += connects.results(LONG_S)
    assert order == [(lively, "answered"), (silent, "silent")]


def test_answer_that_comes_while_the_thread_does_not_run_is_no_silence(
    connects: TcpConnects, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = connects._selector.select
    waits: list[float] = []

    def select(wait_s: float) -> list[tuple[SelectorKey, int]]:
        """Find nothing the first time, and keep the thread from running until all are past their time."""
        waits.append(wait_s)
        if len(waits) > 1:
            return real(wait_s)
        time.sleep(2 * SHORT_S)
        return []

    monkeypatch.setattr(connects._selector, "select", select)
    with full_listener() as silent, socket.create_server(("127.0.0.1", 0)) as listener:
        lively = place_of(listener)
        for place in (silent, lively):
            assert connects.begin(place, SHORT_S) is None
        assert dict(connects.results(LONG_S)) == {lively: "answered", silent: "silent"}


def test_many_are_asked_at_once(connects: TcpConnects) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(30)]
        places = [place_of(listener) for listener in listeners]
        assert ask(connects, *places) == dict.fromkeys(places, "answered")


def test_ipv6_is_asked_too(connects: TcpConnects) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert ask(connects, place_of(listener)) == {place_of(listener): "answered"}


def test_what_this_machine_cannot_try_tells_nothing(connects: TcpConnects) -> None:
    limits = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (1, limits[1]))  # no descriptor is left
    try:
        answer = connects.begin(("127.0.0.1", 80), LONG_S)
    finally:
        setrlimit(RLIMIT_NOFILE, limits)
    assert answer == "untried"


def test_a_wait_ends_when_it_is_woken(connects: TcpConnects) -> None:
    waker = threading.Timer(SHORT_S, connects.wake)
    waker.start()
    assert list(connects.results(LONG_S * 10)) == []
    waker.join()
