"""AddressMonitor: notifications that cannot be used, and failures, lead to reading all addresses again.

The socket is a stand-in, because only root may send netlink messages; tests/e2e/safe has the real one.
"""

import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from kubeproxy_py import threads
from kubeproxy_py.backoff import Backoff
from kubeproxy_py.kernel.address import monitor as module
from kubeproxy_py.kernel.address.monitor import EVERYTHING, AddressMonitor
from kubeproxy_py.kernel.netlink.messages import message
from kubeproxy_py.model.events import AddressesChanged

PATIENCE_S = 60.0
RTM_NEWADDR, RTM_NEWLINK = 20, 16
AF_INET = 2
NEW_ADDRESS = message(RTM_NEWADDR, 0, struct.pack("=BBBBI", AF_INET, 32, 0, 0, 7) + struct.pack("=HH4s", 8, 2, b"abcd"))


class Netlink:
    """A socket whose datagrams the test sends, with the port of their sender."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setblocking(False)
        self._senders: queue.Queue[int] = queue.Queue()
        self.error: OSError | None = None

    def send(self, data: bytes, sender: int = 0) -> None:
        self._senders.put(sender)
        self._writer.send(data)

    def fileno(self) -> int:
        return self._reader.fileno()

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if self.error:
            raise self.error
        data = self._reader.recv(size)
        return data, (self._senders.get_nowait(), 0)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Opened:
    """The sockets that were opened, and what was reported."""

    def __init__(self) -> None:
        self.sockets: list[Netlink] = []
        self.changes: queue.Queue[AddressesChanged] = queue.Queue()

    def open(self) -> Netlink:
        self.sockets.append(Netlink())
        return self.sockets[-1]

    def next_change(self) -> AddressesChanged:
        return self.changes.get(timeout=PATIENCE_S)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened()
    monkeypatch.setattr(module, "_listening_socket", opened.open)
    monkeypatch.setattr(threads, "RESTART", Backoff(first_s=0.0, longest_s=0.0))
    return opened


@pytest.fixture
def monitor(opened: Opened) -> Iterator[AddressMonitor]:
    monitor = AddressMonitor(opened.changes.put, debounce_s=0.01)
    monitor.start()
    yield monitor
    monitor.stop()
    assert "address-monitor" not in {thread.name for thread in threading.enumerate()}


def test_a_notification_of_the_kernel_is_reported(opened: Opened, monitor: AddressMonitor) -> None:
    opened.sockets[0].send(NEW_ADDRESS)
    assert opened.next_change() == AddressesChanged(other_interfaces=True)


def test_a_device_that_was_renamed_is_reported(
    opened: Opened, monitor: AddressMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = message(RTM_NEWLINK, 0, b"\0" * 16 + struct.pack("=HH8s", 12, 3, b"other0\0\0"))
    for index in (7, 0):  # it appears, and is gone, although only another name is reported
        monkeypatch.setattr(module, "_find_index", lambda _name, index=index: index)
        opened.sockets[0].send(renamed)
        assert opened.next_change() == AddressesChanged(other_interfaces=True, device=True)


MALFORMED = {
    "four bytes": b"abcd",
    "no bytes": b"",
    "a header only": message(RTM_NEWADDR, 0, b""),
    "half an address": NEW_ADDRESS[:-6],
    "a link without a name": message(RTM_NEWLINK, 0, b"\0" * 16),
    "an attribute of no length": message(RTM_NEWLINK, 0, b"\0" * 16 + b"\0" * 8),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_notification_is_dropped_and_all_addresses_are_read_again(
    opened: Opened, monitor: AddressMonitor, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    for _ in range(2):
        opened.sockets[0].send(data)
        opened.next_change()
    opened.sockets[0].send(NEW_ADDRESS)
    assert opened.next_change() in (AddressesChanged(other_interfaces=True), EVERYTHING)
    assert len(opened.sockets) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_dropped_notifications_are_logged_at_most_once_a_minute(
    opened: Opened, monitor: AddressMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        opened.sockets[0].send(b"abcd")
        assert opened.next_change() == EVERYTHING
    assert [record.message for record in caplog.records] == [
        "Dropped malformed notifications of address changes; reading all addresses again"
    ]


def ipv6_address(flags: int) -> bytes:
    """Return the notification that kube-ipvs0, interface 7, has got fd00::1 with *flags*, or that it has others now."""
    address = b"\xfd" + bytes(14) + b"\x01"
    body = struct.pack("=BBBBI", socket.AF_INET6, 128, flags, 0, 7) + struct.pack("=HH16s", 20, 1, address)
    return message(RTM_NEWADDR, 0, body)


def test_an_ipv6_address_is_read_again_unless_it_is_deprecated_as_ours_are() -> None:
    ours = module.parse_notification(ipv6_address(0x80 | 0x20), 7, AddressesChanged())
    assert ours == AddressesChanged(service_addresses={"fd00::1": True})
    assert module.parse_notification(ipv6_address(0x80), 7, AddressesChanged()) == AddressesChanged(device=True)


def test_a_notification_of_another_process_is_not_accepted(opened: Opened, monitor: AddressMonitor) -> None:
    opened.sockets[0].send(NEW_ADDRESS, sender=4711)
    assert opened.next_change() == EVERYTHING


def test_a_socket_that_fails_is_replaced_and_all_addresses_are_read_again(
    opened: Opened, monitor: AddressMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    opened.sockets[0].error = OSError(9, os.strerror(9))
    opened.sockets[0].send(b"x")
    assert opened.next_change() == EVERYTHING
    assert len(opened.sockets) == 2
    opened.sockets[1].send(NEW_ADDRESS)
    assert opened.next_change() == AddressesChanged(other_interfaces=True)
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.exc_info


def test_a_receiver_that_fails_gets_everything_again(opened: Opened) -> None:
    changes: list[AddressesChanged] = []
    handled = threading.Event()

    def fail_once(change: AddressesChanged) -> None:
        changes.append(change)
        if len(changes) == 1:
            raise RuntimeError("a bug")
        handled.set()

    monitor = AddressMonitor(fail_once, debounce_s=0.01)
    monitor.start()
    opened.sockets[0].send(NEW_ADDRESS)
    assert handled.wait(PATIENCE_S)
    monitor.stop()
    assert changes[1] == EVERYTHING
