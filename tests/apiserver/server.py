"""ApiServer: the stand-in's sockets and injected faults."""

import json
import socket
import ssl
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.apiserver.handler import Handler
from tests.apiserver.store import BY_KIND, Json, Store


@dataclass
class Faults:
    """The injected faults; all can be set while the server runs."""

    tokens: set[str] | None = None  # the accepted bearer tokens; None: no authentication
    delay_s: float = 0.0  # before each response
    bookmark_period_s: float | None = 60.0  # None: no bookmarks
    progress_notices: bool = False  # of etcd; without them watches of a type get no bookmarks until one of it changes
    cached_version: int | None = None  # up to which lists of a version are answered (the watch cache is behind)
    raw_lists: dict[str, bytes] = field(default_factory=dict)  # by type (plural): lists are answered 200 with this
    pages_from_cache: bool = False  # a list of any version (resourceVersion=0) is paged too
    endless_lists: bool = False  # a list never ends
    no_gzip: bool = False  # lists are not compressed, as with the feature gate APIResponseCompression off
    clock_skew_s: float = 0.0  # how much the server's clock, which its Date headers show, is ahead
    dead: bool = False  # accepts connections and requests, and answers nothing any more, on open watches neither
    missing_types: set[str] = field(default_factory=set)  # types (plural) that the server does not have
    unsupported_field_selectors: frozenset[str] = frozenset()  # fields rejected in selectors
    expire_after_pages: int | None = None  # continuations expire (410) after so many pages
    forbidden: set[tuple[str, str]] = field(default_factory=set)  # verb and type (plural); not for get and delete
    named_only: set[str] = field(
        default_factory=set
    )  # types (plural) whose lists and watches are of one name, or refused
    terminating_namespaces: set[str] = field(default_factory=set)  # namespaces in which nothing can be created
    next_responses: list[tuple[int, dict[str, str], Json]] = field(
        default_factory=list
    )  # status, headers and Status fields for the next requests

    def pop_response(self) -> tuple[int, dict[str, str], Json] | None:
        """Remove and return the first of next_responses; None if there is none."""
        try:
            return self.next_responses.pop(0)
        except IndexError:  # the thread of another connection may have taken it
            return None


class ApiServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1 from ``start`` to ``stop``; HTTPS if *tls* is given.

    Attributes:
        requests: Path and query of each GET.
        writes: Method and path of each POST and PATCH.
        compressed: Path and query of each list that was sent with gzip.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int = 0, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        super().__init__((address, port), Handler)
        self.tls = tls
        self.store = Store()
        self.faults = Faults()
        self.requests: deque[str] = deque(maxlen=10_000)
        self.writes: deque[str] = deque(maxlen=10_000)
        self.compressed: deque[str] = deque(maxlen=10_000)
        self.stopping = threading.Event()
        self.freezes = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def start(self) -> "ApiServer":
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self.faults.dead = False
        self.shutdown()
        self.server_close()
        self.close_connections()

    # Objects -----------------------------------------------------------------------------------------------------

    def apply(self, body: Json) -> None:
        """Create or replace the object *body*, which has kind and apiVersion."""
        plural = BY_KIND[body["apiVersion"], body["kind"]].plural
        meta = body["metadata"]
        key = (meta.get("namespace") or "", meta["name"])
        if key in self.store.tables[plural].objects:
            self.store.replace(plural, key, lambda _: json.loads(json.dumps(body)))
        else:
            self.store.create(plural, body)

    # Faults ------------------------------------------------------------------------------------------------

    def respond_next(self, status: int, headers: dict[str, str] | None = None, times: int = 1, **body: Any) -> None:
        """Respond to the next *times* requests with an error."""
        self.faults.next_responses.extend([(status, headers or {}, body)] * times)

    def freeze_watches(self) -> None:
        """Have the open watches send nothing any more, not even changes; new ones do."""
        self.freezes += 1

    def close_connections(self) -> None:
        """Close all connections."""
        with self._lock:
            broken = list(self._open)
        for connection in broken:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.store.changed:
            self.store.changed.notify_all()

    # Sockets -----------------------------------------------------------------------------------------------------

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            connection = self._secured(request)
        except OSError:  # the client rejects our certificate, or has none
            request.close()
            return
        with self._lock:
            self._open.add(connection)
        try:
            super().process_request_thread(connection, client_address)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _secured(self, request: socket.socket) -> socket.socket:
        if not self.tls:
            return request
        request.settimeout(5)
        connection = self.tls.wrap_socket(request, server_side=True)
        connection.settimeout(None)
        return connection

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: clients may disconnect at any time."""
