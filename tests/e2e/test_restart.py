"""The agent comes and goes: under traffic nobody notices, and nothing is written twice."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import State, counters, differences, kernel_state
from tests.e2e.manifests import Folder, Port, backed
from tests.e2e.serving import serving_cluster
from tests.e2e.traffic import Targets, Traffic

pytestmark = pytest.mark.kernel

TARGETS = Targets(("192.168.3.10", 30080), ("10.96.0.10", 80), ("10.96.0.53", 53))
OBJECTS = [
    *backed("web", "10.96.0.10", ["pod-a1", "pod-a2", "pod-b1", "pod-b2"], [Port(80, "TCP", 8080, 30080)]),
    *backed("dns", "10.96.0.53", ["pod-a1", "pod-b1"], [Port(53, "UDP", 8080)]),
]
ROUNDS = 50  # of traffic before and after
ENDS_WITHIN_S = 1.0  # 2 to 22 ms here, and more where the machine is busy


class Restart(NamedTuple):
    """What was seen of one restart under traffic."""

    signal: signal.Signals
    exit_status: int
    ended_after_s: float
    first_sync: str  # the second process's log line
    failures: list[str]
    rounds: int
    notifications: int  # of changes to links or addresses, between the end of one and the first sync of the other
    states: tuple[State, State]
    counters: tuple[dict[str, int], dict[str, int]]


@pytest.fixture(scope="module", params=[signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def restart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restart]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("all", OBJECTS)
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        with Traffic(cluster, TARGETS) as traffic:
            wait_until(lambda: traffic.rounds >= ROUNDS)
            state, counted = kernel_state(cluster.node_a), counters(cluster.node_a)
            with hearing_links(cluster.node_a) as heard:
                exit_status, took_s = first.end(request.param)
                with AgentProcess(cluster.node_a, folder.path) as second:
                    line = second.wait_synced()
                    notifications = count_messages(heard)
                    enough = traffic.rounds + ROUNDS
                    wait_until(lambda: traffic.rounds >= enough or bool(traffic.failures))
                    after = kernel_state(cluster.node_a), counters(cluster.node_a)
        yield Restart(
            request.param,
            exit_status,
            took_s,
            line,
            traffic.failures,
            traffic.rounds,
            notifications,
            (state, after[0]),
            (counted, after[1]),
        )


@contextmanager
def hearing_links(namespace: Namespace) -> Iterator[socket.socket]:
    """A socket that hears of each change to links and addresses (RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR)."""
    with namespace.inside():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    with sock:
        sock.bind((0, 0x1 | 0x10 | 0x100))
        yield sock


def count_messages(sock: socket.socket) -> int:
    count = 0
    try:
        while sock.recv(1 << 16):
            count += 1
    except BlockingIOError:
        return count
    return count


def test_no_request_fails_and_no_conversation_breaks(restart: Restart) -> None:
    assert (restart.failures, restart.rounds >= 2 * ROUNDS) == ([], True)


def test_the_second_process_has_nothing_to_do(restart: Restart) -> None:
    assert "synced 2 Services: nothing to do" in restart.first_sync


def test_no_link_or_address_is_touched(restart: Restart) -> None:
    assert restart.notifications == 0


def test_the_kernel_looks_the_same(restart: Restart) -> None:
    assert differences(*restart.states) == []


def test_no_rule_and_no_server_is_written_anew(restart: Restart) -> None:
    before, after = restart.counters
    assert [what for what, count in before.items() if after.get(what, -1) < count] == []
    assert sum(count >= ROUNDS for count in before.values()) >= 5, "counters that could be seen to fall"


def test_the_agent_ends_at_once_and_on_sigterm_with_status_0(restart: Restart) -> None:
    expected = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}[restart.signal]
    assert (restart.exit_status, restart.ended_after_s < ENDS_WITHIN_S) == (expected, True), restart.ended_after_s
