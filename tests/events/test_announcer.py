"""Announcer: the log knows what people are told, be there an API server or not."""

import logging

import pytest

from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.kube_events import KubeEvent, external_ips_on_node, started_event
from kubeproxy_py.logging_setup import level
from tests.builders import name

WARNING = external_ips_on_node(name("shop/web"), "node-a", ["192.0.2.1"])


class Box:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[KubeEvent] = []

    def start(self) -> None: ...

    def tell(self, notice: KubeEvent) -> None:
        self.posted.append(notice)

    def flush(self, timeout_s: float) -> bool:
        return timeout_s > 1


@pytest.mark.parametrize(
    ("notice", "severity", "text"),
    [
        (started_event("node-a"), level(3), "Node node-a: Starting"),
        (WARNING, logging.WARNING, "Service shop/web: ExternalIPOnNode: externalIPs 192.0.2.1 are also on"),
    ],
)
def test_what_is_told_is_logged(notice: KubeEvent, severity: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(1, "kubeproxy_py"):
        Announcer().tell(notice)
    (record,) = caplog.records
    assert record.levelno == severity
    assert record.getMessage().startswith(text)


def test_what_is_told_is_posted_where_there_is_a_post() -> None:
    box = Box()
    announcer = Announcer(box)
    announcer.tell(WARNING)
    assert box.posted == [WARNING]


def test_without_a_post_there_is_nothing_to_wait_for() -> None:
    assert Announcer().flush(0.0)
    assert not Announcer(Box()).flush(0.0)
