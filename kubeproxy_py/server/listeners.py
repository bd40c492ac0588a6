"""RetryingListeners: listening sockets that are opened again every few seconds until they can be bound."""

import time
from collections.abc import Callable, Hashable, Set
from socket import socket
from typing import Generic, TypeVar

from msgspec import Struct

from kubeproxy_py.server.http import Handler, HttpServer

RETRY_S = 5.0  # as kube-proxy's health server; its health-check node ports are retried by the next sync only

Key = TypeVar("Key", bound=Hashable)


class Listening(Struct, frozen=True, gc=False):
    """Where to listen, and what answers there; see HttpServer.listen."""

    address: str
    port: int
    handler: Handler
    both_families: bool = False


class RetryingListeners(Generic[Key]):
    """The listening sockets of *server* by key; to be used in its thread, or before it starts.

    *on_recovery* is called when a retry succeeds.
    """

    def __init__(
        self,
        server: HttpServer,
        on_recovery: Callable[[Key], None] = lambda _key: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._on_recovery = on_recovery
        self._clock = clock
        self._sockets: dict[Key, socket] = {}
        self._failed: dict[Key, Listening] = {}
        self._retry_due_s = 0.0  # by the clock
        server.call_periodically(self._retry_if_due)

    @property
    def keys(self) -> Set[Key]:
        """The keys that are listening or being retried."""
        return self._sockets.keys() | self._failed.keys()

    def is_listening(self, key: Key) -> bool:
        """Return whether *key* is listening; may be called in any thread."""
        return key in self._sockets

    def open(self, key: Key, listening: Listening) -> str:
        """Listen at *listening*; return the error if it cannot be bound, which is retried, otherwise ""."""
        try:
            self._sockets[key] = self._server.listen(
                listening.address, listening.port, listening.handler, both_families=listening.both_families
            )
        except OSError as error:
            self._failed[key] = listening
            self._retry_due_s = self._clock() + RETRY_S
            return error.strerror or str(error)
        return ""

    def close(self, key: Key) -> None:
        """Stop listening, close the connections that came in there, and stop retrying."""
        self._failed.pop(key, None)
        if listener := self._sockets.pop(key, None):
            self._server.close(listener)

    def _retry_if_due(self) -> None:
        if not self._failed or self._clock() < self._retry_due_s:
            return
        failed, self._failed = self._failed, {}
        for key, listening in failed.items():
            if not self.open(key, listening):
                self._on_recovery(key)
