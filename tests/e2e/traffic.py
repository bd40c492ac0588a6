"""Continuous traffic, so that a test notices every lost packet while something else happens.

One thread repeats four requests: a new TCP connection to a NodePort from outside, one to a ClusterIP from a pod, a
line on a TCP connection that stays open, and a datagram of one UDP flow.  Each unexpected result is recorded in
`failures`.  An answer may come late, on a busy machine; that a SYN or a datagram was lost is seen all the same.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

from lab.client import QueryError, connect, query, read_answer
from lab.network import Cluster
from tests.e2e.background import Background


class Targets(NamedTuple):
    node_port: tuple[str, int]
    cluster_ip: tuple[str, int]
    udp: tuple[str, int]


class Traffic(Background):
    """Traffic to *targets* of *cluster*, running within the `with`."""

    def __init__(self, cluster: Cluster, targets: Targets) -> None:
        super().__init__()
        self._cluster = cluster
        self._targets = targets
        self.rounds = 0
        self.failures: list[str] = []

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                self._open_and_ask(stack)
        except (QueryError, OSError) as error:
            self.failures.append(f"a lasting connection failed: {error!r}")

    def _open_and_ask(self, stack: ExitStack) -> None:
        long = stack.enter_context(connect(self._cluster["outside"], "tcp", *self._targets.node_port))
        read_answer(long)
        flow = stack.enter_context(connect(self._cluster["pod-a2"], "udp", *self._targets.udp))
        flow.send(b"?")
        first = read_answer(flow)
        while not self._stop.wait(0.002):  # a pause, because the agent shares the only CPU
            self._query("outside", self._targets.node_port)
            self._query("pod-a1", self._targets.cluster_ip)
            long.sendall(b"line")
            if long.recv(4) != b"line":
                raise OSError("the long connection was closed")
            flow.send(b"?")
            if (answer := read_answer(flow)) != first:
                self.failures.append(f"the UDP flow moved from {first} to {answer}")
            self.rounds += 1

    def _query(self, client: str, target: tuple[str, int]) -> None:
        try:
            query(self._cluster[client], "tcp", *target)
        except (QueryError, OSError) as error:
            self.failures.append(f"{client} to {target}: {error!r}")
