"""Agent: Nodes are read while weights name their labels, and weights stay until they are known."""

from msgspec.structs import replace

from kubeproxy_py.diagnose.rows import row_state, trouble_text
from kubeproxy_py.model.events import (
    Event,
    PeerDeleted,
    PeersRefused,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.rows import RealServer, RealServerSpec, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.reconcile.agent import PEERS_WAIT_S
from kubeproxy_py.sources.decode.settings import PREFIX, read_settings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, service
from tests.reconcile.harness import FEEDS, SERVER, AgentHarness

NEAR, FAR, NEW = "10.244.1.5", "10.244.2.5", "10.244.2.6"
POOL = PeerNeeds(labels=frozenset({"pool"}))
KNOWN = (PeerUpserted(HERE, (), ("pool=old",)), PeerUpserted(THERE, (), ("pool=large",)))
LISTED = (*KNOWN, Synced("peers"))


def weighed(text: str = "pool=large:4, pool=old:2") -> Service:
    return service(settings=read_settings({PREFIX + "weights": text}))


def slices(*others: str) -> SliceUpserted:
    places = [endpoint(NEAR, HERE), endpoint(FAR, THERE), *(endpoint(each, THERE) for each in others)]
    return SliceUpserted(endpoint_slice(endpoints=places))


class Started(AgentHarness):
    """An agent whose initial lists have come, but for that of the Nodes, which is asked for."""

    def __init__(self, *events: Event, kernel: AgentHarness | None = None) -> None:
        self.needs: list[PeerNeeds] = []
        restarted = {"kernel": kernel.kernel} if kernel else {}
        self.at_once: list[bool] = []
        super().__init__(synced=False, watch_peers=self._record_needs, **restarted)  # type: ignore[arg-type]
        self.handle(*(events or (ServiceUpserted(weighed()), slices())), *map(Synced, FEEDS))

    def _record_needs(self, needs: PeerNeeds, *, at_once: bool) -> None:
        self.needs.append(needs)
        self.at_once.append(at_once)

    def weights(self, server: VirtualServer = SERVER) -> dict[str, int]:
        """The weights in the kernel, by address."""
        return {
            key.address: spec.weight
            for key, spec in self.kernel.rows.items()
            if isinstance(key, RealServer) and isinstance(spec, RealServerSpec) and key.virtual_server == server
        }


def serving() -> Started:
    """An agent that knows the Nodes, and has nothing left to do."""
    harness = Started()
    harness.handle(*LISTED)
    harness.applied_steps()
    assert harness.weights() == {NEAR: 2, FAR: 4}
    return harness


def test_nodes_are_read_from_the_first_service_that_names_a_label_to_the_last() -> None:
    harness = Started(ServiceUpserted(service()), slices())
    assert harness.needs == []
    harness.handle(ServiceUpserted(weighed()))
    assert harness.needs == [POOL]
    other = replace(weighed("disk=ssd:2, zone/z=3"), name=name("other"), cluster_ips=("10.96.1.1",))
    harness.handle(ServiceUpserted(other))
    assert harness.needs[1:] == [PeerNeeds(labels=frozenset({"pool", "disk"}))]
    harness.handle(*LISTED)
    assert harness.weights() == {NEAR: 2, FAR: 4}
    harness.handle(ServiceUpserted(service()))
    assert harness.needs[2:] == [PeerNeeds(labels=frozenset({"disk"}))]
    harness.handle(ServiceDeleted(name("other")))
    assert harness.needs[3:] == [NO_NEEDS]
    assert not any(harness.at_once), "all agents learn of the Service at the same moment"


def test_label_that_changes_changes_the_weights_on_its_node_only() -> None:
    harness = serving()
    harness.handle(PeerUpserted(THERE, (), ("pool=old",)))
    assert harness.applied_steps() == [("update", RealServer(SERVER, FAR, 8080))]
    assert harness.weights() == {NEAR: 2, FAR: 2}
    assert harness.handle(PeerUpserted(THERE, ("192.168.3.11",), ("pool=old",))) == [], "an address"
    harness.handle(PeerDeleted(THERE))
    assert harness.weights() == {NEAR: 2, FAR: 1}


def test_restart_waits_for_the_list_of_nodes_and_changes_nothing() -> None:
    again = Started(kernel=serving())
    assert (again.needs, again.at_once) == ([POOL], [True])
    assert (again.applied_steps(), again.agent.due_s()) == ([], again.now_s + PEERS_WAIT_S)
    (report,) = again.handle(*LISTED)
    assert (report.steps, again.weights()) == ((), {NEAR: 2, FAR: 4})


def test_weights_stay_where_the_list_of_nodes_takes_longer_and_all_else_goes_on() -> None:
    before = serving()
    apart = replace(service("apart"), cluster_ips=("10.96.1.1",))
    again = Started(
        *(ServiceUpserted(weighed()), slices(NEW)),
        *(ServiceUpserted(apart), SliceUpserted(endpoint_slice("apart"))),
        kernel=before,
    )
    again.advance(PEERS_WAIT_S)
    assert again.weights() == {NEAR: 2, FAR: 4, NEW: 1}
    assert again.weights(VirtualServer("10.96.1.1", 80, "TCP")) == {NEAR: 1}
    again.applied_steps()
    again.handle(*KNOWN)
    again.advance(60.0)
    assert again.applied_steps() == [], "while the list arrives"
    again.handle(Synced("peers"))
    assert again.applied_steps() == [("update", RealServer(SERVER, NEW, 8080))]
    assert again.weights() == {NEAR: 2, FAR: 4, NEW: 4}
    again.handle(slices())
    assert again.weights()[NEW] == 0, "a removed endpoint drains"


def test_weights_that_differ_once_the_nodes_are_listed_are_changed_then() -> None:
    again = Started(kernel=serving())
    again.advance(PEERS_WAIT_S)
    again.handle(KNOWN[0])
    assert again.weights() == {NEAR: 2, FAR: 4}
    snapshot, key = again.agent.snapshot(again.now_s, 0.0), RealServer(SERVER, FAR, 8080)
    assert trouble_text(snapshot, key) == "keeps its weight until the Nodes are listed, whose labels decide it"
    assert row_state(snapshot, key, snapshot.desired_of(name("web"))).status == "waiting"
    again.handle(Synced("peers"))
    assert again.weights() == {NEAR: 2, FAR: 1}


def test_weights_that_are_ignored_are_not_kept() -> None:
    of_other = replace(weighed("disk=ssd:2"), name=name("other"), cluster_ips=("10.96.1.1",))
    annotations = {"weights": "pool=large:4, pool=old:2", "scheduler": "rr"}
    settings = read_settings({PREFIX + key: value for key, value in annotations.items()})
    now_ignored = service(settings=settings)
    again = Started(*map(ServiceUpserted, (now_ignored, of_other)), slices(), kernel=serving())
    again.advance(PEERS_WAIT_S)
    assert again.needs == [PeerNeeds(labels=frozenset({"disk"}))]
    assert again.weights() == {NEAR: 1, FAR: 1}


def test_weights_of_a_service_that_changes_meanwhile_are_not_kept() -> None:
    again = Started(kernel=serving())
    again.advance(PEERS_WAIT_S)
    again.handle(ServiceUpserted(weighed("pool=large:4, others=9")))
    assert again.weights() == {NEAR: 9, FAR: 9}


def test_weights_are_not_kept_where_the_server_refuses_to_list_nodes() -> None:
    again = Started(kernel=serving())
    again.advance(PEERS_WAIT_S)
    again.handle(PeersRefused("nodes is forbidden"))
    assert again.weights() == {NEAR: 1, FAR: 1}
    again.handle(*KNOWN, PeersRefused(""), Synced("peers"))
    assert again.weights() == {NEAR: 2, FAR: 4}


def test_first_sync_does_not_wait_for_nodes_that_the_server_refuses_to_list() -> None:
    harness = Started()
    assert harness.agent.awaited == {"peers"}
    harness.handle(PeersRefused("nodes is forbidden"))
    assert (harness.agent.awaited, harness.weights()) == (set(), {NEAR: 1, FAR: 1})


def test_node_that_served_nothing_serves_without_the_list_of_nodes() -> None:
    harness = Started()
    assert harness.weights() == {}
    harness.advance(PEERS_WAIT_S)
    assert harness.weights() == {NEAR: 1, FAR: 1}
    harness.handle(*LISTED)
    assert harness.weights() == {NEAR: 2, FAR: 4}


def slowly_weighed(text: str = "pool=large:4, pool=old:2") -> Service:
    annotations = {"weights": text, "slow-start": "27s", "scheduler": "wrr"}  # a step each 3 s
    return service(settings=read_settings({PREFIX + key: value for key, value in annotations.items()}))


def test_slow_start_goes_on_where_it_was_although_the_nodes_are_listed_late() -> None:
    before = Started(ServiceUpserted(slowly_weighed()), slices())
    before.handle(*LISTED)
    assert before.weights() == {NEAR: 20, FAR: 40}, "all are equally new"
    before.advance(60.0)
    before.handle(slices(NEW))
    before.advance(12.0)
    assert before.weights() == {NEAR: 20, FAR: 40, NEW: 20}, "step 5"
    again = Started(ServiceUpserted(slowly_weighed()), slices(NEW), kernel=before)
    again.advance(PEERS_WAIT_S)
    assert again.weights() == {NEAR: 20, FAR: 40, NEW: 20}
    again.handle(*LISTED)
    assert again.weights() == {NEAR: 20, FAR: 40, NEW: 20}
    again.advance(3.0)
    assert again.weights() == {NEAR: 20, FAR: 40, NEW: 24}
    for _ in range(10):
        again.advance(3.0)
    assert again.weights() == {NEAR: 20, FAR: 40, NEW: 40}


def test_slow_start_that_is_given_up_while_weights_wait_has_no_steps() -> None:
    before = Started(ServiceUpserted(slowly_weighed()), slices())
    before.handle(*LISTED)
    again = Started(ServiceUpserted(slowly_weighed()), slices(), kernel=before)
    again.advance(PEERS_WAIT_S)
    again.handle(*LISTED, ServiceUpserted(weighed()))
    assert again.weights() == {NEAR: 2, FAR: 4}
