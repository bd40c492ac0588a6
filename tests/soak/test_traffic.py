"""The traffic of a soak, without a cluster: what it records of clients that fail and of held connections."""

from __future__ import annotations

import socket
import threading

from lab.network import Cluster
from tests.soak.services import TARGETS, Target
from tests.soak.traffic import PERIOD_S, Traffic


def test_loop_that_fails_is_a_mistake_of_the_soak() -> None:
    def fail(target: Target) -> None:
        raise AssertionError(target.name)

    traffic = Traffic(Cluster(), 0.0)
    traffic.carry_out(fail, TARGETS[0])
    traffic.carry_out(lambda _: None, TARGETS[1])
    assert len(traffic.mistakes) == 1
    assert TARGETS[0].name in traffic.mistakes[0]


def test_reset_of_a_held_connection_is_recorded_from_its_last_answer_on() -> None:
    sent: list[float] = []

    def echo_once(server: socket.socket) -> None:
        with server:
            server.sendall(server.recv(100))
            sent.append(float(server.recv(100)))

    traffic = Traffic(Cluster(), 0.0)
    client, server = socket.socketpair()
    peer = threading.Thread(target=echo_once, args=(server,))
    peer.start()
    with client:
        traffic._ping(TARGETS[0], client, "pod-a1")
    peer.join()
    answered, reset = traffic.probes
    assert (answered.outcome, reset.outcome) == ("ok", "reset")
    assert answered.end_s <= reset.start_s <= sent[0] - 0.9 * PERIOD_S
