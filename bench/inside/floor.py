"""The floor: the messages of a first sync, sent again already packed, against the agent's own programming.

Law: the very bytes.  What the adapters send while they carry out the first plan is recorded as it leaves; to replay
is to send the same bytes and to read the same answers, with nothing decided and nothing packed.  Both fill a fresh
namespace, turn about, and both are read back.
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
from bench.inside.spent import spent_in
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.model.events import ObjectProblem, Synced
from kubeproxy_py.model.steps import Plan
from kubeproxy_py.plan.ownership import filter_owned
from kubeproxy_py.plan.plan import make_plan

Send = tuple[int, bytes]
"""Netlink protocol, and what one send carries."""

Ask = tuple[SocketOptions, int, bytes]
"""What is asked of a socket by getsockopt(2): the option, and the request in its buffer."""

_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
_BUFFER_BYTES = 8 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_NAMES = {0: "addresses", 12: "ipset", 16: "IPVS"}


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Seconds of *repeats* floors and as many programmings of *n* Services, turn about, and what they consist of."""
    sends = _record(n)
    floors, programmings, tables = [], [], []
    for _ in range(repeats):
        floors.append(_floor(n, sends))
        with spent_in(IptablesAdapter, "apply") as spent_s:  # chains and jumps: nearly all is iptables-restore
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
    """The plan of the first sync here, of an agent that was told of *n* Services, and the kernel to carry it out."""
    made = agent.parts()
    for event in Lines().listed(n):
        if not isinstance(event, Synced | ObjectProblem):
            made.compiler.handle_event(event)
    made.compiler.compile()
    rows = {key: spec for scope in made.kernel.scopes() for key, spec in made.kernel.read(scope).items()}
    return made.kernel, make_plan(made.compiler.desired.rows, filter_owned(rows, ()))


def _record(n: int) -> list[Send]:
    """What a programming sends."""
    with fresh_namespace(), recorded() as sends:
        kernel, plan = _first_plan(n)
        sends.clear()  # what was only asked
        assert not kernel.apply(plan).failed
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
        assert not outcome.failed, outcome.failed[:3]
        agent.check_programmed(kernel, n)
        kernel.close()
        return took_s


def _floor(n: int, sends: list[Send]) -> dict[str, float]:
    """Seconds for each netlink protocol."""
    with fresh_namespace():
        took, refused = replayed(sends)
        assert not refused, f"{refused} messages were refused"
        kernel = agent.parts().kernel
        agent.check_programmed(kernel, n)
        kernel.close()
        return took


def replayed(sends: Iterable[Send]) -> tuple[dict[str, float], int]:
    """Send *sends* again and read their answers: seconds for each netlink protocol, and how many were refused."""
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
    for each in sockets.values():
        each.close()
    return took, refused


@contextmanager
def asked() -> Iterator[list[Ask]]:
    """All that is asked by getsockopt(2) meanwhile."""
    asks: list[Ask] = []

    def ask(options: SocketOptions, option: int, buffer: bytearray) -> None:
        asks.append((options, option, bytes(buffer)))
        really_ask(options, option, buffer)

    really_ask = SocketOptions.ask
    with patch.object(SocketOptions, "ask", ask):
        yield asks


def asked_again_s(asks: Iterable[Ask]) -> float:
    """Seconds of asking the same once more; the sockets must be open still."""
    buffers = [(options, option, bytearray(request)) for options, option, request in asks]
    began_s = time.perf_counter()
    for options, option, buffer in buffers:
        options.ask(option, buffer)
    return time.perf_counter() - began_s


@contextmanager
def recorded() -> Iterator[list[Send]]:
    """All that is sent by netlink sockets that are made meanwhile."""
    sends: list[Send] = []

    class Recorder(socket.socket):
        def send(self, data: Any, flags: int = 0, /) -> int:
            sends.append((self.proto, bytes(data)))
            return super().send(data, flags)

    with patch("kubeproxy_py.kernel.netlink.socket.socket.socket", Recorder):
        yield sends


def _socket(protocol: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    made.bind((0, 0))
    return made


def _exchange(netlink: socket.socket, data: bytes, last: int) -> int:
    """Send *data* and read until its *last* message was answered; how many messages were refused."""
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
