"""iptables-nft: the adapters on real nf_tables, and the complete agent on a kernel with nf_tables and IPVS.

The kernel of a developer's machine often has nf_tables and no IPVS, so sets, chains and jumps are tested there, in a
private network namespace (mark lab); the agent is tested in qemu, on Debian's kernel (mark qemu).
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import JumpSpec, Rows
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from lab.client import query
from lab.echo import Protocol
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import State, differences, kernel_state, run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.nft_node import Nft, first_sync, node_rows, on_qemu
from tests.e2e.packets_table import CLUSTER_IP, CLUSTER_IP_6, NODE_PORT, PORT, ROWS, WEB_PODS, Row
from tests.e2e.serving import serving_cluster
from tests.host_tools.recorded_tables import private_network, recorded_text


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """Replace the fixture of conftest.py, because half of this suite is for hosts without IPVS."""


_FOREIGN_NFT = """
table inet firewalld {
    set KUBE-CLUSTER-IP { type ipv4_addr; }
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        tcp dport 22 counter accept comment "KUBE-SERVICES"
    }
}
"""
_FOREIGN = """
iptables-nft -t nat -N CNI-HOSTPORT-DNAT
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables-nft -N KUBE-FIREWALL
iptables-nft -A INPUT -j KUBE-FIREWALL
iptables-nft -t mangle -N KUBE-KUBELET-CANARY
ip6tables-nft -P INPUT ACCEPT
ipset create CNI-SET hash:ip
ipset add CNI-SET 192.0.2.9
ipset create KUBE-SRC-THEIRS hash:net
"""


def _make_foreign() -> None:
    subprocess.run(["nft", "-f", "-"], input=_FOREIGN_NFT, text=True, check=True)
    subprocess.run(["sh", "-e"], input=_FOREIGN, text=True, check=True)


def _ruleset() -> list[object]:
    """Return all of nf_tables as nft prints it, without handles and counters."""
    listing = json.loads(subprocess.check_output(["nft", "--json", "--handle", "list", "ruleset"]))
    return [_without_handles(element) for element in listing["nftables"]]


def _without_handles(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _without_handles(member) for key, member in value.items() if key not in ("handle", "packets", "bytes")
        }
    return [_without_handles(member) for member in value] if isinstance(value, list) else value


def _set_names() -> set[str]:
    return set(subprocess.check_output(["ipset", "list", "-n"], text=True).split())


@pytest.fixture
def nft() -> Iterator[Nft]:
    """Yield the adapters on a node that also has foreign sets, chains and tables."""
    with private_network():
        _make_foreign()
        yield Nft()


@pytest.mark.lab
def test_sets_chains_and_jumps_are_written_and_read_back_equal(nft: Nft) -> None:
    assert nft.bring_to(node_rows()).failures == ()
    assert nft.read() == node_rows()


@pytest.mark.lab
@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_rules_are_printed_as_they_were_written(nft: Nft, family: Family) -> None:
    nft.bring_to(node_rows())
    program = "iptables-nft-save" if family == "IPv4" else "ip6tables-nft-save"
    printed = subprocess.check_output([program], text=True).splitlines()
    recorded = [line for line in recorded_text(family).splitlines() if line.startswith("-A ")]
    assert [line for line in printed if line in recorded] == recorded


@pytest.mark.lab
@pytest.mark.parametrize("match", ["", "! -s {network}", "! -i cni0", "! -i cali+"])
def test_every_form_of_the_masquerade_rule_reads_back_equal(nft: Nft, match: str) -> None:
    networks = {"IPv4": "10.244.0.0/16", "IPv6": "fd00:10:244::/56"}
    if_not_local = {family: match.format(network=networks[family]) for family in FAMILIES if match}
    rows: Rows = {}
    for family in FAMILIES:
        rows |= tables.ipsets(family)  # type: ignore[arg-type]
        non_empty = frozenset(key.name for key in tables.ipsets(family))
        rows |= compile_chains(family, NonEmptySets(non_empty), NodeContext(if_not_local=if_not_local))
        rows |= {key: JumpSpec(rule) for key, rule in tables.jumps(family).items()}
    assert nft.bring_to(rows).failures == ()
    assert nft.read() == rows


@pytest.mark.lab
def test_a_restart_finds_nothing_to_do(nft: Nft) -> None:
    nft.bring_to(node_rows())
    assert make_plan(node_rows(), Nft().read()).steps == ()


@pytest.mark.lab
def test_a_restart_writes_nothing(nft: Nft) -> None:
    nft.bring_to(node_rows())
    before = subprocess.check_output(["nft", "--handle", "list", "ruleset"])  # rewritten rules get new handles
    assert Nft().bring_to(node_rows()).failures == ()
    assert subprocess.check_output(["nft", "--handle", "list", "ruleset"]) == before


@pytest.mark.lab
def test_foreign_tables_and_chains_survive_adding_ours(nft: Nft) -> None:
    before = _ruleset()
    nft.bring_to(node_rows())
    after = _ruleset()
    assert [element for element in before if element not in after] == []
    assert _set_names() >= {"CNI-SET", "KUBE-SRC-THEIRS"}


@pytest.mark.lab
def test_foreign_tables_and_chains_are_not_rows(nft: Nft) -> None:
    assert nft.read() == {}


@pytest.mark.lab
def test_deleting_all_rows_leaves_only_foreign_tables_and_sets(nft: Nft) -> None:
    before = _ruleset()
    nft.bring_to(node_rows())
    assert nft.bring_to({}).failures == ()
    after = _ruleset()
    assert [element for element in before if element not in after] == []
    assert [element for element in after if element not in before and not _is_frame(element)] == []
    assert _set_names() == {"CNI-SET", "KUBE-SRC-THEIRS"}


def _is_frame(element: object) -> bool:
    """Return whether it is a table or a built-in chain, which iptables-nft creates at first use and never deletes."""
    assert isinstance(element, dict)
    return "table" in element or "hook" in element.get("chain", {})


_WEB_PORTS = [Port(PORT, protocol, 8080, NODE_PORT) for protocol in ("TCP", "UDP", "SCTP")]
_WEB = [
    service("web", [CLUSTER_IP, CLUSTER_IP_6], _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS, version=6),
]
# A row of each kind: emulation is slow, and test_packets.py tests every row on the other kernels.
_SAMPLED_ROWS = [
    row
    for row in ROWS
    if (row.client, row.address) in {("pod-a1", CLUSTER_IP), ("outside", CLUSTER_IP), ("outside", "192.168.3.10")}
    or ":" in row.address
]


class Running(NamedTuple):
    cluster: Cluster
    folder: Path
    log: list[str]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield node A after the first sync of an agent that has stopped; its kernel state remains."""
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", _WEB)
    with serving_cluster() as cluster:
        with cluster.node_a.inside():
            _make_foreign()
        with AgentProcess(cluster.node_a, folder.path) as agent:
            first_sync(agent)
            agent.stop(signal.SIGTERM)
            yield Running(cluster, folder.path, agent.lines())


@on_qemu
def test_the_agent_detects_the_nft_backend(node: Running) -> None:
    assert [line for line in node.log if "Detected host features" in line and 'iptables_flavour="nft"' in line]


@on_qemu
def test_rules_are_in_nf_tables_and_none_in_legacy_tables(node: Running) -> None:
    assert "chain KUBE-SERVICES" in run(node.cluster.node_a, "nft", "list", "table", "ip6", "nat")
    assert shell(node.cluster.node_a, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || :") == ""


@on_qemu
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("row", _SAMPLED_ROWS, ids=str)
def test_each_pod_answers_its_share_and_sees_the_expected_source(node: Running, row: Row, protocol: Protocol) -> None:
    answers = [query(node.cluster[row.client], protocol, row.address, row.port, timeout_s=5.0) for _ in WEB_PODS]
    assert Counter((answer.name, answer.peer_address) for answer in answers) == Counter(row.sources.items()), row.why


@on_qemu
def test_a_restarted_agent_has_nothing_to_do(node: Running) -> None:
    before = kernel_state(node.cluster.node_a)
    with AgentProcess(node.cluster.node_a, node.folder) as agent:
        line = first_sync(agent)
    assert "nothing to do" in line
    assert differences(before, kernel_state(node.cluster.node_a)) == []


@on_qemu
def test_plan_on_a_synced_node_has_nothing_to_do(node: Running) -> None:
    assert run(node.cluster.node_a, *command_line(node.folder, "plan")).splitlines()[-1] == "nothing to do"


@pytest.fixture(scope="module")
def cleaned_up(node: Running) -> State:
    run(node.cluster.node_a, *command_line(node.folder, "cleanup"))
    return kernel_state(node.cluster.node_a)


@on_qemu
def test_cleanup_deletes_everything_of_ours(cleaned_up: State) -> None:
    lines = [line for listing in cleaned_up.values() for line in listing if "KUBE-" in line]
    foreign = ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-SRC-THEIRS")
    assert [line for line in lines if not any(name in line for name in foreign)] == []
    assert cleaned_up["virtual servers"] == ()
    assert [line for line in cleaned_up["addresses"] if "kube-ipvs0" in line] == []


@on_qemu
@pytest.mark.usefixtures("cleaned_up")
def test_cleanup_keeps_foreign_rules_and_sets(node: Running) -> None:
    ruleset = run(node.cluster.node_a, "nft", "list", "ruleset")
    sets = run(node.cluster.node_a, "ipset", "list", "-n").split()
    foreign = ("firewalld", "CNI-HOSTPORT-DNAT", "KUBE-FIREWALL", "KUBE-KUBELET-CANARY")
    assert [name for name in foreign if name not in ruleset] == []
    assert sorted(sets) == ["CNI-SET", "KUBE-SRC-THEIRS"]
