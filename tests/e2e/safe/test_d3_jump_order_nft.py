"""iptables-nft: our jump overtakes another program's jump for local addresses, in one commit.

The kernel of a developer's machine often has nf_tables and no IPVS, so the adapters are tested there, in a private
network namespace; packets are tested with legacy iptables (test_d3_jump_order.py).
"""

from __future__ import annotations

import subprocess

import pytest

from kubeproxy_py.model.rows import Jump, JumpSpec
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.plan import make_plan
from tests.e2e.nft_node import Nft, node_rows
from tests.host_tools.recorded_tables import private_network

pytestmark = pytest.mark.lab

PROGRAMS: dict[Family, str] = {"IPv4": "iptables-nft", "IPv6": "ip6tables-nft"}
LOCAL_JUMP = ("-m", "addrtype", "--dst-type", "LOCAL", "-j", "CNI-HOSTPORT-DNAT")


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """Replace the fixture of conftest.py: these tests need no IPVS."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["PREROUTING", "OUTPUT"])
def test_our_jump_is_moved_above_a_jump_for_local_addresses(family: Family, source: str) -> None:
    nat = [PROGRAMS[family], "-t", "nat"]
    key = Jump(family, "nat", source, "KUBE-SERVICES")
    with private_network():
        nft = Nft()
        nft.bring_to(node_rows())
        subprocess.run([*nat, "-N", "CNI-HOSTPORT-DNAT"], check=True)
        subprocess.run([*nat, "-I", source, *LOCAL_JUMP], check=True)
        wanted = node_rows()[key]
        assert isinstance(wanted, JumpSpec)
        found = nft.read()
        assert found[key] == JumpSpec(wanted.rule, behind="CNI-HOSTPORT-DNAT")
        assert [step.key for step in make_plan(node_rows(), found)] == [key]
        assert nft.bring_to(node_rows()).failures == ()
        listed = subprocess.check_output([*nat, "-S", source], text=True).splitlines()[1:]
        assert listed == [f"-A {source} {wanted.rule}", f"-A {source} {' '.join(LOCAL_JUMP)}"]
        assert make_plan(node_rows(), Nft().read()).steps == ()
