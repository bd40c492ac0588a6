"""The servers that sources are tested against, and a log of the events that sources emit."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kubeproxy_py.model.events import Event, Synced
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.apiserver.real import RealServer, binaries, real_server
from tests.free_ports import port_of, reserve_port

TOKEN = "stand-in-token"
PATIENCE_S = 60.0  # how long tests wait for what must happen; generous, for a busy machine


class EventLog:
    """The events of a running source, each with the time at which it was emitted."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []
        self._emitted = threading.Condition()

    def __call__(self, *events: Event) -> None:
        now_s = time.monotonic()
        with self._emitted:
            self.events += [(now_s, event) for event in events]
            self._emitted.notify_all()

    def wait_for(self, wanted: Callable[[Event], bool], timeout_s: float = PATIENCE_S) -> tuple[float, Event]:
        """Return the first event that is *wanted*, and its time; remove it and the events before it."""
        index = self._wait_for_index(wanted, timeout_s)
        with self._emitted:
            event = self.events[index]
            del self.events[: index + 1]
            return event

    def wait_for_synced(self, *feeds: str) -> None:
        """Wait until all *feeds* are synced, in any order; no event is removed."""
        for feed in feeds:
            self._wait_for_index(lambda event: event == Synced(feed), PATIENCE_S)  # type: ignore[arg-type] # noqa: B023 - called at once

    def _wait_for_index(self, wanted: Callable[[Event], bool], timeout_s: float) -> int:
        def find() -> int | None:
            return next((index for index, (_, event) in enumerate(self.events) if wanted(event)), None)

        with self._emitted:
            assert self._emitted.wait_for(lambda: find() is not None, timeout_s), (
                f"not emitted within {timeout_s} s: {self.events}"
            )
            index = find()
            assert index is not None
            return index


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true; for what no event announces."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


@pytest.fixture
def event_log() -> EventLog:
    return EventLog()


@pytest.fixture(autouse=True)
def _no_cluster_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests connect to 127.0.0.1 without an HTTP proxy, and do not run in a pod."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """The stand-in server, without TLS; while it is stopped nobody else gets its port."""
    with reserve_port() as reserved:
        server = ApiServer(port_of(reserved)).start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session", params=["stand-in", "real"])
def cluster(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client of an HTTPS server that requires a token: the stand-in, and a real one where it is installed."""
    if request.param == "real":
        folder = binaries()
        if folder is None:
            pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
        with real_server(folder, tmp_path_factory.mktemp("real")) as client:
            yield client
        return
    server = ApiServer(tls=authority.server_context()).start()
    server.faults.tokens = {TOKEN}
    yield Client(server.url, TOKEN, authority.file)
    server.stop()


def require_version(cluster: Client, minor: int, reason: str) -> None:
    """Skip the test, for *reason*, if *cluster* is a real server before Kubernetes 1.*minor*."""
    if isinstance(cluster, RealServer) and cluster.minor < minor:
        pytest.skip(f"Kubernetes 1.{cluster.minor}: {reason}")
