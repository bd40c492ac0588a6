"""UnservedLog: log at -v2 which Service ports no endpoint serves, and why."""

import logging
from collections.abc import Collection

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.unserved import unserved_texts
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.services import ServiceName

log = logging.getLogger(__name__)


class UnservedLog:
    """Checks Services after *compiler* compiled them; each reason is logged once, until it changes."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._logged: dict[ServiceName, tuple[str, ...]] = {}

    def check(self, names: Collection[ServiceName]) -> None:
        """Log the ports of the compiled Services *names* that are not served, if that is news."""
        if not log.isEnabledFor(level(2)):
            return
        cluster = self._compiler.cluster
        for name in names:
            service = cluster.services.get(name)
            slices = cluster.slices_of(name) if service else []
            texts = unserved_texts(service, slices, self._compiler.context) if service else ()
            if texts == self._logged.get(name, ()):
                continue
            if texts:
                self._logged[name] = texts
                log.log(
                    level(2),
                    "No endpoint serves these Service ports",
                    extra=values(service=name, ports="; ".join(texts)),
                )
            else:
                del self._logged[name]
