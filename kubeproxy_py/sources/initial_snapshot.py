"""collect: all that a source says until it is synced, for the verbs that look once and end."""

import queue
import time

from kubeproxy_py.model.events import Event, ObjectProblem, Synced
from kubeproxy_py.sources import FEEDS, Source, SourceError


def collect(source: Source, timeout_s: float) -> list[Event]:
    """The events of *source* up to the last feed's Synced; the source is started before, and stopped after.

    Raises SourceError, with the last Problem, if that takes longer than *timeout_s*.
    """
    news: queue.SimpleQueue[tuple[Event, ...]] = queue.SimpleQueue()
    end_s = time.monotonic() + timeout_s
    events: list[Event] = []
    waiting = set(FEEDS)
    source.start(lambda *told: news.put(told))
    try:
        while waiting:
            told = news.get(timeout=max(0.0, end_s - time.monotonic()))
            events += told
            waiting -= {event.feed for event in told if isinstance(event, Synced)}
    except queue.Empty:
        problems = [event for event in events if isinstance(event, ObjectProblem)]
        message = f"not all was heard of {', '.join(sorted(waiting))} within {timeout_s:g} s"
        raise SourceError(message, str(problems[-1]) if problems else "") from None
    finally:
        source.stop()
    return events
