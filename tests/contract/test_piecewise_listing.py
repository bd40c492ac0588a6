"""The listing of real servers in pieces, on the real kernel: of many virtual servers, what has changed is found."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel import Kernel, RealServerListing
from kubeproxy_py.model.rows import (
    NOT_LISTED,
    SERVING,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Plan, Step
from tests.contract.contract import linux_kernel

pytestmark = pytest.mark.kernel

_SETTLED_WITHIN_S = 30.0

SERVERS = [VirtualServer(f"10.97.{number // 250}.{number % 250 + 1}", 80, "TCP") for number in range(400)]
IPV6 = VirtualServer("fd00:10:97::1", 53, "UDP")
LARGE = SERVERS[200]  # more real servers than fit into what the kernel returns otherwise
ROWS: dict[VirtualServer, Rows] = {
    **{server: {RealServer(server, f"10.244.1.{pod}", 8080): SERVING for pod in range(5)} for server in SERVERS},
    LARGE: {RealServer(LARGE, f"10.244.{pod // 250}.{pod % 250}", 8080): SERVING for pod in range(1500)},
    IPV6: {RealServer(IPV6, "fd00:10:244::5", 8080): SERVING},
}


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with linux_kernel() as kernel:
        servers = [Step("add", server, VirtualServerSpec()) for server in ROWS]
        real_servers = [Step("add", key, spec) for rows in ROWS.values() for key, spec in rows.items()]
        assert not kernel.apply(Plan((*servers, *real_servers))).failures
        yield kernel


def with_weight(weight: int) -> RealServerSpec:
    """Return the spec as the listing has it: without thresholds."""
    return RealServerSpec(weight, NOT_LISTED, NOT_LISTED)


def listed(rows: Rows) -> Rows:
    return {key: with_weight(1) for key in rows}


def asked(listing: RealServerListing, *, agrees: bool = True) -> dict[VirtualServer, Rows]:
    found: dict[VirtualServer, Rows] = {}

    def answer(server: VirtualServer, rows: Rows) -> bool:
        found[server] = rows
        return agrees

    assert sum(1 for _ in listing.pieces(answer)) > 1
    return found


def test_of_many_virtual_servers_only_what_has_changed_is_decoded(kernel: Kernel) -> None:
    listing = kernel.real_server_listing()
    assert listing is not None
    everything = {server: listed(rows) for server, rows in ROWS.items()}
    deadline_s = time.monotonic() + _SETTLED_WITHIN_S
    while asked(listing, agrees=False) != everything:  # Linux 7 moves virtual servers to a larger table meanwhile
        assert time.monotonic() < deadline_s
    assert asked(listing) == everything
    assert asked(listing) == {}

    changed = SERVERS[123]
    key = next(iter(ROWS[changed]))
    assert not kernel.apply(Plan((Step("update", key, RealServerSpec(7), SERVING),))).failures
    assert asked(listing) == {changed: {**listed(ROWS[changed]), key: with_weight(7)}}

    gone = RealServer(IPV6, "fd00:10:244::5", 8080)
    assert not kernel.apply(Plan((Step("delete", gone, None, SERVING),))).failures
    assert asked(listing) == {IPV6: {}}

    added = RealServer(SERVERS[0], "10.244.9.9", 8080)  # the pieces end elsewhere from here on
    assert not kernel.apply(Plan((Step("add", added, SERVING),))).failures
    assert asked(listing) == {SERVERS[0]: {**listed(ROWS[SERVERS[0]]), added: with_weight(1)}}
    assert asked(listing) == {}
