"""The cost of each kind of change in system calls and messages, exact and without a clock (law 7).

Each change is measured among 3 other Services and among 300; the numbers are equal.  An exchange is one send and one
read, however many messages it has; a dump is a listing of kernel state; a process is iptables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.network import Cluster
from tests.e2e.in_process_agent import InProcessAgent
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.netlink_tap import Cost, Tap, tapped

pytestmark = pytest.mark.kernel

PODS = ("pod-a1", "pod-b1", "pod-b2")
HTTP = Port()
NODE_PORT = Port(80, "TCP", 8080, 30080)
NOTHING = Cost()


class Change(NamedTuple):
    """From *before* to *after*: the cost of the sync, and that of the drain check a second later."""

    name: str
    before: list[Object]
    after: list[Object]
    cost: Cost
    drain_cost: Cost = NOTHING

    def __str__(self) -> str:
        return self.name


def web(*pods: str, port: Port = HTTP, ip: str = "10.96.0.10", **spec: object) -> list[Object]:
    return service_with_slice("web", ip, pods, [port], **spec)


def labelled(objects: list[Object]) -> list[Object]:
    for item in objects:
        item["metadata"].setdefault("labels", {})["tier"] = "front"
    return objects


def unready(*pods: str) -> list[Object]:
    return [service("web", "10.96.0.10"), endpoint_slice("web", [p for p in PODS if p not in pods], unready=pods)]


# A drain check reads the real servers of the virtual server by getsockopt, and deletes by one message.
DRAIN_CHECK = Cost(sends=1, reads=1, messages=1, options=1)

# Set entries, virtual servers with their real servers, and addresses take one exchange each.
CHANGES = (
    Change("irrelevant-label", web(*PODS), labelled(web(*PODS)), NOTHING),
    Change("endpoint-replaced", web("pod-b1"), web("pod-b2"), Cost(1, 1, 2), DRAIN_CHECK),  # one added, one to weight 0
    Change("endpoint-more", web("pod-b1"), web("pod-b1", "pod-b2"), Cost(1, 1, 1)),
    Change("endpoint-less", web("pod-b1", "pod-b2"), web("pod-b1"), Cost(1, 1, 1), DRAIN_CHECK),
    Change("endpoint-unready", web(*PODS), unready("pod-b2"), Cost(1, 1, 1), DRAIN_CHECK),
    # 3 set entries (one is the local pod's, for hairpin traffic), 1 + 3 servers, 1 address.
    Change("service-added", [], web(*PODS), Cost(3, 3, 8)),
    Change("service-deleted", web(*PODS), [], Cost(3, 3, 5)),  # real servers are deleted with their virtual server
    Change("address-changed", web(*PODS), web(*PODS, ip="10.96.0.11"), Cost(5, 5, 11)),  # all new first, then the old
    Change("node-port-added", web(*PODS), web(*PODS, port=NODE_PORT), Cost(2, 2, 5)),  # 1 entry, 1 + 3 servers
    Change("affinity-on", web(*PODS), web(*PODS, sessionAffinity="ClientIP"), Cost(1, 1, 1)),
    # The first entry of a set adds a rule to a chain: the only change that takes a process.
    Change("first-of-a-set", [], web(*PODS, port=Port(80, "SCTP", 8080, 30080)), Cost(3, 3, 13, processes=1)),
)


def others(count: int) -> list[Object]:
    """Return *count* other Services, which no test changes; one of them has a node port."""
    plain = [
        service_with_slice(f"other-{n}", f"10.97.{n // 200}.{n % 200 + 1}", ["pod-a2", "pod-b3"])
        for n in range(count - 1)
    ]
    with_node_port = service_with_slice("other-port", "10.97.9.1", ["pod-a2", "pod-b3"], [Port(80, "TCP", 8091, 30090)])
    return [item for objects in (*plain, with_node_port) for item in objects]


class Measured(NamedTuple):
    agent: InProcessAgent
    folder: Folder
    tap: Tap


@pytest.fixture(scope="module", params=[3, 300], ids=["among-3", "among-300"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("others", others(request.param))
    with Cluster(ipv4_forward=True) as cluster, cluster.node_a.inside(), tapped() as tap:
        agent = InProcessAgent(folder.path)
        agent.sync_folder()
        yield Measured(agent, folder, tap)
        agent.close()


def cost_of(measured: Measured, objects: list[Object]) -> tuple[Cost, Cost]:
    """Return the cost of a sync after *objects* were written to the folder, and that of the drain check after it."""
    agent, folder, tap = measured
    folder.write("web", objects)
    before = tap.cost()
    agent.sync_folder()
    synced = tap.cost()
    agent.run_drain_check()
    return synced - before, tap.cost() - synced


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_cost_of_a_change_is_exact_and_independent_of_other_services(measured: Measured, change: Change) -> None:
    cost_of(measured, change.before)
    assert cost_of(measured, change.after) == (change.cost, change.drain_cost)
    cost_of(measured, [])
