"""What each kind of change costs, in exact numbers and without a clock: law 7 as the kernel's side sees it.

Each is measured among 3 other Services and among 300: the numbers are the same.  An exchange is one send and one read,
however many messages it has; a listing (dump) reads the kernel; a process is iptables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.network import Cluster
from tests.e2e.in_process_agent import AgentInside
from tests.e2e.manifests import Folder, Object, Port, backed, endpoint_slice, service
from tests.e2e.netlink_tap import Cost, Tap, tapped

pytestmark = pytest.mark.kernel

PODS = ("pod-a1", "pod-b1", "pod-b2")
HTTP = Port()
NODE_PORT = Port(80, "TCP", 8080, 30080)
NOTHING = Cost()


class Change(NamedTuple):
    """From *before* to *after*: the cost at once, and that of what drains a second later."""

    name: str
    before: list[Object]
    after: list[Object]
    cost: Cost
    drained: Cost = NOTHING

    def __str__(self) -> str:
        return self.name


def web(*pods: str, port: Port = HTTP, ip: str = "10.96.0.10", **spec: object) -> list[Object]:
    return backed("web", ip, pods, [port], **spec)


def labelled(objects: list[Object]) -> list[Object]:
    for each in objects:
        each["metadata"].setdefault("labels", {})["tier"] = "front"
    return objects


def unready(*pods: str) -> list[Object]:
    return [service("web", "10.96.0.10"), endpoint_slice("web", [p for p in PODS if p not in pods], unready=pods)]


# What drains is looked at by asking for its virtual server's real servers, and deleted by one message.
LOOK = Cost(sends=1, reads=1, messages=1, options=1)

# Set entries, virtual servers with their real servers, and addresses are one exchange each.
CHANGES = (
    Change("nothing-that-matters", web(*PODS), labelled(web(*PODS)), NOTHING),
    Change("endpoint-replaced", web("pod-b1"), web("pod-b2"), Cost(1, 1, 2), LOOK),  # one added, one to weight 0
    Change("endpoint-more", web("pod-b1"), web("pod-b1", "pod-b2"), Cost(1, 1, 1)),
    Change("endpoint-less", web("pod-b1", "pod-b2"), web("pod-b1"), Cost(1, 1, 1), LOOK),
    Change("endpoint-unready", web(*PODS), unready("pod-b2"), Cost(1, 1, 1), LOOK),
    # 3 set entries (one is the local pod's, for hairpin traffic), 1 + 3 servers, 1 address.
    Change("service-added", [], web(*PODS), Cost(3, 3, 8)),
    Change("service-deleted", web(*PODS), [], Cost(3, 3, 5)),  # real servers go with their virtual server
    Change("address-changed", web(*PODS), web(*PODS, ip="10.96.0.11"), Cost(5, 5, 11)),  # all new first, then the old
    Change("node-port-added", web(*PODS), web(*PODS, port=NODE_PORT), Cost(2, 2, 5)),  # 1 entry, 1 + 3 servers
    Change("affinity-on", web(*PODS), web(*PODS, sessionAffinity="ClientIP"), Cost(1, 1, 1)),
    # A set that gets its first entry gives a chain one more rule: the only change that takes a process.
    Change("first-of-a-set", [], web(*PODS, port=Port(80, "SCTP", 8080, 30080)), Cost(3, 3, 13, processes=1)),
)


def others(count: int) -> list[Object]:
    """Services of their own, which nothing here changes; one of them has a node port."""
    plain = [backed(f"other-{n}", f"10.97.{n // 200}.{n % 200 + 1}", ["pod-a2", "pod-b3"]) for n in range(count - 1)]
    with_node_port = backed("other-port", "10.97.9.1", ["pod-a2", "pod-b3"], [Port(80, "TCP", 8091, 30090)])
    return [each for objects in (*plain, with_node_port) for each in objects]


class Measured(NamedTuple):
    agent: AgentInside
    folder: Folder
    tap: Tap


@pytest.fixture(scope="module", params=[3, 300], ids=["among-3", "among-300"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("others", others(request.param))
    with Cluster(ipv4_forward=True) as cluster, cluster.node_a.inside(), tapped() as tap:
        agent = AgentInside(folder.path)
        agent.take_in()
        yield Measured(agent, folder, tap)
        agent.close()


def cost_of(measured: Measured, objects: list[Object]) -> tuple[Cost, Cost]:
    """Of having the folder say *objects*, at once and when what drains is looked at."""
    agent, folder, tap = measured
    folder.put("web", objects)
    before = tap.cost()
    agent.take_in()
    done = tap.cost()
    agent.let_drain()
    return done - before, tap.cost() - done


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_costs_exactly_so_much_among_few_and_among_many(measured: Measured, change: Change) -> None:
    cost_of(measured, change.before)
    assert cost_of(measured, change.after) == (change.cost, change.drained)
    cost_of(measured, [])
