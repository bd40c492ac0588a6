"""Access: the connection to the API server that is now good, shared by all who ask it.

Law: credentials are read anew when the server no longer accepts them (401), or when TLS fails, and once for all who
ask; so rotated tokens, certificates and CAs come into use whatever kind they are.
"""

import threading
from collections.abc import Callable

from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.client import Answer, Connection, TransportError

Connect = Callable[[], Connection]
Send = Callable[[Connection], Answer]


class ApiConnection:
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

    def ask(self, send: Send) -> Answer:
        """The answer that *send* gets; if the server doesn't know us, the one to credentials that were read anew.

        Raises TransportError.
        """
        answer = self._ask_once(send)
        if answer.status != 401:
            return answer
        answer.close()
        return self._ask_once(send)

    def _ask_once(self, send: Send) -> Answer:
        try:
            connection = self.connection()
        except SourceError as error:
            raise TransportError(ObjectProblem("Kubernetes API", "configuration", error.message, error.hint)) from None
        try:
            answer = send(connection)
        except TransportError as error:
            if error.problem.field != "connection":  # but TLS or the credentials, which may be wrong by now
                self.forget(connection)
            raise
        if answer.status == 401:
            self.forget(connection)
        return answer

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
