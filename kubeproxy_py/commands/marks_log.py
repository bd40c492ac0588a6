"""MarksLog: logs which Service ports got no firewall mark for exact policies, because every number is used."""

import logging
from collections.abc import Collection

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.services import ServiceName

_NAMED_MAX = 5

log = logging.getLogger(__name__)


class MarksLog:
    """Logs once when Service ports of *compiler* begin to lack a mark, and once when none does any more."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._is_reported = False

    def check(self, _names: Collection[ServiceName]) -> None:
        """Log what has changed."""
        without = self._compiler.marks.without
        if bool(without) == self._is_reported:
            return
        self._is_reported = bool(without)
        if not without:
            log.info("Every Service port with externalTrafficPolicy Local has a mark again")
            return
        names = sorted({str(owner.service) for owner in without})
        log.warning(
            "No firewall mark is left for some Service ports; they are served as with --policies=kube-proxy until "
            "others are deleted, or --policy-mark-mask has more bits",
            extra=values(ports=len(without), services=", ".join(names[:_NAMED_MAX])),
        )
