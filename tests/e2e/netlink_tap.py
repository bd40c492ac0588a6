"""netlink_tap: counts netlink messages and getsockopt(2) calls between the agent and the kernel, without a clock.

Invariants:
- Every socket that kernel/netlink/socket.py opens within the ``with`` is counted, at its only two system calls, send
  and recvfrom_into.  A send has complete messages, so they are counted by their headers.  Of the kernel's answers only
  the number of reads is counted.
- getsockopt (kernel/host/sockopt.py) is counted separately.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.netlink.messages import NLM_F_DUMP, NLMSGHDR
from tests.e2e.in_process_agent import processes_started


class Cost(NamedTuple):
    """System calls on netlink sockets, messages sent, listings among these, processes, getsockopt calls."""

    sends: int = 0
    reads: int = 0
    messages: int = 0
    dumps: int = 0
    processes: int = 0
    options: int = 0

    def __sub__(self, before: Cost) -> Cost:
        return Cost(*(now - then for now, then in zip(self, before, strict=True)))


class Tap:
    """Counters; ``cost()`` is the cost so far."""

    def __init__(self) -> None:
        self.sends = self.reads = self.messages = self.dumps = self.options = 0

    def count_send(self, data: bytes) -> None:
        """Count one send and its messages."""
        self.sends += 1
        offset = 0
        while offset < len(data):
            length, _, flags, _, _ = NLMSGHDR.unpack_from(data, offset)
            self.messages += 1
            self.dumps += flags & NLM_F_DUMP == NLM_F_DUMP
            offset += (length + 3) & ~3

    def cost(self) -> Cost:
        return Cost(self.sends, self.reads, self.messages, self.dumps, len(processes_started()), self.options)


@contextmanager
def tapped() -> Iterator[Tap]:
    """Count on all netlink sockets that are opened within, for as long as they exist."""
    tap = Tap()

    class TappedSocket(socket.socket):
        def send(self, data: Any, flags: int = 0, /) -> int:
            tap.count_send(bytes(data))
            return super().send(data, flags)

        def recvfrom_into(self, *arguments: Any) -> Any:
            tap.reads += 1
            return super().recvfrom_into(*arguments)

    def counted_get(options: SocketOptions, option: int, buffer: bytearray) -> None:
        tap.options += 1
        original_get(options, option, buffer)

    original_get = SocketOptions.get
    with (
        patch("kubeproxy_py.kernel.netlink.socket.socket.socket", TappedSocket),
        patch.object(SocketOptions, "get", counted_get),
    ):
        yield tap
