"""Read the complete initial state of a source, for commands that run once."""

import queue
import time
from collections.abc import Callable, Iterable

from kubeproxy_py.model.events import Event, Feed, PeersRefused, ServiceUpserted, Synced
from kubeproxy_py.model.peers import PeerNeeds, needs_of
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, Source, SourceError

_SILENT_HINT = "it does not answer; check its address in the kubeconfig, and firewalls"


def read_initial_snapshot(
    source: Source, timeout_s: float, on_problem: Callable[[Problem], None] = lambda _problem: None
) -> list[Event]:
    """Start *source*, return its events up to the Synced of the last feed, and stop it; see ``Source.read_once``.

    A large list may take longer than *timeout_s*, as long as parts of it arrive.

    Raises:
        SourceError: Nothing but Problems was received for *timeout_s*; the hint is the last Problem.
    """
    batches: queue.Queue[tuple[Event, ...]] = queue.Queue()
    events: list[Event] = []
    waiting: set[Feed] = set(FEEDS)
    asks_for_peers = False
    source.start(lambda *batch: batches.put(batch))
    end_s = time.monotonic() + timeout_s  # after the start, which imports libraries: long on a busy machine
    try:
        while waiting:
            batch = batches.get(timeout=max(0.0, end_s - time.monotonic()))
            events += batch
            problems = [event for event in batch if isinstance(event, Problem)]
            for problem in problems:
                on_problem(problem)
            if len(problems) < len(batch):
                end_s = time.monotonic() + timeout_s
            waiting -= {event.feed for event in batch if isinstance(event, Synced)}
            if any(isinstance(event, PeersRefused) and event.reason for event in batch):
                waiting.discard("peers")  # all else goes on without them, as an agent does
            elif not waiting and not asks_for_peers and (needs := peer_needs(events)):
                asks_for_peers = True
                waiting.add("peers")
                source.watch_peers(needs, at_once=True)
    except queue.Empty:
        problems = [event for event in events if isinstance(event, Problem)]
        lists = ", ".join(sorted(waiting))
        message = f"gave up on the API server: initial list of {lists} not received within {timeout_s:g} s"
        raise SourceError(message, str(problems[-1]) if problems else _SILENT_HINT) from None
    finally:
        source.stop()
    return events


def peer_needs(events: Iterable[Event]) -> PeerNeeds:
    """Return what the Services of *events* need of all nodes."""
    return needs_of(event.service for event in events if isinstance(event, ServiceUpserted))
