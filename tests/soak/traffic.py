"""Traffic of a soak: new connections and datagrams to every target all the time, and connections that are held open.

Invariants:
  - Each request is recorded as a probe when it has ended, whatever its outcome; only connections that a probe opens
    again after a reset are not.
  - A held connection is never closed by this side before the end.
  - Connections to two targets never have the same source port: IPVS mistakes the answers to two connections of one
    client, from one port and to one pod, for each other (tests/e2e/test_same_source_port.py).
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from types import TracebackType
from typing import Literal, Self

from lab.client import QueryError, connect, query, read_answer
from lab.network import Cluster
from tests.e2e.kernel_state import shell
from tests.soak.report import Kind, Outcome, Probe
from tests.soak.services import TARGETS, Target

PERIOD_S = 0.2  # between two probes of a target, and between two lines on a held connection
TIMEOUT_S = 2.0  # of a new connection or a datagram; a lost SYN is sent again after 1 s
SLOW_S = 0.7
# A held connection without an answer for so long counts as reset; at the end of the traffic sooner, but not while TCP
# may pause after a fault that lasted for 14 s.
LOST_AFTER_S, LOST_AT_END_S = 90.0, 45.0
LOOK_AFTER_S = 5.0  # a held connection that waits so long is looked at
HELD_PER_TARGET = 2

_STOPPED = "stopped"
# Source ports of each target, below those that Linux chooses and NodePorts; used again after minutes.
_FIRST_PORT, _PORTS_PER_TARGET, _PORTS_FOR_HELD = 10_000, 1_900, 200


class Traffic:
    """Traffic in *cluster*, running within the `with`; `probes` are those that have ended."""

    def __init__(self, cluster: Cluster, start_s: float) -> None:
        self.probes: list[Probe] = []
        self.waiting: list[str] = []  # what the node has of connections that wait, for humans
        self.mistakes: list[str] = []  # loops that ended by themselves, so that their connections were not observed
        self._cluster = cluster
        self._start_s = start_s
        self._stop = threading.Event()
        self._ports = {}
        for target, first in zip(TARGETS, itertools.count(_FIRST_PORT, _PORTS_PER_TARGET), strict=False):
            middle, end = first + _PORTS_PER_TARGET - _PORTS_FOR_HELD, first + _PORTS_PER_TARGET
            self._ports[target, "new"] = itertools.cycle(range(first, middle))
            self._ports[target, "held"] = itertools.cycle(range(middle, end))
        self._ports_lock = threading.Lock()
        loops: list[tuple[Callable[[Target], None], Target]] = [(self._probe, target) for target in TARGETS]
        held = [target for target in TARGETS if target.protocol == "tcp"] * HELD_PER_TARGET
        loops += [(self._hold, target) for target in held]
        self._threads = [threading.Thread(target=self.carry_out, args=one, daemon=True) for one in loops]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5.0)

    def carry_out(self, loop: Callable[[Target], None], target: Target) -> None:
        """Run *loop* for *target*; record that it failed."""
        try:
            loop(target)
        except Exception as error:
            self.mistakes.append(f"the traffic to {target.name} was no longer observed: {error!r}")

    def _record(self, kind: Kind, target: Target, start_s: float, error: str, bad: Outcome = "failed") -> None:
        end_s = monotonic()
        outcome = bad if error else "slow" if end_s - start_s > SLOW_S else "ok"
        self.probes.append(
            Probe(kind, target.name, start_s - self._start_s, end_s - self._start_s, outcome, error)
        )  # appending is atomic

    def _next_port(self, target: Target, use: Literal["new", "held"]) -> int:
        with self._ports_lock:
            return next(self._ports[target, use])

    def _probe(self, target: Target) -> None:
        kind: Kind = "UDP" if target.protocol == "udp" else "new TCP"
        client = self._cluster[target.client]
        while not self._stop.wait(PERIOD_S):
            start_s, error = monotonic(), ""
            try:
                query(client, target.protocol, target.address, target.port, TIMEOUT_S, self._next_port(target, "new"))
            except (QueryError, OSError) as caught:
                error = repr(caught)
            self._record(kind, target, start_s, error)

    def _hold(self, target: Target) -> None:
        while not self._stop.wait(PERIOD_S):
            with ExitStack() as stack:
                try:
                    client, port = self._cluster[target.client], self._next_port(target, "held")
                    address = (target.address, target.port)
                    sock = stack.enter_context(connect(client, "tcp", *address, TIMEOUT_S, port))
                    pod = read_answer(sock).name
                except (QueryError, OSError):
                    continue  # a new connection, which is no held one yet; _probe counts these
                _ignore_icmp(sock)
                self._ping(target, sock, pod)

    def _ping(self, target: Target, sock: socket.socket, pod: str) -> None:
        """Send a line and wait for its echo from *pod*, until the connection is reset or the traffic ends.

        A connection that was reset may have been lost at any time since its last answer: on a busy machine its next
        line is sent long after the fault.
        """
        error, answered_s = "", monotonic()
        while not error and not self._stop.wait(PERIOD_S):
            start_s = monotonic()
            error = self._echo_error(sock, start_s)
            if error != _STOPPED:
                since_s = answered_s if error else start_s
                self._record("held TCP", target, since_s, error and f"{pod}, {error}", "reset")
            answered_s = monotonic()

    def _echo_error(self, sock: socket.socket, start_s: float) -> str:
        """Return why the connection has ended; "" if it has not."""
        line = b"%.6f\n" % start_s
        received, looked = b"", False
        try:
            sock.settimeout(TIMEOUT_S)
            sock.sendall(line)
            while not received.endswith(b"\n"):
                try:
                    chunk = sock.recv(len(line))
                except TimeoutError:
                    waited_s = monotonic() - start_s
                    if waited_s > LOOK_AFTER_S and not looked:
                        looked = True
                        self.waiting.append(self._what_the_node_has(sock, start_s))
                    if waited_s > (LOST_AT_END_S if self._stop.is_set() else LOST_AFTER_S):
                        return f"no answer for {waited_s:.0f} s"
                    if self._stop.is_set():
                        return _STOPPED
                    continue
                if not chunk:
                    return "closed by the peer"
                received += chunk
        except OSError as caught:
            return repr(caught)
        return "" if received == line else f"another line was received: {received!r}"

    def _what_the_node_has(self, sock: socket.socket, start_s: float) -> str:
        """Return the entries of conntrack and IPVS for the connection, which explain why it waits."""
        port, family = sock.getsockname()[1], "ipv6" if sock.family == socket.AF_INET6 else "ipv4"
        entries = f"conntrack -L -f {family} -p tcp 2>/dev/null | grep 'sport={port} '"
        look = f"{entries} || true; ipvsadm -Lnc | grep ':{port} ' || true"
        found = " | ".join(" ".join(line.split()) for line in shell(self._cluster.node_a, look).splitlines())
        return f"{start_s - self._start_s:7.1f} s  no answer for {monotonic() - start_s:.1f} s at port {port}: {found}"


def _ignore_icmp(sock: socket.socket) -> None:
    """Have an ICMP error not end *sock*, as for every ordinary connection; lab.client asks for such errors."""
    level, option = (socket.IPPROTO_IPV6, 25) if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, 11)
    sock.setsockopt(level, option, 0)  # IPV6_RECVERR, IP_RECVERR
