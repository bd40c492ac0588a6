"""Chains and jumps on real tables: legacy in the lab (mark kernel), nft in a namespace of this host (mark lab).

One suite for both, since nodes have either.  The user-mode-linux kernel has no nf_tables families, and the kernel of
the host need not have IPVS: nothing here uses it but one rule.
"""

import fcntl
import socket
import subprocess
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EBUSY, EINVAL, ENOENT
from pathlib import Path

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.host.command import Result
from kubeproxy_py.kernel.iptables import adapter as iptables
from kubeproxy_py.kernel.iptables import backend as flavours
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import Flavour, choose_flavour, programs
from kubeproxy_py.kernel.iptables.fingerprint import LAYOUTS, strike_counters
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec, Rows
from kubeproxy_py.model.services import FAMILIES, Family
from kubeproxy_py.model.steps import Step
from tests.host_tools.tables_of_a_node import (
    make_sets,
    network_of_ones_own,
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
    """In place of the one in conftest.py: half of this suite is for hosts without IPVS."""


@pytest.fixture(params=[pytest.param("legacy", marks=pytest.mark.kernel), pytest.param("nft", marks=pytest.mark.lab)])
def flavour(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    """One flavour, in a network of its own that has all sets."""
    with network_of_ones_own():
        make_sets()
        yield request.param


@pytest.fixture
def adapter(flavour: Flavour) -> IptablesAdapter:
    return _adapter(flavour)


def _adapter(flavour: Flavour) -> IptablesAdapter:
    return IptablesAdapter([found for family in FAMILIES if (found := programs(flavour, family))])


def _read(adapter: IptablesAdapter) -> Rows:
    return {key: spec for scope in adapter.scopes() for key, spec in adapter.read(scope).items()}


def _saved_rules(flavour: Flavour, family: Family) -> list[str]:
    """Every rule of the tables nat and filter, as the tool itself prints them."""
    words = programs(flavour, family)
    assert words
    printed = (subprocess.check_output([*words.save, "-t", table], text=True) for table in ("filter", "nat"))
    return [line for text in printed for line in text.splitlines() if line.startswith("-A ")]


def _restore(flavour: Flavour, text: str) -> None:
    words = programs(flavour, "IPv4")
    assert words
    subprocess.run([*words.restore, "--noflush"], input=text.encode(), check=True)


def _add(adapter: IptablesAdapter, rows: Rows) -> None:
    assert adapter.apply(steps_between({}, rows)) == []


def _errnos(adapter: IptablesAdapter, steps: Sequence[Step]) -> dict[object, int]:
    return {failed.step.key: failed.errno for failed in adapter.apply(steps)}


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_tables_go_in_and_print_back_equal(adapter: IptablesAdapter, flavour: Flavour, family: Family) -> None:
    _add(adapter, recorded_rows(family))
    recorded = [line for line in recorded_text(family).splitlines() if line.startswith("-A ")]
    assert _saved_rules(flavour, family) == recorded


def test_recorded_tables_read_back_as_the_rows_that_were_written(adapter: IptablesAdapter) -> None:
    _add(adapter, recorded_rows())
    assert _read(adapter) == recorded_rows()


def test_every_chain_that_can_be_compiled_reads_back_equal(adapter: IptablesAdapter) -> None:
    rows: Rows = {}
    for family in FAMILIES:
        filled = frozenset(key.name for key in tables.ipsets(family))
        rows |= compile_chains(family, NonEmptySets(filled), NodeContext(masquerade_all=True))
    _add(adapter, rows)
    assert _read(adapter) == rows


@pytest.mark.kernel
def test_rules_that_match_on_ipvs_read_back_equal() -> None:
    with network_of_ones_own():
        make_sets()
        shut = {"IPv4": "203.0.113.9,tcp:80", "IPv6": "2001:db8::9,sctp:80"}
        rows: Rows = {}
        for family in FAMILIES:
            rows |= compile_chains(family, NonEmptySets(shut_to_node=(shut[family],)), NodeContext())
        adapter = _adapter("legacy")
        _add(adapter, rows)
        assert _read(adapter) == rows


def test_what_others_wrote_survives_our_coming_and_going(adapter: IptablesAdapter, flavour: Flavour) -> None:
    _restore(flavour, FOREIGN)
    before = _saved_rules(flavour, "IPv4")
    _add(adapter, recorded_rows())
    assert set(before) <= set(_saved_rules(flavour, "IPv4"))
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _saved_rules(flavour, "IPv4") == before


def test_what_others_wrote_is_no_row(adapter: IptablesAdapter, flavour: Flavour) -> None:
    _restore(flavour, FOREIGN)
    assert _read(adapter) == {}


def test_twenty_times_written_is_written_once(adapter: IptablesAdapter, flavour: Flavour) -> None:
    _add(adapter, recorded_rows("IPv4"))
    once = _saved_rules(flavour, "IPv4")
    for _ in range(19):
        _add(adapter, recorded_rows("IPv4"))
    assert _saved_rules(flavour, "IPv4") == once


def test_after_deleting_nothing_of_ours_is_left(adapter: IptablesAdapter) -> None:
    _add(adapter, recorded_rows())
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _read(adapter) == {}


def test_deleting_what_is_gone_is_done(adapter: IptablesAdapter) -> None:
    assert adapter.apply(steps_between(recorded_rows(), {})) == []
    assert _read(adapter) == {}


def test_an_update_replaces_the_rules_of_a_chain(adapter: IptablesAdapter) -> None:
    before, after = ChainSpec(("-j ACCEPT",)), ChainSpec(("-p udp -j RETURN", "-j MARK --set-xmark 0x1/0x1"))
    _add(adapter, {MARK: before})
    assert adapter.apply([Step("update", MARK, after, before)]) == []
    assert _read(adapter) == {MARK: after}


def test_a_chain_updated_twice_in_one_run_has_the_last_rules(adapter: IptablesAdapter) -> None:
    one, both, other = (ChainSpec(rules) for rules in (("-j ACCEPT",), ("-j ACCEPT", "-j RETURN"), ("-j RETURN",)))
    _add(adapter, {MARK: one})
    assert adapter.apply([Step("update", MARK, both, one), Step("update", MARK, other, both)]) == []
    assert _read(adapter) == {MARK: other}


def test_a_jump_that_stands_twice_reads_as_two_and_an_update_makes_it_one(
    adapter: IptablesAdapter, flavour: Flavour
) -> None:
    rows = recorded_rows("IPv4")
    _add(adapter, rows)
    _restore(flavour, f"*nat\n-A OUTPUT {PORTALS_RULE}\nCOMMIT\n")
    assert _read(adapter)[PORTALS] == JumpSpec(f"{PORTALS_RULE}\n{PORTALS_RULE}")
    assert adapter.apply(steps_between(_read(adapter), rows)) == []
    assert _read(adapter) == rows


def test_a_refused_chain_stays_alone(adapter: IptablesAdapter) -> None:
    rows = recorded_rows()
    bad = ChainSpec(("-m set --match-set NO-SUCH-SET dst,dst -j RETURN",))
    assert _errnos(adapter, steps_between({}, {**rows, MARK: bad})) == {
        MARK: EINVAL,
        **dict.fromkeys(_coming_to(rows, {MARK}), ENOENT),
    }
    assert rows.items() >= _read(adapter).items()
    assert _read(adapter).keys() == rows.keys() - _coming_to(rows, {MARK}) - {MARK}


def _coming_to(rows: Rows, chains: set[Chain]) -> set[object]:
    """What can't be made without *chains*: those that jump to them, and so on."""
    found: set[object] = set()
    for key, spec in rows.items():
        to = {(chain.family, chain.table, chain.name) for chain in chains}
        if isinstance(key, Jump) and (key.family, key.table, key.target) in to:
            found.add(key)
        if isinstance(key, Chain) and isinstance(spec, ChainSpec):
            jumps = {(key.family, key.table, rule.rpartition("-j ")[2]) for rule in spec.rules}
            if jumps & to:
                found |= {key} | _coming_to(rows, {key})
    return found


def test_the_reason_for_a_refusal_is_told(adapter: IptablesAdapter) -> None:
    [failed] = adapter.apply([Step("add", MARK, ChainSpec(("-m set --match-set NO-SUCH-SET dst -j RETURN",)))])
    assert failed.message == "Set NO-SUCH-SET doesn't exist."


def test_a_chain_that_another_still_uses_is_not_deleted(adapter: IptablesAdapter, flavour: Flavour) -> None:
    rows = recorded_rows("IPv4")
    _add(adapter, rows)
    _restore(flavour, "*nat\n-A PREROUTING -p udp -j KUBE-MARK-MASQ\nCOMMIT\n")
    assert _errnos(adapter, steps_between(rows, {})) == {MARK: EBUSY}
    assert _read(adapter) == {MARK: rows[MARK]}


def test_a_rule_can_not_smuggle_in_a_second_line(adapter: IptablesAdapter) -> None:
    smuggled = ChainSpec(("-j RETURN\n-A INPUT -j DROP",))
    assert _errnos(adapter, [Step("add", MARK, smuggled), Step("add", SERVICES, ChainSpec(()))]) == {MARK: EINVAL}
    assert _read(adapter) == {SERVICES: ChainSpec(())}


def test_rules_that_are_printed_in_another_way_are_known_after_one_rewrite(adapter: IptablesAdapter) -> None:
    ours: Rows = {MARK: ChainSpec(("-j MARK --or-mark 0x4000", "-j RETURN"))}
    _add(adapter, ours)
    printed = _read(adapter)
    assert printed != ours
    assert adapter.apply(steps_between(printed, ours)) == []
    assert _read(adapter) == ours


def test_after_a_rewrite_tampering_is_still_seen(adapter: IptablesAdapter, flavour: Flavour) -> None:
    ours: Rows = {MARK: ChainSpec(("-j MARK --or-mark 0x4000", "-j RETURN"))}
    _add(adapter, ours)
    assert adapter.apply(steps_between(_read(adapter), ours)) == []
    _restore(flavour, "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j RETURN\nCOMMIT\n")
    assert _read(adapter) == {MARK: ChainSpec(("-j RETURN",))}


def test_a_normal_change_of_chains_costs_one_process_a_family(
    adapter: IptablesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, recorded_rows())
    changed = {**recorded_rows(), MARK: ChainSpec(()), Chain("IPv6", "filter", "KUBE-FORWARD"): ChainSpec(())}
    calls = _count_runs(monkeypatch)
    assert adapter.apply([s for s in steps_between(recorded_rows(), changed) if s.spec == ChainSpec(())]) == []
    assert len(calls) == 2


def test_a_table_that_is_as_it_was_is_read_without_a_process(
    adapter: IptablesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, recorded_rows())
    before = _read(adapter)
    calls = _count_runs(monkeypatch)
    assert (_read(adapter), calls) == (before, [])


CHANGES_BY_OTHERS = {
    "a rule more": "-A KUBE-MARK-MASQ -j RETURN",
    "a rule less": "-D KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
    "another rule in its place": "-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000",
    "a jump gone": f"-D OUTPUT {PORTALS_RULE}",
    "a jump that stands twice": f"-I OUTPUT {PORTALS_RULE}",
    "a chain emptied": "-F KUBE-MARK-MASQ",
}


@pytest.mark.parametrize("line", CHANGES_BY_OTHERS.values(), ids=CHANGES_BY_OTHERS)
def test_what_others_change_is_seen_at_once(adapter: IptablesAdapter, flavour: Flavour, line: str) -> None:
    _add(adapter, recorded_rows())
    before = _read(adapter)
    _restore(flavour, f"*nat\n{line}\nCOMMIT\n")
    after = _read(adapter)
    assert after != before
    assert after == _read(_adapter(flavour))


def test_packets_that_rules_count_are_no_change(
    adapter: IptablesAdapter, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(adapter, {Chain("IPv4", "filter", "KUBE-FORWARD"): ChainSpec(("-j RETURN",))})
    _restore(flavour, "*filter\n-A OUTPUT -j KUBE-FORWARD\nCOMMIT\n")
    before = _read(adapter)
    calls = _count_runs(monkeypatch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"counted", ("127.0.0.1", 9))
    words = programs(flavour, "IPv4")
    assert words
    assert b"[0:0] -A KUBE-FORWARD" not in subprocess.check_output([*words.save, "-c", "-t", "filter"])
    assert (_read(adapter), calls) == (before, [])


@pytest.mark.kernel
def test_a_first_write_to_legacy_tables_takes_one_process_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides reading none: tables without any chain of ours are not printed, nor are their jumps counted."""
    with network_of_ones_own():
        make_sets()
        adapter, calls = _adapter("legacy"), _count_runs(monkeypatch)
        assert _read(adapter) == {}
        _add(adapter, recorded_rows())
    assert [words[0] for words in calls] == ["iptables-legacy-restore", "ip6tables-legacy-restore"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_legacy_table_laid_out_otherwise_has_no_mark(family: Family) -> None:
    layout = LAYOUTS[family]
    entry = bytearray(layout.size + 40)
    entry[layout.next_offset : layout.next_offset + 2] = len(entry).to_bytes(2, "little")
    entry[layout.counters] = 7
    twice = entry * 2
    assert strike_counters(twice, layout)
    assert twice[layout.counters] == twice[len(entry) + layout.counters] == 0
    assert not strike_counters(entry * 2 + bytes(8), layout)
    assert not strike_counters(bytearray(len(entry)), layout)


def _count_runs(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    calls: list[Sequence[str]] = []
    real = command.run

    def counted(argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0) -> Result:
        calls.append(argv)
        return real(argv, stdin=stdin, timeout_s=timeout_s)

    monkeypatch.setattr(iptables, "run", counted)
    return calls


@pytest.mark.kernel
def test_a_lock_that_is_held_fails_the_steps_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "_LOCK_WAIT_S", 1)
    with network_of_ones_own(), Path("/run/xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        errnos = _errnos(_adapter("legacy"), [Step("add", MARK, ChainSpec(())), Step("add", SERVICES, ChainSpec(()))])
    assert errnos == {MARK: EAGAIN, SERVICES: EAGAIN}


@pytest.mark.parametrize("text", ["# Table `nat' is incompatible, use 'nft' tool.\n", None])
def test_a_table_that_can_not_be_read_is_not_taken_for_an_empty_one(
    text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Result(0, text.encode(), b"") if text else Result(4, b"", b"iptables-save: cannot open")
    monkeypatch.setattr(iptables, "run", lambda *_, **__: result)
    with pytest.raises(KernelError):
        _read(_adapter("nft"))


@pytest.mark.kernel
def test_legacy_is_found_where_the_kernel_has_no_nf_tables() -> None:
    with network_of_ones_own():
        assert choose_flavour() == "legacy"


@pytest.mark.lab
def test_nft_is_found_where_there_is_no_hint() -> None:
    with network_of_ones_own():
        assert choose_flavour() == "nft"


@pytest.mark.lab
@pytest.mark.parametrize("hint", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("tool", ["iptables-legacy", "ip6tables-legacy"])
def test_kubelets_hint_in_legacy_tables_is_taken(tool: str, hint: str) -> None:
    with network_of_ones_own():
        subprocess.run([tool, "-t", "mangle", "-N", hint], check=True)
        assert choose_flavour() == "legacy"


@pytest.mark.lab
@pytest.mark.parametrize("tool", ["iptables-nft", "ip6tables-nft"])
def test_kubelets_hint_in_nft_tables_comes_before_one_in_legacy_tables(tool: str) -> None:
    with network_of_ones_own():
        subprocess.run(["iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)
        subprocess.run([tool, "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)
        assert choose_flavour() == "nft"


@pytest.mark.lab
def test_finding_the_flavour_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object, **_options: object) -> Result:
        raise AssertionError("a process was started")

    monkeypatch.setattr(flavours, "run", refuse)
    with network_of_ones_own():
        assert choose_flavour() == "nft"


@pytest.mark.lab
def test_asking_for_the_flavour_leaves_no_table_behind() -> None:
    with network_of_ones_own():
        choose_flavour()
        assert subprocess.check_output(["nft", "list", "tables"]) == b""
