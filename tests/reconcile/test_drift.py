"""Drift counts, and the families whose sync counts as failed."""

import pytest

from kubeproxy_py.model.rows import Address, Chain, Ipset, IpsetEntry, Jump, Key, Link, VirtualServer
from kubeproxy_py.reconcile.drift import Drift
from kubeproxy_py.reconcile.sync_status import stuck_families, unprotected_families

A, B = Address("10.96.0.1"), Address("10.96.0.2")


def test_a_drifted_row_counts_once_as_found_and_once_as_repaired() -> None:
    drift = Drift()
    drift.record([A, B])
    drift.record_outcome([A, B], failed=[B])
    drift.record_outcome([B], failed=[B])
    assert (dict(drift.found), dict(drift.repaired)) == ({"Address": 2}, {"Address": 1})
    drift.record_outcome([A, B], failed=[])
    drift.record_outcome([A, B], failed=[])
    assert dict(drift.repaired) == {"Address": 2}


def test_a_row_that_never_drifted_does_not_count_as_repaired() -> None:
    drift = Drift()
    drift.record([A])
    drift.record_outcome([B], failed=[])
    assert dict(drift.repaired) == {}


@pytest.mark.parametrize(
    ("key", "families"),
    [
        (Link("kube-ipvs0"), {"IPv4", "IPv6"}),
        (Ipset("KUBE-CLUSTER-IP"), {"IPv4"}),
        (Ipset("KUBE-6-CLUSTER-IP"), {"IPv6"}),
        (Chain("IPv6", "nat", "KUBE-SERVICES"), {"IPv6"}),
        (Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES"), {"IPv4"}),
        (A, set()),
        (VirtualServer("10.96.0.1", 80, "TCP"), set()),
        (IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.1,tcp:80"), set()),
    ],
)
def test_a_family_is_stuck_by_the_kinds_of_row_that_fail_kube_proxys_sync(key: Key, families: set[str]) -> None:
    assert stuck_families([key]) == families


def test_a_family_is_unprotected_while_a_chain_or_jump_that_protects_addresses_is_missing() -> None:
    portals = Jump("IPv4", "nat", "OUTPUT", "KUBE-SERVICES")
    hides = Chain("IPv6", "filter", "KUBE-IPVS-FILTER")
    harmless = Chain("IPv6", "filter", "KUBE-FORWARD")
    assert unprotected_families([portals, hides, harmless, A], {A}) == {"IPv4", "IPv6"}
    assert unprotected_families([portals, harmless], {portals}) == frozenset(), "its update is pending: it stands"
