"""The batching socket, against rtnetlink, which every Linux has; nothing is changed, so root is not needed."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINTR, ENODEV

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string, string
from kubeproxy_py.kernel.netlink.messages import HEADER_SIZE
from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE, Message, Socket, message

GETLINK, GETROUTE = 18, 26
IFNAME = 3
PRESENT: Message = message(GETLINK, 0, bytes(16) + string(IFNAME, "lo"))
ABSENT: Message = message(GETLINK, 0, bytes(16) + string(IFNAME, "no-such-device"))
ROUTES: Message = message(GETROUTE, 0, bytes((socket.AF_INET,)) + bytes(11))  # at least those of 127.0.0.0/8
MISALIGNED: Message = message(
    GETLINK, 0, PRESENT[HEADER_SIZE:] + b"x"
)  # the kernel drops the messages after it in a send


@pytest.fixture
def netlink() -> Iterator[Socket]:
    opened = Socket(NETLINK_ROUTE, timeout_s=0.2)
    yield opened
    opened.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_execute_returns_the_error_of_each_failed_message_only(netlink: Socket) -> None:
    errors = netlink.execute([PRESENT, ABSENT, PRESENT, ABSENT, ABSENT])
    assert {index: error.errno for index, error in errors.items()} == {1: ENODEV, 3: ENODEV, 4: ENODEV}


def test_execute_without_messages_returns_no_errors(netlink: Socket) -> None:
    assert netlink.execute([]) == {}


def test_execute_sends_more_messages_than_fit_in_a_batch(netlink: Socket) -> None:
    netlink.batch_max = 7
    assert len(netlink.execute([ABSENT] * 50)) == 50


def test_messages_whose_answers_overflowed_the_receive_buffer_are_sent_again(netlink: Socket) -> None:
    netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    netlink.batch_max = 3000
    errors = netlink.execute([ABSENT, PRESENT, ABSENT] * 300)
    assert set(errors) == {index for index in range(900) if index % 3 != 1}


def test_messages_dropped_after_a_damaged_one_are_sent_again(netlink: Socket) -> None:
    errors = netlink.execute([MISALIGNED, ABSENT, PRESENT])
    assert {index: error.errno for index, error in errors.items()} == {1: ENODEV}


def test_batches_fit_small_buffers_without_the_privilege_for_large_ones() -> None:
    with unprivileged():
        opened = Socket(NETLINK_ROUTE)
        buffer_bytes = opened._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        errors = opened.execute([ABSENT] * 2000)
    opened.close()
    assert (opened.batch_max < buffer_bytes // 768, len(errors)) == (True, 2000)


def test_request_returns_the_reply(netlink: Socket) -> None:
    assert read_string(parse_attributes(netlink.request(PRESENT), 16)[IFNAME]) == "lo"


def test_request_raises_with_the_errno_of_the_kernel(netlink: Socket) -> None:
    with pytest.raises(KernelError) as caught:
        netlink.request(ABSENT)
    assert caught.value.errno == ENODEV


def test_dump_returns_a_complete_listing(netlink: Socket) -> None:
    names = {read_string(parse_attributes(body, 16)[IFNAME]) for body in netlink.dump(message(GETLINK, 0, bytes(16)))}
    assert names == {name for _, name in socket.if_nameindex()}


def test_a_listing_with_an_object_twice_is_requested_again(netlink: Socket) -> None:
    once = netlink.dump(ROUTES)
    keys = iter(["the same"] * len(once) + [str(number) for number in range(len(once))])
    assert netlink.dump(ROUTES, lambda _: next(keys)) == once
    assert list(keys) == []


def test_a_listing_that_has_objects_twice_again_and_again_raises(netlink: Socket) -> None:
    with pytest.raises(KernelError, match="changed 10 times") as caught:
        netlink.dump(ROUTES, lambda _: "the same")
    assert caught.value.errno == EINTR


def test_a_protocol_that_the_kernel_lacks_raises() -> None:
    with pytest.raises(KernelError, match="netlink protocol 31"):
        Socket(31)
