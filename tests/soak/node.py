"""The node of a soak: a cluster, an API server and an agent on node A, and what of its kernel state must be there.

Invariants:
  - Lines of the *baseline* are those that the probed Services and the base rows have.  They must be there again after
    each fault; changes of other Services only add lines.
  - An agent that has ended is replaced only by `start_agent`; `mistakes` names one that ended by itself.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.network import Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import SYNCED, wait_until
from tests.e2e.control_plane import Agent, ControlPlane, running_control_plane
from tests.e2e.kernel_state import State, differences, kernel_state, run, shell
from tests.e2e.serving import serving_cluster
from tests.soak.plan import Change, changes
from tests.soak.services import (
    FURTHER_POD,
    PODS,
    churned_service,
    marker_address,
    marker_service,
    probed_services,
    web_slices,
)

Check = Callable[[], list[str]]
"""Return what is not as it should be yet, in words or as lines of kernel state; empty: the node has recovered."""

CHANGE_PERIOD_S = 0.4
MARKERS = 400
CALM_WITHIN_S = 90.0  # draining real servers are deleted, and NodePorts at a deleted address of the node

# A draining real server stays as long as it has connections, which the traffic holds open.
_DRAINING = re.compile(r"virtual servers: \+ -a .* -w 0$")
# The kernel numbers the labels of the addresses of a device that is renamed.
_LABEL = re.compile(r"\bkube-ipvs0:\d+")
_INTERNAL_ERROR = re.compile(r'"?Internal error')


class Node:
    """Node A with its agent; create it by `running_node`."""

    def __init__(self, cluster: Cluster, control_plane: ControlPlane) -> None:
        self.cluster = cluster
        self.control_plane = control_plane
        self.mistakes: list[str] = []
        self.agents = 0
        self.log: list[str] = []  # of all agents that have ended
        self.baseline: State = {}
        self._agent: Agent | None = None
        self._markers = itertools.count()
        self._foreign = itertools.count(1)

    # The agent ---------------------------------------------------------------------------------------------------

    @property
    def agent(self) -> Agent:
        assert self._agent, "not started"
        return self._agent

    def start_agent(self) -> None:
        """Start an agent in place of one that has ended."""
        self._agent = self.new_agent().__enter__()
        self.agents += 1

    def new_agent(self) -> Agent:
        return Agent(self.cluster, self.control_plane)

    def end_agent(self, number: signal.Signals) -> None:
        """Send the signal, and wait until the agent has ended; SIGTERM must lead to status 0."""
        status, _ = self.agent.stop(number)
        if number == signal.SIGTERM and status != 0:
            self.mistakes.append(f"the agent exited with {status} on SIGTERM")
        self.close_agent()

    def internal_errors(self) -> list[str]:
        """Return the lines of the present agent's log that report a bug."""
        return [line for line in self.agent.lines() if _INTERNAL_ERROR.search(line)]

    def close_agent(self) -> None:
        self.log += [f"-- agent {self.agents}", *self.agent.lines()]
        self.mistakes += self.internal_errors()
        self.agent.__exit__(None, None, None)

    def require_agent(self) -> None:
        """Record an agent that has ended by itself, and start another one."""
        if not self.agent.is_running():
            self.mistakes.append("the agent ended by itself: " + " | ".join(self.agent.lines()[-3:]))
            self.close_agent()
            self.start_agent()

    # The API server ----------------------------------------------------------------------------------------------

    @property
    def api(self) -> ApiServer:
        return self.control_plane.server

    def start_api(self) -> None:
        """Start an API server with the objects and at the port of the one that was stopped."""
        stopped = self.api
        with self.cluster.node_a.inside():
            again = ApiServer(stopped.server_address[1], tls=stopped.tls)
        again.faults, again.store = stopped.faults, stopped.store
        self.control_plane.server = again.start()

    def delete(self, name: str, *slices: str) -> None:
        """Delete the Service *name* and its slices, if they exist."""
        for plural, key in (("services", name), *(("endpointslices", one) for one in slices)):
            if ("shop", key) in self.api.store.tables[plural].objects:
                self.api.store.delete(plural, ("shop", key))

    # Kernel state ------------------------------------------------------------------------------------------------

    def shell(self, script: str) -> None:
        """Run a shell script on the node; fail if one of its commands fails."""
        shell(self.cluster.node_a, script)

    def has_rows(self, *parts: str) -> Check:
        """Return the check that all lines of the baseline are there in *parts* of kernel state."""
        return lambda: self._missing(parts)

    def lacks(self, word: str, *parts: str) -> Check:
        """Return the check that no line in *parts* of kernel state contains *word*."""
        return lambda: [line for lines in self._state(*parts).values() for line in lines if word in line]

    def next_foreign_address(self) -> str:
        """Return another address at each call, of no Service."""
        return f"10.97.0.{next(self._foreign) % 250 + 1}"

    def follows_changes(self) -> Check:
        """Create a Service, and return the check that it is served; the check deletes it again."""
        number = next(self._markers) % MARKERS
        served = f"-a -t {marker_address(number)}:80 -r"
        self.control_plane.apply(*marker_service(number))

        def check() -> list[str]:
            if served not in run(self.cluster.node_a, "ipvsadm", "-Sn"):
                return [f"the Service marker-{number} is not served"]
            self.delete(f"marker-{number}", f"marker-{number}-4")
            return []

        return check

    def read_baseline(self) -> None:
        self.baseline = self._state()

    def _state(self, *parts: str) -> State:
        state = kernel_state(self.cluster.node_a, parts) if parts else kernel_state(self.cluster.node_a)
        return {part: tuple(_LABEL.sub("kube-ipvs0", line) for line in lines) for part, lines in state.items()}

    def _missing(self, parts: tuple[str, ...]) -> list[str]:
        state = self._state(*parts)
        return [line for part in parts for line in set(self.baseline[part]).difference(state[part])]

    def drift_left(self) -> list[str]:
        """Return lines that differ from the baseline, but for real servers that drain."""
        found = differences(self.baseline, self._state())
        return [line for line in found if not _DRAINING.match(line)]

    def wait_calm(self) -> list[str]:
        """Wait until the kernel state is the baseline again; return what differs after CALM_WITHIN_S."""
        for number in range(MARKERS):  # those that were not served in time
            self.delete(f"marker-{number}", f"marker-{number}-4")
        try:
            wait_until(lambda: not self.drift_left(), timeout_s=CALM_WITHIN_S, poll_s=0.5)
        except AssertionError:
            return self.drift_left()
        return []


@contextmanager
def running_node(folder: Path) -> Iterator[Node]:
    """Yield a node that serves the probed Services; files are written to *folder*."""
    authority = Authority(folder)
    with serving_cluster() as cluster, running_control_plane(cluster, authority, folder) as control_plane:
        control_plane.apply(*probed_services())
        node = Node(cluster, control_plane)
        node.start_agent()
        try:
            node.agent.wait_for(SYNCED)
            node.read_baseline()
            yield node
        finally:
            node.close_agent()
            node.api.stop()


class Churn:
    """Changes of Services while within the `with`; at its end the Services are those of the baseline again."""

    def __init__(self, node: Node, seed: int) -> None:
        self.made = 0
        self._node = node
        self._changes = changes(seed)
        self._churned: deque[int] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for number in set(self._churned):
            self._delete(number)
        self._node.control_plane.apply(*web_slices(PODS))

    def _run(self) -> None:
        while not self._stop.wait(CHANGE_PERIOD_S):
            self._make(next(self._changes))
            self.made += 1

    def _make(self, change: Change) -> None:
        match change.kind:
            case "apply":
                self._churned.append(change.number)
                self._node.control_plane.apply(*churned_service(change.number, change.pods))
            case "delete":
                self._delete(change.number)
            case "scale":
                further = (FURTHER_POD,) if change.number else ()
                self._node.control_plane.apply(*web_slices((*PODS, *further)))

    def _delete(self, number: int) -> None:
        self._node.delete(f"churned-{number}", f"churned-{number}-4")
