"""What the API says -> events, as a source makes them of it: the product's list and watch, without HTTP.

Law: the agent hears what it would hear, at the cost of decoding it; only the connection is missing.
"""

from collections.abc import Iterator

from bench import objects
from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES


class Lines:
    """The lists and watches of Services and EndpointSlices."""

    def __init__(self) -> None:
        self._services = ListWatch(SERVICES, lambda: 0.0)
        self._slices = ListWatch(SLICES, lambda: 0.0)

    def listed(self, n: int) -> Iterator[Event]:
        """All that is told of *n* Services before anything is programmed."""
        for page in objects.service_pages(n):
            yield from self._services.answered(200, page)
        for page in objects.slice_pages(n):
            yield from self._slices.answered(200, page)
        yield Synced("node")

    def service(self, line: bytes) -> list[Event]:
        """What a line of the watch of Services says."""
        return self._services.line(line)

    def slice(self, line: bytes) -> list[Event]:
        """What a line of the watch of EndpointSlices says."""
        return self._slices.line(line)
