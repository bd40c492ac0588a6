"""ApiConnection: the connection to the API server, shared by the watches and the event poster.

Invariants:
- Credentials are read again when the server no longer accepts them (401) or TLS fails, once for all users of the
  connection.  So rotated tokens, certificates and CAs of every kind come into use.
"""

import threading
from collections.abc import Callable

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.client import Connection, Response
from kubeproxy_py.sources.kubernetes.reachability import Reachability
from kubeproxy_py.sources.kubernetes.transport_errors import TransportError

Connect = Callable[[], Connection]
Send = Callable[[Connection], Response]
_UNAUTHORIZED = 401


class ApiConnection:
    """The current connection, replaced when it is discarded.

    Args:
        connect: Reads the configuration and the credentials; raises SourceError if they cannot be used.

    Attributes:
        reachability: What all watches know together of whether the server answers.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.reachability = Reachability()
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def current(self) -> Connection:
        """Return the current connection; connect if there is none.  Raises SourceError."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def request(self, send: Send) -> Response:
        """Call *send* with the connection; if the server answers 401, read the credentials and call it once more.

        Raises:
            TransportError: There was no response.
        """
        response = self._request_once(send)
        if response.status != _UNAUTHORIZED:
            return response
        response.close()
        return self._request_once(send)

    def _request_once(self, send: Send) -> Response:
        try:
            connection = self.current()
        except SourceError as error:
            raise TransportError(Problem("Kubernetes API", "configuration", error.message, error.hint)) from error
        try:
            response = send(connection)
        except TransportError as error:
            if error.problem.field != "connection":  # TLS or credentials, which may have been rotated
                self.discard(connection)
            raise
        if response.status == _UNAUTHORIZED:
            self.discard(connection)
        return response

    def discard(self, connection: Connection) -> None:
        """Close *connection*, so that the next request reads the credentials again."""
        with self._lock:
            if self._connection is connection:
                self._connection = None
                connection.close()

    def close(self) -> None:
        """Close the connection."""
        # Without the lock, which another thread may hold while it waits for a hanging exec plugin.
        connection = self._connection
        if connection:
            connection.close()
