"""AllNeeds: what the Services together need of all nodes, by what is in force of the settings of each.

Invariants:
- A Service whose settings are ignored needs nothing: Nodes are not read for it.
- The cost of a change is that of the Services that it changes.
"""

from collections import Counter

from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.services import ServiceName


class AllNeeds:
    """The needs of each Service that has any, and their sum."""

    def __init__(self) -> None:
        self.total = NO_NEEDS
        self._of: dict[ServiceName, PeerNeeds] = {}
        self._addresses = 0  # the Services that need them
        self._labels: Counter[str] = Counter()  # the Services that need each key

    def __contains__(self, name: ServiceName) -> bool:
        return name in self._of

    def of(self, name: ServiceName) -> PeerNeeds:
        """Return what *name* needs."""
        return self._of.get(name, NO_NEEDS)

    def replace(self, name: ServiceName, needs: PeerNeeds) -> None:
        """Have *name* need *needs*, and nothing else."""
        before = self.of(name)
        if needs == before:
            return
        if needs:
            self._of[name] = needs
        else:
            del self._of[name]
        self._addresses += needs.addresses - before.addresses
        self._labels.update(needs.labels - before.labels)
        for key in before.labels - needs.labels:
            self._labels[key] -= 1
            if not self._labels[key]:
                del self._labels[key]
        total = PeerNeeds(self._addresses > 0, frozenset(self._labels))
        self.total = total or NO_NEEDS
