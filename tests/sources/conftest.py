"""The servers that sources are tested against, and an ear for what they say."""

import time
from collections.abc import Callable, Iterator

import pytest

from kubeproxy_py.model.events import Event
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.apiserver.real import binaries, real_server

TOKEN = "stand-in-token"


class Heard:
    """The events of a running source, with the time at which each came."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []

    def __call__(self, *events: Event) -> None:
        self.events += [(time.monotonic(), event) for event in events]

    def wait_for(self, wanted: Callable[[Event], bool], timeout_s: float = 5) -> tuple[float, Event]:
        """The first event that is *wanted*, and when it came; it and what came before it are forgotten."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            for index, (when, event) in enumerate(self.events):
                if wanted(event):
                    del self.events[: index + 1]
                    return when, event
            time.sleep(0.001)
        raise AssertionError(f"not heard within {timeout_s} s: {self.events}")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(autouse=True)
def _no_cluster_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests ask 127.0.0.1 directly, and run in no pod."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """The stand-in, without TLS."""
    server = ApiServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session", params=["stand-in", "real"])
def cluster(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client of an HTTPS server that wants a token: the stand-in, and a real one where its programs are."""
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
