"""Containment: what only reports, and fails, does not stop the sync."""

import logging
from collections.abc import Callable
from typing import TypeVarTuple

from kubeproxy_py.logging_setup import values

_Arguments = TypeVarTuple("_Arguments")

log = logging.getLogger(__name__)


def contained(task: str, call: Callable[[*_Arguments], object], *args: *_Arguments) -> None:
    """Call *call*; log an internal error of it as one of *task*, and go on.

    Only for what the sync does not depend on: log lines, metrics, health, warnings.
    """
    try:
        call(*args)
    except Exception:
        log.exception("Internal error in a callback (please report); the sync continues", extra=values(task=task))
