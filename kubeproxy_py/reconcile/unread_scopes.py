"""UnreadScopes: the parts of kernel state that cannot be read now.

Invariants:
- An error of reading stays at its scope: all others are read, compared and repaired.
- What is in an unread scope is unknown.  Its desired rows are written, which makes them true in any case (adds
  are idempotent); surplus rows stay until the scope can be read, because nothing unknown is deleted.
- Each is logged once, and again when its error changes or it can be read again.
"""

import logging
from collections.abc import Mapping

from kubeproxy_py.kernel import Scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.steps import UNDER_WAY

log = logging.getLogger(__name__)


class UnreadScopes:
    """Remembers the error text of each unread scope."""

    def __init__(self) -> None:
        self._errors: dict[Scope, str] = {}

    @property
    def errors(self) -> Mapping[Scope, str]:
        """The error of each unread scope."""
        return self._errors

    def record_error(self, scope: Scope, error: KernelError) -> None:
        """Record that *scope* cannot be read; not while its reading is under way, whose end is recorded."""
        if error.errno == UNDER_WAY:
            return
        text = str(error)
        if self._errors.get(scope) == text:
            return
        self._errors[scope] = text
        log.error(
            "Failed to read a part of kernel state; all others are served and compared, and its desired rows "
            "are written without comparison",
            extra=values(scope=scope, err=text),
        )

    def record_read(self, scope: Scope) -> None:
        """Record that *scope* was read."""
        if self._errors and self._errors.pop(scope, None) is not None:
            log.info("A part of kernel state can be read again", extra=values(scope=scope))
