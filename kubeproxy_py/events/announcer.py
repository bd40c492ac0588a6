"""Announcer: log each Kubernetes Event, and post it where there is an API server."""

import logging
from typing import TYPE_CHECKING

from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.logging_setup import level, values

if TYPE_CHECKING:  # the poster loads the HTTP client, which an agent without an API server does not need
    from kubeproxy_py.events.poster import Poster

log = logging.getLogger(__name__)


class Announcer:
    """Publishes Events to the log and, with a *poster*, to the API server.

    Callers need not log: warnings are logged at any verbosity, the others from -v3 on, as in client-go.
    """

    def __init__(self, poster: "Poster | None" = None) -> None:
        self._poster = poster

    def start(self) -> None:
        """Start posting; Events that were published before are posted then."""
        if self._poster:
            self._poster.start()

    def publish(self, event: KubeEvent) -> None:
        """Log *event* and enqueue it for posting.  Any thread; never blocks and never fails."""
        severity = logging.WARNING if event.type == "Warning" else level(3)
        log.log(severity, "%s", event, extra=values(reason=event.reason, action=event.action))
        if self._poster:
            self._poster.enqueue(event)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all published Events are posted or dropped; return whether they were within *timeout_s*."""
        return self._poster.flush(timeout_s) if self._poster else True
