"""Announcer: Events are logged with and without an API server."""

import logging

import pytest

from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.kube_events import KubeEvent, external_ips_on_node, started_event
from kubeproxy_py.events.poster import Poster
from kubeproxy_py.logging_setup import level
from tests.builders import name

WARNING = external_ips_on_node(name("shop/web"), "node-a", ["192.0.2.1"])


class RecordingPoster(Poster):
    """Records the enqueued Events."""

    def __init__(self) -> None:
        self.posted: list[KubeEvent] = []

    def start(self) -> None: ...

    def enqueue(self, event: KubeEvent) -> None:
        self.posted.append(event)

    def flush(self, timeout_s: float) -> bool:
        return timeout_s > 1


@pytest.mark.parametrize(
    ("event", "severity", "text"),
    [
        (started_event("node-a"), level(3), "Node node-a: Starting"),
        (
            WARNING,
            logging.WARNING,
            "Service shop/web: ExternalIPOnNode: externalIPs 192.0.2.1 are also addresses of node node-a",
        ),
    ],
)
def test_published_event_is_logged(
    event: KubeEvent, severity: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(1, "kubeproxy_py"):
        Announcer().publish(event)
    (record,) = caplog.records
    assert record.levelno == severity
    assert record.getMessage().startswith(text)


def test_published_event_is_enqueued_with_a_poster() -> None:
    poster = RecordingPoster()
    announcer = Announcer(poster)
    announcer.publish(WARNING)
    assert poster.posted == [WARNING]


def test_flush_without_a_poster_returns_at_once() -> None:
    assert Announcer().flush(0.0)
    assert not Announcer(RecordingPoster()).flush(0.0)
