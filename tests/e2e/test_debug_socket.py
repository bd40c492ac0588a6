"""status and explain on a real kernel: what they say of each complaint, in both families, and who may ask."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lab.namespace import Namespace
from lab.network import BY_NAME
from tests.diagnose.state_page import PAGE, schema_in
from tests.e2e.agent_process import FLAGS, AgentProcess, wait_until
from tests.e2e.iptables_lock import rules_locked
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service

pytestmark = pytest.mark.kernel

ADDRESSES = {4: "10.96.0.{}", 6: "fd00:10:96::{}"}
VIPS = {4: "203.0.113.7", 6: "2001:db8::7"}
HTTP = (Port(),)
VERSIONS = (4, 6)
NOBODY = 65534


class Asked:
    """The commands, asking the agent of *namespace* at *path*."""

    def __init__(self, namespace: Namespace, path: Path) -> None:
        self._namespace = namespace
        self.path = path

    def __call__(self, *words: str) -> tuple[int, str]:
        """Return the exit status and the output of a command."""
        argv = [sys.executable, "-m", "kubeproxy_py", words[0], f"--debug-socket={self.path}", *words[1:]]
        with self._namespace.inside():
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def document(self, *words: str) -> dict[str, Any]:
        _, output = self(*words, "-o", "json")
        return dict(json.loads(output))


def objects(version: int) -> dict[str, list[Object]]:
    """Return Services of one IP *version*, one for each complaint, by their names."""

    def named(name: str, host: int, **spec: Any) -> Object:
        spec = {"ipFamilies": [f"IPv{version}"], **spec}
        return service(f"{name}-{version}", ADDRESSES[version].format(host), spec.pop("ports", HTTP), **spec)

    def slices(name: str, pods: list[str], ports: tuple[Port, ...] = HTTP, unready: tuple[str, ...] = ()) -> Object:
        return endpoint_slice(f"{name}-{version}", pods, ports, version=version, unready=unready)

    udp = Port(80, "UDP")._replace(number=80)
    misprotocol = slices("protocol", ["pod-a1"])
    misprotocol["ports"] = [{"name": HTTP[0].name, "port": 8080, "protocol": "UDP"}]
    twin = slices("twin", ["pod-a1"])
    machine = BY_NAME["pod-a2"]
    twin["endpoints"][0]["addresses"].append(machine.ipv4 if version == 4 else machine.ipv6)
    assert udp.protocol == "UDP"
    local_port = (Port(node_port=30_000 + version),)
    contested = named("contested", 26, externalIPs=[ADDRESSES[version].format(20)])
    ranges = named(
        "ranges",
        27,
        type="LoadBalancer",
        loadBalancerSourceRanges=["192.168.0.0/16" if version == 4 else "fd00:3::/64"],
    )
    ranges["status"] = {"loadBalancer": {"ingress": [{"ip": VIPS[version]}]}}
    return {
        "well": [named("well", 20), slices("well", ["pod-a1", "pod-b1"])],
        "lone": [named("lone", 21)],
        "unready": [named("unready", 22), slices("unready", [], unready=("pod-a1", "pod-b1"))],
        "misnamed": [named("misnamed", 23), slices("misnamed", ["pod-a1"], (Port(81),))],
        "protocol": [named("protocol", 24), misprotocol],
        "local": [
            named("local", 25, ports=local_port, externalTrafficPolicy="Local"),
            slices("local", ["pod-b1"], local_port),
        ],
        "contested": [contested, slices("contested", ["pod-a1"])],
        "ranges": [ranges, slices("ranges", ["pod-a1"])],
        "twin": [named("twin", 28), twin],
    }


COMPLAINTS = {
    "lone": "no EndpointSlice",
    "unready": "2 endpoints, 0 ready",
    "misnamed": 'no port "tcp-80" in its slices (they have: tcp-81)',
    "protocol": "1 endpoint of protocol UDP, port is TCP",
    "local": "externalTrafficPolicy Local: no endpoint on this node, outside clients are not answered",
    "contested": "has it as ClusterIP",
    "twin": "2 addresses in one endpoint, the first is used",
}


@pytest.fixture(scope="module")
def node(_kernel_with_ipvs: bool) -> Iterator[Namespace]:
    from lab.namespace import new_namespace

    with new_namespace("node") as namespace:
        shell(
            namespace,
            "ip link set lo up; ip link add eth0 type dummy; ip link set eth0 up;"
            "ip address add 192.168.3.10/24 dev eth0; ip -6 address add fd00:3::10/64 dev eth0 nodad",
        )
        yield namespace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("services"))
    for version in VERSIONS:
        for name, content in objects(version).items():
            folder.write(f"{name}-{version}", content)
    return folder


@pytest.fixture(scope="module")
def asked(node: Namespace, folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    path = tmp_path_factory.mktemp("run") / "agent" / "debug.sock"
    with AgentProcess(node, folder.path, f"--debug-socket={path}") as agent:
        agent.wait_synced()
        wait_until(path.exists)
        yield Asked(node, path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", COMPLAINTS)
def test_status_and_explain_name_the_cause(asked: Asked, name: str, version: int) -> None:
    exit_status, table = asked("status", f"shop/{name}-{version}")
    assert (exit_status, COMPLAINTS[name] in table) == (0, True), table
    exit_status, text = asked("explain", f"shop/{name}-{version}")
    assert (exit_status, COMPLAINTS[name] in text) == (2, True), text


@pytest.mark.parametrize("version", VERSIONS)
def test_service_that_is_well_is_explained_as_such(asked: Asked, version: int) -> None:
    exit_status, text = asked("explain", f"shop/well-{version}")
    # Another Service claims its address, and does not get it: that is the other's problem.
    assert exit_status == 0, text
    assert "Well: every address is served, and the kernel has every row" in text
    assert f"shop/contested-{version} as externalIP, does not get it" in text
    assert text.count(": ready") == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_source_ranges_and_owner_of_an_address_are_named(asked: Asked, version: int) -> None:
    document = asked.document("explain", VIPS[version])
    assert document["summary"] == f"{VIPS[version]} is LoadBalancer of Service shop/ranges-{version}"
    (server,) = document["services"][0]["service"]["virtualServers"]
    assert server["sourceRanges"] == ["192.168.0.0/16" if version == 4 else "fd00:3::/64"]


@pytest.mark.parametrize("version", VERSIONS)
def test_real_servers_are_those_of_the_kernel(asked: Asked, node: Namespace, version: int) -> None:
    document = asked.document("status", f"shop/well-{version}")
    (server,) = document["services"][0]["virtualServers"]
    listed = {real["address"] for real in server["realServers"]}
    table = run(node, "ipvsadm", "-Ln")
    assert listed == {BY_NAME[pod].ipv4 if version == 4 else BY_NAME[pod].ipv6 for pod in ("pod-a1", "pod-b1")}
    assert all((f"[{address}]" if version == 6 else address) in table for address in listed)
    assert [real["active"] for real in server["realServers"]] == [0, 0]


def test_all_rows_of_the_document_are_in_the_kernel(asked: Asked) -> None:
    state = asked.document("status")
    assert state["totals"]["pending"] == 0
    assert state["unsettled"] == []
    jsonschema.Draft202012Validator(schema_in(PAGE.read_text())).validate(state)


def test_drift_is_counted_and_repaired_rows_are_there_again(asked: Asked, node: Namespace) -> None:
    shell(node, "ipvsadm -D -t 10.96.0.20:80")
    wait_until(lambda: asked.document("status")["agent"]["driftRepaired"].get("VirtualServer", 0) > 0, poll_s=0.2)
    assert asked("explain", "shop/well-4")[0] == 0


def test_rows_that_wait_for_rules_are_explained(namespace: Namespace, tmp_path: Path) -> None:
    folder, path = Folder(tmp_path / "services"), tmp_path / "agent" / "debug.sock"
    folder.path.mkdir()
    folder.write("well", objects(4)["well"])
    asked = Asked(namespace, path)
    with rules_locked(), AgentProcess(namespace, folder.path, f"--debug-socket={path}"):
        wait_until(path.exists)
        wait_until(lambda: asked.document("status").get("totals", {}).get("pending", 0) > 0, poll_s=0.2)
        exit_status, text = asked("explain", "10.96.0.20")
        assert exit_status == 2, text
        assert "its address is not on kube-ipvs0: waits for" in text
    assert path.exists()


# Who may ask, and what the socket survives


def test_another_user_is_refused_even_if_the_file_lets_it(asked: Asked) -> None:
    opened = [one for one in (asked.path.parent, *asked.path.parents[1:4]) if one.stat().st_mode & 0o77 == 0]
    try:
        for one in opened:
            one.chmod(0o711)
        asked.path.chmod(0o666)
        as_root = _first_bytes(asked.path)
        os.seteuid(NOBODY)
        try:
            as_nobody = _first_bytes(asked.path)
        finally:
            os.seteuid(0)
    finally:
        asked.path.chmod(0o600)
        for one in opened:
            one.chmod(0o700)
    assert (as_nobody, as_root) == (b"", b"HTTP/1.0 200 OK")


def _first_bytes(path: Path) -> bytes:
    """Return the first line that the agent answers; nothing if it disconnects."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        try:
            client.sendall(b"GET /v1/state HTTP/1.0\r\n\r\n")
            return client.recv(15)
        except OSError:
            return b""


def test_garbage_slow_and_many_clients_do_not_keep_others_from_an_answer(asked: Asked) -> None:
    clients = []
    for number in range(100):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(asked.path))
        client.send((b"\x00\xff" * 50, b"GET /v1/state HTTP/1.1\r\n", b"G")[number % 3])
        clients.append(client)
    assert asked("status")[0] == 0
    for client in clients:
        client.close()


def test_requests_change_neither_health_nor_syncs(asked: Asked) -> None:
    before = asked.document("status")["agent"]
    for _ in range(3):
        asked("status")
    after = asked.document("status")["agent"]
    # The looks at the kernel go on meanwhile.
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"lastFullCompare", "fullCompares", "partialCompares"}, (before, after)


def test_restarted_agent_replaces_the_socket_of_the_killed_one(
    namespace: Namespace, folder: Folder, tmp_path: Path
) -> None:
    path = tmp_path / "debug.sock"
    with AgentProcess(namespace, folder.path, f"--debug-socket={path}") as agent:
        agent.wait_synced()
        agent.stop(signal.SIGKILL)
    asked = Asked(namespace, path)
    assert "is not running" in asked("status", "-o", "json")[1]
    with AgentProcess(namespace, folder.path, f"--debug-socket={path}") as agent:
        agent.wait_synced()
        wait_until(lambda: "is not running" not in asked("status")[1], poll_s=0.2)
        assert asked.document("status")["agent"]["isAgent"]
        assert path.stat().st_mode & 0o777 == 0o600


# Without an agent


def test_command_looks_itself_and_knows_the_same(asked: Asked, node: Namespace, folder: Folder) -> None:
    own = [sys.executable, "-m", "kubeproxy_py", "status", f"--manifests={folder.path}", *FLAGS, "-o", "json"]
    own = [word for word in own if word != "-v2"]
    with node.inside():
        done = subprocess.run(own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, known = json.loads(done.stdout), asked.document("status")
    assert not seen["agent"]["isAgent"]
    assert seen["services"] == known["services"]
    assert seen["totals"] == known["totals"]


def test_without_an_api_server_the_kernel_is_printed_at_once_and_the_command_gives_up(
    asked: Asked, node: Namespace, tmp_path: Path
) -> None:
    silent = socket.socket()
    with node.inside():
        silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(50)  # accepts, and never answers
    server = f"http://127.0.0.1:{silent.getsockname()[1]}"
    words = [sys.executable, "-m", "kubeproxy_py", "status", "--debug-socket=", f"--master={server}", *FLAGS]
    started_s = time.monotonic()
    with node.inside():
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    first = process.stdout.readline()
    first_s = time.monotonic() - started_s
    rest, _ = process.communicate()
    silent.close()
    assert first.startswith("INCOMPLETE: this is the kernel alone; waiting for API server")
    assert "10.96.0.20:80/TCP" in rest
    assert f"INCOMPLETE: API server {server} has not answered within 5 s" in rest
    assert process.returncode == 1
    assert first_s < time.monotonic() - started_s
    unknown, text = Asked(node, tmp_path / "none.sock")("explain", "10.96.0.20:80", f"--master={server}")
    assert (unknown, "10.96.0.20:80 is a virtual server of the kernel" in text) == (1, True), text


# plan, doctor and trace know what the agent knows


def test_plan_without_flags_is_empty_after_a_sync(asked: Asked) -> None:
    exit_status, text = asked("plan")
    assert exit_status == 1, text  # because of the objects that the agent rejects or reads in part
    assert "error: twin-4.json, item 2: EndpointSlice shop/twin-4-4" in text
    assert "Note: configuration and objects of the running agent" in text
    assert text.startswith("nothing to do\n")


def test_plan_without_flags_has_the_settings_and_objects_of_the_agent(
    namespace: Namespace, folder: Folder, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "debug.sock"
    rules = ("--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali", "--masquerade-all")
    flags = (f"--debug-socket={path}", "--ipvs-scheduler=wlc", "--ipvs-strict-arp", *rules)
    with AgentProcess(namespace, folder.path, *flags) as agent:
        agent.wait_synced()
        asked = Asked(namespace, path)
        assert asked("plan")[1].startswith("nothing to do\n")
        exit_status, text = asked("plan", "--ipvs-scheduler=rr", f"--manifests={folder.path}", *FLAGS)
        assert (exit_status, "ipvs.scheduler is rr, the agent's wlc" in text) == (1, True), text  # a part of twin
        assert "VirtualServer 10.96.0.20:80/TCP  (wlc -> rr)" in text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("words", [(), ("--kernel",)])
def test_trace_without_flags_names_services_and_reasons(asked: Asked, words: tuple[str, ...], version: int) -> None:
    client = "203.0.113.9" if version == 4 else "2001:db8:1::9"
    exit_status, text = asked("trace", "--from", client, "--to", f"shop/unready-{version}", *words)
    assert (exit_status, f"shop/unready-{version}:tcp-80 (ClusterIP)" in text) == (2, True), text
    assert "2 endpoints, 0 ready" in text
    exit_status, text = asked("trace", "--from", client, "--to", VIPS[version], *words)
    assert (exit_status, f"is not in loadBalancerSourceRanges of shop/ranges-{version}" in text) == (2, True), text


def test_trace_of_the_agent_is_that_of_the_command_itself(asked: Asked, folder: Folder) -> None:
    words = ("--from", "192.168.3.77", "--to", "shop/well-4", "-o", "json")
    told = json.loads(asked("trace", *words)[1])
    with asked._namespace.inside():
        argv = [sys.executable, "-m", "kubeproxy_py", "trace", f"--manifests={folder.path}", *FLAGS, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == told
    assert told["outcomes"][0]["fate"] == "served"


def test_doctor_without_flags_has_the_configuration_of_the_agent(asked: Asked) -> None:
    _, text = asked("doctor")
    assert "Note: configuration and objects of the running agent" in text
    assert "checks: " in text
    assert "nothing tells where the API server is" not in text  # the agent has manifests
