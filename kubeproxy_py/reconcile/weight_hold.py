"""WeightHold: leaves weights as the kernel has them at start, until the labels of nodes that decide them are known.

A list of all Nodes may take longer than the first sync waits for it.  Without their labels the weights of a predecessor
would be changed, and changed back a moment later.

Invariants:
- Only weights wait, and those above 0 only: endpoints are added and deleted, and drain, as always.
- A Service that changes meanwhile does not wait: its new weights apply as far as they are known.
- Without such Services it costs nothing.
"""

from collections.abc import Iterable
from typing import TypeGuard

from msgspec.structs import replace

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.settings import needs_in_force
from kubeproxy_py.model.rows import Key, RealServer, RealServerSpec, Rows, Spec
from kubeproxy_py.model.services import Service, ServiceName
from kubeproxy_py.model.time import NEVER


class WeightHold:
    """Used by one thread; *compiler* has the desired rows and the Services."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._services: dict[ServiceName, Service] = {}  # whose weights wait
        self._held: dict[RealServer, None] = {}

    def begin(self) -> None:
        """Have the weights wait of all Services whose weights are in force, and name labels."""
        services, context = self._compiler.cluster.services, self._compiler.context
        self._services = {
            name: service for name, service in services.items() if needs_in_force(service, context).labels
        }

    def end(self) -> list[RealServer]:
        """Have nothing wait any more; return the keys that waited."""
        held, self._services, self._held = list(self._held), {}, {}
        return held

    def hold(self, keys: Iterable[Key], actual: Rows) -> dict[Key, float]:
        """Return those of *keys*, about to be planned, that must wait, and until when: NEVER, but for `end`."""
        if not self._services:  # nearly always
            return {}
        desired = self._compiler.desired.rows
        held = [key for key in keys if isinstance(key, RealServer) and self._waits(key, desired, actual)]
        self._held |= dict.fromkeys(held)
        return dict.fromkeys(held, NEVER)

    def _waits(self, key: RealServer, desired: Rows, actual: Rows) -> bool:
        wanted, had = desired.get(key), actual.get(key)
        if not _has_weight(wanted) or not _has_weight(had) or replace(wanted, weight=had.weight) != had:
            return False
        name = self._compiler.holder_of(key.virtual_server)
        service = self._services.get(name) if name else None
        return service is not None and service == self._compiler.cluster.services.get(service.name)


def _has_weight(spec: Spec) -> TypeGuard[RealServerSpec]:
    return isinstance(spec, RealServerSpec) and spec.weight > 0
