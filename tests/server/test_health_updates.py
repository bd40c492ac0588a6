"""HealthUpdates: which reports of the loop count as a sync, and how they change the health state."""

from __future__ import annotations

import pytest

from kubeproxy_py.model.events import NodeDeleted, NodeUpserted, Synced
from kubeproxy_py.model.node import Node
from kubeproxy_py.net import Family
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.server.health import Health
from kubeproxy_py.server.health_updates import HealthUpdates, is_up_to_date, stuck_since


@pytest.mark.parametrize(
    ("synced", "compared", "requested", "has_work", "expected"),
    [
        (True, False, False, False, True),  # a sync ran
        (True, False, True, True, True),  # a sync ran, and more is pending
        (False, True, False, False, True),  # a full compare ended
        (False, False, True, False, True),  # a request turned out to need no change
        (False, False, True, True, False),  # a request waits, for example for minSyncPeriod
        (False, False, False, False, False),  # nothing happened
        (False, False, False, True, False),  # a retry is pending
    ],
)
def test_cycle_counts_as_a_sync(synced: bool, compared: bool, requested: bool, has_work: bool, expected: bool) -> None:
    assert is_up_to_date(synced=synced, compared=compared, requested=requested, has_work=has_work) is expected


def test_stuck_family_keeps_the_time_since_which_it_fails() -> None:
    assert stuck_since({"IPv4": 5.0}, {"IPv4", "IPv6"}, 9.0) == {"IPv4": 5.0, "IPv6": 9.0}
    assert stuck_since({"IPv4": 5.0}, (), 9.0) == {}


class Harness:
    """Health of a node that serves both families, and its updates."""

    def __init__(self, *, needs_node: bool = True) -> None:
        self.health = Health()
        self.sync_period_s = 30.0
        self.updates = HealthUpdates(self.health, ("IPv4", "IPv6"), lambda: self.sync_period_s, needs_node=needs_node)


def test_every_family_counts_as_up_to_date_at_the_start() -> None:
    harness = Harness()
    harness.updates.start()
    assert harness.health.state.updated_ns.keys() == {"IPv4", "IPv6"}
    assert harness.health.state.sync_period_s == 30.0


def test_pending_work_is_published_until_it_is_done() -> None:
    harness = Harness()
    harness.updates.on_pending_since(7.0)
    assert harness.health.state.pending_since_s == 7.0
    harness.updates.on_pending_since(None)
    assert harness.health.state.pending_since_s is None


def test_request_without_work_counts_as_a_sync_once() -> None:
    harness = Harness()
    harness.updates.on_pending_since(7.0)
    assert harness.updates.on_cycle_end(SyncStatus(has_work=True)) == ()
    assert harness.updates.on_cycle_end(SyncStatus()) == ("IPv4", "IPv6")
    assert harness.updates.on_cycle_end(SyncStatus()) == ()


def test_full_compare_counts_as_a_sync_once() -> None:
    harness = Harness()
    assert harness.updates.on_cycle_end(SyncStatus(compares=1)) == ("IPv4", "IPv6")
    assert harness.updates.on_cycle_end(SyncStatus(compares=1)) == ()


def test_stuck_family_is_not_up_to_date_and_recovers() -> None:
    harness = Harness()
    assert harness.updates.on_cycle_end(SyncStatus(compares=1, stuck=frozenset({"IPv6"}))) == ("IPv4",)
    since_s = harness.health.state.stuck_since_s
    assert since_s.keys() == {"IPv6"}
    assert harness.updates.on_cycle_end(SyncStatus(compares=1, stuck=frozenset({"IPv6"}))) == ()
    assert harness.health.state.stuck_since_s == since_s
    assert harness.updates.on_cycle_end(SyncStatus(compares=1)) == ()
    assert harness.health.state.stuck_since_s == {}
    assert harness.health.state.updated_ns.keys() == {"IPv4"}


def test_node_is_not_ready_before_the_first_sync_and_while_a_family_is_unprotected() -> None:
    harness = Harness()
    assert harness.health.state.unprotected == {"IPv4", "IPv6"}
    for unprotected in (frozenset[Family](("IPv6",)), frozenset[Family]()):
        harness.updates.on_cycle_end(SyncStatus(unprotected=unprotected))
        assert harness.health.state.unprotected == unprotected


def test_family_is_complete_from_the_first_sync_in_which_nothing_of_it_failed() -> None:
    harness = Harness()
    harness.updates.on_cycle_end(SyncStatus(has_work=True))
    assert harness.health.state.complete == frozenset(), "there was no sync yet"
    harness.updates.on_cycle_end(SyncStatus(compares=1, stuck=frozenset({"IPv4", "IPv6"})))
    assert harness.health.state.complete == frozenset()
    harness.updates.on_cycle_end(SyncStatus(compares=1, stuck=frozenset({"IPv6"})))
    assert harness.health.state.complete == {"IPv4"}, "a retry succeeded, which is no sync"
    harness.updates.on_cycle_end(SyncStatus(compares=2))
    harness.updates.on_cycle_end(SyncStatus(compares=3, stuck=frozenset({"IPv4"})))
    assert harness.health.state.complete == {"IPv4", "IPv6"}, "what fails later is a matter of health"


def test_sync_period_of_a_reloaded_configuration_applies_from_the_next_sync() -> None:
    harness = Harness()
    harness.updates.start()
    harness.sync_period_s = 5.0
    harness.updates.on_cycle_end(SyncStatus(compares=1))
    assert harness.health.state.sync_period_s == 5.0


def test_node_is_eligible_while_it_exists_and_is_not_being_deleted() -> None:
    harness = Harness()
    eligible = []
    for event in (NodeUpserted(Node("node-a")), NodeUpserted(Node("node-a", being_deleted=True))):
        harness.updates.on_event(event)
        eligible.append(harness.health.state.node_eligible)
    harness.updates.on_event(NodeUpserted(Node("node-a")))
    harness.updates.on_event(NodeDeleted("node-a"))
    assert [*eligible, harness.health.state.node_eligible] == [True, False, False]


def test_without_an_api_server_a_node_is_eligible_unless_its_manifest_says_otherwise() -> None:
    harness = Harness(needs_node=False)
    eligible = [harness.health.state.node_eligible]
    leaving = NodeUpserted(Node("node-a", being_deleted=True))
    for event in (Synced("services"), Synced("node"), leaving, Synced("node"), NodeDeleted("node-a")):
        harness.updates.on_event(event)
        eligible.append(harness.health.state.node_eligible)
    assert eligible == [False, False, True, False, False, True]


def test_with_an_api_server_a_node_that_it_does_not_have_is_not_eligible() -> None:
    harness = Harness()
    harness.updates.on_event(Synced("node"))
    assert harness.health.state.node_eligible is False
