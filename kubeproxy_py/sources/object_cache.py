"""What a source has told so far, and the events that bring it up to date.

Law: only differences are told, and they are differences of the values that we use: an object whose labels or counters
changed says nothing new.
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


class ObjectCache:
    """The values last told of, by the object that they came from."""

    def __init__(self) -> None:
        self._values: dict[Identity, tuple[Value, ...]] = {}

    def tell(self, identity: Identity, values: tuple[Value, ...], triggered_s: float = 0.0) -> list[ObjectEvent]:
        """The events after which *identity* is known to say *values* (none: it is gone, or of no use).

        *triggered_s* is when the change was made, for slices.  It is no part of a value: alone, it is no news.
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
            *(_gone(value) for name, value in old.items() if name not in new),
            *(_set(value, triggered_s) for name, value in new.items() if old.get(name) != value),
        ]

    def tell_only(self, identities: Collection[Identity]) -> list[ObjectEvent]:
        """The events after which all others than *identities* are known to be gone."""
        gone = [identity for identity in self._values if identity not in identities]
        return _joined(self.tell(identity, ()) for identity in gone)


def _joined(parts: Iterable[list[ObjectEvent]]) -> list[ObjectEvent]:
    return [event for part in parts for event in part]


def _set(value: Value, triggered_s: float) -> ObjectEvent:
    match value:
        case Service():
            return ServiceUpserted(value)
        case EndpointSlice():
            return SliceUpserted(value, triggered_s)
        case Node():
            return NodeUpserted(value)
        case _:
            assert_never(value)


def _gone(value: Value) -> ObjectEvent:
    match value:
        case Service():
            return ServiceDeleted(value.name)
        case EndpointSlice():
            return SliceDeleted(value.name)
        case Node():
            return NodeDeleted(value.name)
        case _:
            assert_never(value)
