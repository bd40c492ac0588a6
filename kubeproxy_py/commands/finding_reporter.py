"""FindingReporter: publish Findings about this node when they begin, and log their end.

Invariants:
- Reason and subject identify a Finding; its message may change.
- What lasts is published once, not each time that it is found.
"""

import logging
from collections.abc import Iterable

from kubeproxy_py.events.kube_events import Publish, found_on_node
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.finding import Finding

log = logging.getLogger(__name__)


class FindingReporter:
    """Reports what one observer finds on the node called *node*; used by one thread at a time.

    Args:
        node: The name of the node, which Kubernetes Events are about.
        publish: Publishes a Kubernetes Event, which also logs it.
    """

    def __init__(self, node: str, publish: Publish) -> None:
        self._node = node
        self._publish = publish
        self._known: dict[tuple[str, str], Finding] = {}  # by reason and subject, of the last call

    @property
    def has_findings(self) -> bool:
        """Return whether anything was found by the last call of ``replace``."""
        return bool(self._known)

    def replace(self, findings: Iterable[Finding]) -> None:
        """Report which of *findings*, all that there are now, are new, and which of the last call are over."""
        found = {(finding.reason, finding.subject): finding for finding in findings}
        for key, finding in found.items():
            if key not in self._known:
                self.report_once(finding)
        for key, finding in self._known.items():
            if key not in found:
                details = values(reason=finding.reason, subject=finding.subject)
                log.info("Host finding resolved", extra=details)
        self._known = found

    def report_once(self, finding: Finding) -> None:
        """Report *finding*, which was seen at one moment and has no end."""
        self._publish(found_on_node(self._node, finding))
