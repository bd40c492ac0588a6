"""The maxelem of sets: kube-proxy's, or more if the entries need it."""

import pytest

from kubeproxy_py.compile.base import base_rows
from kubeproxy_py.compile.desired import Desired
from kubeproxy_py.model.kube_names import CLUSTER_IP, NODE_PORT_TCP, maxelem_for
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, Rows
from tests.builders import name


@pytest.mark.parametrize(
    ("entries", "maxelem"),
    [(0, 65_536), (65_536, 65_536), (65_537, 131_072), (114_687, 131_072), (114_688, 262_144), (1_000_000, 2_097_152)],
)
def test_maxelem_beyond_kube_proxys_is_a_power_of_two_with_an_eighth_free(entries: int, maxelem: int) -> None:
    assert maxelem_for(entries) == maxelem
    assert entries <= maxelem


def entries(count: int) -> Rows:
    return {IpsetEntry(CLUSTER_IP.name, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},tcp:80"): None for n in range(count)}


def test_version_changes_when_a_set_needs_another_maxelem() -> None:
    desired, seen = Desired(), []
    for count in (65_536, 65_537, 65_538, 65_536):
        before = desired.sets.version
        desired.replace(name("web"), entries(count))
        seen.append((desired.sets.version != before, desired.sets.non_empty("IPv4").maxelems))
    large = ((CLUSTER_IP.name, 131_072),)
    assert seen == [(True, ()), (True, large), (False, large), (True, ())]


def test_only_the_set_that_needs_it_has_another_maxelem() -> None:
    usual, large = base_rows(("IPv4",), {}), base_rows(("IPv4",), {}, {CLUSTER_IP.name: 131_072})
    assert large.items() - usual.items() == {
        (Ipset(CLUSTER_IP.name), IpsetSpec("hash:ip,port", "IPv4", maxelem=131_072))
    }


def test_bitmap_port_sets_have_no_maxelem() -> None:
    assert NODE_PORT_TCP.spec_in("IPv4", maxelem_for(70_000)) == IpsetSpec("bitmap:port", None)
