"""ClientMetrics: what sources report about their requests, for metrics."""

from kubeproxy_py.model.events import Feed


class ClientMetrics:
    """Receives counts and durations from the sources' threads; this base class records nothing.

    Methods may be called from any thread and must be quick.  No argument names an object or holds a credential.
    """

    def request_finished(self, host: str, method: str, code: str, took_s: float, sent_bytes: int) -> None:
        """Record a response with the HTTP status *code*; ``<error>`` if there was no response."""

    def response_read(self, host: str, method: str, size_bytes: int) -> None:
        """Record that a complete response body was read."""

    def request_delayed(self, host: str, method: str, wait_s: float) -> None:
        """Record that a request waited *wait_s* because earlier ones failed."""

    def pool_created(self) -> None:
        """Record that credentials were read and a connection pool was created."""

    def objects_decoded(self, took_s: float) -> None:
        """Record that an object, or a page of them, was decoded."""

    def list_started(self, feed: Feed) -> None:
        """Record the request of the first page of a list."""

    def watch_started(self, feed: Feed) -> None:
        """Record the request of a watch."""

    def data_received(self, feed: Feed) -> None:
        """Record that the server sent something for *feed*.

        That is a page of a list, an accepted watch, a line of one, or, asked about a silent watch, that it is idle.
        """

    def list_doubted(self, feed: Feed) -> None:
        """Record that a list is not accepted before a second one confirms it."""

    def serving_saved_objects(self, *, serving: bool) -> None:
        """Record whether saved objects are served, because the server has not answered since the start."""

    def objects_saved(self, at_s: float) -> None:
        """Record that the objects were saved at *at_s*, in seconds since 1970."""

    def saved_objects_failed(self) -> None:
        """Record that objects could not be saved, or that saved ones cannot be used."""


NULL_CLIENT_METRICS = ClientMetrics()
