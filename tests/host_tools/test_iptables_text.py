"""Conversion between steps and rows and the text of iptables-restore and iptables-save; pure, so without root."""

import pytest

from kubeproxy_py.kernel.iptables.text import count_jumps, restore_text, saved_rows
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, ChainSpec, Jump, JumpSpec
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, Family
from tests.host_tools.recorded_tables import recorded_rows, recorded_text, steps_between

MARK = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
SERVICES = Chain("IPv4", "nat", "KUBE-SERVICES")
PORTALS = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
RULE = tables.jumps("IPv4")[PORTALS]
PORTALS_KEY = ("nat", "OUTPUT", RULE)


def _text(*steps: Step, count: int = 0) -> list[str]:
    return restore_text(steps, {PORTALS_KEY: count}).decode().splitlines()


def test_a_chain_is_emptied_and_filled_in_one_commit() -> None:
    step = Step("add", MARK, ChainSpec(("-p tcp -j RETURN", "-j MARK --set-xmark 0x4000/0x4000")))
    assert _text(step) == [
        "*nat",
        ":KUBE-MARK-MASQ - [0:0]",
        "-A KUBE-MARK-MASQ -p tcp -j RETURN",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "COMMIT",
    ]


def test_chains_are_emptied_before_any_is_deleted() -> None:
    steps = [Step("delete", key, None, ChainSpec(("-j KUBE-MARK-MASQ",))) for key in (MARK, SERVICES)]
    assert _text(*steps) == [
        "*nat",
        ":KUBE-MARK-MASQ - [0:0]",
        ":KUBE-SERVICES - [0:0]",
        "-X KUBE-MARK-MASQ",
        "-X KUBE-SERVICES",
        "COMMIT",
    ]


def test_all_chains_are_created_before_the_first_rule() -> None:
    steps = [Step("add", SERVICES, ChainSpec(("-j KUBE-MARK-MASQ",))), Step("add", MARK, ChainSpec(()))]
    assert _text(*steps)[1:3] == [":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]"]


def test_a_missing_jump_is_inserted_at_the_top() -> None:
    assert _text(Step("add", PORTALS, JumpSpec(RULE))) == ["*nat", f"-I OUTPUT {RULE}", "COMMIT"]


@pytest.mark.parametrize(
    ("verb", "count", "lines"),
    [("add", 1, 0), ("add", 3, 2), ("delete", 0, 0), ("delete", 1, 1), ("delete", 2, 2), ("update", 2, 1)],
)
def test_a_jump_exists_once_after_an_add_and_not_at_all_after_a_delete(verb: str, count: int, lines: int) -> None:
    spec = None if verb == "delete" else JumpSpec(RULE)
    step = Step(verb, PORTALS, spec, JumpSpec(RULE))  # type: ignore[arg-type]
    assert _text(step, count=count)[1:-1] == [f"-D OUTPUT {RULE}"] * lines


def test_restore_text_is_empty_if_there_is_nothing_to_do() -> None:
    assert restore_text([Step("add", PORTALS, JumpSpec(RULE))], {PORTALS_KEY: 1}) == b""


def test_each_table_has_its_own_commit() -> None:
    steps = [Step("add", MARK, ChainSpec(())), Step("add", Chain("IPv4", "filter", "KUBE-FORWARD"), ChainSpec(()))]
    assert [line for line in _text(*steps) if line[0] in "*C"] == ["*nat", "COMMIT", "*filter", "COMMIT"]


@pytest.mark.parametrize("rule", ["-j RETURN\n-A INPUT -j DROP", "-j RETURN\0"])
def test_a_rule_of_two_lines_is_rejected(rule: str) -> None:
    with pytest.raises(ValueError, match="not one line"):
        _text(Step("add", MARK, ChainSpec((rule,))))


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_tables_contain_all_our_chains_and_jumps(family: Family) -> None:
    assert recorded_rows(family).keys() == {*tables.chains(family), *tables.jumps(family)}


def test_a_recorded_chain_has_its_rules_in_order() -> None:
    assert recorded_rows("IPv4")[Chain("IPv4", "nat", "KUBE-POSTROUTING")] == ChainSpec(
        (
            '-m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"'
            " -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE",
            "-m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-j MARK --set-xmark 0x4000/0x0",
            '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_restore_text_parses_back_to_the_rows_written(family: Family) -> None:
    written = restore_text(steps_between({}, recorded_rows(family)), {})
    chains = {key: spec for key, spec in recorded_rows(family).items() if isinstance(key, Chain)}
    assert saved_rows(written, family, "nat") | saved_rows(written, family, "filter") == chains


def test_foreign_chains_and_jumps_are_not_rows() -> None:
    saved = f"*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SEP-X - [0:0]\n-A OUTPUT -p tcp {RULE}\n-A KUBE-SEP-X -j DNAT\nCOMMIT\n"
    assert saved_rows(saved.encode(), "IPv4", "nat") == {}


def test_a_chain_of_our_name_in_another_table_is_not_a_row() -> None:
    saved = b"*filter\n:KUBE-SERVICES - [0:0]\nCOMMIT\n*mangle\n:KUBE-FORWARD - [0:0]\nCOMMIT\n"
    assert saved_rows(saved, "IPv4", "filter") == {}


def test_a_duplicate_jump_differs_from_the_desired_jump() -> None:
    saved = f"*nat\n-A OUTPUT {RULE}\n-A OUTPUT -j ACCEPT\n-A OUTPUT {RULE}\nCOMMIT\n".encode()
    assert saved_rows(saved, "IPv4", "nat") == {PORTALS: JumpSpec(f"{RULE}\n{RULE}")}


PORTMAP = "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT"
LOCAL_JUMPS = (
    PORTMAP,
    "-m addrtype --dst-type LOCAL -g CNI-HOSTPORT-DNAT",
    "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    '-m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS',
    "-m addrtype --dst-type LOCAL -m comment --comment hostports -j CNI-HOSTPORT-DNAT",
)
OTHER_RULES = (
    "-i lo -j ACCEPT",
    "-j cali-PREROUTING",
    "-m addrtype --dst-type LOCAL -j ACCEPT",
    "-m addrtype --dst-type LOCAL -j RETURN",
    "-m addrtype ! --dst-type LOCAL -j NOT-LOCAL",
    "-p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 80",
    "-p tcp -m addrtype --dst-type LOCAL -j ADMIN",
    "-i eth0 -m addrtype --dst-type LOCAL -j ADMIN",
)


def _output_chain(*rules: str) -> bytes:
    return "".join(("*nat\n", *(f"-A OUTPUT {rule}\n" for rule in rules), "COMMIT\n")).encode()


@pytest.mark.parametrize("rule", LOCAL_JUMPS)
def test_a_jump_behind_one_for_all_local_addresses_differs_and_is_moved_to_the_top(rule: str) -> None:
    target = rule.rsplit(" ", 1)[1]
    found = saved_rows(_output_chain("-i lo -j ACCEPT", rule, RULE), "IPv4", "nat")
    assert found == {PORTALS: JumpSpec(RULE, behind=target)}
    moved = _text(Step("update", PORTALS, JumpSpec(RULE), found[PORTALS]), count=1)
    assert moved == ["*nat", f"-D OUTPUT {RULE}", f"-I OUTPUT {RULE}", "COMMIT"]


@pytest.mark.parametrize("rule", LOCAL_JUMPS)
def test_a_jump_before_one_for_all_local_addresses_stays(rule: str) -> None:
    assert saved_rows(_output_chain(RULE, rule), "IPv4", "nat") == {PORTALS: JumpSpec(RULE)}


@pytest.mark.parametrize("rule", OTHER_RULES)
def test_all_other_rules_above_a_jump_stay_there(rule: str) -> None:
    assert saved_rows(_output_chain(rule, RULE), "IPv4", "nat") == {PORTALS: JumpSpec(RULE)}


def test_the_masquerade_jump_is_not_moved() -> None:
    key = Jump("IPv4", "nat", "POSTROUTING", "KUBE-POSTROUTING")
    rule = tables.jumps("IPv4")[key]
    saved = f"*nat\n-A POSTROUTING {PORTMAP}\n-A POSTROUTING {rule}\nCOMMIT\n".encode()
    assert saved_rows(saved, "IPv4", "nat") == {key: JumpSpec(rule)}


def test_a_jump_without_its_comment_is_ours_and_is_replaced_by_the_desired_one() -> None:
    found = saved_rows(_output_chain("-j KUBE-SERVICES"), "IPv4", "nat")
    assert found == {PORTALS: JumpSpec("-j KUBE-SERVICES")}
    step = Step("update", PORTALS, JumpSpec(RULE), found[PORTALS])
    text = restore_text([step], {("nat", "OUTPUT", "-j KUBE-SERVICES"): 1}).decode().splitlines()
    assert text == ["*nat", "-D OUTPUT -j KUBE-SERVICES", f"-I OUTPUT {RULE}", "COMMIT"]


def test_jumps_are_counted_by_table_and_chain() -> None:
    saved = recorded_text("IPv4").replace(f"-A OUTPUT {RULE}\n", f"-A OUTPUT {RULE}\n" * 3)
    assert count_jumps(saved.encode())[PORTALS_KEY] == 3


def test_comments_that_are_not_utf8_are_skipped() -> None:
    saved = b'*nat\n:KUBE-MARK-MASQ - [0:0]\n-A OUTPUT -m comment --comment "caf\xe9" -j ACCEPT\nCOMMIT\n'
    assert saved_rows(saved, "IPv4", "nat") == {MARK: ChainSpec(())}
