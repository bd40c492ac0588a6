"""The batching socket, against the routing tables that every Linux has; only questions are asked, so no root."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENODEV

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.netlink.attributes import attributes, read_text, text
from kubeproxy_py.kernel.netlink.messages import HEADER_SIZE
from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE, Message, Socket, message

GETLINK = 18
IFNAME = 3
PRESENT: Message = message(GETLINK, 0, bytes(16) + text(IFNAME, "lo"))
ABSENT: Message = message(GETLINK, 0, bytes(16) + text(IFNAME, "no-such-device"))
MISALIGNED: Message = message(GETLINK, 0, PRESENT[HEADER_SIZE:] + b"x")  # the kernel loses what follows it in a send


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


def test_every_refused_message_is_named_and_no_other(netlink: Socket) -> None:
    refused = netlink.execute([PRESENT, ABSENT, PRESENT, ABSENT, ABSENT])
    assert {index: refusal.errno for index, refusal in refused.items()} == {1: ENODEV, 3: ENODEV, 4: ENODEV}


def test_nothing_to_do_is_nothing_refused(netlink: Socket) -> None:
    assert netlink.execute([]) == {}


def test_more_messages_than_fit_a_batch_are_all_answered(netlink: Socket) -> None:
    netlink.batch_max = 7
    assert len(netlink.execute([ABSENT] * 50)) == 50


def test_answers_that_did_not_fit_the_receive_buffer_are_asked_for_again(netlink: Socket) -> None:
    netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    netlink.batch_max = 3000
    refused = netlink.execute([ABSENT, PRESENT, ABSENT] * 300)
    assert set(refused) == {index for index in range(900) if index % 3 != 1}


def test_what_a_lost_message_took_with_it_is_asked_for_again(netlink: Socket) -> None:
    refused = netlink.execute([MISALIGNED, ABSENT, PRESENT])
    assert {index: refusal.errno for index, refusal in refused.items()} == {1: ENODEV}


def test_without_the_right_to_large_buffers_batches_are_as_small_as_the_buffers() -> None:
    with unprivileged():
        opened = Socket(NETLINK_ROUTE)
        room = opened._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        refused = opened.execute([ABSENT] * 2000)
    opened.close()
    assert (opened.batch_max < room // 768, len(refused)) == (True, 2000)


def test_a_reply_is_given_back(netlink: Socket) -> None:
    assert read_text(attributes(netlink.ask(PRESENT), 16)[IFNAME]) == "lo"


def test_a_question_refused_is_an_error_with_its_number(netlink: Socket) -> None:
    with pytest.raises(KernelError) as caught:
        netlink.ask(ABSENT)
    assert caught.value.errno == ENODEV


def test_a_listing_is_whole(netlink: Socket) -> None:
    names = {read_text(attributes(body, 16)[IFNAME]) for body in netlink.dump(message(GETLINK, 0, bytes(16)))}
    assert names == {name for _, name in socket.if_nameindex()}


def test_a_protocol_that_the_kernel_lacks_is_an_error() -> None:
    with pytest.raises(KernelError, match="netlink protocol 31"):
        Socket(31)
