"""A rule that `nft` added to a table of iptables-nft, and that iptables cannot print: our rules are kept all the same.

The kernel of a developer's machine often has nf_tables and no IPVS, so the adapters are tested there, in a private
network namespace.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from kubeproxy_py.model.rows import Chain, ChainSpec, Jump
from kubeproxy_py.plan.plan import make_plan
from tests.e2e.nft_node import Nft, node_rows
from tests.host_tools.recorded_tables import private_network

pytestmark = pytest.mark.lab

NATIVE = {
    "filter INPUT": "add rule ip filter INPUT ct state vmap { established : accept, invalid : drop }",
    "nat PREROUTING": "add rule ip nat PREROUTING ct state vmap { established : accept, invalid : drop }",
}
CHAINS = """
iptables-nft -A INPUT -i lo -j ACCEPT
iptables-nft -t nat -A PREROUTING -i lo -j ACCEPT
"""


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """Replace the fixture of conftest.py: these tests need no IPVS."""


@pytest.fixture(params=NATIVE)
def native_rule(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a rule that was added to a table, and that makes it unprintable."""
    with private_network():
        shell(CHAINS)
        subprocess.run(["nft", NATIVE[request.param]], check=True)
        table = request.param.split()[0]
        assert b"is incompatible" in subprocess.check_output(["iptables-nft-save", "-t", table])
        yield request.param


def shell(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True)


def test_all_rows_are_written_and_read_back_beside_the_rule(native_rule: str, caplog: pytest.LogCaptureFixture) -> None:
    nft = Nft()
    assert nft.bring_to(node_rows()).failures == ()
    assert nft.read() == node_rows()
    (record,) = [record for record in caplog.records if "iptables cannot print a table" in record.message]
    assert "nft -a list table ip" in str(vars(record))


def test_a_restart_writes_nothing(native_rule: str) -> None:
    Nft().bring_to(node_rows())
    assert make_plan(node_rows(), Nft().read()).steps == ()


def test_the_rule_is_still_there_and_each_jump_once(native_rule: str) -> None:
    for _ in range(3):
        Nft().bring_to(node_rows())
    table, chain = native_rule.split()
    listed = subprocess.check_output(["nft", "list", "chain", "ip", table, chain], text=True)
    assert listed.count("vmap") == 1
    jumps = [key for key in node_rows() if isinstance(key, Jump)]
    ours = [key for key in jumps if (key.family, key.table, key.source) == ("IPv4", table, chain)]
    assert ours
    for jump in ours:
        assert listed.count(f"jump {jump.target} ") + listed.count(f"jump {jump.target}\n") == 1


def test_a_chain_that_another_program_emptied_and_a_deleted_jump_are_found_and_repaired(native_rule: str) -> None:
    nft = Nft()
    nft.bring_to(node_rows())
    table, chain = native_rule.split()
    emptied, deleted = next(
        (Chain(key.family, key.table, key.target), key)
        for key in node_rows()
        if isinstance(key, Jump) and (key.family, key.table, key.source) == ("IPv4", table, chain)
    )
    rule = node_rows()[deleted]
    shell(f"iptables-nft -t {table} -F {emptied.name}; iptables-nft -t {table} -D {chain} {rule}")
    found = nft.read()
    assert (found[emptied], deleted in found) == (ChainSpec(()), False)
    assert nft.bring_to(node_rows()).failures == ()
    assert nft.read() == node_rows()


def test_once_the_rule_has_moved_to_another_table_the_table_is_printed_at_once(native_rule: str) -> None:
    nft = Nft()
    nft.bring_to(node_rows())
    table, chain = native_rule.split()
    listed = subprocess.check_output(["nft", "-a", "list", "chain", "ip", table, chain], text=True)
    handle = next(line.rsplit(" ", 1)[1] for line in listed.splitlines() if "vmap" in line)
    subprocess.run(["nft", f"delete rule ip {table} {chain} handle {handle}"], check=True)
    assert nft.read() == node_rows()
