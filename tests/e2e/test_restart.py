"""A restart of the agent under traffic: no request fails, and the kernel is not changed."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import State, counters, differences, kernel_state
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import serving_cluster
from tests.e2e.traffic import Targets, Traffic

pytestmark = pytest.mark.kernel

TARGETS = Targets(("192.168.3.10", 30080), ("10.96.0.10", 80), ("10.96.0.53", 53))
OBJECTS = [
    *service_with_slice("web", "10.96.0.10", ["pod-a1", "pod-a2", "pod-b1", "pod-b2"], [Port(80, "TCP", 8080, 30080)]),
    *service_with_slice("dns", "10.96.0.53", ["pod-a1", "pod-b1"], [Port(53, "UDP", 8080)]),
]
ROUNDS = 50  # of traffic before and after
STOPS_WITHIN_S = 4.0  # 2 to 22 ms here, more on a busy machine; who waits for a thread gives it 5 s
_NEWLINK, _NEWADDR = (
    16,
    20,
)  # RTM_NEWLINK, RTM_NEWADDR of linux/rtnetlink.h; link messages have smaller numbers than the latter


class Restart(NamedTuple):
    """The observations of one restart under traffic."""

    signal: signal.Signals
    exit_status: int
    stopped_after_s: float
    first_sync: str  # line of the second process's log
    failures: list[str]
    rounds: int
    notifications: list[str]  # changes of links and addresses between the end of the first and the second's first sync
    states: tuple[State, State]
    counters: tuple[dict[str, int], dict[str, int]]


@pytest.fixture(scope="module", params=[signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def restart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restart]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", OBJECTS)
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        with Traffic(cluster, TARGETS) as traffic:
            wait_until(lambda: traffic.rounds >= ROUNDS)
            state, counted = kernel_state(cluster.node_a), counters(cluster.node_a)
            with link_notifications(cluster.node_a) as notified:
                exit_status, took_s = first.stop(request.param)
                with AgentProcess(cluster.node_a, folder.path) as second:
                    line = second.wait_synced()
                    notifications = read_notifications(notified)
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
def link_notifications(namespace: Namespace) -> Iterator[socket.socket]:
    """Yield a socket that receives each change of links and addresses (RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR)."""
    with namespace.inside():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    with sock:
        sock.bind((0, 0x1 | 0x10 | 0x100))
        yield sock


def read_notifications(sock: socket.socket) -> list[str]:
    """Return the received notifications, each with its type, interface index, flags and content for a failing test.

    Those in which the kernel reports the carrier of another link than ours are left out: it does so up to a second
    after the link came up, and no flag of the link has changed.
    """
    messages: list[str] = []
    try:
        while datagram := sock.recv(1 << 16):
            (kind,) = struct.unpack_from("H", datagram, 4)
            layout = "BxHiII" if kind < _NEWADDR else "BBBBI"  # struct ifinfomsg, struct ifaddrmsg
            header = struct.unpack_from(layout, datagram, 16)
            if kind == _NEWLINK and header[-1] == 0 and b"kube-ipvs0" not in datagram:
                continue
            messages.append(f"type {kind} {header} {datagram[32:].hex()}")
    except BlockingIOError:
        return messages
    return messages


def test_no_request_fails_and_no_connection_breaks_during_a_restart(restart: Restart) -> None:
    assert (restart.failures, restart.rounds >= 2 * ROUNDS) == ([], True)


def test_first_sync_of_the_second_process_has_nothing_to_do(restart: Restart) -> None:
    assert "Synced 2 Services: nothing to do" in restart.first_sync


def test_no_link_or_address_is_changed(restart: Restart) -> None:
    assert restart.notifications == []


def test_kernel_state_is_the_same_after_a_restart(restart: Restart) -> None:
    assert differences(*restart.states) == []


def test_no_rule_and_no_server_is_written_again(restart: Restart) -> None:
    before, after = restart.counters
    assert [name for name, count in before.items() if after.get(name, -1) < count] == []
    assert sum(count >= ROUNDS for count in before.values()) >= 5, "enough counters that a rewrite would reset"


def test_agent_stops_at_once_and_on_sigterm_with_status_0(restart: Restart) -> None:
    expected = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}[restart.signal]
    assert (restart.exit_status, restart.stopped_after_s < STOPS_WITHIN_S) == (expected, True), restart.stopped_after_s
