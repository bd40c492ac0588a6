"""The agent with an API server: from an object written there to an answered packet, through cuts and restarts.

The API server is the stand-in (tests/apiserver) over TLS, in node A's namespace, with a kubeconfig such as kubeadm
writes: a certificate authority and a tokenFile.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.ask import AskError, ask
from lab.network import Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import EVENT, FLAGS, AgentProcess, wait_until
from tests.e2e.manifests import Object, backed, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

WEB = "10.96.80.1"
NODE: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: default
clusters: [{{name: default, cluster: {{server: "{url}", certificate-authority: "{authority}"}}}}]
contexts: [{{name: default, context: {{cluster: default, user: default}}}}]
users: [{{name: default, user: {{tokenFile: "{token}"}}}}]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


class Control:
    """The API server, and an agent's flags to reach it."""

    def __init__(self, server: ApiServer, authority: Authority, folder: Path) -> None:
        self.server = server
        self._token = folder / "token"
        self.set_token("first")
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(KUBECONFIG.format(url=server.url, authority=authority.file, token=self._token))

    def set_token(self, token: str) -> None:
        """Rotate the token: from now on no other is taken."""
        self._token.write_text(f"{token}\n")
        self.server.faults.tokens = {token}

    def apply(self, *objects: Object) -> None:
        for each in objects:
            self.server.apply(each)


class Agent(AgentProcess):
    """An agent that asks the API server, with *flags* besides FLAGS."""

    def __init__(self, cluster: Cluster, control: Control, *flags: str) -> None:
        super().__init__(cluster.node_a, Path("/nowhere"))
        source = ("--kubeconfig", str(control.kubeconfig))
        self._argv = [sys.executable, "-m", "kubeproxy_py", "run", *source, *FLAGS, *flags]


@pytest.fixture
def control(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[Control]:
    with cluster.node_a.inside():
        server = ApiServer(tls=authority.server_context())
    server.start()
    made = Control(server, authority, tmp_path)
    made.apply(NODE, *backed("web", WEB, ["pod-a1", "pod-b1"]))
    yield made
    server.stop()


def answerers(cluster: Cluster, address: str = WEB, count: int = 4, port: int = 80) -> set[str]:
    """Who answers a pod at *address* and *port*; empty if nobody does."""
    try:
        return {ask(cluster["pod-a2"], "tcp", address, port, 2.0).name for _ in range(count)}
    except AskError:
        return set()


@contextmanager
def agent(cluster: Cluster, control: Control) -> Iterator[Agent]:
    with Agent(cluster, control) as running:
        running.wait_synced()
        yield running


def test_what_is_written_to_the_api_server_is_answered(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control) as running:
        assert answerers(cluster) == {"pod-a1", "pod-b1"}
        with running.syncing(EVENT):
            control.apply(endpoint_slice("web", ["pod-b2"]))
        assert answerers(cluster) == {"pod-b2"}
        with running.syncing(EVENT):
            control.apply(*backed("late", "10.96.80.2", ["pod-a1"]))
        wait_until(lambda: answerers(cluster, "10.96.80.2") == {"pod-a1"})
        with running.syncing(EVENT):
            control.server.store.delete("services", ("shop", "late"))
        assert answerers(cluster, "10.96.80.2") == set()


def test_a_service_that_is_given_to_another_proxy_is_let_go(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control) as running:
        theirs = service("web", WEB)
        theirs["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other"
        with running.syncing(EVENT):
            control.apply(theirs)
        assert answerers(cluster) == set()


def test_traffic_flows_while_the_api_server_is_away_and_changes_arrive_when_it_is_back(
    cluster: Cluster, control: Control
) -> None:
    with agent(cluster, control) as running:
        control.server.answer_next(503, times=2, kind="Status", reason="ServiceUnavailable", code=503)
        control.server.cut()
        assert answerers(cluster) == {"pod-a1", "pod-b1"}
        with running.syncing(EVENT):
            control.apply(endpoint_slice("web", ["pod-b2"]))
        assert answerers(cluster) == {"pod-b2"}


def test_a_history_that_was_compacted_away_is_listed_anew(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control) as running:
        control.server.faults.delay_s = 0.3  # so that the change comes before the watch is back
        control.server.cut()
        with running.syncing(EVENT):
            control.server.store.delete("services", ("shop", "web"))
            control.apply(*backed("late", "10.96.80.2", ["pod-a1"]))
            control.server.store.compact()
            control.server.cut()
        control.server.faults.delay_s = 0.0
        wait_until(lambda: answerers(cluster, "10.96.80.2") == {"pod-a1"} and not answerers(cluster))


def test_a_rotated_token_is_used_from_the_next_request_on(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control) as running:
        control.set_token("second")
        control.server.cut()
        with running.syncing(EVENT):
            control.apply(endpoint_slice("web", ["pod-b2"]))
        assert answerers(cluster) == {"pod-b2"}
        assert not [line for line in running.lines() if "second" in line or "first\\n" in line]


def test_a_restart_with_the_same_objects_has_nothing_to_do(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control) as running:
        status, _ = running.end(signal.SIGTERM)
        assert status == 0
    assert answerers(cluster) == {"pod-a1", "pod-b1"}
    with Agent(cluster, control) as again:
        assert "nothing to do" in again.wait_synced()


def test_an_object_that_is_invalid_is_named_and_the_others_are_served(cluster: Cluster, control: Control) -> None:
    bad = service("bad", "10.96.80.3")
    bad["spec"]["ports"][0]["port"] = 70000
    control.apply(bad)
    with agent(cluster, control) as running:
        line = running.wait_for("shop/bad")
        assert "spec.ports[0].port" in line
        assert answerers(cluster) == {"pod-a1", "pod-b1"}


def test_nothing_is_touched_before_every_list_is_whole(cluster: Cluster, control: Control) -> None:
    with agent(cluster, control):
        pass
    control.server.answer_next(503, times=3, kind="Status", reason="ServiceUnavailable", code=503)
    with Agent(cluster, control) as again:
        assert answerers(cluster) == {"pod-a1", "pod-b1"}
        assert "nothing to do" in again.wait_synced()
    assert answerers(cluster) == {"pod-a1", "pod-b1"}
