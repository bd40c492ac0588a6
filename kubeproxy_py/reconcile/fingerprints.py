"""Proofs: of which parts of the kernel's state it is known that they are as we believe.

Law: a part is proven while the kernel's words on it are those that were last held against what we believe, and nothing
that we believe of it has changed since.  Then no row need be made of them to know that nothing differs.
"""

from collections.abc import Iterable

from kubeproxy_py.kernel import Readable, scope_of
from kubeproxy_py.model.rows import Key, RealServer, VirtualServer


def part_of(key: Key) -> Readable:
    """The part in which *key* is listed."""
    return key.virtual_server if isinstance(key, RealServer) else scope_of(key)


class Fingerprints:
    """The seals of listings that agree with what we believe."""

    def __init__(self) -> None:
        self.servers_changed = 0  # how often what we believe of a virtual server did
        self._seals: dict[Readable, int] = {}

    def __contains__(self, part: Readable) -> bool:
        return part in self._seals

    def matches(self, part: Readable, seal: int) -> bool:
        """Whether *part*, of which the kernel now says what has this *seal*, is as we believe."""
        return self._seals.get(part) == seal

    def record(self, part: Readable, seal: int) -> None:
        """What we believe of *part* is now what the kernel said under *seal*."""
        self._seals[part] = seal

    def invalidate(self, keys: Iterable[Key]) -> None:
        """What we believe of *keys* changed."""
        for key in keys:
            self._seals.pop(part_of(key), None)
            if isinstance(key, VirtualServer):
                self.servers_changed += 1
                self._seals.pop(key, None)

    def invalidate_all(self) -> None:
        """Nothing that was believed is believed any more."""
        self.servers_changed += 1
        self._seals.clear()
