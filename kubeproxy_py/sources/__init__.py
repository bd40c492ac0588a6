"""Who tells us: the Kubernetes API, or a folder of manifests.

Law: both say the same events (``model/events.py``), each as a difference to what it has said before; both are
started with the function that takes their events, and call it from threads of their own.

``poster.py`` goes the other way, to the same API server by the same connection: it posts what people are told.
"""

from typing import Protocol

from kubeproxy_py.model.events import Event, Feed


class EventHandler(Protocol):
    """Takes events, in order.  Those that are known together are told together: each call may wake another thread."""

    def __call__(self, *events: Event) -> None: ...


FEEDS: tuple[Feed, ...] = ("services", "slices", "node")
"""What a source tells of, and says Synced for."""


class SourceError(Exception):
    """A source can't begin, or can't go on; ``hint`` says who must mend what."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


class Source(Protocol):
    """Where events come from."""

    def start(self, emit: EventHandler) -> None:
        """Begin; *emit* is called from the source's threads, and must not block.

        Raises SourceError if it can never work as it is configured.
        """

    def stop(self) -> None:
        """End soon; *emit* is not called any more once this has returned."""
