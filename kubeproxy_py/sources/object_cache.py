"""ObjectCache: the values that a source emitted last, to emit only differences.

Invariants:
- Differences are of the values that we use: a changed label or counter that we do not read causes no event.
"""

from collections.abc import Collection, Iterable
from typing import assert_never

from kubeproxy_py.model.events import (
    NodeDeleted,
    NodeUpserted,
    ObjectEvent,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import EndpointSlice, ObjectName, Service
from kubeproxy_py.sources.decode.objects import Kind, Value

Identity = tuple[Kind, ObjectName]
"""Kind and name of an object."""


class ObjectCache:
    """The last values of each object; an Endpoints object has several."""

    def __init__(self) -> None:
        self._values: dict[Identity, tuple[Value, ...]] = {}

    def update(self, identity: Identity, values: tuple[Value, ...], triggered_s: float = 0.0) -> list[ObjectEvent]:
        """Replace the values of an object and return the events for the difference.

        Args:
            identity: The object.
            values: Its values; empty if it was deleted or is of no use.
            triggered_s: When the change of a slice was made.  It is not part of a value: a different time without a
                different value causes no event.
        """
        before = self._values.get(identity, ())
        if before == values:
            return []
        if values:
            self._values[identity] = values
        else:
            del self._values[identity]
        old = {value.name: value for value in before}
        new = {value.name: value for value in values}
        return [
            *(_deleted(value) for name, value in old.items() if name not in new),
            *(_upserted(value, triggered_s) for name, value in new.items() if old.get(name) != value),
        ]

    def __len__(self) -> int:
        """Return the number of objects that have values."""
        return len(self._values)

    def __contains__(self, identity: Identity) -> bool:
        """Return whether the object has values."""
        return identity in self._values

    def all_values(self) -> dict[Identity, tuple[Value, ...]]:
        """Return the values of each object, as they are now."""
        return self._values.copy()

    def values(self, identities: Iterable[Identity]) -> Iterable[Value]:
        """Yield the values of *identities*."""
        return (value for identity in identities for value in self._values.get(identity, ()))

    def differs(self, identity: Identity, values: tuple[Value, ...]) -> bool:
        """Return whether the object has other values than *values*."""
        return self._values.get(identity, ()) != values

    def missing(self, identities: Collection[Identity]) -> frozenset[Identity]:
        """Return the objects that are not among *identities*."""
        return frozenset(identity for identity in self._values if identity not in identities)

    def retain_only(self, identities: Collection[Identity]) -> list[ObjectEvent]:
        """Delete all objects but *identities* and return the events."""
        deleted = [identity for identity in self._values if identity not in identities]
        return _flatten(self.update(identity, ()) for identity in deleted)


def _flatten(parts: Iterable[list[ObjectEvent]]) -> list[ObjectEvent]:
    return [event for part in parts for event in part]


def _upserted(value: Value, triggered_s: float) -> ObjectEvent:
    match value:
        case Service():
            return ServiceUpserted(value)
        case EndpointSlice():
            return SliceUpserted(value, triggered_s)
        case Node():
            return NodeUpserted(value)
        case _:
            assert_never(value)


def _deleted(value: Value) -> ObjectEvent:
    match value:
        case Service():
            return ServiceDeleted(value.name)
        case EndpointSlice():
            return SliceDeleted(value.name)
        case Node():
            return NodeDeleted(value.name)
        case _:
            assert_never(value)
