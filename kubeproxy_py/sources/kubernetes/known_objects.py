"""KnownObjects: the objects of one resource as they were last emitted, each with its problems.

Invariants:
- An invalid object keeps its last valid version.
- A problem is emitted once, not with each change of the object and each list.
"""

from collections.abc import Collection, Iterable

from kubeproxy_py.model.events import Event
from kubeproxy_py.model.problem import Problem, errors_in
from kubeproxy_py.sources.decode.objects import Decoded, Value
from kubeproxy_py.sources.object_cache import Identity, ObjectCache


class KnownObjects:
    """The objects that a ListWatch has emitted."""

    def __init__(self) -> None:
        self._objects = ObjectCache()
        self._problems: dict[Identity, tuple[Problem, ...]] = {}  # of each object's last version, if it has any

    def __len__(self) -> int:
        return len(self._objects)

    def values(self, listed: Iterable[Identity]) -> Iterable[Value]:
        """Return the values of the objects *listed*."""
        return self._objects.values(listed)

    def all_values(self) -> dict[Identity, tuple[Value, ...]]:
        """Return the values of each object, as they are now."""
        return self._objects.all_values()

    def rejected(self) -> tuple[Problem, ...]:
        """Return the problems of the objects whose last version is not used; any thread may call it."""
        return errors_in(self._problems.copy().values())

    def restore(self, identity: Identity, values: tuple[Value, ...]) -> list[Event]:
        """Return the events of an object that was saved, unless the object is known already."""
        return [] if identity in self._objects else [*self._objects.update(identity, values)]

    def is_change(self, identity: Identity, decoded: Decoded) -> bool:
        """Return whether using *decoded* would emit anything."""
        if decoded.problems != self._problems.get(identity, ()):
            return True
        return not decoded.broken and self._objects.differs(identity, decoded.values)

    def use(self, identity: Identity, decoded: Decoded) -> list[Event]:
        """Return the events of a new version of an object."""
        before = self._problems.pop(identity, ())
        if decoded.problems:
            self._problems[identity] = decoded.problems
        changes = [] if decoded.broken else self._objects.update(identity, decoded.values, decoded.triggered_s)
        return [*(problem for problem in decoded.problems if problem not in before), *changes]

    def delete(self, identity: Identity) -> list[Event]:
        """Return the events of a deleted object."""
        self._problems.pop(identity, None)
        return [*self._objects.update(identity, ())]

    def missing(self, listed: Collection[Identity]) -> frozenset[Identity]:
        """Return the objects that are not among those *listed*."""
        return self._objects.missing(listed)

    def retain_only(self, listed: Collection[Identity]) -> list[Event]:
        """Delete all objects but those *listed*, and return the events."""
        self._problems = {identity: problems for identity, problems in self._problems.items() if identity in listed}
        return [*self._objects.retain_only(listed)]
