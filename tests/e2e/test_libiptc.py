"""Legacy tables by python-iptables: the same rules as by iptables-restore, no process, and nothing that crashes us."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EINVAL, ENOENT
from pathlib import Path

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.host.command import Result
from kubeproxy_py.kernel.iptables import adapter as iptables
from kubeproxy_py.kernel.iptables import libiptc
from kubeproxy_py.kernel.iptables.backend import IptablesCommands, programs
from kubeproxy_py.kernel.iptables.libiptc import LOCK, LibiptcAdapter, first_absent_set
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, ChainSpec, Rows
from kubeproxy_py.model.services import FAMILIES, Family
from kubeproxy_py.model.steps import Step, StepFailure
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import State, differences, kernel_state
from tests.e2e.manifests import Folder, Port, backed
from tests.host_tools.tables_of_a_node import (
    make_sets,
    network_of_ones_own,
    recorded_rows,
    recorded_text,
    steps_between,
)

pytestmark = pytest.mark.kernel

MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
FORWARD = Chain("IPv4", "filter", "KUBE-FORWARD")
NO_SUCH_SET = ChainSpec(("-m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE",))


def _programs() -> list[IptablesCommands]:
    return [found for family in FAMILIES if (found := programs("legacy", family))]


def legacy_adapter() -> LibiptcAdapter:
    return LibiptcAdapter(_programs(), "legacy")


@pytest.fixture
def adapter() -> Iterator[LibiptcAdapter]:
    """In a network of its own that has all sets."""
    with network_of_ones_own():
        make_sets()
        yield legacy_adapter()


def _read(adapter: LibiptcAdapter) -> Rows:
    return {key: spec for scope in adapter.scopes() for key, spec in adapter.read(scope).items()}


def _rules(family: Family) -> list[str]:
    tool = "iptables-legacy-save" if family == "IPv4" else "ip6tables-legacy-save"
    printed = (subprocess.check_output([tool, "-t", table], text=True) for table in ("filter", "nat"))
    return [line for text in printed for line in text.splitlines() if line.startswith("-A ")]


def _refusals(failed: Sequence[StepFailure]) -> dict[object, tuple[int, str]]:
    return {each.step.key: (each.errno, each.message) for each in failed}


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_tables_go_in_and_print_back_equal(adapter: LibiptcAdapter, family: Family) -> None:
    assert adapter.apply(steps_between({}, recorded_rows(family))) == []
    assert _rules(family) == [line for line in recorded_text(family).splitlines() if line.startswith("-A ")]


_NETWORK: dict[Family, str] = {"IPv4": "10.244.0.0/16", "IPv6": "fd00:10:244::/56"}
_SHUT: dict[Family, tuple[str, ...]] = {
    "IPv4": ("203.0.113.9,tcp:80", "203.0.113.9,udp:53"),
    "IPv6": ("2001:db8::9,sctp:65535",),
}
_SITES = {
    "cluster CIDR": NodeContext(not_local={family: f"! -s {network}" for family, network in _NETWORK.items()}),
    "bridge": NodeContext(not_local=dict.fromkeys(FAMILIES, "! -i cni0")),
    "interface prefix": NodeContext(not_local=dict.fromkeys(FAMILIES, "! -i cali+")),
    "nothing local": NodeContext(),
    "masquerade all, mark bit 31": NodeContext(masquerade_all=True, masquerade_mark=1 << 31),
    "mark bit 0, old iptables": NodeContext(random_fully=False, masquerade_mark=1),
}


@pytest.mark.parametrize("site", _SITES.values(), ids=_SITES)
def test_every_chain_that_can_be_compiled_reads_back_equal(adapter: LibiptcAdapter, site: NodeContext) -> None:
    rows: Rows = {}
    for family in FAMILIES:
        filled = frozenset(key.name for key in tables.ipsets(family))
        rows |= compile_chains(family, NonEmptySets(filled, _SHUT[family]), site)
    assert adapter.apply(steps_between({}, rows)) == []
    assert _read(adapter) == rows


def test_a_bridge_is_matched_in_ipv6_by_its_whole_name(adapter: LibiptcAdapter) -> None:
    chain = Chain("IPv6", "nat", "KUBE-SERVICES")
    adapter.apply([Step("add", chain, ChainSpec(("! -i cni0 -j RETURN",)))])
    # -D finds only what is equal byte for byte, the mask of the name included; that is not printed.
    line = b"*nat\n-D KUBE-SERVICES ! -i cni0 -j RETURN\nCOMMIT\n"
    subprocess.run(["ip6tables-legacy-restore", "--noflush"], input=line, check=True)
    assert _read(adapter) == {chain: ChainSpec(())}


def test_only_the_tables_that_are_used_come_into_being(adapter: LibiptcAdapter) -> None:
    adapter.apply(steps_between({}, recorded_rows()))
    names = [Path("/proc/net", name).read_text().split() for name in ("ip_tables_names", "ip6_tables_names")]
    assert [sorted(each) for each in names] == [["filter", "nat"], ["filter", "nat"]]


def test_what_others_wrote_survives_with_its_counters(adapter: LibiptcAdapter) -> None:
    theirs = (
        "*nat\n:CNI-DNAT - [0:0]\n[7:420] -A PREROUTING -j CNI-DNAT\n[3:180] -A CNI-DNAT -p tcp -j RETURN\nCOMMIT\n"
    )
    subprocess.run(["iptables-legacy-restore", "--counters", "--noflush"], input=theirs.encode(), check=True)
    before = subprocess.check_output(["iptables-legacy-save", "-c", "-t", "nat"], text=True).splitlines()[1:-1]
    adapter.apply(steps_between({}, recorded_rows()))
    adapter.apply(steps_between(recorded_rows(), {}))
    assert subprocess.check_output(["iptables-legacy-save", "-c", "-t", "nat"], text=True).splitlines()[1:-1] == before


def _count_runs(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    calls: list[Sequence[str]] = []
    real = command.run

    def counted(argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0) -> Result:
        calls.append(argv)
        return real(argv, stdin=stdin, timeout_s=timeout_s)

    monkeypatch.setattr(iptables, "run", counted)
    return calls


def test_a_change_of_chains_costs_no_process(adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = recorded_rows()
    adapter.apply(steps_between({}, rows))
    changed = {**rows, SERVICES: ChainSpec(()), Chain("IPv6", "filter", "KUBE-FORWARD"): ChainSpec(())}
    calls = _count_runs(monkeypatch)
    assert adapter.apply(steps_between(rows, changed)) == []
    assert calls == []


def test_of_all_rules_only_ipv6_masquerade_goes_by_iptables_restore(
    adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: Rows = {key: spec for key, spec in recorded_rows().items() if isinstance(key, Chain)}
    calls = _count_runs(monkeypatch)
    assert adapter.apply(steps_between({}, rows)) == []
    assert [words[0] for words in calls] == ["ip6tables-legacy-restore"]


def test_a_set_that_is_missing_is_told(adapter: LibiptcAdapter) -> None:
    subprocess.run(["ipset", "destroy", "KUBE-LOOP-BACK"], check=True)
    failed = adapter.apply([Step("add", MARK, NO_SUCH_SET), Step("add", FORWARD, ChainSpec(()))])
    assert _refusals(failed) == {MARK: (EINVAL, "Set KUBE-LOOP-BACK doesn't exist.")}
    assert _read(adapter) == {FORWARD: ChainSpec(())}


@pytest.mark.parametrize(
    "rule",
    [
        "-m set --match-set NO-SUCH-SET dst,dst -j RETURN",
        "-m set --match-set KUBE-CLUSTER-IP dstx,dst -j RETURN",
        "-m conntrack --ctstate NONSENSE -j RETURN",
        "-m recent --set -j RETURN",
    ],
)
def test_what_is_no_rule_of_ours_never_reaches_the_library(
    adapter: LibiptcAdapter, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libiptc, "LegacyTable", None)
    failed = adapter.apply([Step("add", MARK, ChainSpec((rule,)))])
    assert [(each.errno, "is no word of ours" in each.message) for each in failed] == [(EINVAL, True)]


_VANISHING = """
from tests.real.test_libiptc import MARK, NO_SUCH_SET, ChainSpec, Step, legacy_adapter, libiptc, network_of_ones_own
libiptc.first_absent_set = lambda names: ""
with network_of_ones_own():
    adapter = legacy_adapter()
    messages = {failed.message for _ in range(1500) for failed in adapter.apply([Step("add", MARK, NO_SUCH_SET)])}
    assert messages == {"set: invalid value KUBE-LOOP-BACK"}, messages
    assert adapter.apply([Step("add", MARK, ChainSpec(("-j RETURN",)))]) == []
print("alive")
"""


def test_a_set_that_goes_after_the_check_is_a_refusal_and_no_crash() -> None:
    done = subprocess.run([sys.executable, "-c", _VANISHING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_descriptor_1_stays_where_it_is(adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("standard output was swapped")

    chains: Rows = {key: spec for key, spec in recorded_rows("IPv4").items() if isinstance(key, Chain)}
    with monkeypatch.context() as patched:  # no longer than that: pytest itself swaps it
        patched.setattr(os, "dup2", refuse)
        failed = adapter.apply(steps_between({}, chains))
    assert failed == []


def test_a_table_is_committed_whole_or_not_at_all(adapter: LibiptcAdapter) -> None:
    made: Rows = {MARK: ChainSpec(("-j RETURN",))}
    adapter.apply(steps_between({}, made))
    steps = [Step("update", MARK, ChainSpec(("-j ACCEPT",))), Step("add", SERVICES, ChainSpec(("-j KUBE-NODE-PORT",)))]
    [words] = [each for each in _programs() if each.family == "IPv4"]
    assert adapter._restore(words, steps) == "chain KUBE-NODE-PORT does not exist"
    assert _read(adapter) == made


def test_a_chain_that_is_not_there_is_enoent_at_its_row(adapter: LibiptcAdapter) -> None:
    failed = adapter.apply([Step("add", SERVICES, ChainSpec(("-j KUBE-NODE-PORT",))), Step("add", MARK, ChainSpec(()))])
    assert _refusals(failed) == {SERVICES: (ENOENT, "chain KUBE-NODE-PORT does not exist")}
    assert _read(adapter) == {MARK: ChainSpec(())}


def test_the_lock_of_iptables_is_waited_for_and_its_holder_told(
    adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libiptc, "_LOCK_WAIT_S", 0.2)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = adapter.apply([Step("add", MARK, ChainSpec(())), Step("add", FORWARD, ChainSpec(()))])
    message = f"{LOCK} is held by another program (waited 0.2 s)"
    assert _refusals(failed) == {MARK: (EAGAIN, message), FORWARD: (EAGAIN, message)}
    assert _read(adapter) == {}


def test_a_lock_that_is_given_back_in_time_is_taken(adapter: LibiptcAdapter) -> None:
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        assert adapter.apply([Step("add", MARK, ChainSpec(()))]) == []


_CONTENDER = "for _ in $(seq 25); do iptables-legacy -w 5 -t nat -A PREROUTING -p tcp -j RETURN || exit 1; done"


def test_beside_another_writer_no_commit_of_either_is_lost(adapter: LibiptcAdapter) -> None:
    adapter.apply([Step("add", MARK, ChainSpec(()))])  # loads the library
    commits = 0
    with subprocess.Popen(["sh", "-c", _CONTENDER]) as contender:
        while contender.poll() is None:
            assert adapter.apply([Step("add", MARK, ChainSpec(("-j RETURN",) * (1 + commits % 3)))]) == []
            commits += 1
    assert contender.returncode == 0
    assert commits > 25
    assert _rules("IPv4").count("-A PREROUTING -p tcp -j RETURN") == 25


def test_sets_that_are_there_are_not_absent(adapter: LibiptcAdapter) -> None:
    names = [key.name for family in FAMILIES for key in tables.ipsets(family)]
    assert first_absent_set(names) == ""
    assert first_absent_set([*names, "KUBE-NONESUCH"]) == "KUBE-NONESUCH"


def _state_made(folder: Folder, *flags: str) -> tuple[State, str]:
    """What an agent on *folder* makes of a node, and its log."""
    with Cluster() as cluster, AgentProcess(cluster.node_a, folder.path, *flags) as agent:
        agent.wait_synced()
        return kernel_state(cluster.node_a), "\n".join(agent.lines())


def test_an_agent_that_is_told_so_by_its_flag_makes_the_very_same_node(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("web", backed("web", "10.96.0.10", ["pod-a1", "pod-b1"], [Port(80, node_port=30080)]))
    by_restore, _ = _state_made(folder)
    by_libiptc, log = _state_made(folder, "--iptables-backend", "libiptc")
    assert differences(by_restore, by_libiptc) == []
    assert "failed" not in log
