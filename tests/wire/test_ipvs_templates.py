"""IPVS messages are equal whether or not the bytes around their addresses were encoded for an earlier sync."""

from itertools import product

import pytest

from kubeproxy_py.kernel.ipvs import encode
from kubeproxy_py.kernel.netlink.messages import split_messages
from kubeproxy_py.model.rows import RealServer, RealServerSpec, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import Protocol

IPVS = 30  # the number that a kernel assigned to the family

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP")
SERVERS = [
    VirtualServer(address, number, protocol)
    for address, number, protocol in product(("10.0.0.1", "fd00::1"), (53, 80), PROTOCOLS)
]
STEPS = [
    step
    for server in SERVERS
    for step in (
        Step("add", server, VirtualServerSpec("rr", 0, 0)),
        Step("update", server, VirtualServerSpec("wrr", 0, 10800)),
        Step("delete", server, None),
        Step("add", RealServer(server, server.address.replace("1", "2"), 8080), RealServerSpec(1)),
        Step("update", RealServer(server, server.address.replace("1", "3"), 8080), RealServerSpec(0)),
        Step("delete", RealServer(server, server.address.replace("1", "4"), 9090), None),
    )
]


@pytest.fixture
def _no_templates() -> None:
    encode._service_template.cache_clear()
    encode._dest_template.cache_clear()


def encoded(steps: list[Step], message_type: int = IPVS) -> list[bytes]:
    return [bytes(message) for message in encode.encode_steps(steps, message_type)]


@pytest.mark.usefixtures("_no_templates")
def test_messages_are_equal_in_each_sync() -> None:
    first = encoded(STEPS)
    assert len(set(first)) == len(STEPS)
    assert encoded(STEPS) == first
    assert [message for step in reversed(STEPS) for message in encoded([step])] == first[::-1]


@pytest.mark.usefixtures("_no_templates")
def test_message_does_not_depend_on_what_was_encoded_before_it() -> None:
    for step in STEPS:
        (after_all,) = encoded([step])
        encode._service_template.cache_clear()
        encode._dest_template.cache_clear()
        assert encoded([step]) == [after_all]


@pytest.mark.usefixtures("_no_templates")
def test_messages_have_the_number_of_ipvs_that_they_are_encoded_for() -> None:
    encoded(STEPS, IPVS)
    types = {message_type for message in encoded(STEPS, IPVS + 1) for message_type, *_ in split_messages(message)}
    assert types == {IPVS + 1}
