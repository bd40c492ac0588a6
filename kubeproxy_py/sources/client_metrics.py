"""Tally: who counts what is asked of the API server and what it says.

Law: told by the sources' threads, and quick; nothing that is told names an object or holds a credential.
"""

from typing import Protocol

from kubeproxy_py.model.events import Feed


class ClientMetrics(Protocol):
    """Each is called from any thread."""

    def requested(self, host: str, method: str, code: str, took_s: float, sent_bytes: int) -> None:
        """A request was answered by the status *code* after *took_s*, or came to nothing: ``<error>``."""

    def received(self, host: str, method: str, size_bytes: int) -> None:
        """The whole body of an answer was read."""

    def held_back(self, host: str, method: str, wait_s: float) -> None:
        """A request was made *wait_s* later than it could have been, because earlier ones failed."""

    def connected(self) -> None:
        """Credentials were read, and a pool of connections made."""

    def decoded(self, took_s: float) -> None:
        """An object, or a page of them, was made into events."""

    def began(self, feed: Feed, *, watch: bool) -> None:
        """A list begins (its first page), or a watch."""

    def heard(self, feed: Feed) -> None:
        """The server said something of *feed*: a page of a list, or a line of a watch, be it a bookmark."""


class NullClientMetrics:
    """Counts nothing."""

    def requested(self, host: str, method: str, code: str, took_s: float, sent_bytes: int) -> None: ...

    def received(self, host: str, method: str, size_bytes: int) -> None: ...

    def held_back(self, host: str, method: str, wait_s: float) -> None: ...

    def connected(self) -> None: ...

    def decoded(self, took_s: float) -> None: ...

    def began(self, feed: Feed, *, watch: bool) -> None: ...

    def heard(self, feed: Feed) -> None: ...


NULL_CLIENT_METRICS = NullClientMetrics()
