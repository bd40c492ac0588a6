"""Convert API responses to events with the product's list and watch, without HTTP.

The agent receives the same events as from an API server, with the cost of decoding; only the connection is missing.
"""

from collections.abc import Iterator

from bench import objects
from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES


class Lines:
    """The lists and watches of Services and EndpointSlices; *local_every* is that of the objects."""

    def __init__(self, local_every: int = 0) -> None:
        self._local_every = local_every
        self._services = ListWatch(SERVICES, lambda: 0.0)
        self._slices = ListWatch(SLICES, lambda: 0.0)

    def initial_events(self, n: int) -> Iterator[Event]:
        """Yield the events of *n* Services that precede the first sync."""
        for page in objects.service_pages(n, self._local_every):
            yield from self._services.on_response(200, page)
        for page in objects.slice_pages(n):
            yield from self._slices.on_response(200, page)
        yield Synced("node")

    def service(self, line: bytes) -> list[Event]:
        """Return the events of a watch line of Services."""
        return self._services.on_line(line)

    def slice(self, line: bytes) -> list[Event]:
        """Return the events of a watch line of EndpointSlices."""
        return self._slices.on_line(line)
