"""netlink_tap: counts what goes between us and the kernel by netlink and getsockopt(2), without a clock.

Law: every socket that kernel/netlink/socket.py opens within the `with` is counted, at its only two system calls, send and
recvfrom_into; a send carries whole messages, so they are counted by their headers.  Of the kernel's answers only the
number of reads is counted.  What is asked by getsockopt (kernel/host/sockopt.py) is counted by itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from tests.e2e.in_process_agent import processes_started

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port; include/uapi/linux/netlink.h
_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH


class Cost(NamedTuple):
    """What was spent: system calls on netlink sockets, messages sent, listings among these, processes, getsockopt."""

    sends: int = 0
    reads: int = 0
    messages: int = 0
    dumps: int = 0
    processes: int = 0
    options: int = 0

    def __sub__(self, before: Cost) -> Cost:
        return Cost(*(now - then for now, then in zip(self, before, strict=True)))


class Tap:
    """The cost so far is `cost()`."""

    def __init__(self) -> None:
        self.sends = self.reads = self.messages = self.dumps = self.options = 0

    def sent(self, data: bytes) -> None:
        """Count one send and what it carries."""
        self.sends += 1
        offset = 0
        while offset < len(data):
            length, _, flags, _, _ = _HEADER.unpack_from(data, offset)
            self.messages += 1
            self.dumps += flags & _DUMP == _DUMP
            offset += (length + 3) & ~3

    def cost(self) -> Cost:
        return Cost(self.sends, self.reads, self.messages, self.dumps, len(processes_started()), self.options)


@contextmanager
def tapped() -> Iterator[Tap]:
    """Count on all netlink sockets that are made within, for as long as they live."""
    tap = Tap()

    class Tapped(socket.socket):
        def send(self, data: Any, flags: int = 0, /) -> int:
            tap.sent(bytes(data))
            return super().send(data, flags)

        def recvfrom_into(self, *arguments: Any) -> Any:
            tap.reads += 1
            return super().recvfrom_into(*arguments)

    def ask(options: SocketOptions, option: int, buffer: bytearray) -> None:
        tap.options += 1
        really_ask(options, option, buffer)

    really_ask = SocketOptions.ask
    with patch("kubeproxy_py.kernel.netlink.socket.socket.socket", Tapped), patch.object(SocketOptions, "ask", ask):
        yield tap
