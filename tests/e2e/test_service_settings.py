"""Settings of a Service by annotations (docs/service-settings.md), each seen in packets or in what the kernel lists."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.model.settings import SCHEDULERS
from kubeproxy_py.sources.decode.settings import PREFIX
from lab.client import Answer, QueryError, connect, query, read_answer
from lab.echo import PROTOCOLS, Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.handing_on import node
from tests.e2e.kernel_state import kernel_state, run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.module_loading import without_module_loading
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

PORTS = [Port(80, protocol.upper(), 8080) for protocol in PROTOCOLS]
PERIOD_S = 1
REPAIRED_WITHIN_S = 60.0
NUMBERS = iter(range(1, 255))  # a Service for each test
# Addresses of clients, the last of each family outside of the network of the others by MASK.
CLIENTS = {
    4: ("192.168.3.176", "192.168.3.177", "192.168.3.178", "192.168.3.179", "192.168.3.180"),
    6: ("fd00:3::200", "fd00:3::201", "fd00:3::202", "fd00:3::203", "fd00:3::204"),
}
MASK = "ipv4/30,ipv6/126"
VERSIONS = (4, 6)


class Served(NamedTuple):
    """A Service, with an address of each family."""

    cluster: Cluster
    number: int

    def address(self, version: int = 4) -> str:
        return f"10.96.2.{self.number}" if version == 4 else f"fd00:10:96::2:{self.number}"

    def ask(self, version: int = 4, protocol: Protocol = "tcp", source_address: str = "") -> Answer:
        """Query it from outside."""
        return query(self.cluster["outside"], protocol, self.address(version), 80, source_address=source_address)

    def names(self, count: int, version: int = 4, protocol: Protocol = "tcp", source_address: str = "") -> list[str]:
        """Return the pods that answer *count* queries one after the other."""
        return [self.ask(version, protocol, source_address).name for _ in range(count)]

    @contextmanager
    def connected(self, version: int = 4) -> Iterator[str]:
        """Hold a connection, and yield the pod that it is to."""
        with connect(self.cluster["outside"], "tcp", self.address(version), 80) as client:
            yield read_answer(client).name

    def listed(self, version: int = 4) -> str:
        """Return the line of its TCP virtual server, and those of its real servers, with thresholds."""
        listed = run(self.cluster.node_a, "ipvsadm", "-Ln", "--thresholds")
        address = self.address(version) if version == 4 else f"[{self.address(version)}]"
        match = re.search(rf"^TCP  {re.escape(address)}:80 .*\n(?:  -> .*\n?)*", listed, re.MULTILINE)
        assert match, listed
        return match[0]

    def scheduler(self, version: int = 4) -> str:
        return self.listed(version).split()[2]


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def serve(
        self, annotations: Mapping[str, str], pods: Iterable[str] = ("pod-a1", "pod-b1"), **spec: object
    ) -> Served:
        """Serve *pods* by a new Service with *annotations*, named without our prefix."""
        served = Served(self.cluster, next(NUMBERS))
        self.change(served, annotations, pods, **spec)
        return served

    def change(
        self, served: Served, annotations: Mapping[str, str], pods: Iterable[str] = ("pod-a1", "pod-b1"), **spec: object
    ) -> None:
        with self.agent.syncing():
            self.folder.write(f"s{served.number}", objects(served, annotations, pods, **spec))


def objects(served: Served, annotations: Mapping[str, str], pods: Iterable[str], **spec: object) -> list[Object]:
    name, pods = f"s{served.number}", list(pods)
    made = service(name, [served.address(4), served.address(6)], PORTS, **spec)
    made["metadata"]["annotations"] = {
        text if "/" in text else PREFIX + text: value for text, value in annotations.items()
    }
    slices = [endpoint_slice(name, pods, PORTS, version=version) for version in VERSIONS]
    for each in slices:
        for endpoint in each["endpoints"]:
            endpoint["zone"] = f"zone-{endpoint['nodeName'][-1]}"
    return [made, *slices]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    with serving_cluster() as cluster:
        for version, addresses in CLIENTS.items():
            for address in addresses:
                length = "24" if version == 4 else "64 nodad"
                shell(cluster["outside"], f"ip address add {address}/{length} dev eth0")
        folder.write("first", objects(Served(cluster, 255), {}, ["pod-a1"]))
        flags = ("--ipvs-sync-period", f"{PERIOD_S}s", "--ipvs-min-sync-period", "0s")
        with AgentProcess(cluster.node_a, folder.path, *flags) as agent:
            agent.wait_synced()
            yield Running(cluster, agent, folder)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("node/node-b=3", {"pod-a1": 10, "pod-b1": 30}),
        ("own-node=3", {"pod-a1": 30, "pod-b1": 10}),
        ("zone/zone-b=3, others=1", {"pod-a1": 10, "pod-b1": 30}),
    ],
)
def test_weights_are_seen_in_the_counts_of_connections(
    running: Running, text: str, counts: dict[str, int], protocol: Protocol, version: int
) -> None:
    served = running.serve({"weights": text})
    assert Counter(served.names(40, version, protocol)) == counts
    assert served.scheduler(version) == "wrr"


def test_weights_that_change_apply_to_new_connections(running: Running) -> None:
    served = running.serve({"weights": "node/node-b=3"})
    with served.connected() as name:
        running.change(served, {"weights": "node/node-a=3"})
        assert Counter(served.names(40)) == {"pod-a1": 30, "pod-b1": 10}
    assert name in ("pod-a1", "pod-b1")
    running.change(served, {})
    assert Counter(served.names(40)) == {"pod-a1": 20, "pod-b1": 20}
    assert served.scheduler() == "rr"


@pytest.mark.parametrize("version", VERSIONS)
def test_connection_beyond_the_limit_of_an_endpoint_goes_to_another(running: Running, version: int) -> None:
    served = running.serve({"scheduler": "fo", "max-connections": "2", "weights": "node/node-a=2"})
    run(running.cluster.node_a, "ipvsadm", "--set", "0", "1", "0")
    with ExitStack() as held:
        names = [held.enter_context(served.connected(version)) for _ in range(4)]
        assert names == ["pod-a1", "pod-a1", "pod-b1", "pod-b1"]
        with pytest.raises(QueryError):
            served.ask(version)
        running.change(served, {"scheduler": "fo", "max-connections": "3", "weights": "node/node-a=2"})
        assert held.enter_context(served.connected(version)) == "pod-a1"
        running.change(served, {"scheduler": "fo", "weights": "node/node-a=2"})
        assert {served.ask(version).name for _ in range(3)} == {"pod-a1"}


@pytest.mark.parametrize("version", VERSIONS)
def test_client_with_affinity_keeps_its_endpoint_beyond_the_limit(running: Running, version: int) -> None:
    served = running.serve({"max-connections": "1"}, sessionAffinity="ClientIP")
    with served.connected(version) as name:
        assert {served.ask(version).name for _ in range(3)} == {name}
        assert served.ask(version, source_address=CLIENTS[version][0]).name != name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("had", "command"), [("", "-x 5 -y 2"), ("7", "-x 5 -y 2"), ("7", "")])
def test_thresholds_that_another_program_sets_are_repaired(
    running: Running, had: str, command: str, version: int
) -> None:
    served = running.serve({"max-connections": had} if had else {})
    before = served.listed(version)
    assert len(re.findall(rf"Masq|{had or 0} +{had or 0} ", before)) >= 2, before
    address, pod = served.address(version), BY_NAME["pod-b1"]
    virtual, real = (address, pod.ipv4) if version == 4 else (f"[{address}]", f"[{pod.ipv6}]")
    shell(running.cluster.node_a, f"ipvsadm -e -t {virtual}:80 -r {real}:8080 -m -w 1 {command}")
    wait_until(lambda: served.listed(version) == before, lambda: served.listed(version), timeout_s=REPAIRED_WITHIN_S)


@pytest.mark.parametrize("version", VERSIONS)
def test_mask_keeps_clients_of_one_network_on_one_endpoint(running: Running, version: int) -> None:
    *together, apart = CLIENTS[version]
    affinity = {"sessionAffinity": "ClientIP"}
    served = running.serve({"affinity-mask": MASK}, **affinity)
    (kept,) = {served.ask(version, source_address=client).name for client in together}
    assert served.ask(version, source_address=apart).name != kept
    assert {served.ask(version, source_address=client).name for client in together} == {kept}
    alone = running.serve({}, **affinity)
    assert len({alone.ask(version, source_address=client).name for client in together}) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_affinity_ends_after_the_timeout_of_the_annotation(running: Running, version: int) -> None:
    run(running.cluster.node_a, "ipvsadm", "--set", "0", "0", "1")
    served = running.serve({"affinity-timeout": "2s"}, sessionAffinity="ClientIP")
    assert "persistent 2" in served.listed(version)
    first = served.ask(version, "udp").name
    assert served.ask(version, "udp").name == first

    def is_elsewhere() -> bool:
        time.sleep(3.5)  # longer than the timeout: each query renews it
        return served.ask(version, "udp").name != first

    wait_until(is_elsewhere)
    kept = running.serve({}, sessionAffinity="ClientIP")
    assert "persistent 10800" in kept.listed(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_hashed_client_stays_on_its_endpoint_unless_its_port_counts(running: Running, version: int) -> None:
    pods = ("pod-a1", "pod-a2", "pod-b1", "pod-b2")
    for scheduler in ("sh", "mh"):
        by_address = running.serve({"scheduler": scheduler, "source-hash-port": "false"}, pods)
        names = [set(by_address.names(6, version, source_address=client)) for client in CLIENTS[version]]
        assert all(len(each) == 1 for each in names), names
        assert len(set.union(*names)) > 1, "all clients are on one endpoint"
        by_port = running.serve({"scheduler": scheduler, "source-hash-port": "true"}, pods)
        assert len(set(by_port.names(30, version, source_address=CLIENTS[version][0]))) > 1


def test_flags_of_kube_router_count(running: Running) -> None:
    served = running.serve(
        {"kube-router.io/service.scheduler": "sh", "kube-router.io/service.schedflags": "sh-port,sh-fallback"}
    )
    assert re.search(r" sh \(.*sh-fallback.*sh-port.*\)| sh \(.*sh-port.*sh-fallback", served.listed())


def test_each_scheduler_that_the_kernel_has_serves(running: Running) -> None:
    served = running.serve({"scheduler": "wlc"})
    lacking = set()
    for scheduler in SCHEDULERS:
        running.change(served, {"scheduler": scheduler})
        has = run(running.cluster.node_a, "sh", "-c", f"modprobe -n ip_vs_{scheduler} && echo yes || echo no").strip()
        if has == "no" and served.scheduler() != scheduler:
            lacking.add(scheduler)
            running.agent.wait_for(f"SettingIgnored.*scheduler={scheduler}: needs scheduler {scheduler}, which")
        else:
            assert served.scheduler() == scheduler
        assert set(served.names(4)) <= {"pod-a1", "pod-b1"}
    assert lacking <= {"twos"}


def test_service_is_served_where_its_scheduler_cannot_be_loaded(running: Running) -> None:
    shell(running.cluster.node_a, "rmmod ip_vs_ovf 2>/dev/null || true")
    with without_module_loading():
        served = running.serve({"scheduler": "ovf"})
        running.agent.wait_for(r"SettingIgnored.*scheduler=ovf.*modprobe ip_vs_ovf")
        wait_until(lambda: served.scheduler() == "rr", served.listed)
        assert set(served.names(4)) == {"pod-a1", "pod-b1"}


def test_wrong_settings_are_named_and_the_service_is_served(running: Running) -> None:
    wrong = {"scheduler": "wrong", "weigths": "own-node=2", "affinity-mask": "ipv4/24", "max-connections": "9"}
    served = running.serve(wrong)
    for pattern in (
        r"scheduler=wrong: is no scheduler of IPVS; ignored",
        r"weigths=own-node=2: is unknown; ignored \(did you mean weights\?\)",
        r"affinity-mask=ipv4/24: has no effect without spec.sessionAffinity: ClientIP; ignored",
    ):
        running.agent.wait_for(f"Service shop/s{served.number}: SettingIgnored.*{pattern}")
    assert Counter(served.names(4)) == {"pod-a1": 2, "pod-b1": 2}
    assert " 9 " in served.listed()


def test_drain_deadline_of_the_service_ends_an_open_connection(running: Running) -> None:
    served = running.serve({"drain-deadline": "1s"})
    with ExitStack() as held:
        names = {held.enter_context(served.connected()) for _ in range(2)}
        assert names == {"pod-a1", "pod-b1"}
        running.change(served, {"drain-deadline": "1s"}, ("pod-a1",))
        assert BY_NAME["pod-b1"].ipv4 in served.listed()
        wait_until(lambda: BY_NAME["pod-b1"].ipv4 not in served.listed(), served.listed)


def test_restart_adopts_settings_and_changes_nothing(running: Running, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    annotations = {"weights": "own-node=3", "max-connections": "50", "affinity-mask": MASK, "scheduler": "wlc"}
    with serving_cluster() as cluster:
        served = Served(cluster, 254)
        folder.write("web", objects(served, annotations, ["pod-a1", "pod-b1"], sessionAffinity="ClientIP"))
        states = []
        for _ in range(2):
            with AgentProcess(cluster.node_a, folder.path) as agent:
                states.append((agent.wait_synced(), served.listed(4), served.listed(6), kernel_state(cluster.node_a)))
                agent.stop(signal.SIGTERM)
        assert states[0][1:] == states[1][1:]
        assert "mask" in states[0][1] or "255.255.255.252" in states[0][1]
        assert "nothing to do" in states[1][0]


def test_weights_by_label_follow_the_labels_of_nodes_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    """test_node_labels.py has the same with an API server, while connections are made."""
    folder = Folder(tmp_path)
    with serving_cluster() as cluster:
        served = Served(cluster, 252)
        folder.write("nodes", [labelled("node-a", "old"), labelled("node-b", "large")])
        web = objects(served, {"weights": "example.com/pool=large:3, disk=:9"}, ["pod-a1", "pod-b1"])
        folder.write("web", web)
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            for version in VERSIONS:
                for protocol in PROTOCOLS:
                    assert Counter(served.names(40, version, protocol)) == {"pod-a1": 10, "pod-b1": 30}
            with served.connected() as name:
                with agent.syncing():
                    folder.write("nodes", [labelled("node-a", "large"), labelled("node-b", "old")])
                assert Counter(served.names(40)) == {"pod-a1": 30, "pod-b1": 10}
            assert name in ("pod-a1", "pod-b1")
            planned = run(cluster.node_a, *command_line(folder.path, "plan"))
            assert "nothing to do" in planned or not planned.strip(), planned
            explained = run(cluster.node_a, *command_line(folder.path, "explain", "shop/s252"))
            assert re.search(rf"{BY_NAME['pod-a1'].ipv4}:8080 .*; weight 3 by example.com/pool=large:3\n", explained)
            assert re.search(rf"{BY_NAME['pod-b1'].ipv4}:8080 .*; weight 1, as none fits\n", explained)
            agent.stop(signal.SIGTERM)
        before = kernel_state(cluster.node_a)
        with AgentProcess(cluster.node_a, folder.path) as agent:
            assert "nothing to do" in agent.wait_synced()
            assert kernel_state(cluster.node_a) == before


def labelled(name: str, pool: str) -> Object:
    body = node(name)
    return {**body, "metadata": {**body["metadata"], "labels": {"example.com/pool": pool}}}


def test_round_robin_begins_with_another_endpoint_on_another_node(tmp_path: Path) -> None:
    pods = ("pod-a1", "pod-a2", "pod-b1", "pod-b2", "pod-b3")
    folder = Folder(tmp_path)
    with serving_cluster() as cluster:
        served = Served(cluster, 254)
        folder.write("web", objects(served, {}, pods))
        firsts: dict[str, list[str]] = {}
        for node in ("node-a", "node-x", "node-y", "node-z"):
            with AgentProcess(cluster.node_a, folder.path, "--hostname-override", node) as agent:
                agent.wait_synced()
                firsts[node] = [served.names(5, version)[0] for version in VERSIONS]
                agent.stop(signal.SIGTERM)
            shell(cluster.node_a, "ipvsadm -C")
        assert len({names[0] for names in firsts.values()}) >= 2, firsts
        assert len({names[1] for names in firsts.values()}) >= 2, firsts


def test_hashed_client_has_the_same_endpoint_on_each_node(tmp_path: Path) -> None:
    pods = ("pod-a1", "pod-a2", "pod-b1", "pod-b2", "pod-b3")
    folder = Folder(tmp_path)
    schedulers = ("sh", "mh")
    with serving_cluster() as cluster:
        for version, addresses in CLIENTS.items():
            for address in addresses:
                length = "24" if version == 4 else "64 nodad"
                shell(cluster["outside"], f"ip address add {address}/{length} dev eth0")
        served = [Served(cluster, 250 + index) for index, _ in enumerate(schedulers)]
        for one, scheduler in zip(served, schedulers, strict=True):
            annotations = {"scheduler": scheduler, "source-hash-port": "false"}
            folder.write(f"s{one.number}", objects(one, annotations, pods))
        chosen: dict[str, list[str]] = {}
        for name in ("node-a", "node-x", "node-y"):
            with AgentProcess(cluster.node_a, folder.path, "--hostname-override", name) as agent:
                agent.wait_synced()
                chosen[name] = [
                    one.ask(version, source_address=client).name
                    for one in served
                    for version in VERSIONS
                    for client in CLIENTS[version]
                ]
                agent.stop(signal.SIGTERM)
            shell(cluster.node_a, "ipvsadm -C")
        assert len(set(chosen["node-a"])) > 1
        assert chosen["node-a"] == chosen["node-x"] == chosen["node-y"]


def test_commands_show_settings(running: Running, tmp_path: Path) -> None:
    """`status`, `explain` and `plan` without an agent, and `dump`, which read the kernel themselves."""
    folder = Folder(tmp_path)
    with serving_cluster() as cluster:
        served = Served(cluster, 253)
        annotations = {"max-connections": "9", "scheduler": "wrr", "affinity-mask": "ipv4/24"}
        folder.write("web", objects(served, annotations, ["pod-a1"]))

        def ask(*words: str, status: int = 0) -> str:
            return run(cluster.node_a, *command_line(folder.path, *words), status=status)

        planned = ask("plan", status=2)
        assert f"VirtualServer {served.address()}:80/TCP  (wrr)" in planned
        assert "(weight 1 connections 9, again below 9)" in planned
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            agent.stop(signal.SIGTERM)
        status = ask("status", f"shop/s{served.number}")
        assert "serving, at most 9 connections" in status
        assert "= kubeproxy-py.io/scheduler: wrr" in status
        assert "! SettingIgnored: kubeproxy-py.io/affinity-mask=ipv4/24: has no effect without" in status
        assert "= kubeproxy-py.io/affinity-mask" not in status
        dumped = json.loads(run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "dump"))
        (server,) = (
            one for one in dumped["virtualServers"] if (one["address"], one["protocol"]) == (served.address(), "TCP")
        )
        assert server["scheduler"] == "wrr"
        assert [(one["upperThreshold"], one["lowerThreshold"]) for one in server["realServers"]] == [(9, 9)]
        shell(cluster.node_a, f"ipvsadm -e -t {served.address()}:80 -r {BY_NAME['pod-a1'].ipv4}:8080 -m -x 5 -y 2")
        assert "weight 1 connections 5, again below 2 -> weight 1 connections 9, again below 9" in ask("plan", status=2)
