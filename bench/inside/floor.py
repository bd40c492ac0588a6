"""The floor: replaying the encoded messages of a first sync, compared with the agent's own programming.

Invariants:
  - The bytes that the adapters send during the first plan are recorded; a replay sends the same bytes and reads the
    answers, without planning or encoding.
  - Both are measured alternately, each in a new namespace, and both states are read back.
"""

import gc
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from bench.inside import agent
from bench.inside.lines import Lines
from bench.inside.network import fresh_namespace
from bench.inside.spent import time_spent_in
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.model.events import Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.steps import Plan
from kubeproxy_py.plan.ownership import filter_owned
from kubeproxy_py.plan.plan import make_plan

Send = tuple[int, bytes]
"""Netlink protocol, and the bytes of one send."""

OptionRequest = tuple[SocketOptions, int, bytes]
"""A getsockopt(2) request: the socket, the option, and the request in its buffer."""

_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
_BUFFER_BYTES = 8 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_NAMES = {0: "addresses", 12: "ipset", 16: "IPVS"}


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of *repeats* floors and programmings of *n* Services, alternately, with their parts."""
    sends = _record(n)
    floors, programmings, tables = [], [], []
    for _ in range(repeats):
        floors.append(_floor(n, sends))
        with time_spent_in(IptablesAdapter, "apply") as spent_s:  # chains and jumps: nearly all is iptables-restore
            programmings.append(_programming(n))
        tables.append(spent_s[0])
    return {
        "floor": [sum(parts.values()) for parts in floors],
        "floor_parts": floors,
        "programming": programmings,
        "tables": tables,
        "sends": len(sends),
        "bytes": sum(len(data) for _, data in sends),
    }


def _first_plan(n: int) -> tuple[Kernel, Plan]:
    """Return the plan of the first sync of *n* Services in this namespace, and the kernel."""
    parts = agent.make_parts()
    for event in Lines().initial_events(n):
        if not isinstance(event, Synced | Problem):
            parts.compiler.handle_event(event)
    parts.compiler.compile()
    rows = {key: spec for scope in parts.kernel.scopes() for key, spec in parts.kernel.read(scope).items()}
    return parts.kernel, make_plan(parts.compiler.desired.rows, filter_owned(rows, ()))


def _record(n: int) -> list[Send]:
    """Record the messages of one programming."""
    with fresh_namespace(), recorded_sends() as sends:
        kernel, plan = _first_plan(n)
        sends.clear()  # requests that only read
        assert not kernel.apply(plan).failures
        programming = list(sends)
        agent.check_programmed(kernel, n)
        kernel.close()
        return programming


def _programming(n: int) -> float:
    with fresh_namespace():
        kernel, plan = _first_plan(n)
        gc.collect()
        began_s = time.perf_counter()
        outcome = kernel.apply(plan)
        took_s = time.perf_counter() - began_s
        assert not outcome.failures, outcome.failures[:3]
        agent.check_programmed(kernel, n)
        kernel.close()
        return took_s


def _floor(n: int, sends: list[Send]) -> dict[str, float]:
    """Replay *sends* in a new namespace; return the seconds for each netlink protocol."""
    with fresh_namespace():
        took, refused = replay(sends)
        assert not refused, f"{refused} messages were refused"
        kernel = agent.make_parts().kernel
        agent.check_programmed(kernel, n)
        kernel.close()
        return took


def replay(sends: Iterable[Send]) -> tuple[dict[str, float], int]:
    """Send *sends* again and read the answers; return seconds by netlink protocol, and the number of rejections."""
    sockets: dict[int, socket.socket] = {}
    took: dict[str, float] = {}
    refused = 0
    for protocol, data in sends:
        netlink = sockets.get(protocol) or sockets.setdefault(protocol, _socket(protocol))
        last = _last_sequence(data)
        began_s = time.perf_counter()
        refused += _exchange(netlink, data, last)
        name = _NAMES[protocol]
        took[name] = took.get(name, 0.0) + time.perf_counter() - began_s
    for netlink in sockets.values():
        netlink.close()
    return took, refused


@contextmanager
def recorded_options() -> Iterator[list[OptionRequest]]:
    """Record the getsockopt(2) requests within the `with`."""
    requests: list[OptionRequest] = []

    def record(options: SocketOptions, option: int, buffer: bytearray) -> None:
        requests.append((options, option, bytes(buffer)))
        original(options, option, buffer)

    original = SocketOptions.get
    with patch.object(SocketOptions, "get", record):
        yield requests


def replay_options_s(requests: Iterable[OptionRequest]) -> float:
    """Return the seconds of sending the same requests again; the sockets must still be open."""
    buffers = [(options, option, bytearray(request)) for options, option, request in requests]
    began_s = time.perf_counter()
    for options, option, buffer in buffers:
        options.get(option, buffer)
    return time.perf_counter() - began_s


@contextmanager
def recorded_sends() -> Iterator[list[Send]]:
    """Record the sends of netlink sockets that are opened within the `with`."""
    sends: list[Send] = []

    class Recorder(socket.socket):
        def send(self, data: Any, flags: int = 0, /) -> int:
            sends.append((self.proto, bytes(data)))
            return super().send(data, flags)

    with patch("kubeproxy_py.kernel.netlink.socket.socket.socket", Recorder):
        yield sends


def _socket(protocol: int) -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    netlink.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
    netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    netlink.bind((0, 0))
    return netlink


def _exchange(netlink: socket.socket, data: bytes, last: int) -> int:
    """Send *data* and read until its *last* message is answered; return the number of refused messages."""
    netlink.send(data)
    refused = 0
    while True:
        answer = netlink.recv(1 << 17)
        offset = 0
        while offset < len(answer):
            length, kind, _, sequence, _ = _HEADER.unpack_from(answer, offset)
            if kind in (_ERROR, _DONE):
                refused += bool(struct.unpack_from("=i", answer, offset + _HEADER.size)[0])
                if sequence == last:
                    return refused
            offset += (length + 3) & ~3


def _last_sequence(data: bytes) -> int:
    offset = sequence = 0
    while offset < len(data):
        length, _, _, sequence, _ = _HEADER.unpack_from(data, offset)
        offset += (length + 3) & ~3
    return int(sequence)
