"""Sources of Services, EndpointSlices and the Node: the Kubernetes API, or a folder of manifests.

Invariants:
- Both sources emit the same events (``model/events.py``), and only differences to what they emitted before.
- A source is started with the function that receives its events, and calls it from its own threads.
"""

from collections.abc import Callable
from typing import Protocol

from kubeproxy_py.hinted_error import HintedError
from kubeproxy_py.model.events import Event, Feed
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.problem import Problem


class EventHandler(Protocol):
    """Receives events in order.

    Events that are known together are passed in one call, since each call may wake another thread.
    """

    def __call__(self, *events: Event) -> None:
        """Handle *events*."""


FEEDS: tuple[Feed, ...] = ("services", "slices", "node")
"""The feeds of every source; it emits Synced once for each, and for peers once they are read."""


class SourceError(HintedError):
    """A source cannot start or continue as it is configured."""


class Source(Protocol):
    """A source of events."""

    def start(self, emit: EventHandler) -> None:
        """Start reading.

        Args:
            emit: Called with the events from the source's threads; must not block.

        Raises:
            SourceError: The source can never work as it is configured.
        """

    def read_once(self, timeout_s: float, on_problem: Callable[[Problem], None]) -> list[Event]:
        """Return all events up to the Synced of the last feed, for commands that run once.

        Args:
            timeout_s: The longest time without an object.
            on_problem: Called with each Problem at once; they are in the result too.

        Raises:
            SourceError: The objects cannot be listed in time.
        """

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """Read the Nodes of all nodes while anything of them is needed, and emit the events of peers; does not block.

        Other *needs* replace the last ones, and what is known stays until the Nodes were read for them.  *at_once* says
        that the start of this agent is why they are needed; else it is a Service, for which all agents read them.
        """

    def rejected(self) -> tuple[Problem, ...]:
        """Return why objects are not used as they are now; any thread may call it."""

    def stop(self) -> None:
        """Stop reading; *emit* is not called again after this returns."""
