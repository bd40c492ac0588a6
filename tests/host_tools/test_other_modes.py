"""What is found of kube-proxy's other modes, and what is written to remove it."""

import subprocess

import pytest

from kubeproxy_py.kernel.iptables.other_modes import (
    NftTable,
    StaleRules,
    cut_off_text,
    find_leftovers,
    left_in,
    removal_text,
)
from kubeproxy_py.kernel.iptables.text import saved_rows
from kubeproxy_py.model.rows import Chain, Jump
from kubeproxy_py.model.services import Family
from tests.host_tools.iptables_mode import (
    OTHERS,
    SAVED,
    kubeproxy_py,
    leave_iptables_mode,
    mine,
    programs_of,
    without_counters,
)
from tests.host_tools.tables_of_a_node import network_of_ones_own, recorded_text

NEW = "-m conntrack --ctstate NEW"


def found() -> dict[str, NftTable]:
    return {table.name: table for table in left_in(SAVED.encode())}


def test_chains_of_iptables_mode_are_found_and_kubelets_are_not() -> None:
    assert {name: table.chains for name, table in found().items()} == {
        "mangle": ("KUBE-PROXY-CANARY",),
        "filter": ("KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY", "KUBE-SERVICES"),
        "nat": (
            "KUBE-EXT-WEBWEBWEBWEBWEBW",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-CANARY",
            "KUBE-SEP-AAAABBBBCCCCDDDD",
            "KUBE-SVC-WEBWEBWEBWEBWEBW",
        ),
    }


def test_a_jump_to_a_chain_that_we_share_is_stray_if_it_is_not_worded_as_ours() -> None:
    jumps = found()["filter"].jumps
    firewall = f'{NEW} -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'
    assert [jump for jump in jumps if jump[1] == firewall] == [(at, firewall) for at in ("INPUT", "FORWARD", "OUTPUT")]
    assert not [rule for _, rule in jumps if rule.endswith("-j KUBE-FORWARD")]  # worded as ours
    assert found()["nat"].jumps == ()


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_node_in_ipvs_mode_has_no_leftovers(family: Family) -> None:
    assert left_in(recorded_text(family).encode()) == ()


@pytest.mark.parametrize("saved", [b"", b"# nothing\n", b"*raw\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"])
def test_nothing_is_found_where_nothing_is(saved: bytes) -> None:
    assert left_in(saved) == ()


def test_chains_with_names_of_others_are_passed_over() -> None:
    saved = b"*nat\n:KUBE-SVC-short - [0:0]\n:KUBE-MARK-DROP - [0:0]\n:KUBE-SEP-AAAABBBBCCCCDDDDE - [0:0]\nCOMMIT\n"
    assert left_in(saved) == ()


def test_what_is_written_names_what_was_found_and_nothing_else() -> None:
    left = left_in(SAVED.encode())
    cut, gone = cut_off_text(left).decode().splitlines(), removal_text(left).decode().splitlines()
    chains = [chain for table in left for chain in table.chains]
    assert [line for line in cut if line.startswith(":")] == [f":{chain} - [0:0]" for chain in chains]
    assert [line for line in gone if line.startswith("-")] == [f"-X {chain}" for chain in chains]
    removed = [f"-A {line.removeprefix('-D ')}" for line in cut if line.startswith("-D")]
    assert set(removed) <= set(SAVED.splitlines())
    assert set(removed).isdisjoint(OTHERS)


def test_what_is_ours_by_name_is_left_to_the_plan() -> None:
    ours = saved_rows(SAVED.encode(), "IPv4", "nat")
    assert {key.name for key in ours if isinstance(key, Chain)} == {
        "KUBE-MARK-MASQ",
        "KUBE-POSTROUTING",
        "KUBE-SERVICES",
    }
    assert len([key for key in ours if isinstance(key, Jump)]) == 3


def test_what_is_left_is_told_in_a_line() -> None:
    left = StaleRules({"IPv4": left_in(SAVED.encode())}, ("IPv4", "IPv6"))
    assert str(left) == "10 chains and 8 rules of iptables mode (IPv4), the table of nftables mode (IPv4, IPv6)"
    assert left
    assert not StaleRules({})


@pytest.mark.lab
def test_on_nf_tables_both_other_modes_go_though_the_kernel_has_no_ipvs() -> None:
    with network_of_ones_own():
        leave_iptables_mode("nft")
        for family in ("ip", "ip6"):
            script = f"add table {family} kube-proxy; add chain {family} kube-proxy services; add table {family} others"
            subprocess.run(["nft", script], check=True)
        found = find_leftovers(programs_of("nft"))
        assert str(found).endswith("the table of nftables mode (IPv4, IPv6)")
        assert set(found.iptables) == {"IPv4", "IPv6"}
        done = kubeproxy_py("cleanup", "--iptables-flavour=nft")
        assert done.returncode == 0, done.stderr
        assert not find_leftovers(programs_of("nft"))
        tables = subprocess.check_output(["nft", "list", "tables"], text=True)
        assert "kube-proxy" not in tables
        assert tables.count("others") == 2
        saved = subprocess.check_output(["iptables-nft-save"], text=True)
        assert mine(saved) == []
        assert set(OTHERS) <= set(without_counters(saved))
