"""What people are told, by an agent on a real kernel: in the cluster's Events, and in the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.ask import ask
from lab.network import BY_NAME, Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Object, Port, backed
from tests.e2e.serving import serving_cluster
from tests.e2e.test_api_server import NODE, Agent, Control, answerers
from tests.events.kubectl import get_events

pytestmark = pytest.mark.kernel

NODE_IP = BY_NAME["node-a"].ipv4
PORTS = (Port(8000),)
WARNED = r"W.*ExternalIPOnNode.*" + re.escape(NODE_IP)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def control(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[Control]:
    with cluster.node_a.inside():
        server = ApiServer(tls=authority.server_context())
    server.start()
    made = Control(server, authority, tmp_path)
    made.apply(NODE)
    yield made
    server.stop()


def on_node(name: str, number: int) -> list[Object]:
    """A Service whose externalIP is node A's own address, with one pod behind it."""
    return backed(name, f"10.96.81.{number}", ["pod-b1"], PORTS, externalIPs=[NODE_IP])


@contextmanager
def agent(cluster: Cluster, control: Control) -> Iterator[Agent]:
    with Agent(cluster, control) as running:
        running.wait_synced()
        yield running


def listed(cluster: Cluster, control: Control, authority: Authority) -> list[Object]:
    """The Events of all namespaces, as a consumer of the API gets them."""
    token = next(iter(control.server.faults.tokens or ()))
    with cluster.node_a.inside():
        status, answer = Client(control.server.url, token, authority.file).ask("GET", "/apis/events.k8s.io/v1/events")
    assert status == 200, answer
    return sorted(answer["items"], key=lambda event: str(event["eventTime"]))


def test_kubectl_shows_the_start_and_the_external_ip_that_is_not_bound(
    cluster: Cluster, control: Control, authority: Authority
) -> None:
    control.apply(*on_node("web", 1))
    with agent(cluster, control):
        wait_until(lambda: len(listed(cluster, control, authority)) == 2, look_s=0.2)
        text = get_events(listed(cluster, control, authority))
        assert "kube-ipvs0" not in shell(cluster.node_a, f"ip -o addr show to {NODE_IP}")
        assert ask(cluster["outside"], "tcp", NODE_IP, 8000, 2.0).name == "pod-b1"
    assert re.fullmatch(
        r"LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n"
        r"\d+s +Normal +Starting +node/node-a +\n"
        r"\d+s +Warning +ExternalIPOnNode +service/web +externalIPs 192\.168\.3\.10 are also on an interface of node "
        r"node-a: .*\n",
        text,
    )


def test_without_the_role_to_write_events_services_are_served_and_one_line_says_so(
    cluster: Cluster, control: Control, authority: Authority
) -> None:
    control.server.faults.forbidden = {("create", "events"), ("patch", "events")}
    control.apply(*on_node("web", 1), *on_node("shop", 2))
    with agent(cluster, control) as running:
        wait_until(lambda: len([line for line in control.server.writes if line.startswith("POST")]) == 3)
        running.wait_for("the role needs create and patch on events")
        assert ask(cluster["pod-a1"], "tcp", "10.96.81.1", 8000, 2.0).name == "pod-b1"
        assert len([line for line in running.lines() if "events are not posted" in line]) == 1
    assert listed(cluster, control, authority) == []


def test_a_sync_does_not_wait_for_an_event_to_be_taken(
    cluster: Cluster, control: Control, authority: Authority
) -> None:
    with agent(cluster, control) as running:
        wait_until(lambda: len(listed(cluster, control, authority)) == 1, look_s=0.2)
        control.server.faults.delay_s = 60.0  # of answers; the watches go on
        control.apply(*on_node("web", 1))
        running.wait_for(WARNED)
        control.apply(*backed("late", "10.96.81.3", ["pod-b1"], PORTS))
        wait_until(lambda: answerers(cluster, "10.96.81.3", count=1, port=8000) == {"pod-b1"})
        wait_until(lambda: len(control.server.writes) == 2)


def test_with_a_folder_of_manifests_people_are_told_in_the_log(cluster: Cluster, tmp_path: Path) -> None:
    Folder(tmp_path).put("web", on_node("web", 1))
    with AgentProcess(cluster.node_a, tmp_path) as running:
        running.wait_synced()
        assert "Service shop/web" in running.wait_for(WARNED)


def test_every_line_of_a_json_log_is_a_record_at_any_verbosity(
    cluster: Cluster, control: Control, authority: Authority
) -> None:
    control.apply(*on_node("web", 1))
    with Agent(cluster, control, "--logging-format=json", "-v10") as running:
        running.wait_for("ExternalIPOnNode")
        running.wait_synced()  # the warning comes before the sync's own line
        records = [json.loads(line) for line in running.lines()]
    assert all({"ts", "caller", "msg"} <= record.keys() for record in records)
    (synced,) = [record for record in records if "(first sync)" in record["msg"]]
    assert (synced["v"], type(synced["apply_ms"])) == (0, float)
