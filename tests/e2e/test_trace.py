"""What `trace` says of each request of the packet tables is what packets met, also with rules of other programs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.diagnose.trace.result import Outcome
from kubeproxy_py.diagnose.trace.way import Step
from kubeproxy_py.kernel.iptables.nf_tables import generation
from lab.client import NoAnswer, QueryError, Refused, Unreachable, query
from lab.echo import PROTOCOLS, Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.client_requests import PORT_UNREACHABLE, Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice
from tests.e2e.packets_table import CLUSTER_IP, CLUSTER_IP_6, NODE_PORT, PORT, ROWS, WEB_PODS, Row
from tests.e2e.serving import serving_cluster
from tests.e2e.tracing import MODES, Mode, Seen, asked, expected_programs, tracings

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
PAGE, PRINTED = ROOT / "docs" / "trace.md", ROOT / "build" / "trace.md"
_EXAMPLE = re.compile(r"```\n\$ kubeproxy-py trace (.*)\n(?:.*\n)*?```\n")

_WEB_PORTS = [Port(PORT, protocol.upper(), 8080, NODE_PORT) for protocol in PROTOCOLS]
_IDLE_PORTS = [Port(80, protocol.upper()) for protocol in PROTOCOLS]
_RANGED = service_with_slice(
    "ranged", "10.96.0.70", ["pod-a1"], type="LoadBalancer", loadBalancerSourceRanges=["198.18.0.0/15"]
)
_RANGED[0]["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.70"}]}}
WEB = [
    *_RANGED,
    service("web", [CLUSTER_IP, CLUSTER_IP_6], _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS, version=6),
    service("idle", "10.96.0.40", _IDLE_PORTS),
]


class Node(NamedTuple):
    """The cluster in which the agent runs, and its folder."""

    cluster: Cluster
    agent: AgentProcess
    folder: Folder


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("first", WEB)
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        yield Node(built, agent, folder)


def run_trace(node: Node, *words: str) -> tuple[int, str]:
    """Return the exit status and the output of the command `trace`."""
    argv = node.cluster.node_a.wrap(command_line(node.folder.path, "trace", *words))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout or done.stderr


# Packets of the table


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mode", MODES)
def test_trace_says_what_packets_of_the_table_meet(node: Node, mode: Mode, protocol: Protocol) -> None:
    requests = [Request(row.client, protocol, row.address, row.port) for row in ROWS]
    with tracings(node.cluster, node.folder.path) as made:
        traced = [expected_programs(made[mode].trace(asked(request))) for request in requests]
    assert traced == [seen_of(row) for row in ROWS]


@pytest.mark.parametrize("row", ROWS[::7], ids=str)
def test_packets_of_the_table_are_as_the_table_says(node: Node, row: Row) -> None:
    """A part of it: test_packets.py sends all."""
    answers = [send_request(node.cluster, Request(row.client, "tcp", row.address, row.port)) for _ in WEB_PODS]
    assert {Seen(answer.name, answer.peer_address) for answer in answers} == seen_of(row)


def seen_of(row: Row) -> set[Seen]:
    return {Seen(name, source) for name, source in row.sources.items()}


FREE_PORT = 81  # of a ClusterIP, in no Service


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("client", ["pod-a1", "node-a", "outside"])
@pytest.mark.parametrize(
    ("address", "port", "fate"),
    [
        (CLUSTER_IP, FREE_PORT, "rejected"),
        (CLUSTER_IP_6, FREE_PORT, "rejected"),
        ("10.96.0.40", PORT, "refused"),
    ],
)
def test_trace_says_what_is_rejected_or_refused(
    node: Node, mode: Mode, protocol: Protocol, client: str, address: str, port: int, fate: str
) -> None:
    request = Request(client, protocol, address, port)
    with pytest.raises(Unreachable) as error:
        send_request(node.cluster, request)
    with tracings(node.cluster, node.folder.path) as made:
        trace = made[mode].trace(asked(request))
    assert error.value.icmp == PORT_UNREACHABLE[6 if ":" in address else 4]
    assert [outcome.fate for outcome in trace.outcomes] == [fate]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_trace_of_a_node_port_on_loopback_names_the_address_that_serves_it(
    node: Node, mode: Mode, address: str
) -> None:
    request = Request("node-a", "tcp", address, NODE_PORT)
    with pytest.raises((Refused, Unreachable)):
        send_request(node.cluster, request)
    with tracings(node.cluster, node.folder.path) as made:
        (outcome,) = made[mode].trace(asked(request)).outcomes
    assert (outcome.fate, "NodePorts are not served at" in outcome.reason) == ("refused", True)


# Rules of other programs


@pytest.fixture
def first_rule(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """Insert a rule before all others, and delete it afterwards."""
    rule = str(request.param)
    table, _, spec = rule.partition(" ")
    chain, _, match = spec.partition(" ")
    shell(node.cluster.node_a, f"iptables -w -t {table} -I {chain} 1 {match}")
    yield rule
    shell(node.cluster.node_a, f"iptables -w -t {table} -D {chain} {match}")


@pytest.mark.parametrize(
    ("first_rule", "fate", "error"),
    [
        ("filter INPUT -s 192.168.3.175 -p tcp -m tcp --dport 80 -j DROP", "dropped", NoAnswer),
        ("filter INPUT -p tcp -m multiport --dports 79,80 -j REJECT --reject-with tcp-reset", "rejected", Refused),
        ("filter OUTPUT -d 10.244.0.0/16 -j DROP", "dropped", NoAnswer),
        ("nat PREROUTING -d 10.96.0.10 -p tcp -j DNAT --to-destination 10.244.1.5:8080", "forwarded", None),
        ("mangle PREROUTING -p tcp -j MARK --set-xmark 0x4000/0x4000", "served", None),
    ],
    indirect=["first_rule"],
)
def test_trace_names_the_rule_of_another_program(
    node: Node, first_rule: str, fate: str, error: type[QueryError] | None
) -> None:
    request = Request("outside", "tcp", CLUSTER_IP, PORT)
    if error is None:
        assert send_request(node.cluster, request).name in WEB_PODS
    else:
        with pytest.raises(error):
            query(node.cluster["outside"], "tcp", CLUSTER_IP, PORT, timeout_s=0.5)
    with tracings(node.cluster, node.folder.path) as made:
        trace = made["kernel"].trace(asked(request))
    foreign = [step for outcome in trace.outcomes for step in all_steps(outcome) if step.foreign]
    assert [outcome.fate for outcome in trace.outcomes] == [fate]
    assert first_rule.split(" ")[1] in {step.chain for step in foreign}


def all_steps(outcome: Outcome) -> list[Step]:
    return [*outcome.steps, *(step for branch in outcome.branches for step in branch.steps)]


@pytest.mark.parametrize(
    "first_rule", ["filter INPUT -m statistic --mode random --probability 0.5 -j DROP"], indirect=True
)
def test_trace_of_a_rule_that_cannot_be_evaluated_is_not_certain(node: Node, first_rule: str) -> None:
    status, text = run_trace(node, "--from", "192.168.3.175", "--to", "shop/web:tcp-80", "--kernel")
    assert "cannot tell" in text
    assert "-m statistic --mode random --probability 0.5" in text
    assert first_rule.startswith("filter INPUT")
    assert status == 1


# The command


def test_command_prints_json_with_the_source_that_pods_see(node: Node) -> None:
    status, printed = run_trace(node, "--from", "outside", "--to", f"{CLUSTER_IP}:{PORT}", "-o", "json", "--kernel")
    document = json.loads(printed)
    assert (status, document["version"], document["outcomes"][0]["fate"]) == (0, 1, "served")
    sources = {branch["source"] for branch in document["outcomes"][0]["branches"]}
    assert sources == {"10.244.1.1", BY_NAME["node-a"].ipv4}


def test_command_traces_what_the_kernel_has_while_the_api_server_does_not_answer(node: Node) -> None:
    words = ["--master", "http://127.0.0.1:9", "--from", "192.168.3.175", "--to", f"{CLUSTER_IP}:{PORT}"]
    argv = node.cluster.node_a.wrap([sys.executable, "-m", "kubeproxy_py", "trace", *words])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "Failed to list Services in time; tracing what the kernel has now" in done.stderr
    assert "answered: by one of 4 real servers" in done.stdout
    assert done.returncode == 0


# The page


def test_examples_of_the_page_are_what_the_command_prints(node: Node) -> None:
    page = PAGE.read_text(encoding="utf-8")

    def printed(block: re.Match[str]) -> str:
        _, text = run_trace(node, *shlex.split(block[1]))
        return f"```\n$ kubeproxy-py trace {block[1]}\n{text}```\n"

    now = _EXAMPLE.sub(printed, page)
    PRINTED.parent.mkdir(exist_ok=True)
    PRINTED.write_text(now, encoding="utf-8")
    assert now == page, f"copy {PRINTED} to {PAGE}"
    assert "is not in loadBalancerSourceRanges of shop/ranged (198.18.0.0/15)" in page


def test_client_that_the_page_excludes_gets_no_answer(node: Node) -> None:
    with pytest.raises(NoAnswer):
        query(node.cluster["outside"], "tcp", "203.0.113.70", 80, timeout_s=0.5)


@pytest.fixture
def nft_table(node: Node) -> Iterator[str]:
    """A table of another program in nf_tables."""
    program = shutil.which("nft")
    if not program or generation() is None:
        pytest.skip("no nft, or a kernel without nf_tables")
    shell(node.cluster.node_a, "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }'")
    yield "inet fw"
    shell(node.cluster.node_a, "nft delete table inet fw")


def test_table_of_nf_tables_is_named_that_is_not_looked_at(node: Node, nft_table: str) -> None:
    _, text = run_trace(node, "--from", "node", "--to", f"{CLUSTER_IP}:{PORT}", "--kernel")
    assert f"note: rules of nf_tables are not looked at: see nft list table {nft_table}\n" in text
    _, without = run_trace(node, "--from", "node", "--to", f"{CLUSTER_IP}:{PORT}")
    assert "nf_tables" not in without
