"""Chains and jumps on real tables: legacy in the lab (mark kernel), nft in a namespace of this host (mark lab).

Both backends have one suite, because nodes use either.  The user-mode-linux kernel has no nf_tables families, and the
kernel of this host need not have IPVS, which only one rule here uses.
"""

import fcntl
import socket
import subprocess
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EBUSY, EINVAL, ENOENT, EPERM
from pathlib import Path

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result
from kubeproxy_py.kernel.iptables import backend as iptables_backend
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables import read as iptables_read
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import Backend, detect_backend, find_commands
from kubeproxy_py.kernel.iptables.fingerprint import LAYOUTS, zero_counters
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Rows
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, Family
from tests.e2e.iptables_runs import record_runs
from tests.host_tools.recorded_tables import (
    create_sets,
    private_network,
    recorded_rows,
    recorded_text,
    steps_between,
)

SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
PORTALS = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
PORTALS_RULE = tables.jumps("IPv4")[PORTALS]
FOREIGN = """*nat
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat KUBE-SERVICES" -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -s 192.0.2.0/24 -j DROP
COMMIT
"""


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """Replace the fixture of conftest.py, because half of this suite is for hosts without IPVS."""


@pytest.fixture(params=[pytest.param("legacy", marks=pytest.mark.kernel), pytest.param("nft", marks=pytest.mark.lab)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Yield one backend, in a private network that has all sets."""
    with private_network():
        create_sets()
        yield request.param


@pytest.fixture
def adapter(backend: Backend) -> IptablesAdapter:
    return _adapter(backend)


def _adapter(backend: Backend) -> IptablesAdapter:
    return IptablesAdapter([commands for family in FAMILIES if (commands := find_commands(backend, family))])


def _read(adapter: IptablesAdapter) -> Rows:
    return {key: spec for scope in adapter.scopes() for key, spec in adapter.read(scope).items()}


def _saved_rules(backend: Backend, family: Family) -> list[str]:
    """Return every rule of the tables nat and filter, as iptables-save prints them."""
    commands = find_commands(backend, family)
    assert commands
    printed = (subprocess.check_output([*commands.save, "-t", table], text=True) for table in ("filter", "nat"))
    return [line for text in printed for line in text.splitlines() if line.startswith("-A ")]


def _restore(backend: Backend, text: str) -> None:
    commands = find_commands(backend, "IPv4")
    assert commands
    subprocess.run([*commands.restore, "--noflush"], input=text.encode(), check=True)


def _add(adapter: IptablesAdapter, rows: Rows) -> None:
    assert adapter.apply(steps_between({}, rows)) == []


def _errnos(adapter: IptablesAdapter, steps: Sequence[Step]) -> dict[object, int]:
    return {failure.step.key: failure.errno for failure in adapter.apply(steps)}


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_tables_are_printed_as_they_were_written(
    adapter: IptablesAdapter, backend: Backend, family: Family
) -> None:
    _add(adapter, recorded_rows(family))
    recorded = [line for line in recorded_text(family).splitlines() if line.startswith("-A ")]
    assert _saved_rules(backend, family) == recorded


def test_recorded_tables_read_back_as_the_rows_written(adapter: IptablesAdapter) -> None:
    _add(adapter, recorded_rows())
    assert _read(adapter) == recorded_rows()


def test_every_compiled_chain_reads_back_equal(adapter: IptablesAdapter) -> None:
    rows: Rows = {}
    for family in FAMILIES:
        non_empty = frozenset(key.name for key in tables.ipsets(family))
        rows |= compile_chains(family, NonEmptySets(non_empty), NodeContext(masquerade_all=True))
    _add(adapter, rows)
    assert _read(adapter) == rows


@pytest.mark.kernel
def test_rules_that_match_on_ipvs_read_back_equal() -> None:
    with private_network():
        create_sets()
        closed_to_node = {"IPv4": "203.0.113.9,tcp:80", "IPv6": "2001:db8::9,sctp:80"}
        rows: Rows = {}
        for family in FAMILIES:
            rows |= compile_chains(family, NonEmptySets(closed_to_node=(closed_to_node[family],)), NodeContext())
        adapter = _adapter("legacy")
        _add(adapter, rows)
        assert _read(adapter) == rows


def test_foreign_rules_survive_adding_and_deleting_ours(adapter: IptablesAdapter, backend: Backend) -> None:
    _restore(backend, FOREIGN)
    before = _saved_rules(backend, "IPv4")
    _add(adapter, recorded_rows())
    assert set(before) <= set(_saved_rules(backend, "IPv4"))
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _saved_rules(backend, "IPv4") == before


def test_foreign_rules_are_not_rows(adapter: IptablesAdapter, backend: Backend) -> None:
    _restore(backend, FOREIGN)
    assert _read(adapter) == {}


def test_writing_twenty_times_equals_writing_once(adapter: IptablesAdapter, backend: Backend) -> None:
    _add(adapter, recorded_rows("IPv4"))
    once = _saved_rules(backend, "IPv4")
    for _ in range(19):
        _add(adapter, recorded_rows("IPv4"))
    assert _saved_rules(backend, "IPv4") == once


def test_deleting_all_rows_leaves_none_of_ours(adapter: IptablesAdapter) -> None:
    _add(adapter, recorded_rows())
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _read(adapter) == {}


def test_deleting_rows_that_do_not_exist_succeeds(adapter: IptablesAdapter) -> None:
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _read(adapter) == {}


def test_an_update_replaces_the_rules_of_a_chain(adapter: IptablesAdapter) -> None:
    before, after = ChainSpec(("-j ACCEPT",)), ChainSpec(("-p udp -j RETURN", "-j MARK --set-xmark 0x1/0x1"))
    _add(adapter, {MARK: before})
    assert adapter.apply([Step("update", MARK, after, before)]) == []
    assert _read(adapter) == {MARK: after}


def test_a_chain_updated_twice_in_one_run_gets_the_last_rules(adapter: IptablesAdapter) -> None:
    one, both, other = (ChainSpec(rules) for rules in (("-j ACCEPT",), ("-j ACCEPT", "-j RETURN"), ("-j RETURN",)))
    _add(adapter, {MARK: one})
    assert adapter.apply([Step("update", MARK, both, one), Step("update", MARK, other, both)]) == []
    assert _read(adapter) == {MARK: other}


def test_a_duplicate_jump_reads_as_two_rules_and_an_update_removes_one(
    adapter: IptablesAdapter, backend: Backend
) -> None:
    rows = recorded_rows("IPv4")
    _add(adapter, rows)
    _restore(backend, f"*nat\n-A OUTPUT {PORTALS_RULE}\nCOMMIT\n")
    assert _read(adapter)[PORTALS] == JumpSpec(f"{PORTALS_RULE}\n{PORTALS_RULE}")
    assert adapter.apply(steps_between(_read(adapter), rows)) == []
    assert _read(adapter) == rows


def test_a_rejected_chain_does_not_prevent_the_others(adapter: IptablesAdapter) -> None:
    rows = recorded_rows()
    bad = ChainSpec(("-m set --match-set NO-SUCH-SET dst,dst -j RETURN",))
    assert _errnos(adapter, steps_between({}, {**rows, MARK: bad})) == {
        MARK: EINVAL,
        **dict.fromkeys(_dependents(rows, {MARK}), ENOENT),
    }
    assert rows.items() >= _read(adapter).items()
    assert _read(adapter).keys() == rows.keys() - _dependents(rows, {MARK}) - {MARK}


def _dependents(rows: Rows, chains: set[Chain]) -> set[object]:
    """Return what cannot be created without *chains*: the chains and jumps that jump to them, transitively."""
    dependents: set[object] = set()
    for key, spec in rows.items():
        targets = {(chain.family, chain.table, chain.name) for chain in chains}
        if isinstance(key, Jump) and (key.family, key.table, key.target) in targets:
            dependents.add(key)
        if isinstance(key, Chain) and isinstance(spec, ChainSpec):
            jumps = {(key.family, key.table, rule.rpartition("-j ")[2]) for rule in spec.rules}
            if jumps & targets:
                dependents |= {key} | _dependents(rows, {key})
    return dependents


def test_a_failure_contains_the_reason_of_iptables(adapter: IptablesAdapter) -> None:
    [failure] = adapter.apply([Step("add", MARK, ChainSpec(("-m set --match-set NO-SUCH-SET dst -j RETURN",)))])
    assert failure.message == "Set NO-SUCH-SET doesn't exist."


def test_a_chain_that_a_foreign_rule_uses_is_not_deleted(adapter: IptablesAdapter, backend: Backend) -> None:
    rows = recorded_rows("IPv4")
    _add(adapter, rows)
    _restore(backend, "*nat\n-A PREROUTING -p udp -j KUBE-MARK-MASQ\nCOMMIT\n")
    assert _errnos(adapter, steps_between(rows, {})) == {MARK: EBUSY}
    assert _read(adapter) == {MARK: rows[MARK]}


def test_a_rule_with_a_second_line_is_rejected(adapter: IptablesAdapter) -> None:
    two_lines = ChainSpec(("-j RETURN\n-A INPUT -j DROP",))
    assert _errnos(adapter, [Step("add", MARK, two_lines), Step("add", SERVICES, ChainSpec(()))]) == {MARK: EINVAL}
    assert _read(adapter) == {SERVICES: ChainSpec(())}


def test_rules_printed_differently_are_recognized_after_one_rewrite(adapter: IptablesAdapter) -> None:
    rows: Rows = {MARK: ChainSpec(("-j MARK --or-mark 0x4000", "-j RETURN"))}
    _add(adapter, rows)
    printed = _read(adapter)
    assert printed != rows
    assert adapter.apply(steps_between(printed, rows)) == []
    assert _read(adapter) == rows


def test_tampering_is_still_detected_after_a_rewrite(adapter: IptablesAdapter, backend: Backend) -> None:
    rows: Rows = {MARK: ChainSpec(("-j MARK --or-mark 0x4000", "-j RETURN"))}
    _add(adapter, rows)
    assert adapter.apply(steps_between(_read(adapter), rows)) == []
    _restore(backend, "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j RETURN\nCOMMIT\n")
    assert _read(adapter) == {MARK: ChainSpec(("-j RETURN",))}


def test_a_change_of_chains_starts_one_process_per_family(
    adapter: IptablesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, recorded_rows())
    changed = {**recorded_rows(), MARK: ChainSpec(()), Chain("IPv6", "filter", "KUBE-FORWARD"): ChainSpec(())}
    calls = record_runs(monkeypatch)
    assert adapter.apply([s for s in steps_between(recorded_rows(), changed) if s.spec == ChainSpec(())]) == []
    assert len(calls) == 2


def test_an_unchanged_table_is_read_without_a_process(
    adapter: IptablesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, recorded_rows())
    before = _read(adapter)
    calls = record_runs(monkeypatch)
    assert (_read(adapter), calls) == (before, [])


CHANGES_BY_OTHERS = {
    "a rule added": "-A KUBE-MARK-MASQ -j RETURN",
    "a rule deleted": "-D KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
    "a rule replaced": "-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000",
    "a jump deleted": f"-D OUTPUT {PORTALS_RULE}",
    "a jump duplicated": f"-I OUTPUT {PORTALS_RULE}",
    "a chain emptied": "-F KUBE-MARK-MASQ",
}


@pytest.mark.parametrize("line", CHANGES_BY_OTHERS.values(), ids=CHANGES_BY_OTHERS)
def test_a_change_by_another_program_is_read_immediately(adapter: IptablesAdapter, backend: Backend, line: str) -> None:
    _add(adapter, recorded_rows())
    before = _read(adapter)
    _restore(backend, f"*nat\n{line}\nCOMMIT\n")
    after = _read(adapter)
    assert after != before
    assert after == _read(_adapter(backend))


def test_packet_counters_do_not_change_the_fingerprint(
    adapter: IptablesAdapter, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, {Chain("IPv4", "filter", "KUBE-FORWARD"): ChainSpec(("-j RETURN",))})
    _restore(backend, "*filter\n-A OUTPUT -j KUBE-FORWARD\nCOMMIT\n")
    before = _read(adapter)
    calls = record_runs(monkeypatch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"counted", ("127.0.0.1", 9))
    commands = find_commands(backend, "IPv4")
    assert commands
    assert b"[0:0] -A KUBE-FORWARD" not in subprocess.check_output([*commands.save, "-c", "-t", "filter"])
    assert (_read(adapter), calls) == (before, [])


@pytest.mark.kernel
def test_the_first_write_to_legacy_tables_starts_one_process_per_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading starts none: tables without a chain of ours are not printed, and their jumps are not counted."""
    with private_network():
        create_sets()
        adapter, calls = _adapter("legacy"), record_runs(monkeypatch)
        assert _read(adapter) == {}
        _add(adapter, recorded_rows())
    assert [argv[0] for argv in calls] == ["iptables-legacy-restore", "ip6tables-legacy-restore"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_legacy_table_of_another_layout_has_no_fingerprint(family: Family) -> None:
    layout = LAYOUTS[family]
    entry = bytearray(layout.size + 40)
    entry[layout.next_offset : layout.next_offset + 2] = len(entry).to_bytes(2, "little")
    entry[layout.counters] = 7
    two_entries = entry * 2
    assert zero_counters(two_entries, layout)
    assert two_entries[layout.counters] == two_entries[len(entry) + layout.counters] == 0
    assert not zero_counters(entry * 2 + bytes(8), layout)
    assert not zero_counters(bytearray(len(entry)), layout)


@pytest.mark.kernel
def test_steps_fail_with_eagain_while_another_program_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_backend, "LOCK_WAIT_S", 1)
    with private_network(), Path("/run/xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        errnos = _errnos(_adapter("legacy"), [Step("add", MARK, ChainSpec(())), Step("add", SERVICES, ChainSpec(()))])
    assert errnos == {MARK: EAGAIN, SERVICES: EAGAIN}


@pytest.mark.parametrize("text", ["# Table `nat' is incompatible, use 'nft' tool.\n", None])
@pytest.mark.parametrize("answer", [0, EPERM], ids=["our chains exist", "chains are not known"])
def test_an_unreadable_table_is_an_error_and_not_an_empty_table(
    text: str | None, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Result(0, text.encode(), b"") if text else Result(4, b"", b"iptables-save: cannot open")
    failed = Result(4, b"", b"iptables: cannot open")
    monkeypatch.setattr(iptables_read, "run", lambda argv, **_: failed if "-S" in argv else result)
    monkeypatch.setattr(nf_tables, "chain_errno", lambda *_: answer)
    with pytest.raises(KernelError):
        _read(_adapter("nft"))


@pytest.mark.kernel
def test_legacy_is_detected_if_the_kernel_has_no_nf_tables() -> None:
    with private_network():
        assert detect_backend() == "legacy"


@pytest.mark.lab
def test_nft_is_detected_without_a_kubelet_hint() -> None:
    with private_network():
        assert detect_backend() == "nft"


@pytest.mark.lab
@pytest.mark.parametrize("hint", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy"])
def test_a_kubelet_hint_in_legacy_tables_selects_legacy(program: str, hint: str) -> None:
    with private_network():
        subprocess.run([program, "-t", "mangle", "-N", hint], check=True)
        assert detect_backend() == "legacy"


@pytest.mark.lab
@pytest.mark.parametrize("program", ["iptables-nft", "ip6tables-nft"])
def test_a_kubelet_hint_in_nft_tables_takes_precedence_over_legacy(program: str) -> None:
    with private_network():
        subprocess.run(["iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)
        subprocess.run([program, "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)
        assert detect_backend() == "nft"


@pytest.mark.lab
def test_backend_detection_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> Result:
        raise AssertionError("a process was started")

    monkeypatch.setattr(iptables_backend, "run", fail)
    with private_network():
        assert detect_backend() == "nft"


@pytest.mark.lab
def test_backend_detection_leaves_no_table_behind() -> None:
    with private_network():
        detect_backend()
        assert subprocess.check_output(["nft", "list", "tables"]) == b""
