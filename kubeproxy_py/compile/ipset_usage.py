"""How many entries each set has, and the entries of the few sets whose content changes a chain."""

from collections import Counter
from collections.abc import Iterable

from kubeproxy_py.compile.chains import NonEmptySets
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import maxelem_for
from kubeproxy_py.model.rows import IpsetEntry
from kubeproxy_py.net import FAMILIES, Family

_DEFAULT_MAXELEM = maxelem_for(0)


class IpsetUsage:
    """The sizes of all sets.

    ``version`` increases whenever ``non_empty`` may return something else than before.
    """

    def __init__(self) -> None:
        self.version = 0
        self._sizes: Counter[str] = Counter()
        self._entries: dict[str, set[str]] = {
            definition.name_in(family): set()
            for family in FAMILIES
            for definition in (kube_names.LOAD_BALANCER_FW, kube_names.LOAD_BALANCER_SOURCE_IP)
        }

    def add(self, key: IpsetEntry) -> None:
        """Count an entry that was added."""
        size = self._sizes[key.set] = self._sizes[key.set] + 1
        if size == 1 or (size >= _DEFAULT_MAXELEM and maxelem_for(size) != maxelem_for(size - 1)):
            self.version += 1
        if key.set in self._entries:
            self.version += 1
            self._entries[key.set].add(key.entry)

    def remove(self, key: IpsetEntry) -> None:
        """Count an entry that was removed."""
        size = self._sizes[key.set] = self._sizes[key.set] - 1
        if size == 0 or (size >= _DEFAULT_MAXELEM and maxelem_for(size) != maxelem_for(size + 1)):
            self.version += 1
        if key.set in self._entries:
            self.version += 1
            self._entries[key.set].discard(key.entry)

    def non_empty(self, family: Family) -> NonEmptySets:
        """Return what the chains of *family* depend on."""
        names = [definition.name_in(family) for definition in kube_names.IPSET_DEFINITIONS]
        restricted = self._entries[kube_names.LOAD_BALANCER_FW.name_in(family)]
        open_to_node = self._entries[kube_names.LOAD_BALANCER_SOURCE_IP.name_in(family)]
        policy_names = [definition.name_in(family) for definition in kube_names.POLICY_IPSET_DEFINITIONS]
        direct_names = [definition.name_in(family) for definition in kube_names.POLICY_DIRECT_DEFINITIONS]
        maxelems = ((name, maxelem_for(self._sizes[name])) for name in (*names, *policy_names))
        return NonEmptySets(
            frozenset(name for name in (*names, *direct_names) if self._sizes[name]),
            tuple(sorted(restricted - _frontends_of(open_to_node))),
            tuple((name, maxelem) for name, maxelem in maxelems if maxelem > _DEFAULT_MAXELEM),
        )


def _frontends_of(entries: Iterable[str]) -> set[str]:
    """Return the ``vip,protocol:port`` of entries ``vip,protocol:port,vip``."""
    return {entry.rpartition(",")[0] for entry in entries}
