"""KernelLookup: the kernel's rows as a trace asks for them, each part read once, and only if it is asked for."""

from collections.abc import Iterator

from kubeproxy_py.diagnose.trace.lookup import Weights, weight_of
from kubeproxy_py.kernel import Kernel, Scope, scope_of
from kubeproxy_py.model.rows import Ipset, IpsetEntry, Key, RealServer, Rows, Spec, VirtualServer


class KernelLookup:
    """Reads when it is first asked; see Lookup for the methods.  Each may raise KernelError."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._scopes = frozenset(kernel.scopes())
        self._rows: dict[Scope, Rows] = {}
        self._servers: Rows | None = None
        self._real_servers: dict[VirtualServer, Weights] = {}

    def __contains__(self, key: Key) -> bool:
        """Return whether the kernel has the row *key*."""
        return key in self._rows_with(key)

    def get(self, key: Key) -> Spec:
        """Return the spec of *key*; None if the kernel has no such row."""
        return self._rows_with(key).get(key)

    def real_servers(self, server: VirtualServer) -> Weights:
        """List the real servers of *server* only."""
        if server not in self._real_servers:
            rows = self._kernel.snapshot(server).rows()
            weights = {key: weight_of(spec) for key, spec in rows.items() if isinstance(key, RealServer)}
            self._real_servers[server] = weights
        return self._real_servers[server]

    def entries(self, name: str, prefix: str) -> Iterator[str]:
        """Yield the entries of the set *name* that begin with *prefix*."""
        rows = self._rows_with(Ipset(name))
        return (key.entry for key in rows if isinstance(key, IpsetEntry) and key.entry.startswith(prefix))

    def _rows_with(self, key: Key) -> Rows:
        """Return the rows among which *key* is, if it exists."""
        if isinstance(key, VirtualServer):
            return self._virtual_servers()
        scope = scope_of(key)
        if scope not in self._scopes:  # a set of another program
            return {}
        if scope not in self._rows:
            self._rows[scope] = self._kernel.read(scope)
        return self._rows[scope]

    def _virtual_servers(self) -> Rows:
        if self._servers is None:
            self._servers = {}
            for rows in self._kernel.virtual_servers():
                self._servers |= rows
        return self._servers
