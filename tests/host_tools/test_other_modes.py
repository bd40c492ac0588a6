"""Stale rules of kube-proxy's other modes: what is found, and the restore text that deletes it."""

import subprocess

import pytest

from kubeproxy_py.kernel.iptables.backend import Backend, IptablesCommands
from kubeproxy_py.kernel.iptables.other_modes import (
    StaleRules,
    StaleTable,
    StaleTables,
    chain_users,
    deletion_text,
    detach_text,
    find_stale_rules,
    stale_rules_in,
)
from kubeproxy_py.kernel.iptables.text import saved_rows
from kubeproxy_py.model.rows import Chain, Jump
from kubeproxy_py.net import Family
from tests.host_tools.iptables_mode import (
    FOREIGN_LINES,
    SAVED,
    commands_of,
    kube_proxy_lines,
    kubeproxy_py,
    restore_iptables_mode,
    without_counters,
)
from tests.host_tools.recorded_tables import create_sets, private_network, recorded_text

NEW = "-m conntrack --ctstate NEW"


def stale_tables() -> dict[str, StaleTable]:
    return {table.name: table for table in stale_rules_in(SAVED.encode())}


def test_chains_of_iptables_mode_are_found_and_those_of_kubelet_are_not() -> None:
    assert {name: table.chains for name, table in stale_tables().items()} == {
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


def test_a_jump_to_a_shared_chain_is_dangling_if_it_differs_from_ours() -> None:
    jumps = stale_tables()["filter"].jumps
    firewall = f'{NEW} -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'
    assert [jump for jump in jumps if jump[1] == firewall] == [
        (chain, firewall) for chain in ("INPUT", "FORWARD", "OUTPUT")
    ]
    assert not [rule for _, rule in jumps if rule.endswith("-j KUBE-FORWARD")]  # identical to ours
    assert stale_tables()["nat"].jumps == ()


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_node_in_ipvs_mode_has_no_stale_rules(family: Family) -> None:
    assert stale_rules_in(recorded_text(family).encode()) == ()


@pytest.mark.parametrize("saved", [b"", b"*", b"# nothing\n", b"*raw\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"])
def test_no_stale_rules_are_found_in_other_text(saved: bytes) -> None:
    assert stale_rules_in(saved) == ()


def test_chains_that_are_not_of_kube_proxy_are_ignored() -> None:
    saved = b"*nat\n:KUBE-SVC-short - [0:0]\n:KUBE-MARK-DROP - [0:0]\n:KUBE-SEP-AAAABBBBCCCCDDDDE - [0:0]\nCOMMIT\n"
    assert stale_rules_in(saved) == ()


def test_restore_text_names_only_the_stale_rules_found() -> None:
    stale = stale_rules_in(SAVED.encode())
    detached, deleted = detach_text(stale).decode().splitlines(), deletion_text(stale).decode().splitlines()
    chains = [chain for table in stale for chain in table.chains]
    assert [line for line in detached if line.startswith(":")] == [f":{chain} - [0:0]" for chain in chains]
    assert [line for line in deleted if line.startswith("-")] == [f"-X {chain}" for chain in chains]
    removed = [f"-A {line.removeprefix('-D ')}" for line in detached if line.startswith("-D")]
    assert set(removed) <= set(SAVED.splitlines())
    assert set(removed).isdisjoint(FOREIGN_LINES)


def test_chains_shared_with_ipvs_mode_are_left_to_the_plan() -> None:
    ours = saved_rows(SAVED.encode(), "IPv4", "nat")
    assert {key.name for key in ours if isinstance(key, Chain)} == {
        "KUBE-MARK-MASQ",
        "KUBE-POSTROUTING",
        "KUBE-SERVICES",
    }
    assert len([key for key in ours if isinstance(key, Jump)]) == 3


def test_stale_rules_are_summarized_in_one_line() -> None:
    commands = IptablesCommands("nft", "IPv4", ("iptables-save",), ("iptables-restore",), ("iptables", "--version"))
    stale = StaleRules((StaleTables(commands, stale_rules_in(SAVED.encode())),), ("IPv4", "IPv6"))
    assert str(stale) == "10 chains and 8 rules of iptables mode (IPv4), the table of nftables mode (IPv4, IPv6)"
    assert stale
    assert not StaleRules()


PORTMAP = """\
*nat
:PREROUTING ACCEPT [0:0]
:CNI-DN-5c33 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-HP-AAAABBBBCCCCDDDD - [0:0]
:KUBE-MARK-MASQ - [0:0]
:MYNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -p tcp -m tcp --dport 8443 -j KUBE-MARK-MASQ
-A CNI-DN-5c33 -s 10.244.1.6/32 -p tcp -m tcp --dport 8888 -j KUBE-MARK-MASQ
-A CNI-DN-5c33 -p tcp -m tcp --dport 8888 -j DNAT --to-destination 10.244.1.6:8080
-A KUBE-HP-AAAABBBBCCCCDDDD -s 10.244.1.6/32 -j KUBE-MARK-MASQ
-A MYNAT -j KUBE-SERVICES
COMMIT
"""


@pytest.mark.parametrize("is_other_backend", [False, True])
def test_rules_of_other_programs_that_jump_to_our_chains_are_not_stale(is_other_backend: bool) -> None:
    assert stale_rules_in(PORTMAP.encode(), is_other_backend=is_other_backend) == ()


def test_the_chains_of_other_programs_that_jump_to_the_mark_chain_are_named() -> None:
    assert chain_users(PORTMAP.encode(), "KUBE-MARK-MASQ") == ("PREROUTING", "CNI-DN-5c33", "KUBE-HP-AAAABBBBCCCCDDDD")
    assert chain_users(SAVED.encode(), "KUBE-MARK-MASQ") == ()


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b"])
def test_a_comment_may_contain_what_python_takes_for_the_end_of_a_line(separator: str) -> None:
    saved = f'*nat\n:CNI-X - [0:0]\n-A CNI-X -m comment --comment "a{separator}b" -j KUBE-MARK-MASQ\nCOMMIT\n'
    assert chain_users(saved.encode(), "KUBE-MARK-MASQ") == ("CNI-X",)


def test_in_the_other_backend_chains_and_jumps_of_ipvs_mode_are_stale_too() -> None:
    saved = recorded_text("IPv4").encode()
    found = {table.name: table for table in stale_rules_in(saved, is_other_backend=True)}
    ours = {key for table in ("nat", "filter") for key in saved_rows(saved, "IPv4", table)}
    chains = {(key.table, key.name) for key in ours if isinstance(key, Chain)}
    assert {(name, chain) for name, table in found.items() for chain in table.chains} == chains
    jumps = [(name, source) for name, table in found.items() for source, _ in table.jumps]
    assert sorted(jumps) == sorted((key.table, key.source) for key in ours if isinstance(key, Jump))


@pytest.mark.lab
@pytest.mark.parametrize(("used", "other"), [("nft", "legacy"), ("legacy", "nft")])
def test_rules_in_the_other_backend_are_found_and_deleted(used: Backend, other: Backend) -> None:
    with private_network():
        assert not find_stale_rules(commands_of(used))
        restore_iptables_mode(other)
        stale = find_stale_rules(commands_of(used))
        assert f"rules in tables of iptables-{other} (IPv4)" in str(stale)
        assert f"rules in tables of iptables-{other} (IPv6)" in str(stale)
        completed = kubeproxy_py("cleanup", f"--iptables-flavour={used}")
        assert completed.returncode == 0, completed.stderr
        assert not find_stale_rules(commands_of(used))
        saved = subprocess.check_output([f"iptables-{other}-save"], text=True)
        assert kube_proxy_lines(saved) == []
        assert set(FOREIGN_LINES) <= set(without_counters(saved))


@pytest.mark.lab
def test_ipvs_mode_in_the_other_backend_is_deleted_with_the_sets_that_its_rules_hold() -> None:
    with private_network():
        create_sets()
        for commands in commands_of("legacy"):
            subprocess.run(commands.restore, input=recorded_text(commands.family), text=True, check=True)
        assert "in tables of iptables-legacy (IPv4)" in str(find_stale_rules(commands_of("nft")))
        completed = kubeproxy_py("cleanup", "--iptables-flavour=nft")
        assert completed.returncode == 0, completed.stderr
        assert subprocess.check_output(["ipset", "list", "-n"]) == b""
        for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
            assert kube_proxy_lines(subprocess.check_output([program], text=True)) == []


@pytest.mark.lab
def test_cleanup_with_nft_deletes_both_other_modes_on_a_kernel_without_ipvs() -> None:
    with private_network():
        restore_iptables_mode("nft")
        for family in ("ip", "ip6"):
            script = f"add table {family} kube-proxy; add chain {family} kube-proxy services; add table {family} others"
            subprocess.run(["nft", script], check=True)
        stale = find_stale_rules(commands_of("nft"))
        assert str(stale).endswith("the table of nftables mode (IPv4, IPv6)")
        assert [found.commands.family for found in stale.iptables] == ["IPv4", "IPv6"]
        completed = kubeproxy_py("cleanup", "--iptables-flavour=nft")
        assert completed.returncode == 0, completed.stderr
        assert not find_stale_rules(commands_of("nft"))
        tables = subprocess.check_output(["nft", "list", "tables"], text=True)
        assert "kube-proxy" not in tables
        assert tables.count("others") == 2
        saved = subprocess.check_output(["iptables-nft-save"], text=True)
        assert kube_proxy_lines(saved) == []
        assert set(FOREIGN_LINES) <= set(without_counters(saved))
