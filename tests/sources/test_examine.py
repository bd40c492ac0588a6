"""Examining an API server: whether it answers, its clock, the Node; and never for longer than is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.sources.kubernetes.examine import Examined, examine
from tests.apiserver import ApiServer

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-a"},
    "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.3.10"}]},
}
PATIENCE_S = 60.0


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer().start()
    running.apply(NODE)
    yield running
    running.stop()


def result(server: str, timeout_s: float = PATIENCE_S, node: str = "node-a") -> Examined:
    return examine("", server, node, timeout_s).wait()


def test_server_that_answers_has_a_clock_and_the_node(server: ApiServer) -> None:
    found = result(server.url)
    assert (found.server.url, found.server.error, found.unusable) == (server.url, "", "")
    assert found.server.skew_s is not None
    assert abs(found.server.skew_s) < 30
    assert found.node
    assert (found.node.addresses, found.node.pod_cidrs) == (("192.168.3.10",), ("10.244.1.0/24",))


@pytest.mark.parametrize("skew_s", [7200.0, -7200.0])
def test_skew_is_how_much_our_clock_is_ahead(server: ApiServer, skew_s: float) -> None:
    server.faults.clock_skew_s = skew_s
    skew = result(server.url).server.skew_s
    assert skew == pytest.approx(-skew_s, abs=30)


def test_node_that_does_not_exist_or_may_not_be_read_is_none(server: ApiServer) -> None:
    assert result(server.url, node="node-z").node is None
    server.faults.forbidden.add(("list", "nodes"))
    found = result(server.url)
    assert (found.node, found.server.error) == (None, "")


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, "it answers 401"), (404, "as no API server does"), (503, "it answers 503"), (403, "")],
)
def test_status_that_is_no_answer_is_an_error(server: ApiServer, status: int, error: str) -> None:
    server.respond_next(status)
    found = result(server.url).server
    assert bool(found.error) == bool(error)
    assert error in found.error
    assert bool(found.hint) == bool(error)


def test_hanging_server_is_waited_for_no_longer_than_allowed(server: ApiServer) -> None:
    server.faults.dead = True
    found = result(server.url, timeout_s=0.5)
    assert found.server.error
    assert "within 0.5 s" in found.server.error or found.server.error.startswith("connection: ")
    assert found.node is None


def test_server_that_does_not_listen_is_an_error() -> None:
    found = result("http://127.0.0.1:1").server
    assert (found.url, found.error.startswith("connection: ")) == ("http://127.0.0.1:1", True)


def test_without_a_configuration_nothing_is_asked() -> None:
    found = result("")
    assert "set --kubeconfig or --manifests" in found.unusable


def test_kubeconfig_that_cannot_be_used_is_an_error_with_its_hint(tmp_path: Path) -> None:
    found = examine(str(tmp_path / "missing"), "", "node-a", PATIENCE_S).wait()
    assert str(tmp_path / "missing") in found.server.error
    assert found.unusable == ""
