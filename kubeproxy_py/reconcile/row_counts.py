"""RowCounts: how many actual rows each group has that the kernel's marks count, and each virtual server."""

from collections import Counter
from collections.abc import Iterable, Mapping

from kubeproxy_py.kernel import IPV4_REAL_SERVERS, IPV6_REAL_SERVERS, mark_group
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer


class RowCounts:
    """Numbers of rows by group, and of real servers; counted again after `invalidate`, when they are needed."""

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        self._real_servers: Counter[VirtualServer] = Counter()

    def invalidate(self) -> None:
        """Discard the counts, because many rows change at once."""
        self._counts = None

    def change(self, key: Key, by: int) -> None:
        """Record that *key* was added (*by* 1) or removed (*by* -1)."""
        if self._counts is None:
            return
        if isinstance(key, RealServer):  # most rows
            server = key.virtual_server
            self._real_servers[server] += by
            self._counts[IPV6_REAL_SERVERS if ":" in server.address else IPV4_REAL_SERVERS] += by
        elif group := mark_group(key):
            self._counts[group] += by
            if isinstance(key, VirtualServer):
                self._real_servers[key] += 0  # listed even without real servers

    def of(self, rows: Iterable[Key]) -> Mapping[str, int]:
        """Return the counts of *rows*, which are those whose changes were recorded."""
        if self._counts is None:
            self._counts = Counter(map(mark_group, rows))
            self._real_servers = Counter(key.virtual_server for key in rows if isinstance(key, RealServer))
            for key in rows:
                if isinstance(key, VirtualServer):
                    self._real_servers[key] += 0
        return self._counts

    def real_servers(self, rows: Rows) -> Mapping[VirtualServer, int]:
        """Return the number of real servers by virtual server; *rows* are those of ``of``.

        Virtual servers that are gone may be in it until `drop_gone` is called.
        """
        self.of(rows)
        return self._real_servers

    def drop_gone(self, rows: Rows) -> None:
        """Drop the virtual servers that *rows* do not contain."""
        for server in [server for server in self._real_servers if server not in rows]:
            del self._real_servers[server]
