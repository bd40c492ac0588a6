"""Where the API server is reached: from its URL, and from the connections."""

import socket
import time
from typing import Any

import pytest

from kubeproxy_py import threads
from kubeproxy_py.model.events import Synced, TakenAddresses
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.sources import FEEDS
from kubeproxy_py.sources.kubernetes.api_server_addresses import ApiServerAddresses, addresses_of, peer_of
from kubeproxy_py.sources.kubernetes.source import KubeSource
from tests.apiserver import ApiServer
from tests.sources.conftest import EventLog


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("https://192.168.3.11:6443", "192.168.3.11", 6443),
        ("https://[fd00:3::11]:6443/path", "fd00:3::11", 6443),
        ("https://192.168.3.11", "192.168.3.11", 443),
        ("http://192.168.3.11", "192.168.3.11", 80),
        ("https://[FD00:3:0::11]", "fd00:3::11", 443),
    ],
)
def test_address_in_the_url_is_known_without_a_resolver(
    url: str, address: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "start_task", lambda *_words: None)
    assert addresses_of(url, timeout_s=0.0) == (SocketAddress(address, port),)


@pytest.mark.parametrize("url", ["https://no.such.name.invalid:6443", "https://a:x", "https://" + "a" * 70 + "." * 3])
def test_url_that_names_no_server_has_no_address(url: str) -> None:
    assert addresses_of(url) == ()


def test_every_address_of_a_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = [(0, 0, 0, "", ("192.168.3.11", 6443)), (0, 0, 0, "", ("fd00:3::11", 6443, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [*found, found[0]])
    expected = (SocketAddress("192.168.3.11", 6443), SocketAddress("fd00:3::11", 6443))
    assert addresses_of("https://api.example:6443") == expected


def test_slow_resolver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_words: object, **_options: object) -> list[object]:
        time.sleep(1.0)
        return []  # to the task, which goes on while other tests run

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert addresses_of("https://api.example:6443", timeout_s=0.01) == ()


def test_all_known_addresses_are_emitted_when_there_is_a_new_one() -> None:
    emitted: list[TakenAddresses] = []
    known = ApiServerAddresses(emitted.append)
    first, second = SocketAddress("192.168.3.11", 6443), SocketAddress("192.168.3.12", 6443)
    for addresses in ([first], [first], [], [second, first]):
        known.add(addresses)
    assert [event.api_servers for event in emitted] == [(first,), (first, second)]


def test_only_the_last_addresses_are_remembered() -> None:
    emitted: list[TakenAddresses] = []
    known = ApiServerAddresses(emitted.append)
    for number in range(200):
        known.add([SocketAddress(f"10.0.0.{number}", 6443)])
    assert len(emitted[-1].api_servers) == 64
    assert emitted[-1].api_servers[-1].address == "10.0.0.199"


def test_closed_socket_has_no_peer() -> None:
    with socket.socket() as unconnected:
        assert peer_of(unconnected) == ()


def test_peer_of_a_name_is_emitted_before_the_initial_lists(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventLog()
    host, _, port = server.url.rpartition("//")[2].rpartition(":")
    monkeypatch.setattr("kubeproxy_py.sources.kubernetes.source.addresses_of", lambda *_arguments: ())
    source = KubeSource(None, server.url, "node-a")
    source.start(events)
    try:
        events.wait_for_synced(*FEEDS)
    finally:
        source.stop()
    emitted = [event for _, event in events.events]
    taken = TakenAddresses("API server", api_servers=(SocketAddress(host, int(port)),))
    assert emitted.count(taken) == 1
    assert emitted.index(taken) < min(emitted.index(Synced(feed)) for feed in FEEDS)
