"""Drift counts, and the families whose sync counts as failed."""

import pytest

from kubeproxy_py.model.rows import Address, Chain, Ipset, IpsetEntry, Jump, Key, Link, VirtualServer
from kubeproxy_py.reconcile.drift import DISPUTED_WINDOW_S, PAUSE, Drift
from kubeproxy_py.reconcile.sync_status import stuck_families, unprotected_families

A, B = Address("10.96.0.1"), Address("10.96.0.2")


def test_a_drifted_row_counts_once_as_found_and_once_as_repaired() -> None:
    drift = Drift()
    drift.record([A, B], 0.0)
    drift.record_outcome([A, B], failed=[B])
    drift.record_outcome([B], failed=[B])
    assert (dict(drift.found), dict(drift.repaired)) == ({"Address": 2}, {"Address": 1})
    drift.record_outcome([A, B], failed=[])
    drift.record_outcome([A, B], failed=[])
    assert dict(drift.repaired) == {"Address": 2}


def test_a_row_that_never_drifted_does_not_count_as_repaired() -> None:
    drift = Drift()
    drift.record([A], 0.0)
    drift.record_outcome([B], failed=[])
    assert dict(drift.repaired) == {}


def drift_and_repair(drift: Drift, keys: list[Key], *times_s: float) -> list[list[Key]]:
    """Have *keys* drift at each of *times_s* and be repaired; return the rows that became disputed each time."""
    disputed = []
    for at_s in times_s:
        drift.record(keys, at_s)
        disputed.append(drift.pop_disputed())
        drift.record_outcome(keys, failed=[])
    return disputed


def test_a_row_that_drifts_three_times_in_a_row_is_disputed() -> None:
    drift = Drift()
    assert drift_and_repair(drift, [A], 0, 30, 60, 90, 120, 150) == [[], [], [A], [], [], [A]]
    assert drift.disputed == 2


def test_a_row_that_drifts_three_times_within_a_minute_is_fought_for() -> None:
    drift = Drift()
    drift_and_repair(drift, [A], 0, 2, 4, 100, 102, 104)
    drift_and_repair(drift, [B], 0, 30, 59)
    assert dict(drift.fights) == {"Address": 3}


def test_a_row_that_drifts_three_times_in_more_than_a_minute_is_disputed_and_not_fought_for() -> None:
    drift = Drift()
    drift_and_repair(drift, [A], 0, 31, 62)
    assert (drift.disputed, dict(drift.fights)) == (1, {})


def test_a_row_that_drifts_rarely_is_not_disputed() -> None:
    times_s = [DISPUTED_WINDOW_S * number for number in range(5)]
    assert drift_and_repair(Drift(), [A], *times_s) == [[]] * 5


def test_a_row_that_cannot_be_repaired_is_not_disputed() -> None:
    drift = Drift()
    for at_s in range(5):
        drift.record([A], at_s)
        drift.record_outcome([A], failed=[A])
    assert drift.pop_disputed() == []


def test_the_pause_of_a_row_grows_while_it_is_disputed_and_ends_when_it_is_left_alone() -> None:
    drift, pauses_s = Drift(), []
    for number in range(60):
        drift_and_repair(drift, [A], 2.0 * number)
        pauses_s.append(drift.pause_s(A, 2.0 * number))
    assert pauses_s[:3] == [0.0, 0.0, PAUSE.first_s]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == PAUSE.longest_s < DISPUTED_WINDOW_S
    assert drift.pause_s(B, 120.0) == 0.0
    assert drift.pause_s(A, 120.0 + DISPUTED_WINDOW_S) == 0.0


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
    assert unprotected_families([portals, harmless], {portals}) == frozenset(), "its update is pending: it is in place"
