"""Announcer: people are told in the log, and by Events where there is an API server to keep them.

Law: telling neither blocks nor fails.  Whoever tells need not log: warnings are seen in the log at any verbosity,
the rest from -v3 on, as client-go has it.
"""

import logging
from typing import Protocol

from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.logging_setup import level, values

log = logging.getLogger(__name__)


class Post(Protocol):
    """Brings notices to the API server."""

    def start(self) -> None: ...

    def tell(self, notice: KubeEvent) -> None: ...

    def flush(self, timeout_s: float) -> bool: ...


class Announcer:
    """Tells people; without a *post* by the log alone."""

    def __init__(self, post: Post | None = None) -> None:
        self._post = post

    def start(self) -> None:
        """From now on notices are posted; what was told before is posted then."""
        if self._post:
            self._post.start()

    def tell(self, notice: KubeEvent) -> None:
        """May be called from any thread."""
        severity = logging.WARNING if notice.type == "Warning" else level(3)
        log.log(severity, str(notice), extra=values(reason=notice.reason, action=notice.action))
        if self._post:
            self._post.tell(notice)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was told is posted, for a process that ends then; whether it was within *timeout_s*."""
        return self._post.flush(timeout_s) if self._post else True
