"""Access: the connection to the API server that is now good, shared by the watchers.

Law: credentials are read anew when the server no longer accepts them (401), or when TLS fails, and once for all
watchers; so rotated tokens, certificates and CAs come into use whatever kind they are.
"""

import threading
from collections.abc import Callable

from kubeproxy_py.sources.transport import Connection

Connect = Callable[[], Connection]


class Access:
    """*connect* reads the configuration and the credentials, and raises SourceError if they can't be used."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """The connection in use, made if there is none.  Raises SourceError."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def forget(self, refused: Connection) -> None:
        """*refused* is of no use any more: the next connection is made anew."""
        with self._lock:
            if self._connection is refused:
                self._connection = None
                refused.close()

    def close(self) -> None:
        """Without the lock, which an exec plugin that hangs may hold."""
        connection = self._connection
        if connection:
            connection.close()
