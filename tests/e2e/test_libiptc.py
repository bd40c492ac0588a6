"""Legacy tables by python-iptables: the same rules as by iptables-restore, without a process and without crashes."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EINVAL, ENOENT
from pathlib import Path

import pytest
from msgspec.structs import replace

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.kernel.iptables import libiptc
from kubeproxy_py.kernel.iptables.errors import LOCK, lock_held_error
from kubeproxy_py.kernel.iptables.kernel_extensions import missing_extensions
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter, first_missing_set
from kubeproxy_py.kernel.iptables.text import POLICY_TABLES
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.extensions import EXTENSIONS
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import Chain, ChainSpec, Rows
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import FAMILIES, Family
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.iptables_runs import record_runs
from tests.e2e.kernel_state import State, differences, kernel_state
from tests.e2e.libiptc_adapter import MARK, NO_SUCH_SET, legacy_adapter, legacy_commands
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.host_tools.recorded_tables import (
    create_sets,
    private_network,
    recorded_rows,
    recorded_text,
    steps_between,
)

pytestmark = pytest.mark.kernel

SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
FORWARD = Chain("IPv4", "filter", "KUBE-FORWARD")


@pytest.fixture
def adapter() -> Iterator[LibiptcAdapter]:
    """Yield an adapter in a private network that has all sets."""
    with private_network():
        create_sets()
        yield legacy_adapter()


def _read(adapter: LibiptcAdapter) -> Rows:
    return {key: spec for scope in adapter.scopes() for key, spec in adapter.read(scope).items()}


def _rules(family: Family) -> list[str]:
    program = "iptables-legacy-save" if family == "IPv4" else "ip6tables-legacy-save"
    printed = (subprocess.check_output([program, "-t", table], text=True) for table in ("filter", "nat"))
    return [line for text in printed for line in text.splitlines() if line.startswith("-A ")]


def _errors(failures: Sequence[StepFailure]) -> dict[object, tuple[int, str]]:
    return {failure.step.key: (failure.errno, failure.message) for failure in failures}


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_tables_are_printed_as_they_were_written(adapter: LibiptcAdapter, family: Family) -> None:
    assert adapter.apply(steps_between({}, recorded_rows(family))) == []
    assert _rules(family) == [line for line in recorded_text(family).splitlines() if line.startswith("-A ")]


_NETWORK: dict[Family, str] = {"IPv4": "10.244.0.0/16", "IPv6": "fd00:10:244::/56"}
_CLOSED_TO_NODE: dict[Family, tuple[str, ...]] = {
    "IPv4": ("203.0.113.9,tcp:80", "203.0.113.9,udp:53"),
    "IPv6": ("2001:db8::9,sctp:65535",),
}
_NODE_CONTEXTS = {
    "cluster CIDR": NodeContext(if_not_local={family: f"! -s {network}" for family, network in _NETWORK.items()}),
    "bridge": NodeContext(if_not_local=dict.fromkeys(FAMILIES, "! -i cni0")),
    "interface prefix": NodeContext(if_not_local=dict.fromkeys(FAMILIES, "! -i cali+")),
    "no local traffic detection": NodeContext(),
    "masquerade all, mark bit 31": NodeContext(masquerade_all=True, masquerade_mark=1 << 31),
    "mark bit 0, old iptables": NodeContext(random_fully=False, masquerade_mark=1),
    "several cluster CIDRs, health port": NodeContext(
        more_local_networks={family: (network,) for family, network in _NETWORK.items()}, health_port=10256
    ),
    "exact policies": NodeContext(
        policy_marks=MarkRange(),
        if_local={family: (f"-s {network}", "-i cali+") for family, network in _NETWORK.items()},
        service_networks={"IPv4": ("10.96.0.0/16",), "IPv6": ("fd00:10:96::/108",)},
        missing_extensions=dict.fromkeys(FAMILIES, frozenset({"dscp"})),  # as on the lab's kernel
    ),
}


def _missing_extensions(family: Family) -> frozenset[str]:
    """Return the extensions that this kernel lacks (built ones have no xt_dscp)."""
    list_rules = ["iptables-legacy" if family == "IPv4" else "ip6tables-legacy", "-t", "mangle", "-S"]
    subprocess.run(list_rules, check=True, capture_output=True)  # loads what answers the question
    return frozenset(each.name for each in missing_extensions("legacy", family, EXTENSIONS.values()))


@pytest.mark.parametrize("context", _NODE_CONTEXTS.values(), ids=_NODE_CONTEXTS)
def test_every_compiled_chain_reads_back_equal(context: NodeContext) -> None:
    rows: Rows = {}
    with private_network():
        create_sets()
        context = replace(context, missing_extensions={family: _missing_extensions(family) for family in FAMILIES})
        for family in FAMILIES:
            non_empty = tables.POLICY_SETS.union(key.name for key in tables.ipsets(family))
            rows |= compile_chains(family, NonEmptySets(non_empty, _CLOSED_TO_NODE[family]), context)
        adapter = LibiptcAdapter(legacy_commands(), "legacy", POLICY_TABLES)
        assert adapter.apply(steps_between({}, rows)) == []
        assert _read(adapter) == rows


def test_an_ipv6_bridge_is_matched_by_its_complete_name(adapter: LibiptcAdapter) -> None:
    chain = Chain("IPv6", "nat", "KUBE-SERVICES")
    adapter.apply([Step("add", chain, ChainSpec(("! -i cni0 -j RETURN",)))])
    # -D finds only a rule that is equal byte by byte, including the mask of the name, which is not printed.
    line = b"*nat\n-D KUBE-SERVICES ! -i cni0 -j RETURN\nCOMMIT\n"
    subprocess.run(["ip6tables-legacy-restore", "--noflush"], input=line, check=True)
    assert _read(adapter) == {chain: ChainSpec(())}


def test_only_the_nat_and_filter_tables_are_created(adapter: LibiptcAdapter) -> None:
    adapter.apply(steps_between({}, recorded_rows()))
    names = [Path("/proc/net", name).read_text().split() for name in ("ip_tables_names", "ip6_tables_names")]
    assert [sorted(tables_of_family) for tables_of_family in names] == [["filter", "nat"], ["filter", "nat"]]


def test_foreign_rules_survive_with_their_counters(adapter: LibiptcAdapter) -> None:
    foreign = (
        "*nat\n:CNI-DNAT - [0:0]\n[7:420] -A PREROUTING -j CNI-DNAT\n[3:180] -A CNI-DNAT -p tcp -j RETURN\nCOMMIT\n"
    )
    subprocess.run(["iptables-legacy-restore", "--counters", "--noflush"], input=foreign.encode(), check=True)
    before = subprocess.check_output(["iptables-legacy-save", "-c", "-t", "nat"], text=True).splitlines()[1:-1]
    adapter.apply(steps_between({}, recorded_rows()))
    adapter.apply(steps_between(recorded_rows(), {}))
    assert subprocess.check_output(["iptables-legacy-save", "-c", "-t", "nat"], text=True).splitlines()[1:-1] == before


def test_target_that_would_end_the_process_is_left_to_iptables_restore(
    adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ChainSpec(("-j DSCP --set-dscp 0x2e",))
    calls = record_runs(monkeypatch)
    adapter.apply([Step("add", Chain(family, "mangle", "KUBE-PY-INPUT"), spec) for family in FAMILIES])
    programs = {Path(argv[0]).name for argv in calls}
    assert {"iptables-legacy-restore", "ip6tables-legacy-restore"} <= programs


def test_a_change_of_chains_starts_no_process(adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = recorded_rows()
    adapter.apply(steps_between({}, rows))
    changed = {**rows, SERVICES: ChainSpec(()), Chain("IPv6", "filter", "KUBE-FORWARD"): ChainSpec(())}
    calls = record_runs(monkeypatch)
    assert adapter.apply(steps_between(rows, changed)) == []
    assert calls == []


def test_only_ipv6_masquerade_falls_back_to_iptables_restore(
    adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: Rows = {key: spec for key, spec in recorded_rows().items() if isinstance(key, Chain)}
    calls = record_runs(monkeypatch)
    assert adapter.apply(steps_between({}, rows)) == []
    assert [argv[0] for argv in calls] == ["ip6tables-legacy-restore"]


def test_a_missing_set_fails_only_its_chain(adapter: LibiptcAdapter) -> None:
    subprocess.run(["ipset", "destroy", "KUBE-LOOP-BACK"], check=True)
    failures = adapter.apply([Step("add", MARK, NO_SUCH_SET), Step("add", FORWARD, ChainSpec(()))])
    assert _errors(failures) == {MARK: (EINVAL, "Set KUBE-LOOP-BACK doesn't exist.")}
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
def test_a_rule_that_is_not_ours_never_reaches_the_library(
    adapter: LibiptcAdapter, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libiptc, "LegacyTable", None)
    failures = adapter.apply([Step("add", MARK, ChainSpec((rule,)))])
    assert [(failure.errno, "is not accepted in the rule" in failure.message) for failure in failures] == [
        (EINVAL, True)
    ]


_SET_DELETED_AFTER_CHECK = """
from kubeproxy_py.kernel.iptables import libiptc
from kubeproxy_py.model.rows import ChainSpec
from kubeproxy_py.model.steps import Step
from tests.e2e.libiptc_adapter import MARK, NO_SUCH_SET, legacy_adapter
from tests.host_tools.recorded_tables import private_network
libiptc.first_missing_set = lambda names: ""
with private_network():
    adapter = legacy_adapter()
    messages = {failure.message for _ in range(1500) for failure in adapter.apply([Step("add", MARK, NO_SUCH_SET)])}
    assert messages == {"set: invalid value KUBE-LOOP-BACK"}, messages
    assert adapter.apply([Step("add", MARK, ChainSpec(("-j RETURN",)))]) == []
print("still running")
"""


def test_a_set_deleted_after_the_check_is_a_failure_and_not_a_crash() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", _SET_DELETED_AFTER_CHECK], capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stdout) == (0, "still running\n"), completed.stderr


def test_file_descriptor_1_is_not_redirected(adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("standard output was redirected")

    chains: Rows = {key: spec for key, spec in recorded_rows("IPv4").items() if isinstance(key, Chain)}
    with monkeypatch.context() as patched:  # only here, because pytest itself redirects it
        patched.setattr(os, "dup2", fail)
        failures = adapter.apply(steps_between({}, chains))
    assert failures == []


def test_a_table_is_committed_atomically(adapter: LibiptcAdapter) -> None:
    rows: Rows = {MARK: ChainSpec(("-j RETURN",))}
    adapter.apply(steps_between({}, rows))
    steps = [Step("update", MARK, ChainSpec(("-j ACCEPT",))), Step("add", SERVICES, ChainSpec(("-j KUBE-NODE-PORT",)))]
    [commands] = [commands for commands in legacy_commands() if commands.family == "IPv4"]
    assert adapter._restore(commands, steps) == "chain KUBE-NODE-PORT does not exist"
    assert _read(adapter) == rows


def test_a_jump_to_a_missing_chain_fails_with_enoent(adapter: LibiptcAdapter) -> None:
    failures = adapter.apply(
        [Step("add", SERVICES, ChainSpec(("-j KUBE-NODE-PORT",))), Step("add", MARK, ChainSpec(()))]
    )
    assert _errors(failures) == {SERVICES: (ENOENT, "chain KUBE-NODE-PORT does not exist")}
    assert _read(adapter) == {MARK: ChainSpec(())}


def test_steps_fail_with_eagain_while_another_program_holds_the_lock(
    adapter: LibiptcAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libiptc, "LOCK_WAIT_S", 0.2)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failures = adapter.apply([Step("add", MARK, ChainSpec(())), Step("add", FORWARD, ChainSpec(()))])
    message = str(lock_held_error())
    assert _errors(failures) == {MARK: (EAGAIN, message), FORWARD: (EAGAIN, message)}
    assert _read(adapter) == {}


def test_a_lock_released_within_the_wait_is_acquired(adapter: LibiptcAdapter) -> None:
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        assert adapter.apply([Step("add", MARK, ChainSpec(()))]) == []


_OTHER_WRITER = "for _ in $(seq 25); do iptables-legacy -w 5 -t nat -A PREROUTING -p tcp -j RETURN || exit 1; done"


def test_no_commit_is_lost_while_another_program_writes(adapter: LibiptcAdapter) -> None:
    adapter.apply([Step("add", MARK, ChainSpec(()))])  # load the library
    commits = 0
    with subprocess.Popen(["sh", "-c", _OTHER_WRITER]) as other_writer:
        while other_writer.poll() is None:
            assert adapter.apply([Step("add", MARK, ChainSpec(("-j RETURN",) * (1 + commits % 3)))]) == []
            commits += 1
    assert other_writer.returncode == 0
    assert commits > 25
    assert _rules("IPv4").count("-A PREROUTING -p tcp -j RETURN") == 25


def test_first_missing_set_names_only_a_set_that_does_not_exist(adapter: LibiptcAdapter) -> None:
    names = [key.name for family in FAMILIES for key in tables.ipsets(family)]
    assert first_missing_set(names) == ""
    assert first_missing_set([*names, "KUBE-NONESUCH"]) == "KUBE-NONESUCH"


def _programmed_state(folder: Folder, *flags: str) -> tuple[State, str]:
    """Return the kernel state that an agent programs from *folder*, and its log."""
    with Cluster() as cluster, AgentProcess(cluster.node_a, folder.path, *flags) as agent:
        agent.wait_synced()
        return kernel_state(cluster.node_a), "\n".join(agent.lines())


def test_the_agent_programs_the_same_state_with_libiptc_as_with_restore(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("web", service_with_slice("web", "10.96.0.10", ["pod-a1", "pod-b1"], [Port(80, node_port=30080)]))
    by_restore, _ = _programmed_state(folder)
    by_libiptc, log = _programmed_state(folder, "--iptables-backend", "libiptc")
    assert differences(by_restore, by_libiptc) == []
    assert "failed" not in log
